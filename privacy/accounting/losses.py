"""Epsilon of composed Poisson-sampled Gaussian steps, from their privacy loss distributions.

The loss of one step is discretised, rounding up (connect the dots, Doroshenko et al. 2022, arXiv 2207.04380, by
dp_accounting). Steps compose by powers of its Fourier transform. Before that the loss is tilted, p(l) e^(theta l - K),
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
from dp_accounting.pld import pld_pmf, privacy_loss_distribution
from dp_accounting.privacy_accountant import NeighboringRelation
from numpy.typing import NDArray
from scipy import fft, signal, special, stats

Adjacency = Literal["zero-out", "replace-one"]

_RELATIONS = {"zero-out": NeighboringRelation.REPLACE_SPECIAL, "replace-one": NeighboringRelation.REPLACE_ONE}
_TILTS = 1e-3 * 1.15 ** np.arange(165)  # 1e-3 to 9e6: the tilt only has to come near the best one
_ADDED = 1e-3  # the part of epsilon that rounding to the grid may add, wherever that grid is not too fine to compute
_LEAST_EPSILON = 1e-4  # no grid is made finer for the sake of an epsilon below this
_MOST_WORK = 2**21  # points transformed for one grid: some quarter of a second
_QUICK, _SLOW = 5, 30  # how much longer a point of one step's loss takes, here and in the library
_REACH = 11.0  # deviations of the noise beyond which a loss counts as infinite: a chance of 2e-28
_MOST_OF_ONE_STEP = 2**16  # points of one step's loss on the first grids
_COARSEST = 64.0  # on a grid of this, no epsilon of use is left: noise far below a thousandth of the clip
# The window, in deviations of the tilted loss below and above its mean. What lies lower wraps to the top, where it
# weighs next to nothing; what lies higher wraps to the bottom, where it weighs much, but below epsilon.
_BELOW, _ABOVE = 5.0, 7.0
_MOST_POINTS = 2**18  # of the composed loss, in a window without a heavy tail
_FINEST = 2.0**-36  # no epsilon that matters needs a finer grid
_TAIL = 18.0  # what lies above the window counts less than e^-18 of delta
_ROUNDING = 1e-4  # of delta: what the transforms' rounding errors may take without another try at more tilt
_ENOUGH, _TOO_WIDE = 0.003, 8  # with so little of delta for rounding, a window so many times wider isn't worth it
_LEAP = 1.5  # in variance, from one tilt to the next: at a light tail it hardly changes
# Losses below rounding are taken for larger ones: nobody trains with noise above or rates below these.
_MOST_NOISE, _LEAST_RATE = 1e6, 1e-6
_NOTHING = -60.0  # the logarithm of what is nothing beside 1 in a transform


@dataclass(frozen=True)
class Step:
    """One noisy sum: a unit's `records`, each clipped to 1 and drawn with chance `rate`, noise in clips.

    >>> Step(noise=1.2, rate=0.05).records
    1
    """

    noise: float
    rate: float
    records: int = 1


@dataclass(frozen=True, eq=False)
class Loss:
    """A step's loss in one direction: probabilities of (lowest + k) * interval, and of an infinite loss.

    >>> Loss(-1, np.array([0.25, 0.75]), infinite=0.0).lowest
    -1
    """

    lowest: int
    probabilities: NDArray[np.float64]
    infinite: float


def epsilon_of_steps(
    counts: Sequence[tuple[Step, int]], delta: float, adjacency: Adjacency = "zero-out", coarser: int = 1
) -> float:
    """Epsilon at `delta` of each step released as often as its count says; inf where delta is too small to bound.

    Grids are halved until that lowers epsilon by less than .1 %, or the next one would take too long: then it is
    further above, but still a bound, as it is on every grid. coarser: makes both limits this many times wider, which
    is faster. Each step's count is at least 1.

    >>> round(epsilon_of_steps([(Step(noise=1.2, rate=0.05), 100)], 1e-5), 1)
    2.4
    """
    counts = [(Step(min(s.noise, _MOST_NOISE), max(s.rate, _LEAST_RATE), s.records), count) for s, count in counts]
    likely = _interval(counts, delta)
    least, interval, work = math.inf, 4 * likely, 0
    while interval >= _FINEST and 2 * work <= _MOST_WORK // coarser:
        if interval <= _COARSEST:
            found, work = epsilon_on_one_grid(counts, delta, adjacency, interval)
            if interval <= likely and found >= least * (1 - coarser * _ADDED) - _LEAST_EPSILON * _ADDED:
                return min(least, found)
            least = min(least, found)
        elif interval <= likely:
            break
        interval /= 2
    return least


def epsilon_on_one_grid(
    counts: Sequence[tuple[Step, int]], delta: float, adjacency: Adjacency, interval: float
) -> tuple[float, int]:
    """Epsilon of the worse direction on one grid, and how much work that took, in points transformed.

    >>> wide, narrow = (epsilon_on_one_grid([(Step(2.0, 0.1), 50)], 1e-5, "zero-out", 2.0**-n)[0] for n in (3, 7))
    >>> narrow < wide  # both are bounds
    True
    """
    directions = range(1 if adjacency == "replace-one" else 2)
    found = [_epsilon(counts, delta, adjacency, interval, direction) for direction in directions]
    built = sum(
        (_QUICK if _quick(step, adjacency) else _SLOW) * len(loss.probabilities)
        for step, _ in counts
        for loss in losses_of_one_step(step, adjacency, interval)
    )
    return max(epsilon for epsilon, _ in found), sum(work for _, work in found) + built


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


def _interval(counts: Sequence[tuple[Step, int]], delta: float) -> float:
    """The widest grid, a power of two, whose rounding adds little to epsilon, but none that takes too many points.

    At the tilt theta that matters for epsilon, connecting the dots adds about (theta + 1) / 2 part (interval - part)
    a step to epsilon, where `part` is how far the loss lies above the grid.
    """
    spreads = [(*_spread(step), count) for step, count in counts]
    tilt, mean, variance = _near_epsilon(spreads, delta)
    widest = max(float(losses[-1] - losses[0]) for losses, _, _ in spreads)
    least = max(_FINEST, widest / _MOST_OF_ONE_STEP, (_ABOVE + _BELOW) * math.sqrt(variance) / _MOST_POINTS)
    least = 2.0 ** math.ceil(math.log2(least))
    interval = max(least, 2.0 ** math.floor(-math.log2(1 + tilt)))
    tilted = [(losses, count * _tilted(losses, weights, tilt)[1]) for losses, weights, count in spreads]
    tolerated = _ADDED * max(mean, _LEAST_EPSILON) * 2 / (tilt + 1)
    while interval > least:
        parts = ((np.mod(losses, interval), weights) for losses, weights in tilted)
        if sum(float(weights @ (part * (interval - part))) for part, weights in parts) <= tolerated:
            break
        interval /= 2
    return interval


def _near_epsilon(
    spreads: Sequence[tuple[NDArray[np.float64], NDArray[np.float64], int]], delta: float
) -> tuple[float, float, float]:
    """The tilt at which the composed loss has epsilon for its mean, roughly; with that mean, and its variance there.

    By the saddle point, delta is near e^(K - theta mean) / (theta (1 + theta) sqrt(2 pi variance)).
    """

    def composed(theta: float) -> tuple[float, float, float]:
        moment = mean = variance = 0.0
        for losses, weights, count in spreads:
            log_moment, tilted = _tilted(losses, weights, theta)
            one = float(tilted @ losses)
            moment, mean = moment + count * log_moment, mean + count * one
            variance += count * float(tilted @ (losses - one) ** 2)
        return moment, mean, variance

    low, high = 0, len(_TILTS) - 1
    while low < high:
        middle = (low + high) // 2
        theta = float(_TILTS[middle])
        moment, mean, variance = composed(theta)
        prefactor = math.log(theta * (1 + theta)) + math.log(2 * math.pi * max(variance, 1e-300)) / 2
        low, high = (low, middle) if moment - theta * mean - prefactor <= math.log(delta) else (middle + 1, high)
    _, mean, variance = composed(float(_TILTS[low]))
    return float(_TILTS[low]), mean, variance


def _tilted(
    losses: NDArray[np.float64], weights: NDArray[np.float64], theta: float
) -> tuple[float, NDArray[np.float64]]:
    """log E[e^(theta l)] and the weights tilted by theta."""
    exponents = theta * losses
    tilted = weights * np.exp(exponents - exponents.max())
    total = float(tilted.sum())
    return float(exponents.max()) + math.log(total), tilted / total


@lru_cache(maxsize=32)
def losses_of_one_step(step: Step, adjacency: Adjacency, interval: float) -> tuple[Loss, ...]:
    """In both directions, with the unit and without; in one where they are the same.

    >>> with_it, without = losses_of_one_step(Step(2.0, 0.1), "zero-out", 2.0**-5)
    >>> round(float(with_it.probabilities.sum()), 9)
    1.0
    """
    if _quick(step, adjacency):
        return _mixture_of_two(step, interval)
    found = _distribution(step, adjacency, interval)
    # The library shows its distributions by epsilon and delta alone; what is composed here are its probabilities.
    return tuple(_dense(part) for part in (found._pmf_remove, found._pmf_add))


def _quick(step: Step, adjacency: Adjacency) -> bool:
    return step.records == 1 and adjacency == "zero-out"


def _dense(part: Any) -> Loss:
    dense = part.to_dense_pmf()
    return Loss(dense._lower_loss, np.asarray(dense._probs), float(dense._infinity_mass))


def _mixture_of_two(step: Step, interval: float) -> tuple[Loss, ...]:
    """As the library's from_gaussian_mechanism, which takes many times longer for want of vectors.

    With the unit the sum is (1 - q) N(0, s^2) + q N(1, s^2), without N(0, s^2); the loss is
    log(1 - q + q e^((2x - 1) / 2s^2)), and delta at epsilon is what one has more than e^epsilon times the other.
    """
    noise, rate = step.noise, step.rate
    none = math.log1p(-rate) if rate < 1 else -math.inf
    ends = [
        float(np.logaddexp(none, math.log(rate) + (x - 0.5) / noise**2)) for x in (-_REACH * noise, 1 + _REACH * noise)
    ]

    def where(losses: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """x over the noise at each loss above log(1 - q), and log((e^loss - 1 + q) / q)."""
        small, large = np.minimum(losses, 1.0), np.maximum(losses, 1.0)
        ratio = np.where(
            losses < 1, np.log1p(np.expm1(small) / rate), large + np.log1p((rate - 1) * np.exp(-large)) - math.log(rate)
        )
        return noise * ratio + 0.5 / noise, ratio

    def with_it(losses: NDArray[np.float64]) -> NDArray[np.float64]:
        deltas, above = -np.expm1(np.minimum(losses, 0.0)), losses > none
        x, ratio = where(losses[above])
        deltas[above] = rate * (special.ndtr(1 / noise - x) - np.exp(ratio + special.log_ndtr(-x)))
        return deltas

    def without(losses: NDArray[np.float64]) -> NDArray[np.float64]:
        deltas, below = np.zeros_like(losses), -losses > none
        x, ratio = where(-losses[below])
        # 1 - e^epsilon (1 - q) is q e^(ratio + epsilon): no difference of what is nearly the same.
        deltas[below] = rate * (
            np.exp(ratio + losses[below] + special.log_ndtr(x))
            - np.exp(losses[below] + special.log_ndtr(x - 1 / noise))
        )
        return deltas

    def discrete(deltas: Callable[[NDArray[np.float64]], NDArray[np.float64]], least: float, most: float) -> Loss:
        lowest, highest = math.floor(least / interval), math.ceil(most / interval)
        losses = np.arange(lowest, highest + 1, dtype=np.float64) * interval
        clipped = np.minimum.accumulate(np.clip(deltas(losses), 0, 1))
        return _dense(pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(interval, lowest, highest, clipped))

    return discrete(with_it, *ends), discrete(without, -ends[1], -ends[0])


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
    loss = losses_of_one_step(step, adjacency, interval)[direction]
    losses = (loss.lowest + np.arange(len(loss.probabilities))) * interval
    exponents = _TILTS[tilt] * losses
    weights = loss.probabilities * np.exp(exponents - exponents.max())
    total = weights.sum()
    mean = float(weights @ losses / total)
    return float(exponents.max() + math.log(total)), mean, float(weights @ (losses - mean) ** 2 / total)


@lru_cache(maxsize=16)
def _log_transform(
    step: Step, adjacency: Adjacency, interval: float, direction: int, tilt: int, points: int
) -> NDArray[np.complex128]:
    """Logarithm of the Fourier transform of one step's tilted loss, its indices taken modulo `points`."""
    loss = losses_of_one_step(step, adjacency, interval)[direction]
    log_moment, _, _ = _cumulants(step, adjacency, interval, direction, tilt)
    losses = (loss.lowest + np.arange(len(loss.probabilities))) * interval
    tilted = loss.probabilities * np.exp(_TILTS[tilt] * losses - log_moment)
    before = loss.lowest % points
    folded = np.pad(tilted, (before, -(before + len(tilted)) % points)).reshape(-1, points).sum(axis=0)
    transform = fft.rfft(folded)
    return np.log(np.where(transform == 0, 1e-300, transform))


