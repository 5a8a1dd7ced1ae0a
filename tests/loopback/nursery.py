"""Processes of the command line that cost no import: one process imports all, and forks for each command.

    python -m loopback.nursery CONTROL

For each packet on the socket CONTROL (JSON: `words`, `environment`), which brings a log's descriptor with it, it forks
a process that runs these words as `securepfl` would. It says the process ids, and how each ended.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from forked import python

MODULES = ("opening", "hub", "visits", "https.hospital", "https.serving")


class Nursery:
    """The process that forks, seen from the test. It ends, with all it forked, when its socket is closed."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            [*python(), "-m", "loopback.nursery", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**environment, "PYTHONPATH": path},
        )
        theirs.close()
        self.ended: dict[int, int] = {}

    def bear(self, words: list[str], environment: dict[str, str], log: int) -> "Life":
        """A process of its own that runs `words`."""
        told = json.dumps({"words": words, "environment": environment}).encode()
        socket.send_fds(self._control, [told], [log])
        while "born" not in (said := self._hear()):
            pass
        return Life(said["born"], self)

    def listen(self) -> None:
        """Note who has ended."""
        while select.select([self._control], [], [], 0)[0]:
            self._hear()

    def _hear(self) -> dict[str, int]:
        said = json.loads(self._control.recv(4096) or b"{}")
        if not said:
            raise RuntimeError("the nursery is gone")
        if "died" in said:
            self.ended[said["died"]] = said["code"]
        return said

    def close(self) -> None:
        self._control.close()
        self._process.wait(30)


@dataclass
class Life:
    """A process that a nursery forked, with what a test needs of subprocess.Popen."""

    pid: int
    nursery: Nursery = field(repr=False)

    def poll(self) -> int | None:
        """Its exit code (negative: the signal that ended it), None while it runs."""
        if self.pid not in self.nursery.ended:
            self.nursery.listen()
        return self.nursery.ended.get(self.pid)

    def wait(self, seconds: float) -> int:
        """Raises subprocess.TimeoutExpired."""
        ends = time.monotonic() + seconds
        while (code := self.poll()) is None:
            if time.monotonic() > ends:
                raise subprocess.TimeoutExpired(str(self.pid), seconds)
            time.sleep(0.02)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def _live(control: socket.socket, words: list[str], environment: dict[str, str], log: int) -> None:
    """What the forked process does; it never comes back."""
    from securepfl.cli.main import main

    code = 1
    try:
        control.close()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(environment)
        sys.argv = ["securepfl", *words]
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _reap(control: socket.socket, alive: set[int]) -> None:
    for process in tuple(alive):
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            alive.discard(process)
            control.send(json.dumps({"died": process, "code": os.waitstatus_to_exitcode(status)}).encode())


def main() -> None:
    import importlib

    control = socket.socket(fileno=int(sys.argv[1]))
    for name in MODULES:
        importlib.import_module(f"securepfl.runtime.{name}")
    alive: set[int] = set()
    try:
        while True:
            if select.select([control], [], [], 0.02)[0]:
                told, descriptors, _, _ = socket.recv_fds(control, 2**16, 1)
                if not told:
                    return
                process = os.fork()
                if process == 0:
                    asked = json.loads(told)
                    _live(control, asked["words"], asked["environment"], descriptors[0])
                os.close(descriptors[0])
                alive.add(process)
                control.send(json.dumps({"born": process}).encode())
            _reap(control, alive)
    finally:
        for process in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


if __name__ == "__main__":
    main()
