"""A world's federation over NVFlare: server, sites, agents and supervisor, each a process of its own."""

import re
import shutil
import signal
import tempfile
import weakref
from dataclasses import dataclass, field
from pathlib import Path

from loopback.processes import Processes, children, free_port, until
from loopback.world import HUB, PROGRAM, SEED, World


@dataclass
class Nvflare:
    """Starts parties of `world`, whose kits it makes first; the same again goes on in the same folders.

    Processes: `agent NAME` and `site NAME` of each hospital, `server` and `supervisor` of the hub.
    """

    world: World
    processes: Processes
    seed: int | None = SEED
    deadline: float = 600.0
    sockets: Path = field(init=False)
    """Short wherever the world is: a socket's path has 107 bytes at most."""

    def __post_init__(self) -> None:
        self.sockets = Path(tempfile.mkdtemp(prefix="agents-"))
        weakref.finalize(self, shutil.rmtree, self.sockets, ignore_errors=True)
        world, exchange = self.world, ("--exchange", self.world.exchange)
        self._kit("init", HUB, *exchange, "--host", "localhost", "--port", free_port(), "--scheme", "tcp")
        for name in world.hospitals:
            self._kit("request", name, *exchange)
        self._kit("approve", HUB, *exchange)
        for name in world.hospitals:
            self._kit("install", name, *exchange, "--socket", self.socket(name))

    def _kit(self, step: str, name: str, *options: object) -> None:
        place = ("--folder", self.world.folder(name), "--passphrase-file", self.world.passphrase_file(name))
        self.world.call("machines", "nvflare", step, *place, *options)

    def socket(self, name: str) -> Path:
        return self.sockets / f"{name}.sock"

    def words(self, what: str) -> list[object]:
        """The command that starts a process."""
        kind, _, name = what.partition(" ")
        world, name = self.world, name or HUB
        folder, out = ("--folder", world.folder(name)), ("--out", world.run(name))
        secret = ("--passphrase-file", world.passphrase_file(name))
        if kind in ("server", "site"):
            return [*PROGRAM, "machines", "nvflare", "start", *folder]
        if kind == "supervisor":
            run = ("--deadline", self.deadline, "--poll", 0.2)
            return [*PROGRAM, "machines", "nvflare", "run", world.federation, *folder, *out, *secret, *run]
        noise = ("--ledgers", world.ledgers(name)) if self.seed is None else ("--seed", self.seed)
        where = ("--data", world.data(name), "--socket", self.socket(name), "--device", "cpu")
        return [*PROGRAM, "agent", world.federation, *where, *folder, *out, *secret, *noise]

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