def _epsilon(
    counts: Sequence[tuple[Step, int]], delta: float, adjacency: Adjacency, interval: float, direction: int
) -> tuple[float, int]:
    """As epsilon_of_steps, in one direction and on one grid; and how many points that transformed."""

    def total(tilt: int) -> tuple[float, float, float]:
        parts = [(count, _cumulants(step, adjacency, interval, direction, tilt)) for step, count in counts]
        moment, mean, variance = (math.fsum(count * part[i] for count, part in parts) for i in range(3))
        return moment, mean, variance

    windows = [_Window.around(*total(tilt), tilt, interval, delta) for tilt in _good_tilts(total, delta)]
    narrowest = min(window.points for window in windows)
    least, points, rounding = math.inf, 0, math.inf
    for window in windows:
        if rounding <= _ENOUGH * delta and window.points > _TOO_WIDE * narrowest:
            continue
        found, rounding = _epsilon_in(window, counts, delta, adjacency, direction)
        least, points = min(least, found), points + len(counts) * window.points
        if rounding <= _ROUNDING * delta:
            break
    return least, points


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
        one = losses_of_one_step(step, adjacency, window.interval)[direction].infinite
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
    rounding = each * terms * window.untilted(losses)
    found = _epsilon_at(losses, above - shrunk + rounding, shrunk, delta - infinite)
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
