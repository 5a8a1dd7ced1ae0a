"""Epsilon of composed Poisson-sampled Gaussian steps, from dp_accounting's privacy loss distributions.

dp_accounting discretises one step's loss on a grid, rounding up (connect the dots, Doroshenko et al. 2022, arXiv
2207.04380). Its own composition costs tens of milliseconds and depends on the order in which steps were added; a ledger
asks at every line. So the powers are taken here: a step's Fourier transform is kept, and each count is one product and
one transform back. Before that the loss is tilted, p(l) e^(theta l - K(theta)), so that the losses near epsilon carry
most of the mass: rounding errors, bounded and added to delta, are then small beside it. What lies above the window is
bounded by Chernoff and counts as an infinite loss; what wraps around it counts for more than it is. So the result is
an upper bound.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from dp_accounting.pld import privacy_loss_distribution
from dp_accounting.privacy_accountant import NeighboringRelation
from numpy.typing import NDArray
from scipy import fft, signal, stats

__all__ = ["Adjacency", "Step", "epsilon_of_steps", "epsilon_on_one_grid"]

Adjacency = Literal["zero-out", "replace-one"]

_RELATIONS = {"zero-out": NeighboringRelation.REPLACE_SPECIAL, "replace-one": NeighboringRelation.REPLACE_ONE}
_ADDED = 1e-3  # the part of epsilon that rounding to the grid may add, where that grid is not too fine to compute
_LEAST_EPSILON = 1e-4  # no grid is made finer for the sake of an epsilon below this
_COARSEST, _FINEST = 64.0, 2.0**-36  # above, no epsilon of use is left; below, none matters
_FINE = 16  # points up to epsilon at least: two coarser grids may agree by chance
_FEW, _MANY = 2**7, 2**17  # points of one step's loss on the first grid, and of it on the last
_MOST_POINTS = 2**20  # of a window
_AWAY = math.log(1e-7)  # of delta, or of the tilted mass: what the window may leave out
# Losses below rounding are taken for larger ones: nobody trains with noise above or rates below these.
_MOST_NOISE, _LEAST_RATE = 1e6, 1e-6
_NOTHING = -60.0  # the logarithm of what is nothing beside 1 in a transform
_POSITIVE = 1e-3 * 1.2 ** np.arange(126)  # 1e-3 to 8e6: the tilt only has to come near the best one
_TILTS = np.concatenate([-_POSITIVE[:76:3][::-1], [0.0], _POSITIVE])
_ZERO = len(_TILTS) - len(_POSITIVE) - 1
_LESS = (0, 2, 4, 7, 11, 16)  # how many tilts less may serve as well: a heavy tail spreads wide at the best one
_ROUNDING = 1e-3  # of delta: what the transforms' rounding errors may take without another try at the best tilt


@dataclass(frozen=True)
class Step:
    """One noisy sum: a unit's `records`, each clipped to 1 and drawn with chance `rate`, noise in clips.

    >>> Step(noise=1.2, rate=0.05).records
    1
    """

    noise: float
    rate: float
    records: int = 1


Counts = tuple[tuple[Step, int], ...]


def epsilon_of_steps(
    counts: Sequence[tuple[Step, int]], delta: float, adjacency: Adjacency = "zero-out", coarser: float = 1.0
) -> float:
    """Epsilon at `delta` of each step released as often as its count says; inf where no grid bounds it.

    The grid follows from the steps and the power of two below each count: it stays where it is while a ledger grows.
    coarser: lets rounding add so many times more, which is faster. Each step's count is at least 1.

    >>> round(epsilon_of_steps([(Step(noise=1.2, rate=0.05), 100)], 1e-5), 2)
    2.45
    """
    steps = tuple((Step(min(s.noise, _MOST_NOISE), max(s.rate, _LEAST_RATE), s.records), n) for s, n in counts)
    about = tuple((step, 1 << (count.bit_length() - 1)) for step, count in steps)
    return epsilon_on_one_grid(steps, delta, adjacency, _interval(about, delta, adjacency, coarser))


def epsilon_on_one_grid(counts: Counts, delta: float, adjacency: Adjacency, interval: float) -> float:
    """Epsilon of the worse direction on one grid; inf where that takes too many points.

    >>> wide, narrow = (epsilon_on_one_grid(((Step(2.0, 0.1), 50),), 1e-5, "zero-out", 2.0**-n) for n in (3, 7))
    >>> narrow < wide  # both are bounds
    True
    """
    directions = range(1 if adjacency == "replace-one" else 2)
    if math.isinf(interval) or max(_reach(step) for step, _ in counts) > _MANY * interval:
        return math.inf
    parts = [[(_losses(step, adjacency, interval)[way], count) for step, count in counts] for way in directions]
    return max(_epsilon(part, delta) for part in parts)


@lru_cache(maxsize=1024)
def _interval(counts: Counts, delta: float, adjacency: Adjacency, coarser: float) -> float:
    """The widest grid, a power of two, from which the next hardly differs; inf where none bounds epsilon."""
    widest = max(_reach(step) for step, _ in counts)
    finest = max(_FINEST, 2.0 ** math.ceil(math.log2(widest / _MANY)))
    if finest > _COARSEST:
        return math.inf
    interval = max(finest, min(2.0 ** math.ceil(math.log2(widest / _FEW)), 1.0))
    best, least = math.inf, math.inf
    while interval >= finest:
        found = epsilon_on_one_grid(counts, delta, adjacency, interval)
        settled = found >= least * (1 - coarser * _ADDED) - _LEAST_EPSILON * _ADDED
        if math.isfinite(least) and settled and interval <= max(found, _LEAST_EPSILON) / _FINE:
            return best
        if found < least:
            best, least = interval, found
        if math.isinf(found) and math.isfinite(least):
            break
        interval /= 2
    return best


def _reach(step: Step) -> float:
    """How far apart the losses of one step lie, about: beyond ten deviations of the noise they count as infinite."""
    return (step.records / step.noise) ** 2 + 20 * step.records / step.noise


@dataclass(frozen=True, eq=False)
class _Loss:
    """A step's loss in one direction: probabilities of (lowest + k) * interval, and of an infinite loss.

    moments: K(theta) = log E[e^(theta l)] at each of _TILTS.
    """

    lowest: int
    probabilities: NDArray[np.float64]
    infinite: float
    interval: float
    moments: NDArray[np.float64]
    transforms: "dict[tuple[int, int], NDArray[np.complex128]]"

    @classmethod
    def of(cls, part: Any, interval: float) -> "_Loss":
        dense = part.to_dense_pmf()
        probabilities = np.asarray(dense._probs)
        losses = (dense._lower_loss + np.arange(len(probabilities))) * interval
        moments = np.array([_log_moment(tilt * losses, probabilities) for tilt in _TILTS])
        return cls(dense._lower_loss, probabilities, float(dense._infinity_mass), interval, moments, {})

    def log_transform(self, tilt: int, points: int) -> NDArray[np.complex128]:
        """Logarithm of the Fourier transform of the loss tilted by _TILTS[tilt], its indices taken modulo `points`."""
        if (tilt, points) not in self.transforms:
            if len(self.transforms) > 8:
                self.transforms.clear()
            self.transforms[tilt, points] = self._log_transform(tilt, points)
        return self.transforms[tilt, points]

    def _log_transform(self, tilt: int, points: int) -> NDArray[np.complex128]:
        losses = (self.lowest + np.arange(len(self.probabilities))) * self.interval
        tilted = self.probabilities * np.exp(_TILTS[tilt] * losses - self.moments[tilt])
        before = self.lowest % points
        folded = np.pad(tilted, (before, -(before + len(tilted)) % points)).reshape(-1, points).sum(axis=0)
        transform = fft.rfft(folded)
        return np.log(np.where(transform == 0, 1e-300, transform))


def _log_moment(exponents: NDArray[np.float64], probabilities: NDArray[np.float64]) -> float:
    largest = float(max(exponents[0], exponents[-1]))  # they rise or fall
    return largest + math.log(max(float(probabilities @ np.exp(exponents - largest)), 1e-300))


@lru_cache(maxsize=64)
def _losses(step: Step, adjacency: Adjacency, interval: float) -> tuple[_Loss, _Loss]:
    """With the unit against without, and the reverse."""
    found = _distribution(step, adjacency, interval)
    # The library shows its distributions by epsilon and delta alone; what is composed here are its probabilities.
    return _Loss.of(found._pmf_remove, interval), _Loss.of(found._pmf_add, interval)


def _distribution(step: Step, adjacency: Adjacency, interval: float) -> Any:
    if step.records == 1:
        return privacy_loss_distribution.from_gaussian_mechanism(
            step.noise,
            sampling_prob=step.rate,
            value_discretization_interval=interval,
            neighboring_relation=_RELATIONS[adjacency],
        )
    drawn = np.arange(step.records + 1)
    return privacy_loss_distribution.from_mixture_gaussian_mechanism(
        step.noise,
        sensitivities=drawn,
        sampling_probs=stats.binom.pmf(drawn, step.records, step.rate),
        value_discretization_interval=interval,
    )


@dataclass(frozen=True)
class _Window:
    """`points` losses from lowest * interval on, and K of the composed loss at the tilt of _TILTS[tilt]."""

    lowest: int
    points: int
    interval: float
    tilt: int
    moment: float

    @classmethod
    def of(cls, moments: NDArray[np.float64], tilt: int, delta: float, interval: float) -> "_Window":
        """What counts at `delta` of a composed loss with these K, tilted by _TILTS[tilt], which is positive."""
        positive, steeper = slice(_ZERO + 1, None), slice(tilt + 1, None)
        highest = float(((moments[positive] - math.log(delta) - _AWAY) / _TILTS[positive]).min())
        lowest = float(((_AWAY - moments[:tilt] + moments[tilt]) / (_TILTS[tilt] - _TILTS[:tilt])).max())
        # What lies above wraps to the bottom, where it weighs e^(tilt x width) times as much: none may reach up to 0.
        width = ((moments[steeper] - math.log(delta) - _AWAY) / (_TILTS[steeper] - _TILTS[tilt])).min(initial=math.inf)
        last = math.ceil(highest / interval)
        wanted = max(64, last - math.floor(lowest / interval) + 1, math.ceil(min(width / interval, 2.0**50)))
        points = fft.next_fast_len(wanted, real=True) if wanted <= _MOST_POINTS else wanted
        return cls(last - points + 1, points, interval, tilt, float(moments[tilt]))

    @property
    def losses(self) -> NDArray[np.float64]:
        """Every loss in the window, rising."""
        return np.arange(self.lowest, self.lowest + self.points, dtype=np.float64) * self.interval

    def untilted(self, loss: float | NDArray[np.float64]) -> Any:
        """What a tilted probability at `loss` is multiplied by to be one of the composed loss."""
        return np.exp(np.minimum(self.moment - _TILTS[self.tilt] * loss, 700.0))


def _epsilon(counts: Sequence[tuple[_Loss, int]], delta: float) -> float:
    """Epsilon in one direction of losses on one grid, each as often as its count says."""
    moments = np.sum([count * loss.moments for loss, count in counts], axis=0)
    best = _ZERO + 1 + int(np.argmin((moments[_ZERO + 1 :] - math.log(delta)) / _POSITIVE))  # by Chernoff's bound
    tilts = [tilt for tilt in (best - less for less in _LESS) if tilt > _ZERO]
    windows = [_Window.of(moments, tilt, delta, counts[0][0].interval) for tilt in tilts]
    narrow = next(w for w in windows if w.points <= 1.5 * min(window.points for window in windows))
    found, rounding = _epsilon_in(narrow, counts, delta)
    if rounding > _ROUNDING * delta and narrow is not windows[0]:
        found = min(found, _epsilon_in(windows[0], counts, delta)[0])
    return found


def _epsilon_in(window: _Window, counts: Sequence[tuple[_Loss, int]], delta: float) -> tuple[float, float]:
    """Epsilon, and how much of delta was set aside there for the rounding errors of the transforms."""
    if window.points > _MOST_POINTS:
        return math.inf, math.inf
    power = np.zeros(window.points // 2 + 1, dtype=np.complex128)
    infinite = math.exp(_AWAY) * delta
    for loss, count in counts:
        power += count * loss.log_transform(window.tilt, window.points)
        infinite -= math.expm1(count * math.log1p(-loss.infinite))
    transform = np.zeros_like(power)
    kept = power.real > _NOTHING
    transform[kept] = np.exp(power[kept])
    tilted = np.roll(fft.irfft(transform, window.points), -(window.lowest % window.points))
    losses = window.losses
    weights = window.untilted(losses)
    probabilities = np.maximum(tilted, 0) * weights
    above = np.cumsum(probabilities[::-1])[::-1] - probabilities  # what lies above each loss
    # The same weighed by e^(epsilon - l): a recursion from the top, which cannot overflow.
    decay = math.exp(-window.interval)
    shrunk = signal.lfilter([0.0, decay], [1.0, -decay], probabilities[::-1])[::-1]

    # Each count multiplies the rounding of one step's transform; a sum over l >= epsilon of e^(-theta l) is geometric.
    relative = np.finfo(float).eps * 8 * math.log2(window.points) * (1 + sum(count for _, count in counts))
    each = relative * (float(np.abs(transform).mean()) + window.points**-0.5)
    terms = min(window.points, -1 / math.expm1(-float(_TILTS[window.tilt]) * window.interval))
    found = _epsilon_at(losses, above - shrunk + each * terms * weights, shrunk, delta - infinite)
    return found, each * terms * float(window.untilted(min(found, losses[-1]))) if math.isfinite(found) else math.inf


def _epsilon_at(
    losses: NDArray[np.float64], deltas: NDArray[np.float64], shrunk: NDArray[np.float64], delta: float
) -> float:
    """The least epsilon, from the first loss on, at which delta is no more than `delta`; inf where none is.

    deltas: at each loss, rounding included: the sum over l > loss of p(l) (1 - e^(loss - l)). shrunk: that of
    p(l) e^(loss - l). Between two losses delta falls by shrunk (e^(epsilon - loss) - 1).
    """
    over = np.flatnonzero(deltas > delta)
    if delta <= 0 or (len(over) and over[-1] == len(losses) - 1):
        return math.inf
    if not len(over):
        return max(0.0, float(losses[0]))
    last = int(over[-1])
    interval = float(losses[1] - losses[0])
    excess, falls = float(deltas[last]) - delta, float(shrunk[last])
    inside = math.log1p(excess / falls) if excess < falls * math.expm1(interval) else interval
    return max(0.0, float(losses[last]) + inside)
