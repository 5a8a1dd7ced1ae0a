"""Epsilon of composed Poisson-sampled Gaussian steps, from their privacy loss distributions.

dp_accounting discretises the loss of one step, rounding up (connect the dots, Doroshenko et al. 2022, arXiv
2207.04380). Steps compose by powers of its Fourier transform. Before that the loss is tilted, p(l) e^(theta l - K),
so that the losses near epsilon carry most of the mass: one short window then holds all that counts, and the
transform's rounding errors, bounded and added to delta, are small beside it. What lies above the window is bounded by
Chernoff and counts as an infinite loss; what lies below can only be taken for more than it is. So the result is an
upper bound.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from dp_accounting.pld import privacy_loss_distribution
from dp_accounting.privacy_accountant import NeighboringRelation
from numpy.typing import NDArray
from scipy import fft, signal, special, stats

Adjacency = Literal["zero-out", "replace-one"]

_RELATIONS = {"zero-out": NeighboringRelation.REPLACE_SPECIAL, "replace-one": NeighboringRelation.REPLACE_ONE}
_TILTS = 1e-3 * 1.15 ** np.arange(165)  # 1e-3 to 9e6: the tilt only has to come near the best one
# Rounding to the grid may add this part of a step's variance of loss: about half of it in epsilon.
_ADDED_VARIANCE = 2e-3
# The window, in deviations of the tilted loss below and above its mean. What lies lower wraps to the top, where it
# weighs next to nothing; what lies higher wraps to the bottom, where it weighs much, but below epsilon.
_BELOW, _ABOVE = 5.0, 7.0
_MOST_POINTS = 2**22
_FINEST = 2.0**-36  # no epsilon that matters needs a finer grid
_TAIL = 18.0  # what lies above the window counts less than e^-18 of delta
_ROUNDING = 1e-4  # of delta: what the transforms' rounding errors may take without another try at more tilt
_LEAP = 1.5  # in variance, from one tilt to the next: at a light tail it hardly changes
# Losses below rounding are taken for larger ones: nobody trains with noise above or rates below these.
_MOST_NOISE, _LEAST_RATE = 1e6, 1e-6
_NOTHING = -60.0  # the logarithm of what is nothing beside 1 in a transform


@dataclass(frozen=True)
class Step:
    """One noisy sum: a unit's `records`, each clipped to 1 and drawn with chance `rate`, noise in clips."""

    noise: float
    rate: float
    records: int = 1


@dataclass(frozen=True, eq=False)
class _Loss:
    """A step's loss in one direction: probabilities of (lowest + k) * interval, and of an infinite loss."""

    lowest: int
    probabilities: NDArray[np.float64]
    infinite: float


def epsilon_of_steps(
    counts: Sequence[tuple[Step, int]], delta: float, adjacency: Adjacency = "zero-out", coarser: int = 1
) -> float:
    """Epsilon at `delta` of each step released as often as its count says; inf where delta is too small to bound.

    coarser: how many times wider the grid is than it need be for 0.2 %: faster, and further above. Each step's count
    is at least 1.
    """
    counts = [(Step(min(s.noise, _MOST_NOISE), max(s.rate, _LEAST_RATE), s.records), count) for s, count in counts]
    interval = coarser * min(_interval(step) for step, _ in counts)
    interval = max(interval, _FINEST, _coarsest_that_fits(counts))
    directions = range(1 if adjacency == "replace-one" else 2)
    return max(_epsilon(counts, delta, adjacency, interval, direction) for direction in directions)


@lru_cache(maxsize=1024)
def _spread(step: Step) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points of one step's loss, and their weights: only to choose a grid by. Zero-out; replace-one spreads wider."""
    drawn = np.arange(step.records + 1.0)
    chances = stats.binom.pmf(drawn, step.records, step.rate)
    drawn, chances = drawn[chances > 1e-30], chances[chances > 1e-30]
    width = drawn[-1] / step.noise + 20
    z = np.linspace(-10, width - 10, min(int(20 * width), 20_000))
    exponents = np.outer(z, drawn / step.noise) - (drawn / step.noise) ** 2 / 2
    losses = special.logsumexp(exponents, axis=1, b=chances)
    weights = np.exp(losses - z**2 / 2)
    return losses, weights / weights.sum()


