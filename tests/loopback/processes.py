"""Real processes that a test starts, watches, kills, and never leaves behind."""

import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loopback.nursery import Life, Nursery
from loopback.world import PROGRAM

_MARK = "SECUREPFL_TEST_PROCESSES"
_TICKS = os.sysconf("SC_CLK_TCK")


class NotReachedError(AssertionError):
    """Something did not come about in time."""


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def until(condition: Callable[[], Any], seconds: float, what: str, *, step: float = 0.05) -> Any:
    """The condition's first true value. Raises NotReachedError, which says `what` was waited for."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if found := condition():
            return found
        time.sleep(step)
    raise NotReachedError(f"not within {seconds:g} s: {what}")


@dataclass(frozen=True)
class Usage:
    """What a process uses: seconds of CPU so far, resident bytes, open file handles."""

    cpu: float
    resident: int
    handles: int


def usage(process: int) -> Usage:
    """Of a process that runs. Raises OSError where it is gone."""
    place = Path(f"/proc/{process}")
    fields = (place / "stat").read_text().rpartition(")")[2].split()
    resident = int((place / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return Usage((int(fields[11]) + int(fields[12])) / _TICKS, resident, len(list((place / "fd").iterdir())))


def children(process: int) -> list[int]:
    """The processes that a process has started and that still run."""
    found: list[int] = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, task.read_text().split())
    return found


@dataclass
class Processes:
    """Processes by name, started anew or, after `hurry`, forked. All have a mark in their environment, by which those
    that they start are found too.
    """

    logs: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    running: dict[str, subprocess.Popen | Life] = field(default_factory=dict)
    nursery: Nursery | None = None
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def start(self, name: str, words: list[object], *, prefix: tuple[str, ...] = (), **environment: str) -> int:
        """Start a command under `name`, its output appended to that log; its process id."""
        self.logs.mkdir(parents=True, exist_ok=True)
        told, own = list(map(str, words)), {**self.environment, **environment}
        with self.log(name).open("ab") as log:
            if self.nursery is not None and not prefix and tuple(told[: len(PROGRAM)]) == PROGRAM:
                self.running[name] = self.nursery.bear(told[len(PROGRAM) :], own, log.fileno())
            else:
                streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
                self.running[name] = subprocess.Popen([*prefix, *told], env=self._around(own), **streams)
        return self.running[name].pid

    def _around(self, own: Mapping[str, str]) -> dict[str, str]:
        return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", _MARK: self.mark, **own}

    def hurry(self) -> None:
        """Fork commands from a process that has imported all, from now on: a start costs no import then."""
        self.nursery = Nursery(self._around({}))

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def said(self, name: str) -> str:
        """All that was printed under `name`."""
        return self.log(name).read_text(encoding="utf-8", errors="replace")

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Send a signal and wait for the end; the exit code (negative: the signal that ended it)."""
        self.running[name].send_signal(number)
        return self.running[name].wait(60)

    def alive(self, name: str) -> bool:
        return name in self.running and self.running[name].poll() is None

    def wait(self, name: str, seconds: float) -> int:
        """The exit code. Raises NotReachedError with the end of the log where it goes on."""
        try:
            return self.running[name].wait(seconds)
        except subprocess.TimeoutExpired:
            raise NotReachedError(f"{name} still runs after {seconds:g} s:\n{self.said(name)[-2000:]}") from None

    def usage(self, name: str) -> Usage:
        return usage(self.running[name].pid)

    def everybody(self) -> dict[int, list[str]]:
        """The command lines of all processes with the mark, by process id."""
        found = {}
        for place in Path("/proc").iterdir():
            with suppress(OSError):
                if place.name.isdigit() and f"{_MARK}={self.mark}".encode() in (place / "environ").read_bytes():
                    found[int(place.name)] = (place / "cmdline").read_bytes().decode(errors="replace").split("\0")
        return found

    def end(self) -> None:
        """Kill what still runs, and what that started, until nothing is left."""
        for _ in range(50):
            for process in self.everybody():
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            for process in self.running.values():
                with suppress(subprocess.TimeoutExpired, RuntimeError, OSError):
                    process.wait(0.2)
            if not self.everybody():
                if self.nursery is not None:
                    self.nursery.close()
                return
        raise NotReachedError(f"processes that cannot be killed: {self.everybody()}")


@contextmanager
def processes(logs: Path, **environment: str) -> Iterator[Processes]:
    """Processes that all end with the block."""
    started = Processes(logs, environment)
    try:
        yield started
    finally:
        started.end()
