"""Parties killed (SIGKILL) at random moments of a run, and started again each time with the same command."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from loopback.https import Https
from loopback.nvflare import Nvflare
from loopback.processes import until
from loopback.world import HUB

QUICK = 0.25
"""Of the kills, the share that falls while somebody may still be starting."""
STALLED = 240.0
"""Seconds without a round after which a run counts as lost."""


@dataclass
class Killing:
    """Kills among `victims` (by kind: what kills one of them and starts it again); `closed` tells how many rounds are
    over. `counted` are the kills so far, by kind of victim and by whether a round was under way; `took` are the seconds
    from a kill to the end of the next round, by kind, where that was waited for.
    """

    victims: Mapping[str, Callable[[random.Random], None]]
    closed: Callable[[], int]
    draw: random.Random
    round_seconds: float = 1.0
    counted: Counter = field(default_factory=Counter)
    took: dict[str, list[float]] = field(default_factory=dict)

    def kill(self, kinds: list[str]) -> None:
        """One kill of each kind named, each at a random moment of a round or of a start. Raises NotReachedError where
        no round ends after one.
        """
        last = ""
        for kind in kinds:
            quick = self.draw.random() < QUICK
            if quick:
                time.sleep(self.draw.uniform(0, 4 * self.round_seconds))
            else:
                self._round_ends(last)
                time.sleep(self.draw.uniform(0, self.round_seconds))
            self.victims[kind](self.draw)
            self.counted[kind, "soon after another kill" if quick else "in a round"] += 1
            last = kind

    def _round_ends(self, last: str) -> None:
        before, started = self.closed(), time.monotonic()
        until(lambda: self.closed() > before, STALLED, f"a round after round {before}")
        self.took.setdefault(last or "start", []).append(time.monotonic() - started)


def https_victims(engine: Https) -> dict[str, Callable[[random.Random], None]]:
    """Hub and hospitals over HTTPS."""

    def again(name: str) -> None:
        if not engine.processes.alive(name):
            raise AssertionError(f"{name} ended by itself:\n{engine.processes.said(name)[-2000:]}")
        engine.processes.kill(name)
        engine.start(name)

    return {
        "hub": lambda draw: again(HUB),
        "hospital": lambda draw: again(draw.choice(engine.world.hospitals)),
    }


def nvflare_victims(engine: Nvflare) -> dict[str, Callable[[random.Random], None]]:
    """Ours and NVFlare's processes, by what they are."""

    def again(kind: str, name: str = "") -> None:
        what = f"{kind} {name}".strip()
        if not engine.processes.alive(what):
            raise AssertionError(f"{what} ended by itself:\n{engine.processes.said(what)[-2000:]}")
        engine.processes.kill(what)
        engine.start(what)

    def job(what: str) -> None:
        process = until(lambda: engine.job_process(what), STALLED, f"{what} runs a job")
        os.kill(process, signal.SIGKILL)

    def of_one(draw: random.Random) -> str:
        return draw.choice(engine.world.hospitals)

    return {
        "agent": lambda draw: again("agent", of_one(draw)),
        "site": lambda draw: again("site", of_one(draw)),
        "site's job process": lambda draw: job(f"site {of_one(draw)}"),
        "server": lambda draw: again("server"),
        "server's job process": lambda draw: job("server"),
        "supervisor": lambda draw: again("supervisor"),
    }


def seeded(seed: int) -> random.Random:
    """What draws victims and moments."""
    return random.Random(seed)  # noqa: S311 - protects nobody


def shuffled(draw: random.Random, counts: Mapping[str, int]) -> list[str]:
    """Each kind so many times, in random order."""
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    draw.shuffle(kinds)
    return kinds
