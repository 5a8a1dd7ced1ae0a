"""A world's federation over NVFlare: server, sites, agents and supervisor, each a process of its own.

Their commands are those of docs/nvflare.md, with this world's places in place of the page's.
"""

import itertools
import re
import shlex
import shutil
import signal
import tempfile
import weakref
from dataclasses import dataclass, field
from pathlib import Path

from pages import DOCS, blocks_of

from loopback.processes import Processes, children, free_port, until
from loopback.world import HUB, PROGRAM, SEED, World


def of_page(machine: str, command: str, places: dict[str, object]) -> list[object]:
    """Of the page's command of this machine that begins so, the words behind `securepfl`: what stands behind an option
    is `places`' of that option.
    """
    lines = [line for block in blocks_of(DOCS / "nvflare.md") for line in block.lines()]
    (found,) = (line for name, line in lines if name == machine and line.startswith(f"securepfl {command} "))
    words = shlex.split(found)
    pairs = itertools.pairwise(words)
    return [word if word.startswith("--") else places.get(before, places.get(word, word)) for before, word in pairs]


@dataclass
class Nvflare:
    """Starts parties of `world`, whose kits it makes first; the same again goes on in the same folders.

    Processes: `agent NAME` and `site NAME` of each hospital, `server` and `supervisor` of the hub.
    """

    world: World
    processes: Processes
    seed: int | None = SEED
    deadline: float = 600.0
    port: int = field(default_factory=free_port)
    told: dict[str, str] = field(default_factory=dict)
    """What each step of the kits printed the last time."""
    sockets: Path = field(init=False)
    """Short wherever the world is: a socket's path has 107 bytes at most."""

    def __post_init__(self) -> None:
        self.sockets = Path(tempfile.mkdtemp(prefix="agents-"))
        weakref.finalize(self, shutil.rmtree, self.sockets, ignore_errors=True)
        self._kit("init", HUB, "--scheme", "tcp")
        for name in self.world.hospitals:
            self._kit("request", name)
        self._kit("approve", HUB)
        for name in self.world.hospitals:
            self._kit("install", name)

    def _kit(self, step: str, name: str, *options: object) -> None:
        self.told[step] = self.world.call(*self._words(f"machines nvflare {step}", name), *options)

    def _words(self, command: str, name: str) -> list[object]:
        """The page's command, at this party's places."""
        world = self.world
        places: dict[str, object] = {
            "federation.toml": world.federation,
            "--folder": world.folder(name),
            "--exchange": world.exchange,
            "--passphrase-file": world.passphrase_file(name),
            "--host": "localhost",
            "--port": self.port,
            "--socket": self.socket(name),
            "--data": world.data(name),
            "--deadline": self.deadline,
        }
        return of_page(HUB if name == HUB else "north", command, places)

    def socket(self, name: str) -> Path:
        return self.sockets / f"{name}.sock"

    def words(self, what: str) -> list[object]:
        """The command that starts a process."""
        kind, _, name = what.partition(" ")
        name = name or HUB
        out = ("--out", self.world.run(name))
        if kind in ("server", "site"):
            return [*PROGRAM, *self._words("machines nvflare start", name)]
        if kind == "supervisor":
            return [*PROGRAM, *self._words("machines nvflare run", name), *out, "--poll", 0.2]
        noise = ("--ledgers", self.world.ledgers(name)) if self.seed is None else ("--seed", self.seed)
        return [*PROGRAM, *self._words("agent", name), *out, *noise, "--device", "cpu"]

    @property
    def all(self) -> list[str]:
        """Everything that runs, in the order in which it is started."""
        sides = [f"{kind} {name}" for kind in ("agent", "site") for name in self.world.hospitals]
        return ["server", *sides, "supervisor"]

    def start(self, what: str) -> int:
        return self.processes.start(what, self.words(what))

    def start_all(self) -> None:
        for what in self.all:
            self.start(what)

    def job_process(self, what: str) -> int | None:
        """The process of the running job below the server or a site."""
        marks = ("runner_process", "worker_process")
        for process in children(self.processes.running[what].pid):
            command = Path(f"/proc/{process}/cmdline")
            if command.exists() and any(mark in command.read_text() for mark in marks):
                return process
        return None

    def closed(self) -> int:
        """Rounds that the hub has closed, by its log."""
        log = self.world.run(HUB) / "log.jsonl"
        found = re.findall(r'"round over"[^\n]*"round": (\d+)', log.read_text()) if log.exists() else []
        return max(map(int, found), default=0)

    def _has_result(self, name: str) -> bool:
        return "wrote its result and its model" in self.processes.said(f"agent {name}")

    def finish(self, seconds: float) -> None:
        """Wait until the supervisor has ended by itself, in order, and all hospitals have their results. What would
        serve on then, as agents do, is stopped.
        """
        code = self.processes.wait("supervisor", seconds)
        if code:
            raise AssertionError(f"supervisor ended with {code}:\n{self.processes.said('supervisor')[-2000:]}")
        until(lambda: all(map(self._has_result, self.world.hospitals)), seconds, "all hospitals have their results")
        for what in self.all:
            if self.processes.alive(what):
                self.processes.kill(what, signal.SIGTERM if what.startswith("agent") else signal.SIGKILL)
