"""The folders of a federation's parties, as the ceremony leaves them: keys, certificates, data, one settings file.

A ceremony takes seconds, so a world is made once and copied: the same keys serve any number of runs.
"""

import contextlib
import csv
import io
import re
import shutil
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from loopback.toml import dumped
from securepfl.cli.main import cli
from securepfl.data.demo import _columns, simulated_hospitals
from securepfl.errors import SecurePFLError

HUB = "hub"
SEED = 7
"""Of the noise in all runs that are compared."""
FOUR = ("simulated-a1", "simulated-a2", "simulated-b1", "simulated-unusual")
"""Of the demo's nine hospitals, some of each kind."""
PROGRAM = (sys.executable, "-m", "securepfl")


class CeremonyError(Exception):
    """A step of the ceremony failed."""


@dataclass(frozen=True)
class World:
    """Where everything lies. Below `root` each party has its folder, as it would on a machine of its own."""

    root: Path
    hospitals: tuple[str, ...]

    @property
    def parties(self) -> tuple[str, ...]:
        return (*self.hospitals, HUB)

    @property
    def steward(self) -> str:
        return self.hospitals[0]

    @property
    def federation(self) -> Path:
        return self.root / "federation.toml"

    @property
    def exchange(self) -> Path:
        return self.root / "exchange"

    def folder(self, name: str) -> Path:
        """A party's own folder: its keys lie there."""
        return self.root / name

    def run(self, name: str) -> Path:
        """The folder of a party's run."""
        return self.folder(name) / "run"

    def state(self, name: str) -> Path:
        """The folder of a hospital's client."""
        return self.run(name) / "state"

    def data(self, name: str) -> Path:
        return self.folder(name) / "rows.csv"

    def ledgers(self, name: str) -> Path:
        return self.folder(name) / "ledgers"

    def passphrase(self, name: str) -> str:
        return f"correct horse battery {name}"

    def passphrase_file(self, name: str) -> Path:
        return self.folder(name) / "passphrase"

    def copy(self, root: Path) -> "World":
        """The same parties elsewhere, before any run."""
        shutil.copytree(self.root, root)
        return World(root, self.hospitals)

    def call(self, *words: object) -> str:
        """What a command prints; it runs in this process. CeremonyError where it fails."""
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said):
                cli.main(list(map(str, words)), standalone_mode=False)
        except SecurePFLError as error:
            raise CeremonyError(f"{' '.join(map(str, words))}: {error}") from None
        return said.getvalue()

    def keys(self, command: str, name: str, *options: object, arguments: Sequence[object] = ()) -> str:
        place = ("--folder", self.folder(name), "--exchange", self.exchange)
        return self.call("keys", command, *arguments, *place, "--passphrase-file", self.passphrase_file(name), *options)

    def fingerprint(self, name: str) -> str:
        text = (self.exchange / f"{name}.identity").read_text()
        return re.search(r"^fingerprint: (.*)$", text, re.MULTILINE)[1]

    def by_phone(self, *names: str) -> list[str]:
        """What these parties read to somebody, as options."""
        return [word for name in names for word in ("--fingerprint", f"{name}={self.fingerprint(name)}")]


def make_world(
    root: Path, hospitals: Sequence[str] = FOUR, *, settings: dict | None = None, rows: int | None = None
) -> World:
    """The demo's federation among some of its hospitals, through the ceremony. `settings` are set in place of the
    demo's, and of each hospital's rows only the first and last `rows` are kept.
    """
    world = World(root, tuple(hospitals))
    root.mkdir(parents=True)
    world.federation.write_text(demo_settings(hospitals, settings or {}), encoding="utf-8")
    for name in world.parties:
        world.folder(name).mkdir()
        path = world.passphrase_file(name)
        path.touch(mode=0o600)
        path.write_text(world.passphrase(name) + "\n")
    for name in hospitals:
        _write_rows(world.data(name), name, rows)
    hold_ceremony(world)
    return world


def demo_settings(hospitals: Sequence[str], changes: dict) -> str:
    """The demo's settings as every party's file has them. `changes` are tables, or keys, in place of the demo's."""
    told = tomllib.loads(files("securepfl.data").joinpath("demo.toml").read_text())
    spec, _ = simulated_hospitals()
    told["sites"] = {name: told["sites"][name] for name in hospitals}
    told["data"] = spec.to_mapping()
    for key, value in changes.items():
        told[key] = told.get(key, {}) | value if isinstance(value, dict) else value
    return dumped(told)


def hold_ceremony(world: World) -> None:
    """All identities, then the steward's enrolment, then the others', until everybody's is complete."""
    for name in world.parties:
        world.keys("create", name, *(["--coordinator"] if name == HUB else []), arguments=(name,))
    waiting = [world.steward, *(name for name in world.parties if name != world.steward)]
    for _ in range(2):
        waiting = [name for name in waiting if not _enrolled(world, name)]
    if waiting:
        raise CeremonyError(f"not complete: {', '.join(waiting)}")
    certify(world)


def certify(world: World) -> None:
    """TLS certificates: each hospital asks, the hub approves, each hospital takes its own."""
    for name in world.hospitals:
        world.keys("certificate", name)
    world.keys("certificate", HUB, "--host", "127.0.0.1", "--host", "localhost")
    for name in world.hospitals:
        if "valid until" not in (said := world.keys("certificate", name)):
            raise CeremonyError(said)


def _enrolled(world: World, name: str) -> bool:
    """Run a party's enrolment: whether it is complete."""
    known = [other for other in world.parties if other != name] if name == world.steward else [world.steward]
    phone = world.by_phone(*known)
    said = world.keys("enrol", name, "--steward", world.steward, *phone, arguments=(world.federation,))
    return "complete" in said.splitlines()


def _write_rows(path: Path, name: str, rows: int | None) -> None:
    """A hospital's simulated patients as its file."""
    columns = _columns(name, 0)
    table = list(zip(*(values.tolist() for values in columns.values()), strict=True))
    if rows is not None:
        table = table[:rows] + table[-rows:]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(table)
