"""Test units drawn again with replacement, and what that says of a metric: its interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from securepfl.randomness import derive_key
from securepfl.tasks.metrics import mean_of_known
from securepfl.tasks.task import Labels, Metrics, OperatingPoint, Predictions, Task

Floats = NDArray[np.float64]
LEVEL: Final = 0.95
_MOST: Final = 1000
_LEAST: Final = 200
_ROWS: Final = 2_000_000
"""Rows of all resamples together that are counted at once."""
_SELDOM: Final = 0.05
"""Where more of the resamples lack a metric, as with two patients of a class, there is no interval."""
_LEAST_FREEDOM: Final = 5
"""Units less one for each hospital that draws its own. With fewer, the same sign at all of them is chance too often: of
two models that are alike, means over 2 units told one better in half of 600 trials, over 5 in a sixth."""
_PUBLIC_KEY: Final = b"securepfl public test resampling"


def resample_count(rows: int) -> int:
    """How many resamples of `rows` test rows in all: a thousand, fewer for many rows, whose intervals are narrow.

    >>> resample_count(500), resample_count(5_000), resample_count(10**6)
    (1000, 400, 200)
    """
    return max(_LEAST, min(_MOST, _ROWS // max(1, rows)))


def resampled(site: str, units: NDArray[np.generic], resamples: int) -> Floats:
    """How often each row [n] counts: once in the first line, then in each of `resamples` as often as its unit is drawn.

    `units` [n] says whose row it is: rows of one patient come and go together. The draws are public, the same for the
    same `site` and number of units, and independent between sites.

    >>> drawn = resampled("north", np.array(["p1", "p1", "p2"]), 4)
    >>> drawn.shape, drawn[0].tolist(), bool((drawn[:, 0] == drawn[:, 1]).all()), drawn[1:, 1:].sum(axis=1).tolist()
    ((5, 3), [1.0, 1.0, 1.0], True, [2.0, 2.0, 2.0, 2.0])
    """
    names, unit_of = np.unique(units, return_inverse=True)
    count = len(names)
    if not count:
        return np.ones((resamples + 1, 0))
    generator = np.random.default_rng(int.from_bytes(derive_key(_PUBLIC_KEY, site, count)))
    drawn = generator.multinomial(count, np.full(count, 1 / count), size=resamples)
    return np.vstack([np.ones(len(units)), drawn[:, unit_of]]).astype(np.float64)


@dataclass(frozen=True)
class Scored:
    """Metrics by name, each [1 + resamples]: of the test rows themselves, then of every resample; NaN for none.

    Of two that were scored on the same resamples, `minus` is the difference, pair by pair.

    >>> found = Scored({"auroc": np.array([0.8, 0.7, 0.9])})
    >>> found.point, found.interval("auroc")
    ({'auroc': 0.8}, (0.7, 0.9))
    """

    values: Mapping[str, Floats]
    freedom: Mapping[str, int] = field(default_factory=dict)
    """By metric, how many units were drawn, less one for each hospital that they were drawn within; none: enough."""

    def of_units(self, freedom: int) -> Self:
        """The same, on rows of so many units less one a hospital."""
        return replace(self, freedom=dict.fromkeys(self.values, freedom))

    @property
    def point(self) -> Metrics:
        """The metrics on the test rows themselves; None for one that does not exist, or is infinite."""
        return {name: _finite(values[0]) for name, values in self.values.items()}

    @property
    def intervals(self) -> dict[str, tuple[float | None, float | None] | None]:
        """Every metric's interval."""
        return {name: self.interval(name) for name in self.values}

    def interval(self, name: str) -> tuple[float | None, float | None] | None:
        """95 % percentile interval; an end that is None has no bound. None where the metric does not exist, or too
        often not in a resample, or where there are too few units.

        >>> Scored({"dice": np.array([0.8, 0.7, 0.9])}).of_units(1).interval("dice") is None
        True
        """
        if self.freedom.get(name, _LEAST_FREEDOM) < _LEAST_FREEDOM:
            return None
        point, drawn = self.values[name][0], self.values[name][1:]
        known = drawn[~np.isnan(drawn)]
        if np.isnan(point) or not len(known) or len(known) < (1 - _SELDOM) * len(drawn):
            return None
        tail = (1 - LEVEL) / 2
        low, high = (np.quantile(known, share, method="inverted_cdf") for share in (tail, 1 - tail))
        return _finite(low), _finite(high)

    def minus(self, other: Self) -> "Scored":
        """This less `other`."""
        with np.errstate(invalid="ignore"):
            both = {name: values - other.values[name] for name, values in self.values.items()}
        return Scored(both, {name: min(of, other.freedom.get(name, of)) for name, of in self.freedom.items()})

    @classmethod
    def mean(cls, found: Sequence[Self], counting: Sequence[float] | None = None) -> Self:
        """Mean over hospitals of those that have the metric, on the test rows and in each resample. Hospitals count
        alike, or as `counting` says.
        """
        each = np.ones(len(found)) if counting is None else np.asarray(counting, dtype=np.float64)
        names = found[0].values if found else {}
        freedom = {
            name: sum(one.freedom.get(name, _LEAST_FREEDOM) for one in found if np.isfinite(one.values[name][0]))
            for name in names
        }
        return cls({name: _mean(np.stack([one.values[name] for one in found]), each) for name in names}, freedom)


def score(task: Task, predictions: Predictions, labels: Labels, point: OperatingPoint = ()) -> Scored:
    """The metrics of one model on some test rows, without resamples."""
    return score_resampled(task, predictions, task.decide(predictions, point), labels, np.ones((1, len(labels))))


def score_resampled(
    task: Task, predictions: Predictions, decided: NDArray[np.generic], labels: Labels, weights: Floats
) -> Scored:
    """The same for each line of `weights` [1 + resamples, n], some lines at a time, as memory goes."""
    at_once = max(1, _ROWS // max(1, len(labels)))
    parts = [
        task.measure(predictions, decided, labels, weights[start : start + at_once])
        for start in range(0, len(weights), at_once)
    ]
    return Scored({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def score_means(found: Sequence[Mapping[str, Floats]], weights: Floats) -> Scored:
    """The same of metrics that are means over images, from each image's own (see ByImage): of one hospital, or of
    several one after the other.

    >>> score_means([{"dice": np.array([0.5])}, {"dice": np.array([1.0, np.nan])}], np.ones((1, 3))).point
    {'dice': 0.75}
    """
    names = found[0] if found else ()
    return Scored({name: mean_of_known(np.concatenate([of[name] for of in found]), weights) for name in names})


def _mean(values: Floats, counting: Floats) -> Floats:
    """Of `values` [hospitals, 1 + resamples]."""
    known = np.isfinite(values)
    count = counting @ known
    mean: Floats = np.divide(
        counting @ np.where(known, values, 0.0), count, out=np.full(len(count), np.nan), where=count > 0
    )
    return mean


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