@lru_cache(maxsize=1024)
def _interval(step: Step) -> float:
    """The widest grid, a power of two, whose rounding adds little variance to the loss of `step`."""
    losses, weights = _spread(step)
    variance = float(weights @ (losses - weights @ losses) ** 2)
    exponent = min(math.floor(math.log2(variance) / 2), 0)
    while True:
        interval = 2.0**exponent
        part = np.mod(losses, interval)
        if weights @ (part * (interval - part)) <= _ADDED_VARIANCE * variance:
            return interval
        exponent -= 1


def _coarsest_that_fits(counts: Sequence[tuple[Step, int]]) -> float:
    """The finest grid on which the composed loss has no more than _MOST_POINTS points, roughly."""
    variance = 0.0
    for step, count in counts:
        losses, weights = _spread(step)
        variance += count * float(weights @ (losses - weights @ losses) ** 2)
    return 2.0 ** math.floor(math.log2(10 * math.sqrt(variance) / _MOST_POINTS))


@lru_cache(maxsize=32)
def _losses_of_one_step(step: Step, adjacency: Adjacency, interval: float) -> tuple[_Loss, ...]:
    """In both directions, with the unit and without; in one where they are the same."""
    found = _distribution(step, adjacency, interval)
    # The library shows its distributions by epsilon and delta alone; what is composed here are its probabilities.
    parts = [part.to_dense_pmf() for part in (found._pmf_remove, found._pmf_add)]
    return tuple(_Loss(part._lower_loss, np.asarray(part._probs), float(part._infinity_mass)) for part in parts)


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


@lru_cache(maxsize=4096)
def _cumulants(
    step: Step, adjacency: Adjacency, interval: float, direction: int, tilt: int
) -> tuple[float, float, float]:
    """log E[e^(theta l)] of one step's loss, and mean and variance of the loss tilted by theta."""
    loss = _losses_of_one_step(step, adjacency, interval)[direction]
    losses = (loss.lowest + np.arange(len(loss.probabilities))) * interval
    exponents = _TILTS[tilt] * losses
    weights = loss.probabilities * np.exp(exponents - exponents.max())
    total = weights.sum()
    mean = float(weights @ losses / total)
    return float(exponents.max() + math.log(total)), mean, float(weights @ (losses - mean) ** 2 / total)


@lru_cache(maxsize=32)
def _log_transform(
    step: Step, adjacency: Adjacency, interval: float, direction: int, tilt: int, points: int
) -> NDArray[np.complex128]:
    """Logarithm of the Fourier transform of one step's tilted loss, its indices taken modulo `points`."""
    loss = _losses_of_one_step(step, adjacency, interval)[direction]
    log_moment, _, _ = _cumulants(step, adjacency, interval, direction, tilt)
    losses = (loss.lowest + np.arange(len(loss.probabilities))) * interval
    tilted = loss.probabilities * np.exp(_TILTS[tilt] * losses - log_moment)
    before = loss.lowest % points
    folded = np.pad(tilted, (before, -(before + len(tilted)) % points)).reshape(-1, points).sum(axis=0)
    transform = fft.rfft(folded)
    return np.log(np.where(transform == 0, 1e-300, transform))


def _epsilon(
    counts: Sequence[tuple[Step, int]], delta: float, adjacency: Adjacency, interval: float, direction: int
) -> float:
    """As epsilon_of_steps, in one direction and on one grid."""

    def total(tilt: int) -> tuple[float, float, float]:
        parts = [(count, _cumulants(step, adjacency, interval, direction, tilt)) for step, count in counts]
        moment, mean, variance = (math.fsum(count * part[i] for count, part in parts) for i in range(3))
        return moment, mean, variance

    least = math.inf
    for tilt in _good_tilts(total, delta):
        window = _Window.around(*total(tilt), tilt, interval, delta)
        found, rounding = _epsilon_in(window, counts, delta, adjacency, direction)
        least = min(least, found)
        if rounding <= _ROUNDING * delta:
            break
    return least


def _good_tilts(total: Callable[[int], tuple[float, float, float]], delta: float) -> range:
    """Tilts to try in turn, up to the one whose Chernoff bound on epsilon, (K + log(1 / delta)) / theta, is the least.

    The first is the last before that at which the loss still varies as it does at less tilt. A loss with a heavy tail
    leaps from its bulk to its tail within a tilt or two, and is spread over both there, so that much of it wraps to
    where it is overcounted. More tilt leaves less to rounding.
    """
    low, high = 0, len(_TILTS) - 1
    while low < high:
        middle = (low + high) // 2
        moment, mean, _ = total(middle)
        if _TILTS[middle] * mean - moment + math.log(delta) < 0:
            low = middle + 1
        else:
            high = middle
    first = max(0, low - 1)
    while first > 0 and total(first)[2] > _LEAP * total(first - 1)[2]:
        first -= 1
    return range(first, low + 1)


