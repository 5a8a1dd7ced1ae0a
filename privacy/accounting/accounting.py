"""What releases cost: (epsilon, delta) of all of them composed.

Adjacency is zero-out: one unit is replaced by one whose gradient is zero, so the clipped sum moves by at most the
clip. Under replace-one it moves by twice the clip. Full-batch Gaussian releases compose to one Gaussian mechanism,
whose epsilon is known exactly (Balle and Wang 2018, arXiv 1805.06530); with Poisson sampling privacy loss
distributions are composed (losses.py), an upper bound. As soon as another kind is among them, all are composed by
Renyi divergences (renyi.py), a looser upper bound.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, get_args

import msgspec
from scipy.optimize import brentq
from scipy.special import log_ndtr

from securepfl.errors import ConfigError
from securepfl.privacy.accounting.events import (
    LEAST_NOISE,
    LEAST_SCALE,
    MOST_SCALE,
    MOST_STEPS,
    AnyRelease,
    Release,
    Selection,
    SharedRelease,
    Unit,
)
from securepfl.privacy.accounting.losses import Adjacency, Step, epsilon_of_steps
from securepfl.privacy.accounting.renyi import renyi_epsilon

__all__ = [
    "SMALLEST_DELTA",
    "Adjacency",
    "AnyRelease",
    "Composition",
    "Release",
    "Selection",
    "SharedRelease",
    "epsilon",
    "epsilon_of_group",
    "noise_multiplier_for",
    "selection_noise_for",
    "shared_scale_for",
]

# Below this, what the accountants cut off (1e-18 a composition and more) is no longer sure to be negligible.
SMALLEST_DELTA = 1e-12


@dataclass
class Composition:
    """Releases as they are added and taken away, counted by kind: what its epsilon takes doesn't grow with them.

    `add` and `remove` raise ValueError for a release of another unit: a patient's epsilon cannot be had from
    releases that bound one record, nor the other way round.
    """

    steps: Counter[AnyRelease] = field(default_factory=Counter)
    """How often each release's single step happened."""
    tails: Counter[float] = field(default_factory=Counter)
    unit: Unit | None = None

    @classmethod
    def of(cls, releases: Iterable[AnyRelease]) -> "Composition":
        """All `releases`, in any order."""
        composition = cls()
        for release in releases:
            composition.add(release)
        return composition

    def add(self, release: AnyRelease) -> None:
        """Counts `release` from now on. One of no steps counts for nothing, but has its unit."""
        self.check_unit(release)
        self.unit = release.unit
        self._count(release, 1)

    def remove(self, release: AnyRelease) -> None:
        """Takes back what was added before."""
        self._count(release, -1)

    def check_unit(self, release: AnyRelease) -> None:
        """Raises ValueError where `release` has another unit than those before, TypeError where it is none."""
        if not isinstance(release, AnyRelease):
            raise TypeError(f"release must be a Release, SharedRelease or Selection, not {type(release).__name__}")
        if self.unit not in (None, release.unit):
            raise ValueError(f"unit must be {self.unit!r} as in the releases before, not {release.unit!r}")

    def with_release(self, release: AnyRelease) -> "Composition":
        """A new composition that counts `release` too."""
        both = Composition(self.steps.copy(), self.tails.copy(), self.unit)
        both.add(release)
        return both

    def epsilon(self, delta: float, adjacency: Adjacency = "zero-out") -> float:
        """As `epsilon` of all releases that count."""
        _check(delta, adjacency)
        counts = frozenset(self.steps.items())
        tail = math.fsum(tail * count for tail, count in self.tails.items())
        return _epsilon_of(counts, tail, delta, adjacency)

    @property
    def tolerance(self) -> float:
        """How far, relatively, the epsilons of two versions of the accountant may lie apart.

        Sums of Gaussians are exact and differ in the last digits; sampled ones are rounded up on a grid.
        """
        return 1e-6 if all(isinstance(r, Release) and r.sample_rate == 1.0 for r in self.steps) else 2e-3

    def _count(self, release: AnyRelease, sign: int) -> None:
        if not release.steps or (isinstance(release, Selection) and not any(r.steps for r in release.candidate)):
            return
        changes: dict[str, float] = {"steps": 1}
        if isinstance(release, SharedRelease) and release.tail:
            self.tails[release.tail] += sign
            changes["tail"] = 0.0
        one = msgspec.structs.replace(release, **changes)
        self.steps[one] += sign * release.steps
        if not self.steps[one]:
            del self.steps[one]


