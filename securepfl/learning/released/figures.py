"""What noisy counts of scores by outcome tell, with intervals that hold the noise and the sample; or that they tell
nothing.

All of it is a function of what was released, so it costs nothing. Each figure is a ratio U / V of noisy numbers. An
interval is made of all ratios r for which U - r V is within its own deviation of 0 (Fieller 1954): where noise drowns V
there is no such interval, and then there is no figure either. Deviations are those of simulated counts: a sample of as
many patients, and the known noise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from securepfl.learning.released.histogram import BINS, Floats, Histogram

LEVEL: Final = 0.95
_DRAWS: Final = 2000
_SEED: Final = 20_261_129
"""Public: whoever has the noisy counts gets the same intervals."""
_WIDEST: Final = 0.4
"""An interval of a share or an AUROC that is wider says too little to be called a figure."""
_FURTHEST: Final = 3.0
"""So does one of a ratio whose ends differ by this factor."""
_CLEAR: Final = 4.0
"""By so many deviations of its noise a group of bins must hold patients, to be told apart."""
_LEAST_GROUP: Final = 10.0
_MOST_GROUPS: Final = 8


@dataclass(frozen=True)
class Figure:
    """A value and its interval at LEVEL."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Group:
    """Patients whose score lies in [`low`, `high`): `told` is about what they were told on average (from the bins'
    middles), `seen` the share of them with the outcome.
    """

    low: float
    high: float
    told: float
    seen: Figure


@dataclass(frozen=True)
class OutcomeFigures:
    """Of one outcome; None is "no figure": noise drowns it. `observed_over_expected` is 1 for honest probabilities."""

    auroc: Figure | None
    sensitivity: Figure | None
    specificity: Figure | None
    prevalence: Figure | None
    observed_over_expected: Figure | None
    calibration: tuple[Group, ...]


@dataclass(frozen=True)
class Figures:
    """Of all outcomes, by name. `units` is how many held-out patients (or records) there are; `noise` the deviation of
    the noise in every number that was released.
    """

    outcomes: Mapping[str, OutcomeFigures]
    units: Figure
    noise: float

    def to_json(self) -> dict[str, Any]:
        """As result.json has it."""
        return {"level": LEVEL, **asdict(self)}


def figures_of(
    histogram: Histogram, released: Floats, *, deviation: float, spread: float, names: Sequence[str]
) -> Figures:
    """Figures from numbers [histogram.size] in patients, with Gaussian noise of `deviation` in each.

    `spread`: by how much the variance of a count is above that of a sample (1 where everybody is counted). `names`: of
    the outcomes.

    >>> histogram = Histogram.around([0.5], [(0.5, 0.5)])
    >>> cells = np.array([[[100.0] * 8 + [20.0] * 8, [20.0] * 8 + [100.0] * 8]])
    >>> found = figures_of(histogram, histogram.released(cells), deviation=2.0, spread=1.0, names=("outcome",))
    >>> round(found.outcomes["outcome"].sensitivity.value, 3)
    0.833
    >>> figures_of(histogram, histogram.released(cells), deviation=900.0, spread=1.0, names=("outcome",)).outcomes[
    ...     "outcome"
    ... ].sensitivity is None
    True
    """
    cells, rng = histogram.estimated(released), np.random.default_rng(_SEED)
    noise: Floats = (deviation * np.linalg.cholesky(histogram.covariance)).astype(np.float64)
    outcomes = {
        name: _outcome(histogram, at, cells[at], _drawn(cells[at], noise, spread, rng)) for at, name in enumerate(names)
    }
    units = _count(float(cells[0].sum()), deviation * sqrt(2 * histogram.covariance.sum()), spread - 1)
    return Figures(outcomes, units, deviation)


def _z() -> float:
    return float(ndtri(0.5 + LEVEL / 2))


def _count(found: float, error: float, drawing: float) -> Figure:
    """How many there are, of whom `found` were counted: all numbers n that are within their own deviation of it, which
    is that of the noise, `error` and of who was drawn: variances `error` squared and n times `drawing` (Wilson 1927).
    """
    apart = _z() ** 2 * drawing / 2
    half = _z() * sqrt(max(error**2 + drawing * found + (_z() * drawing / 2) ** 2, 0.0))
    return Figure(*(max(0.0, value) for value in (found, found + apart - half, found + apart + half)))


def _drawn(cells: Floats, noise: Floats, spread: float, rng: np.random.Generator) -> Floats:
    """Cells as they might have come out, [draws, 2, cells]."""
    base = np.stack([nonnegative(label) for label in cells])
    sampled = rng.poisson(base / spread, (_DRAWS, *base.shape)) * spread
    found: Floats = sampled + rng.standard_normal((_DRAWS, *base.shape)) @ noise.T
    return found


