"""How much better one model is than another on the same test rows, and whether their number lets one say so."""

from dataclasses import dataclass
from typing import Literal, Self

from securepfl.tasks.resampling import Scored
from securepfl.tasks.task import Metric

Interval = tuple[float | None, float | None]


@dataclass(frozen=True)
class Gain:
    """`value` is above 0 where the first model is better, whichever way its metric points; None where there is no
    metric. `interval`: see Scored.interval.

    >>> import numpy as np
    >>> ours, theirs = (Scored({"error": np.array(found)}) for found in ([1.0, 1.1, 0.9], [2.0, 2.0, 2.0]))
    >>> gain = Gain.of(Metric("error", "error", higher_is_better=False), ours, theirs)
    >>> gain.holds, gain.in_words
    (True, '+1.000 (95 % interval +0.900 to +1.100)')
    """

    value: float | None
    interval: Interval | None

    @classmethod
    def of(cls, metric: Metric, ours: Scored, theirs: Scored) -> Self:
        """Of `ours` over `theirs`, scored on the same resamples."""
        better, worse = (ours, theirs) if metric.higher_is_better else (theirs, ours)
        difference = better.minus(worse)
        return cls(difference.point[metric.name], difference.interval(metric.name))

    @property
    def holds(self) -> bool | None:
        """True for better, False for worse or the same throughout, None where the interval doesn't tell."""
        if self.interval is None:
            return None
        low, high = self.interval
        if low is not None and low > 0:
            return True
        return False if high is not None and (high < 0 or low == high == 0) else None

    @property
    def answer(self) -> Literal["better", "worse", "same", "unknown"]:
        """`holds`, with what is worse apart from what is the same throughout."""
        if self.holds is not False:
            return "better" if self.holds else "unknown"
        return "same" if self.interval == (0, 0) else "worse"

    @property
    def in_words(self) -> str:
        """The gain and its interval."""
        if self.value is None:
            return "-"
        if self.interval is None:
            return f"{self.value:+.3f} (no interval: too few test rows, or too few of a class)"
        low, high = ("no bound" if end is None else f"{end:+.3f}" for end in self.interval)
        return f"{self.value:+.3f} (95 % interval {low} to {high})"