def epsilon(releases: Sequence[AnyRelease], delta: float, adjacency: Adjacency = "zero-out") -> float:
    """Epsilon at `delta` of all `releases` composed, in any order; 0 where nothing was released.

    Exact where all are full-batch Gaussian, else an upper bound (inf where delta is too small to bound). Under
    replace-one and Poisson sampling the pair composed is dp_accounting's: the unit's gradient against its
    opposite, at the same sampling rate; among other kinds, replace-one is two zero-outs one after the other.
    Noise, rates and steps are taken as fixed before the data is seen.

    Raises ValueError where delta is outside [1e-12, 1), adjacency is unknown, or units are mixed; TypeError for
    what is no release.
    """
    return Composition.of(releases).epsilon(delta, adjacency)


def epsilon_of_group(releases: Sequence[Release], delta: float, size: int) -> float:
    """Zero-out epsilon at `delta` of a patient with `size` records, where `releases` clipped each record alone.

    The full batch moves by `size` clips: exact. With Poisson sampling each record is drawn on its own, so a step moves
    by as many clips as of them are drawn: a mixture of Gaussians, an upper bound (Charles et al. 2024, arXiv
    2407.07737; Choquette-Choo et al. 2023, arXiv 2310.15526). Raises ValueError for another unit than "record", for
    another kind of release, and for a size below 1.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(f"size must be a whole number of at least 1, not {size!r}")
    if not all(isinstance(release, Release) and release.unit == "record" for release in releases):
        raise ValueError("releases must be Gaussian and have the unit 'record'")
    _check(delta, "zero-out")
    counts = Composition.of(releases).steps
    return _gaussian_epsilon({one: n for one, n in counts.items() if isinstance(one, Release)}, delta, "zero-out", size)


def _check(delta: float, adjacency: Adjacency) -> None:
    if not SMALLEST_DELTA <= delta < 1:
        raise ValueError(f"delta must be in [{SMALLEST_DELTA}, 1), not {delta!r}")
    if adjacency not in get_args(Adjacency):
        raise ValueError(f"adjacency must be one of {get_args(Adjacency)}, not {adjacency!r}")


@lru_cache(maxsize=1024)
def _epsilon_of(counts: frozenset[tuple[AnyRelease, int]], tail: float, delta: float, adjacency: Adjacency) -> float:
    # In one order, so that the same releases cost the same to the last digit.
    ordered = dict(sorted(counts, key=lambda item: msgspec.json.encode(item[0])))
    gaussian = {release: count for release, count in ordered.items() if isinstance(release, Release)}
    if len(gaussian) < len(ordered) or tail:
        return renyi_epsilon(ordered, tail, delta, adjacency)
    return _gaussian_epsilon(gaussian, delta, adjacency, 1)


def _gaussian_epsilon(counts: dict[Release, int], delta: float, adjacency: Adjacency, records: int) -> float:
    """Of a unit of `records` records, each clipped alone."""
    if all(release.sample_rate == 1.0 for release in counts):
        # Gaussians at mu_1, mu_2, ... compose to one at the root of the sum of squares (Gaussian DP).
        mu = math.sqrt(math.fsum(count / release.noise_multiplier**2 for release, count in counts.items()))
        return gaussian_dp_epsilon((2 if adjacency == "replace-one" else 1) * records * mu, delta)
    steps = [(Step(r.noise_multiplier, r.sample_rate, records), count) for r, count in counts.items()]
    found = epsilon_of_steps(steps, delta, adjacency)
    if math.isfinite(found):
        return found
    # Losses too large for a grid: the full batch costs no less than a part of it.
    return _gaussian_epsilon(_full_batches(counts), delta, adjacency, records)


def _full_batches(counts: dict[Release, int]) -> dict[Release, int]:
    full: Counter[Release] = Counter()
    for release, count in counts.items():
        full[msgspec.structs.replace(release, sample_rate=1.0)] += count
    return full


@lru_cache(maxsize=1024)
def gaussian_dp_epsilon(mu: float, delta: float) -> float:
    """Epsilon at `delta` of a Gaussian whose mean moves by `mu` standard deviations: Balle and Wang 2018, Theorem 8."""

    def excess(eps: float) -> float:
        upper, lower = float(log_ndtr(mu / 2 - eps / mu)), eps + float(log_ndtr(-mu / 2 - eps / mu))
        return upper + math.log(-math.expm1(min(lower - upper, -1e-300))) - math.log(delta)

    if mu == 0 or excess(0.0) <= 0:
        return 0.0
    upper = 1.0
    while excess(upper) > 0:
        upper *= 2
    return float(brentq(excess, 0.0, upper, xtol=1e-12))


def noise_multiplier_for(target: float, delta: float, sample_rate: float, steps: int) -> float:
    """The least noise multiplier with which `steps` steps cost at most epsilon `target` under zero-out.

    With it `epsilon` never exceeds the target, so a budget of the target pays for the last step. For the full batch it
    is met to rounding. With Poisson sampling epsilon comes out at most 1 % under the target, but for rates below about
    1e-3 where rare draws decide: there epsilon is a looser bound that leaps from noise to noise, and may come out
    further below.
    Never less than LEAST_NOISE. Raises ConfigError, naming the setting, where one is out of range.
    """
    _check_target(target, delta, steps)
    if not 0 < sample_rate <= 1:
        raise ConfigError(f"sample_rate is {sample_rate!r}: give a number above 0 and at most 1 (the full batch)")
    if sample_rate < 1 and -math.expm1(steps * math.log1p(-sample_rate)) <= delta:
        raise ConfigError(f"delta is {delta!r}, no less than the chance to be drawn at all: give a smaller one")
    mu = _gaussian_dp_mu(target, delta)
    # The nudge keeps rounding in the root finder and in later sums on the safe side of the target.
    full_batch = max(math.sqrt(steps) / mu * (1 + 1e-9), LEAST_NOISE)
    if sample_rate < 1.0:
        return _poisson_noise(target, delta, sample_rate, steps, mu)
    for doubling in range(40):
        if epsilon([Release(noise_multiplier=full_batch, sample_rate=1.0, steps=steps)], delta) <= target:
            return full_batch
        full_batch *= 1 + 2.0 ** (doubling - 30)
    raise ConfigError(f"epsilon {target!r} at delta {delta!r} cannot be computed reliably: give one from 1e-4 to 1e4")


def _check_target(target: float, delta: float, steps: int) -> None:
    if not (math.isfinite(target) and target > 0):
        raise ConfigError(f"epsilon is {target!r}: give a finite number above 0")
    if not SMALLEST_DELTA <= delta < 1:
        raise ConfigError(f"delta is {delta!r}: give a number from {SMALLEST_DELTA} to below 1, e.g. 1e-5")
    if not 1 <= steps <= MOST_STEPS:
        raise ConfigError(f"steps is {steps!r}: give a whole number from 1 to {MOST_STEPS}")


def _gaussian_dp_mu(target: float, delta: float) -> float:
    """Inverse of gaussian_dp_epsilon, to rounding."""

    def excess(log_mu: float) -> float:
        return gaussian_dp_epsilon(math.exp(log_mu), delta) - target

    upper = 0.0
    while excess(upper) <= 0:
        upper += 1
    lower = upper - 1
    while excess(lower) > 0:
        lower -= 1
    return math.exp(float(brentq(excess, lower, upper, xtol=1e-14)))


@lru_cache(maxsize=64)
def _poisson_noise(target: float, delta: float, sample_rate: float, steps: int, mu: float) -> float:
    """Noise with which epsilon is between .99 and 1 of `target`, from where the central limit of many steps puts it.

    That limit is mu^2 = steps rate^2 (exp(1 / noise^2) - 1) (Bu et al. 2020, arXiv 1911.11607). Roots are sought on
    coarse grids, where epsilon is quick to compute. It differs there from the one on the fine grids, which the
    ledger computes, to either side: so the aim is corrected until the fine one fits.
    """

    def spent(noise: float, coarser: int) -> float:
        return min(epsilon_of_steps([(Step(noise, sample_rate), steps)], delta, coarser=coarser), 1e12)

    aim, log_noise = 0.995 * target, -0.5 * math.log(math.log1p((mu / sample_rate) ** 2 / steps))
    enough = math.inf
    for _ in range(3):
        log_noise = _root_from(lambda x, aim=aim: math.log(max(spent(math.exp(x), 8), 1e-12) / aim), log_noise)  # type: ignore[misc]
        noise = max(math.exp(log_noise), LEAST_NOISE)
        reached = spent(noise, 1)
        if reached <= target:
            enough = min(enough, noise)
            if reached >= 0.99 * target or noise == LEAST_NOISE:
                return enough
        # Where epsilon leaps the quotient may be anything: no aim is moved by more than a half of itself.
        aim *= min(max(0.995 * target / max(reached, 1e-12), 0.5), 1.5)
    factor = 1.001
    while math.isinf(enough):
        noise *= factor
        factor *= factor
        if spent(noise, 1) <= target:
            enough = noise
    return enough


def _root_from(excess: Callable[[float], float], guess: float) -> float:
    """Where the falling `excess` is from -.002 to 0, or, where it leaps, just below: regula falsi from `guess` on."""
    width = 0.05
    lower = upper = guess
    lower_excess = upper_excess = excess(guess)
    while upper_excess > 0:
        lower, lower_excess, upper = upper, upper_excess, upper + width
        upper_excess, width = excess(upper), 2 * width
    while lower_excess <= 0:
        upper, upper_excess, lower = lower, lower_excess, lower - width
        lower_excess, width = excess(lower), 2 * width
    while upper_excess < -0.002 and upper - lower > 5e-5:
        # Halved, not divided by the excesses, where these are so unequal that it would creep.
        above, below = min(lower_excess, 1.0) + 0.001, min(-upper_excess, 1.0)
        middle = lower + (upper - lower) * min(max(above / (above + below), 0.1), 0.9)
        found = excess(middle)
        if found > 0:
            lower, lower_excess = middle, found
        else:
            upper, upper_excess = middle, found
    return upper


def shared_scale_for(
    target: float, delta: float, steps: int, shares: int, sensitivity: float, dimension: int, tail: float
) -> int:
    """The least scale of each share's discrete Gaussian, in grid units, with which SharedRelease meets `target`.

    Raises ConfigError, naming the setting, where one is out of range or no scale is enough.
    """
    _check_target(target, delta, steps)

    def enough(scale: int) -> bool:
        release = SharedRelease(
            scale=scale, sensitivity=sensitivity, shares=shares, dimension=dimension, tail=tail, steps=steps
        )
        return epsilon([release], delta) <= target

    try:
        lower, upper = LEAST_SCALE - 1, LEAST_SCALE
        while not enough(upper):
            if upper == MOST_SCALE:
                raise ConfigError(
                    f"epsilon {target!r}: no scale up to 2^53 meets it with a tail of {tail!r}; lower the tail"
                )
            lower, upper = upper, min(2 * upper, MOST_SCALE)
        while upper - lower > 1:
            middle = (lower + upper) // 2
            lower, upper = (lower, middle) if enough(middle) else (middle, upper)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return upper


def selection_noise_for(
    target: float, delta: float, mean: float, shape: float | Literal["poisson"], steps: int
) -> float:
    """The noise multiplier, within 0.1 % of the least, with which a Selection of `mean` candidates on average, each of
    `steps` full-batch steps, costs at most epsilon `target`. `mean` and `shape` are as in Selection.

    Never less than sqrt(steps) / 50, where nothing is protected any more. Raises ConfigError, naming the setting, where
    one is out of range or no noise is enough (Renyi orders are finite: at delta 1e-5 none shows an epsilon below 0.01);
    ValueError as Selection does.
    """
    _check_target(target, delta, steps)

    def enough(log_noise: float) -> bool:
        candidate = Release(noise_multiplier=math.exp(log_noise), sample_rate=1.0, steps=steps)
        return epsilon([Selection(candidate=(candidate,), mean=mean, shape=shape)], delta) <= target

    # Above exp(14) the orders' divergences are lost in rounding.
    lower, upper = (math.log(steps) / 2 + bound for bound in (-math.log(50), 14.0))
    if not enough(upper):
        raise ConfigError(f"epsilon is {target!r}: no noise brings a selection so low at delta {delta!r}; give more")
    while upper - lower > 1e-3:
        middle = (lower + upper) / 2
        lower, upper = (lower, middle) if enough(middle) else (middle, upper)
    return math.exp(upper)
