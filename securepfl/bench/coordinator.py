"""The benchmark's coordinator in a process of its own, so that its memory is its own.

tracemalloc does not see what SEAL allocates; the kernel's high-water mark (VmHWM) does. Hospital and coordinator
take turns, so neither slows the other down.
"""

import contextlib
import json
import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import IO, Any, Final

from securepfl.bench.case import Case
from securepfl.bench.masked import PackedMaskedCoordinator
from securepfl.bench.schemes import coordinator_half
from securepfl.crypto.masks.graph import threshold

_LENGTH: Final = struct.Struct(">Q")


@dataclass(frozen=True)
class CoordinatorCost:
    """Seconds a contribution (`add` includes its share of forming the answer) and the peak of resident bytes above
    those of the imported program.
    """

    load: float
    add: float
    peak_bytes: int


class Link:
    """One end of the way between hospital and coordinator: bytes after their length."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._incoming: IO[bytes] = end.makefile("rb")

    def send(self, data: bytes) -> None:
        """Raises BrokenPipeError where the other end is gone."""
        self._end.sendall(_LENGTH.pack(len(data)))
        self._end.sendall(data)

    def receive(self) -> bytes:
        """Raises EOFError where the other end is gone."""
        return self._exactly(_LENGTH.unpack(self._exactly(_LENGTH.size))[0])

    def _exactly(self, count: int) -> bytes:
        data = self._incoming.read(count)
        if len(data) < count:
            raise EOFError(f"the other end closed after {len(data)} of {count} bytes")
        return data


def _status_bytes(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"/proc/self/status has no {field}: the benchmark needs Linux")
    return 1024 * int(found[1])


def _serve(link: Link, scheme: str, case: Case) -> None:
    with contextlib.suppress(OSError):  # refused in some containers: the peak then includes that of the imports
        Path("/proc/self/clear_refs").write_text("5")
    before = _status_bytes("VmRSS")
    coordinator, loads, adds = coordinator_half(scheme, case, link.receive()), [], []
    for _ in range(case.hospitals):
        data = link.receive()
        start = time.perf_counter()
        loaded = coordinator.load(data)
        middle = time.perf_counter()
        coordinator.add(loaded)
        end = time.perf_counter()
        del data, loaded
        loads.append(middle - start)
        adds.append(end - middle)
        link.send(b"")
    masked = isinstance(coordinator, PackedMaskedCoordinator)
    # Waiting for what hospitals reveal is not the coordinator's time.
    revealed = [link.receive() for _ in range(1 + threshold(case.hospitals))] if masked else []
    start = time.perf_counter()
    if isinstance(coordinator, PackedMaskedCoordinator):
        coordinator.unmask(revealed[0], revealed[1:])
    answer = coordinator.answer()
    share = (time.perf_counter() - start) / case.hospitals
    cost = CoordinatorCost(median(loads), median(adds) + share, _status_bytes("VmHWM") - before)
    link.send(answer)
    link.send(json.dumps(asdict(cost)).encode())


@dataclass(frozen=True)
class CoordinatorProcess:
    """The hospitals' view of it."""

    link: Link

    def contribute(self, data: bytes) -> None:
        """Upload and wait until it is added."""
        self.link.send(data)
        self.link.receive()

    def unmask(self, commitments: bytes, reveals: list[bytes]) -> None:
        """What hospitals revealed, where updates are masked."""
        for data in (commitments, *reveals):
            self.link.send(data)

    def answer(self) -> tuple[bytes, CoordinatorCost]:
        """The answer, and what the coordinator spent, once all contributed."""
        answer = self.link.receive()
        return answer, CoordinatorCost(**json.loads(self.link.receive()))


@contextmanager
def coordinator_process(scheme: str, case: Case, public: bytes) -> Iterator[CoordinatorProcess]:
    """Start it and stop it. A process that dies shows its traceback on stderr and raises EOFError or
    BrokenPipeError here.
    """
    near, far = socket.socketpair()
    settings: dict[str, Any] = {"scheme": scheme, **asdict(case)}
    command = [sys.executable, "-P", "-m", __name__, str(far.fileno()), json.dumps(settings)]
    with near, far:
        process = subprocess.Popen(command, pass_fds=[far.fileno()], stdout=subprocess.DEVNULL)  # noqa: S603
        far.close()
        try:
            link = Link(near)
            link.send(public)
            yield CoordinatorProcess(link)
        finally:
            process.kill()
            process.wait()


def main(descriptor: str, settings: str) -> None:
    """Serve one case over an inherited socket."""
    case = json.loads(settings)
    with socket.socket(fileno=int(descriptor)) as end:
        _serve(Link(end), case.pop("scheme"), Case(**case))


if __name__ == "__main__":
    main(*sys.argv[1:])