def nonnegative(values: Floats) -> Floats:
    """The nearest counts to `values` [n] of the same sum, none negative; zeros where the sum is.

    >>> nonnegative(np.array([3.0, -1.0, 2.0])).tolist()
    [2.5, 0.0, 1.5]
    """
    total = max(float(values.sum()), 0.0)
    ordered = np.sort(values)[::-1]
    excess = (np.cumsum(ordered) - total) / np.arange(1, len(values) + 1)
    kept = int(np.nonzero(ordered > excess)[0].max(initial=0))
    found: Floats = np.maximum(values - excess[kept], 0.0) if total else np.zeros_like(values)
    return found


def _outcome(histogram: Histogram, at: int, cells: Floats, drawn: Floats) -> OutcomeFigures:
    yes, told = histogram.decisions == 1, histogram.middles(at)[histogram.bins]

    def share(of: Floats, over: Floats) -> Figure | None:
        """U is the sum of cells [2, cells] times `of`, V times `over`."""
        found = _ratio((cells * of).sum(), (cells * over).sum(), (drawn * of).sum((1, 2)), (drawn * over).sum((1, 2)))
        return _within(found)

    none, every = np.zeros(histogram.cells), np.ones(histogram.cells)
    with_it, all_, expected = np.stack([none, every]), np.stack([every, every]), np.stack([told, told])
    auroc = _ratio(*_pairs(histogram, cells[None]), *_pairs(histogram, drawn))
    over = _ratio(cells[1].sum(), (cells * expected).sum(), drawn[:, 1].sum(axis=1), (drawn * expected).sum((1, 2)))
    return OutcomeFigures(
        auroc=_within(auroc),
        sensitivity=share(np.stack([none, yes]), with_it),
        specificity=share(np.stack([~yes, none]), all_ - with_it),
        prevalence=share(with_it, all_),
        observed_over_expected=None if over is None or over.high > _FURTHEST * max(over.low, 0.0) else over,
        calibration=tuple(
            Group(low, high, _told(cells, told, inside), seen)
            for low, high, inside in _groups(histogram, at, cells, drawn)
            if (seen := share(with_it * inside, all_ * inside)) is not None
        ),
    )


def _told(cells: Floats, told: Floats, inside: NDArray[np.bool_]) -> float:
    """About the mean score in some bins."""
    count = nonnegative(cells.sum(axis=0)[inside])
    return float(count @ told[inside] / count.sum()) if count.sum() > 0 else float(told[inside].mean())


def _pairs(histogram: Histogram, cells: Floats) -> tuple[Any, Any]:
    """Pairs of one with and one without the outcome of which the first scores higher (ties half), and all pairs."""
    bins = cells @ np.eye(BINS)[histogram.bins]
    without, with_it = bins[:, 0], bins[:, 1]
    below = np.cumsum(without, axis=-1) - without / 2
    right, pairs = (with_it * below).sum(axis=-1), with_it.sum(axis=-1) * without.sum(axis=-1)
    return (right[0], pairs[0]) if len(cells) == 1 else (right, pairs)


def _groups(
    histogram: Histogram, at: int, cells: Floats, drawn: Floats
) -> list[tuple[float, float, NDArray[np.bool_]]]:
    """Neighbouring bins together, so that each group clearly holds patients: its range of scores and its cells."""
    ends, found, first = histogram.ends(at), list[tuple[int, int]](), 0
    least = max(_LEAST_GROUP, cells.sum() / _MOST_GROUPS)
    for bin_ in range(BINS):
        inside = (histogram.bins >= first) & (histogram.bins <= bin_)
        held, error = cells[:, inside].sum(), drawn[:, :, inside].sum((1, 2)).std()
        if held >= max(_CLEAR * error, least):
            found.append((first, bin_))
            first = bin_ + 1
    if found and first < BINS:
        found[-1] = (found[-1][0], BINS - 1)
    return [
        (float(ends[low]), float(ends[high + 1]), (histogram.bins >= low) & (histogram.bins <= high))
        for low, high in found
    ]


def _ratio(above: Any, below: Any, drawn_above: Floats, drawn_below: Floats) -> Figure | None:
    """`above` over `below` with Fieller's interval; None where that has no ends."""
    (uu, uv), (_, vv) = np.cov(drawn_above, drawn_below) * _z() ** 2
    lead, middle, last = below**2 - vv, above * below - uv, above**2 - uu
    inner = middle**2 - lead * last
    if below <= 0 or lead <= 0 or inner < 0:
        return None
    low, high = ((middle + side * sqrt(inner)) / lead for side in (-1, 1))
    return Figure(float(above / below), float(low), float(high))


def _within(found: Figure | None) -> Figure | None:
    """As a share, at most 1; None where the interval says too little."""
    if found is None or found.high - found.low > _WIDEST:
        return None
    return Figure(*(min(max(value, 0.0), 1.0) for value in (found.value, found.low, found.high)))