@dataclass(frozen=True)
class _Window:
    """`points` losses from lowest * interval on, and log E[e^(theta l)] of the composed loss tilted by _TILTS[tilt]."""

    lowest: int
    points: int
    interval: float
    tilt: int
    moment: float

    @classmethod
    def around(cls, moment: float, mean: float, variance: float, tilt: int, interval: float, delta: float) -> "_Window":
        """What counts at `delta` of the composed loss whose tilted mean and variance these are."""
        deviation = math.sqrt(variance)
        usual = mean + _ABOVE * deviation
        highest = max(usual, (moment - math.log(delta) + _TAIL) / _TILTS[tilt])
        # Where the loss has a heavy tail, what wraps to the bottom reaches further up.
        lowest = mean - _BELOW * deviation - (highest - usual)
        wanted = max(64, (highest - lowest) / interval)
        power = 2 ** math.ceil(math.log2(wanted))
        points = next(size for size in (power * 5 // 8, power * 3 // 4, power) if size >= wanted)
        return cls(math.ceil(highest / interval) - points + 1, points, interval, tilt, moment)

    @property
    def losses(self) -> NDArray[np.float64]:
        """Every loss in the window, rising."""
        return np.arange(self.lowest, self.lowest + self.points, dtype=np.float64) * self.interval

    def untilted(self, loss: float | NDArray[np.float64]) -> Any:
        """What a tilted probability at `loss` is multiplied by to be one of the composed loss."""
        return np.exp(np.minimum(self.moment - _TILTS[self.tilt] * loss, 700.0))


def _epsilon_in(
    window: _Window, counts: Sequence[tuple[Step, int]], delta: float, adjacency: Adjacency, direction: int
) -> tuple[float, float]:
    """Epsilon, and how much of delta was set aside there for the rounding errors of the transforms."""
    power = np.zeros(window.points // 2 + 1, dtype=np.complex128)
    infinite = float(window.untilted((window.lowest + window.points) * window.interval))
    for step, count in counts:
        power += count * _log_transform(step, adjacency, window.interval, direction, window.tilt, window.points)
        one = _losses_of_one_step(step, adjacency, window.interval)[direction].infinite
        infinite -= math.expm1(count * math.log1p(-one))
    transform = np.zeros_like(power)
    kept = power.real > _NOTHING
    transform[kept] = np.exp(power[kept])
    tilted = np.roll(fft.irfft(transform, window.points), -(window.lowest % window.points))
    losses = window.losses
    probabilities = np.maximum(tilted, 0) * window.untilted(losses)
    above = np.cumsum(probabilities[::-1])[::-1] - probabilities  # what lies above each loss
    # The same weighed by e^(epsilon - l): a recursion from the top, which cannot overflow.
    decay = math.exp(-window.interval)
    shrunk = signal.lfilter([0.0, decay], [1.0, -decay], probabilities[::-1])[::-1]

    # Each count multiplies the rounding of one step's transform; a sum over l >= epsilon of e^(-theta l) is geometric.
    relative = np.finfo(float).eps * 8 * math.log2(window.points) * (1 + sum(count for _, count in counts))
    each = relative * (float(np.abs(transform).mean()) + window.points**-0.5)
    terms = min(window.points, -1 / math.expm1(-float(_TILTS[window.tilt]) * window.interval))
    found, rounding = _epsilon_at(losses, above, shrunk, delta - infinite), 0.0
    for _ in range(2):
        rounding = each * terms * float(window.untilted(max(min(found, losses[-1]), losses[0])))
        found = _epsilon_at(losses, above, shrunk, delta - infinite - rounding)
    return found, rounding


def _epsilon_at(
    losses: NDArray[np.float64], above: NDArray[np.float64], shrunk: NDArray[np.float64], delta: float
) -> float:
    """The least epsilon, from the first loss on, with sum over l > epsilon of p(l) (1 - e^(epsilon - l)) <= delta.

    At each loss `above` is the sum of p(l) over what lies above, `shrunk` that of p(l) e^(loss - l).
    """
    if delta <= 0:
        return math.inf
    over = np.flatnonzero(above - shrunk > delta)
    if not len(over):
        return max(0.0, float(losses[0]))
    last = int(over[-1])
    interval = float(losses[1] - losses[0])
    inside = math.log((above[last] - delta) / shrunk[last]) if shrunk[last] > 0 else interval
    return max(0.0, float(losses[last]) + min(inside, interval))
