"""How much noise is enough: the least for which what is released costs at most a target epsilon.

One search serves all: `narrowed` closes a bracket around the root of a falling function, and each kind of release says
what falls, where the bracket begins, where in it to look next and when it is close enough. The audit's lower bounds
use it too. What comes out is always the end of the bracket at which the target is met, so a budget of the target pays
for the last step.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Literal

from securepfl.errors import ConfigError
from securepfl.privacy.accounting.accounting import SMALLEST_DELTA, epsilon
from securepfl.privacy.accounting.events import (
    LEAST_NOISE,
    LEAST_SCALE,
    MOST_SCALE,
    MOST_STEPS,
    Release,
    Selection,
    SharedRelease,
)
from securepfl.privacy.accounting.gaussian import mu_of
from securepfl.privacy.accounting.losses import Step, epsilon_of_steps

__all__ = ["Bracket", "narrowed", "noise_multiplier_for", "selection_noise_for", "shared_scale_for"]


@dataclass(frozen=True)
class Bracket:
    """Where a falling function has its root: its `above` at `lower` is over 0, its `below` at `upper` is not.

    >>> Bracket(1.0, 4.0).middle
    2.5
    """

    lower: float
    upper: float
    above: float = 1.0
    below: float = -1.0

    @property
    def width(self) -> float:
        """How far its ends are apart."""
        return self.upper - self.lower

    @property
    def middle(self) -> float:
        """Halfway between its ends."""
        return (self.lower + self.upper) / 2


def narrowed(
    excess: Callable[[float], float],
    bracket: Bracket,
    close: Callable[[Bracket], bool],
    between: Callable[[Bracket], float] = lambda bracket: bracket.middle,
) -> Bracket:
    """`bracket` narrowed until it is `close`, looking at `excess` where `between` says, which is inside of it.

    | guaranteed | unless |
    |---|---|
    | `excess` is over 0 at `lower`, at most 0 at `upper` | it was not so in the `bracket` handed in |
    | that is its only root, to the last bracket's width | `excess` does not fall: then it is one of several |

    >>> found = narrowed(lambda x: 2 - x * x, Bracket(0.0, 2.0), lambda bracket: bracket.width < 1e-6)
    >>> round(found.upper, 5)
    1.41421
    """
    while not close(bracket):
        place = between(bracket)
        found = excess(place)
        # What is no number meets no target.
        bracket = (
            replace(bracket, upper=place, below=found) if found <= 0 else replace(bracket, lower=place, above=found)
        )
    return bracket


def noise_multiplier_for(target: float, delta: float, sample_rate: float, steps: int) -> float:
    """The least noise multiplier with which `steps` steps cost at most epsilon `target` under zero-out.

    | guaranteed | how close |
    |---|---|
    | `epsilon` of these steps never exceeds the target | full batch: met to rounding |
    | the same target gives the same noise, to the last bit | Poisson sampling: at most 1 % under the target |
    | never less than LEAST_NOISE | rates below about 1e-3, where rare draws decide: maybe further under |

    Below a rate of about 1e-3 epsilon is a looser bound, which leaps from noise to noise.
    Raises ConfigError, naming the setting, where one is out of range.

    >>> noise = noise_multiplier_for(4.0, 1e-5, 1.0, 30)
    >>> round(noise, 3)
    5.922
    >>> epsilon([Release(noise_multiplier=noise, sample_rate=1.0, steps=30)], 1e-5) <= 4.0
    True
    """
    _check_target(target, delta, steps)
    if not 0 < sample_rate <= 1:
        raise ConfigError(f"sample_rate is {sample_rate!r}: give a number above 0 and at most 1 (the full batch)")
    if sample_rate < 1 and -math.expm1(steps * math.log1p(-sample_rate)) <= delta:
        raise ConfigError(f"delta is {delta!r}, no less than the chance to be drawn at all: give a smaller one")
    mu = mu_of(target, delta)
    if sample_rate == 1:
        return _full_batch_noise(target, delta, steps, mu)
    return _poisson_noise(target, delta, sample_rate, steps, mu)


def shared_scale_for(
    target: float, delta: float, steps: int, shares: int, sensitivity: float, dimension: int, tail: float
) -> int:
    """The least scale of each share's discrete Gaussian, in grid units, with which SharedRelease meets `target`.

    The other arguments are as in SharedRelease. Never less than LEAST_SCALE. Raises ConfigError where the target is
    out of range, an argument is none that SharedRelease takes, or no scale up to 2^53 is enough.

    >>> shared_scale_for(4.0, 1e-5, 10, 3, 200.0, 100, 2.0**-40)
    423
    """
    _check_target(target, delta, steps)

    def excess(scale: float) -> float:
        release = SharedRelease(
            scale=int(scale), sensitivity=sensitivity, shares=shares, dimension=dimension, tail=tail, steps=steps
        )
        return epsilon([release], delta) - target

    try:
        lower, upper = LEAST_SCALE - 1, LEAST_SCALE
        while not excess(upper) <= 0:
            if upper == MOST_SCALE:
                raise ConfigError(
                    f"epsilon {target!r}: no scale up to 2^53 meets it with a tail of {tail!r}; lower the tail"
                )
            lower, upper = upper, min(2 * upper, MOST_SCALE)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    whole = narrowed(excess, Bracket(lower, upper), lambda b: b.width <= 1, lambda b: (b.lower + b.upper) // 2)
    return int(whole.upper)


def selection_noise_for(
    target: float, delta: float, mean: float, shape: float | Literal["poisson"], steps: int
) -> float:
    """The noise multiplier, within 0.1 % of the least, with which a Selection of `mean` candidates on average, each of
    `steps` full-batch steps, costs at most epsilon `target`. `mean` and `shape` are as in Selection.

    Never less than sqrt(steps) / 50, where nothing is protected any more. Raises ConfigError, naming the setting, where
    one is out of range or no noise is enough (Renyi orders are finite: at delta 1e-5 none shows an epsilon below 0.01);
    ValueError as Selection does.

    >>> round(selection_noise_for(2.0, 1e-5, 4.0, 1.0, 10), 1)
    11.8
    """
    _check_target(target, delta, steps)

    def excess(log_noise: float) -> float:
        candidate = Release(noise_multiplier=math.exp(log_noise), sample_rate=1.0, steps=steps)
        return epsilon([Selection(candidate=(candidate,), mean=mean, shape=shape)], delta) - target

    # Above exp(14) the orders' divergences are lost in rounding.
    lower, upper = (math.log(steps) / 2 + bound for bound in (-math.log(50), 14.0))
    if not excess(upper) <= 0:
        raise ConfigError(f"epsilon is {target!r}: no noise brings a selection so low at delta {delta!r}; give more")
    return math.exp(narrowed(excess, Bracket(lower, upper), lambda bracket: bracket.width <= 1e-3).upper)


def _check_target(target: float, delta: float, steps: int) -> None:
    if not (math.isfinite(target) and target > 0):
        raise ConfigError(f"epsilon is {target!r}: give a finite number above 0")
    if not SMALLEST_DELTA <= delta < 1:
        raise ConfigError(f"delta is {delta!r}: give a number from {SMALLEST_DELTA} to below 1, e.g. 1e-5")
    if not 1 <= steps <= MOST_STEPS:
        raise ConfigError(f"steps is {steps!r}: give a whole number from 1 to {MOST_STEPS}")


def _full_batch_noise(target: float, delta: float, steps: int, mu: float) -> float:
    """No search is left: Gaussians compose to one of `mu`."""
    # The nudges keep rounding in the root finder and in later sums on the safe side of the target.
    noise = max(math.sqrt(steps) / mu * (1 + 1e-9), LEAST_NOISE)
    nudge = 2.0**-30
    while not epsilon([Release(noise_multiplier=noise, sample_rate=1.0, steps=steps)], delta) <= target:
        noise, nudge = noise * (1 + nudge), 2 * nudge
    return noise


@lru_cache(maxsize=64)
def _poisson_noise(target: float, delta: float, sample_rate: float, steps: int, mu: float) -> float:
    """Noise with which epsilon is between .99 and 1 of `target`, from where the central limit of many steps puts it.

    That limit is mu^2 = steps rate^2 (exp(1 / noise^2) - 1) (Bu et al. 2020, arXiv 1911.11607). Roots are sought on
    coarse grids, where epsilon is quick to compute. It differs there from the one on the fine grids, which the
    ledger computes, to either side: so the aim is corrected until the fine one fits.
    """

    def spent(noise: float, coarser: int) -> float:
        return min(epsilon_of_steps([(Step(noise, sample_rate), steps)], delta, coarser=coarser), 1e12)

    def coarse(log_noise: float, aim: float) -> float:
        return math.log(max(spent(math.exp(log_noise), 8), 1e-12) / aim)

    aim, log_noise = 0.995 * target, -0.5 * math.log(math.log1p((mu / sample_rate) ** 2 / steps))
    enough = math.inf
    for _ in range(3):
        start = _around(partial(coarse, aim=aim), log_noise)
        log_noise = narrowed(partial(coarse, aim=aim), start, _within_two_thousandths, _false_position).upper
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


def _around(excess: Callable[[float], float], guess: float) -> Bracket:
    """A bracket of the falling `excess` that begins or ends near `guess`."""
    width = 0.05
    lower = upper = guess
    above = below = excess(guess)
    while below > 0:
        lower, above, upper = upper, below, upper + width
        below, width = excess(upper), 2 * width
    while above <= 0:
        upper, below, lower = lower, above, lower - width
        above, width = excess(lower), 2 * width
    return Bracket(lower, upper, above, below)


def _within_two_thousandths(bracket: Bracket) -> bool:
    """Also where the function leaps over its root: then the bracket's ends are as good as the same."""
    return bracket.below >= -0.002 or bracket.width <= 5e-5


def _false_position(bracket: Bracket) -> float:
    """Where a line between the ends crosses 0, a little towards `upper`; halved where that would creep."""
    above, below = min(bracket.above, 1.0) + 0.001, min(-bracket.below, 1.0)
    return bracket.lower + (bracket.upper - bracket.lower) * min(max(above / (above + below), 0.1), 0.9)
