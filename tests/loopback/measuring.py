"""What a run among processes costs: seconds, CPU and bytes of a round, from logs, /proc and the hub's status."""

import itertools
import json
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from loopback.processes import NotReachedError, Processes, usage
from loopback.world import HUB, World


class Engine(Protocol):
    """A run among processes."""

    world: World
    processes: Processes

    def closed(self) -> int:
        """Rounds that the hub has closed."""


@dataclass(frozen=True)
class Measured:
    """Of the rounds after the first: seconds of each, CPU seconds and bytes of one in the mean."""

    seconds: list[float]
    cpu: float
    bytes: float


def cpu_of_all(processes: Processes) -> float:
    """CPU seconds so far of all that run."""
    found = 0.0
    for process in processes.everybody():
        try:
            found += usage(process).cpu
        except OSError:
            continue
    return found


def closings(world: World) -> list[float]:
    """When the hub closed each round, in seconds, by its log."""
    lines = (world.run(HUB) / "log.jsonl").read_text().splitlines()
    told = [entry for entry in map(json.loads, lines) if entry["event"] == "round over"]
    return [datetime.fromisoformat(entry["time"]).timestamp() for entry in told]


def measured(engine: Engine, seconds: float) -> Measured:
    """Watch a run that has started until its last round is over. Raises NotReachedError."""
    ends, first, last, rounds = time.monotonic() + seconds, None, (0, 0.0), 12
    while (closed := engine.closed()) < rounds:
        if time.monotonic() > ends:
            raise NotReachedError(f"{closed} of {rounds} rounds within {seconds:g} s")
        if closed >= 1 and closed != last[0]:
            last = (closed, cpu_of_all(engine.processes))
            first = first or last
        time.sleep(0.05)
    if first is None:
        raise NotReachedError("the run was over before it could be looked at")
    times = closings(engine.world)
    carried = json.loads((engine.world.run(HUB) / "status.json").read_text())["hospitals"].values()
    total = sum(entry["upload_bytes"] + entry["download_bytes"] for entry in carried)
    return Measured(
        [later - before for before, later in itertools.pairwise(times)],
        (last[1] - first[1]) / max(1, last[0] - first[0]),
        total / rounds,
    )
