"""What was released, and what it costs: (epsilon, delta) of composed Gaussian releases.

Adjacency is zero-out: one record is replaced by one whose gradient is zero, so the clipped sum moves by at
most the clip. Under replace-one it moves by twice the clip. Full-batch releases compose to one Gaussian
mechanism, whose epsilon is known exactly (Balle and Wang 2018, arXiv 1805.06530); with Poisson sampling the
privacy loss distributions of `dp_accounting` are composed, which rounds pessimistically: an upper bound.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

from dp_accounting import gaussian_mechanism
from dp_accounting.pld import privacy_loss_distribution
from dp_accounting.privacy_accountant import NeighboringRelation
from scipy.optimize import brentq

from securepfl.errors import ConfigError

Adjacency = Literal["zero-out", "replace-one"]

_RELATIONS = {"zero-out": NeighboringRelation.REPLACE_SPECIAL, "replace-one": NeighboringRelation.REPLACE_ONE}
_SENSITIVITY_IN_CLIPS = {"zero-out": 1.0, "replace-one": 2.0}
_MOST_STEPS = 10**9
# Below this, the mass that the PLD accountant truncates (1e-15 a composition) is no longer negligible.
SMALLEST_DELTA = 1e-12


@dataclass(frozen=True, kw_only=True)
class Release:
    """`steps` releases of a noisy sum of clipped gradients.

    noise_multiplier: standard deviation of the noise over the clip. sample_rate: chance of each record to be
    in a step, independent of the others; 1.0 is the full batch. unit: what the clip bounds, always one
    record so far. steps may be 0: reserved, but nothing was released.

    Raises ValueError, naming the field.
    """

    mechanism: str = "gaussian"
    noise_multiplier: float
    sample_rate: float
    steps: int
    unit: str = "record"

    def __post_init__(self) -> None:
        if self.mechanism != "gaussian":
            raise ValueError(f"mechanism must be 'gaussian', not {self.mechanism!r}")
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier > 0):
            raise ValueError(f"noise_multiplier must be positive and finite, not {self.noise_multiplier!r}")
        if not 0 < self.sample_rate <= 1:
            raise ValueError(f"sample_rate must be in (0, 1], not {self.sample_rate!r}")
        if isinstance(self.steps, bool) or not isinstance(self.steps, int):
            raise ValueError(f"steps must be a whole number, not {self.steps!r}")
        if not 0 <= self.steps <= _MOST_STEPS:
            raise ValueError(f"steps must be in [0, {_MOST_STEPS}], not {self.steps!r}")
        if self.unit != "record":
            raise ValueError(f"unit must be 'record', not {self.unit!r}")

    def covers(self, other: "Release") -> bool:
        """Whether `other` costs no more, field by field, and so whatever both are composed with."""
        return (
            (other.mechanism, other.unit) == (self.mechanism, self.unit)
            and other.noise_multiplier >= self.noise_multiplier
            and other.sample_rate <= self.sample_rate
            and other.steps <= self.steps
        )


def epsilon(releases: Sequence[Release], delta: float, adjacency: Adjacency = "zero-out") -> float:
    """Epsilon at `delta` of all `releases` composed, in any order; 0 where nothing was released.

    Exact where all are full-batch, else an upper bound (inf where delta is too small to bound). Under
    replace-one and Poisson sampling the pair composed is dp_accounting's: the record's gradient against its
    opposite, at the same sampling rate. Noise, rates and steps are taken as fixed before the data is seen.

    Raises ValueError where delta is outside [1e-12, 1) or adjacency is unknown.
    """
    if not SMALLEST_DELTA <= delta < 1:
        raise ValueError(f"delta must be in [{SMALLEST_DELTA}, 1), not {delta!r}")
    if adjacency not in get_args(Adjacency):
        raise ValueError(f"adjacency must be one of {get_args(Adjacency)}, not {adjacency!r}")
    steps: Counter[tuple[float, float]] = Counter()
    for release in releases:
        steps[release.noise_multiplier, release.sample_rate] += release.steps
    groups = tuple(sorted((noise, rate, count) for (noise, rate), count in steps.items() if count))
    return _epsilon_of_groups(groups, delta, adjacency)


@lru_cache(maxsize=1024)
def _epsilon_of_groups(groups: tuple[tuple[float, float, int], ...], delta: float, adjacency: Adjacency) -> float:
    # Gaussians at mu_1, mu_2, ... compose to one at the root of the sum of squares (Gaussian DP).
    mu = math.sqrt(math.fsum(count / noise**2 for noise, rate, count in groups if rate == 1.0))
    poisson = [group for group in groups if group[1] < 1.0]
    if not poisson:
        sensitivity = _SENSITIVITY_IN_CLIPS[adjacency]
        return float(gaussian_mechanism.get_epsilon_gaussian(1 / (sensitivity * mu), delta)) if mu else 0.0
    interval = _discretisation(min([rate / noise for noise, rate, _ in poisson] + [mu] * (mu > 0)))
    loss = privacy_loss_distribution.identity(value_discretization_interval=interval)
    if mu:
        loss = loss.compose(_loss_of_one_step(1 / mu, 1.0, interval, adjacency))
    for noise, rate, count in poisson:
        loss = loss.compose(_loss_of_one_step(noise, rate, interval, adjacency).self_compose(count))
    return float(loss.get_epsilon_for_delta(delta))


def _discretisation(smallest_loss: float) -> float:
    """Grid of the privacy loss: coarse where the losses of a step are large beside it, ten times faster."""
    return 1e-3 if smallest_loss >= 0.02 else 1e-4


@lru_cache(maxsize=16)
def _loss_of_one_step(noise: float, rate: float, interval: float, adjacency: Adjacency) -> Any:
    return privacy_loss_distribution.from_gaussian_mechanism(
        noise,
        sampling_prob=rate,
        value_discretization_interval=interval,
        neighboring_relation=_RELATIONS[adjacency],
    )


def noise_multiplier_for(target: float, delta: float, sample_rate: float, steps: int) -> float:
    """The least noise multiplier with which `steps` steps cost at most epsilon `target` under zero-out.

    Exact for the full batch; with Poisson sampling epsilon comes out at most 1 % under the target.
    Raises ConfigError, naming the setting, where one is out of range.
    """
    if not (math.isfinite(target) and target > 0):
        raise ConfigError(f"epsilon is {target!r}: give a finite number above 0")
    if not SMALLEST_DELTA <= delta < 1:
        raise ConfigError(f"delta is {delta!r}: give a number from {SMALLEST_DELTA} to below 1, e.g. 1e-5")
    if not 0 < sample_rate <= 1:
        raise ConfigError(f"sample_rate is {sample_rate!r}: give a number above 0 and at most 1 (the full batch)")
    if not 1 <= steps <= _MOST_STEPS:
        raise ConfigError(f"steps is {steps!r}: give a whole number from 1 to {_MOST_STEPS}")
    # The nudge keeps rounding in the root finder and in later sums on the safe side of the target.
    full_batch = float(gaussian_mechanism.get_sigma_gaussian(target, delta)) * math.sqrt(steps) * (1 + 1e-9)
    if sample_rate < 1.0:
        return _poisson_noise(target, delta, sample_rate, steps, full_batch)
    for doubling in range(40):
        if epsilon([Release(noise_multiplier=full_batch, sample_rate=1.0, steps=steps)], delta) <= target:
            return full_batch
        full_batch *= 1 + 2.0 ** (doubling - 30)
    raise ConfigError(f"epsilon {target!r} at delta {delta!r} cannot be computed reliably: give one from 1e-4 to 1e4")


@lru_cache(maxsize=64)
def _poisson_noise(target: float, delta: float, sample_rate: float, steps: int, enough: float) -> float:
    """Root of log(epsilon / target) in log(noise), starting from the full batch's noise, which is enough."""

    def excess(log_noise: float) -> float:
        release = Release(noise_multiplier=math.exp(log_noise), sample_rate=sample_rate, steps=steps)
        return math.log(min(max(epsilon([release], delta), 1e-12), 1e12) / target)

    upper = math.log(enough)
    while excess(upper) > 0:
        upper += math.log(1.5)
    lower = upper - math.log(2)
    while excess(lower) <= 0:
        upper, lower = lower, lower - math.log(2)
    root = float(brentq(excess, lower, upper, xtol=5e-4))
    while excess(root) > 0:
        root += 5e-4
    return math.exp(root)
