"""Curves of a run for a tracker: what everybody may know each round, and what patients decide by explicit choice alone.

A tracker is a file in trackers/, or a plug-in of the group securepfl.trackers: a function (place, run) that opens one.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any, Final, Protocol, runtime_checkable

from securepfl.errors import ConfigError, ExtraError, SecurePFLError, first_line
from securepfl.plugins import plugin_named
from securepfl.report.outcome import Observer, RoundEvent
from securepfl.runtime.execution import Display

BUILT_IN: Final = ("mlflow", "tensorboard")


@runtime_checkable
class Tracker(Protocol):
    """Where curves go."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Keep these numbers, by name, as of round `step`."""

    def close(self) -> None:
        """Nothing comes any more."""


@contextmanager
def tracking(wanted: Sequence[str], run: str, told: Callable[[str], None]) -> Iterator[tuple[Tracker, ...]]:
    """The trackers `wanted`, as "NAME:PLACE", opened for the run of that name. One that fails later gets no more, and a
    line to `told`: no run ends for its curves.

    Raises ConfigError for one that nobody brings, that can't be opened, or whose place holds a password.
    """
    with ExitStack() as stack:
        opened = []
        for each in wanted:
            name, _, place = each.partition(":")
            tracker = _Bearing(name, _opened(name, place, run), told)
            stack.callback(tracker.close)
            opened.append(tracker)
        yield tuple(opened)


class _Bearing:
    """A tracker whose failures are borne."""

    def __init__(self, name: str, tracker: Tracker, told: Callable[[str], None]) -> None:
        self._name, self._tracker, self._told = name, tracker, told
        self._failed = False

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._try(lambda: self._tracker.log(values, step))

    def close(self) -> None:
        self._try(self._tracker.close)

    def _try(self, act: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            act()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a library's, or a server's that went away
            self._failed = True
            self._told(f"note: tracker {self._name} failed ({type(error).__name__}) and gets no more of this run")


def _opened(name: str, place: str, run: str) -> Tracker:
    if "@" in place:
        raise ConfigError(
            f"--track {name}: a place with a user or password in it is refused, as commands are seen by all users of a "
            "machine; leave it out, trackers read such from their own environment variables"
        )
    if name in BUILT_IN:
        try:
            module = import_module(f"securepfl.runtime.trackers.{name}")
            tracker: Tracker = module.open_tracker(place, run)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("securepfl"):
                raise
            raise ExtraError(f"{error.name} is not installed; run: pip install 'securepfl[{name}]'") from None
        except SecurePFLError:
            raise
        except Exception as error:  # noqa: BLE001 - a library's, or a server's that can't be reached
            why = first_line(error)
            told = type(error).__name__ if "@" in why else f"{type(error).__name__}: {why}"
            raise ConfigError(
                f"--track {name}: can't be opened ({told}); name another place, or leave it out"
            ) from None
        return tracker
    plugin = plugin_named("securepfl.trackers", name)
    if plugin is None:
        raise ConfigError(f"--track {name}: known are {', '.join(BUILT_IN)}, and no plug-in of that name is installed")
    made = plugin.call(place, run)
    if not isinstance(made, Tracker):
        raise ConfigError(f"{plugin}: opens {type(made).__name__}, which has no log and close")
    return made


def tracked(display: Display, trackers: Sequence[Tracker]) -> Display:
    """`display`, and the `trackers` told each round beside it."""

    @contextmanager
    def both(budgets: Mapping[str, float | None]) -> Iterator[Observer]:
        with display(budgets) as show:

            def observe(event: RoundEvent) -> None:
                show(event)
                for tracker in trackers if event.round else ():
                    tracker.log(round_values(event), event.round)

            yield observe

    return both


def round_values(event: RoundEvent) -> dict[str, float]:
    """What is known of a round without looking at a patient: who trained, what is spent, and bytes.

    >>> event = RoundEvent(1, 2, ("north",), {"north": 0.5}, {"north": 10}, {"north": 20})
    >>> round_values(event)
    {'trained': 1.0, 'failed': 0.0, 'bytes/up': 10.0, 'bytes/down': 20.0, 'epsilon/north': 0.5}
    """
    values = {
        "trained": float(len(event.trained)),
        "failed": float(len(event.failed)),
        "bytes/up": float(sum(event.upload_bytes.values())),
        "bytes/down": float(sum(event.download_bytes.values())),
    }
    return values | {f"epsilon/{name}": spent for name, spent in event.epsilon.items() if math.isfinite(spent)}


def private_values(result: Mapping[str, Any]) -> dict[str, float]:
    """All hospitals' test metrics: exact functions of their patients, not covered by epsilon."""
    found = {
        f"{name}/{model}/{metric}": value
        for name, site in result["sites"].items()
        for model, metrics in site["metrics"].items()
        for metric, value in metrics.items()
    }
    return {name: float(value) for name, value in found.items() if value is not None}
