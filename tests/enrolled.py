"""Parties as they lie on their own machines: enrolled keys, a declaration and a table each, without a ceremony."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from securepfl.cli.enrol import ceremony_digest
from securepfl.crypto.keys import keystore
from securepfl.crypto.keys.holdings import Epoch, Holdings
from securepfl.crypto.keys.identity import Identity
from securepfl.crypto.keys.keys import FederationKey
from securepfl.randomness import fresh_key
from securepfl.settings.federation import Federation
from securepfl.storage.keys import KeyFolder, load_holdings

NAMES = ("alder", "birch", "cedar")
PASSPHRASE = b"correct horse battery staple"
SETTINGS = """name = "enrolled"
rounds = {rounds}
[model]
kind = "logistic"
personal = ["linear.weight"]
[privacy]
epsilon = 8.0
budget = 40.0
[release]
{released}
[encryption]
masking = "{masking}"
[data]
label = "ill"
{declared}[data.ranges]
age = {{ centre = 50.0, spread = 20.0 }}
dose = {{ centre = 1.0, spread = 0.5 }}
[sites]
"""


@dataclass(frozen=True)
class World:
    """Files of a federation under `root`: federation.toml, a folder of keys for each party, data/NAME/NAME.csv."""

    root: Path
    names: tuple[str, ...] = NAMES

    @property
    def config(self) -> Path:
        return self.root / "federation.toml"

    @property
    def secret(self) -> Path:
        return self.root / "passphrase"

    def data(self, name: str) -> Path:
        return self.root / "data" / name / f"{name}.csv"

    def folder(self, name: str) -> Path:
        return self.root / name

    def out(self, name: str) -> Path:
        return self.root / name / "run"

    def holdings(self, name: str) -> Holdings:
        return load_holdings(self.folder(name), PASSPHRASE)


def write_table(path: Path, name: str, rows: int = 60) -> None:
    """A table of simulated patients, other ones for each name."""
    drawn = np.random.default_rng(list(name.encode()))
    age, dose = drawn.normal(50, 20, rows), drawn.normal(1, 0.5, rows)
    ill = (age / 50 + dose + drawn.normal(0, 0.5, rows) > 2).astype(int)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{a:.3f},{d:.4f},{y}" for a, d, y in zip(age, dose, ill, strict=True)]
    path.write_text("\n".join(["age,dose,ill", *lines]) + "\n")


def enrol_all(
    root: Path,
    *,
    rounds: int = 2,
    masking: str = "none",
    names: tuple[str, ...] = NAMES,
    declared: str = "",
    released: str = "experts = true",
) -> World:
    """Files of a whole federation, keys as a ceremony leaves them; its hub is called hub."""
    world = World(root, names)
    root.mkdir(exist_ok=True)
    sites = "".join(f"{name} = {{ units = 40 }}\n" for name in names)
    settings = SETTINGS.format(rounds=rounds, masking=masking, declared=declared, released=released)
    world.config.write_text(settings + sites)
    world.secret.write_bytes(PASSPHRASE + b"\n")
    world.secret.chmod(0o600)
    identities = {name: Identity.generate(name) for name in (*names, "hub")}
    hospitals = {name: identities[name].public for name in names}
    federation = Federation.read(world.config)
    digest = ceremony_digest(federation, names)
    key = FederationKey.generate(encrypted=federation.scheme.encrypted)
    pairs = {frozenset((one, other)): fresh_key() for one in names for other in names}
    for name, identity in identities.items():
        hub = name == "hub"
        own = {} if hub else {other: pairs[frozenset((name, other))] for other in names}
        epoch = Epoch(
            0, digest, b"", names[0], identities["hub"].public, hospitals, key.commitment, None if hub else key, own
        )
        held = Holdings(identity, is_coordinator=hub).with_epoch(epoch)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(keystore, "LOG_N", 14)  # the least that is read; what a passphrase costs is tested elsewhere
            with KeyFolder.create(world.folder(name), held, PASSPHRASE):
                pass
        if not hub:
            write_table(world.data(name), name)
    return world
