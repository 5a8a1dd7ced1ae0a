"""How many candidates a private selection tries: the random number that its accounting relies on.

Papernot and Steinke 2021, arXiv 2110.03620, Definition 1. The number must be drawn before any candidate is trained,
and never be told or drawn again: knowing it voids the guarantee.
"""

import math
import secrets
from collections.abc import Iterator

from scipy.optimize import brentq

from securepfl.privacy.accounting.events import POISSON, Selection

_RESOLUTION = 53  # bits of the uniform number


def candidate_count(selection: Selection) -> int:
    """The number of candidates for one run of `selection`, from the operating system's randomness; may be 0 if Poisson.

    By inversion of a uniform number of 53 bits: within 1e-12 of the distribution in total variation.

    >>> from securepfl.privacy.accounting.events import Release
    >>> one = Release(noise_multiplier=9.0, sample_rate=1.0, steps=20)
    >>> candidate_count(Selection(candidate=(one,), mean=1.0, shape=1.0))
    1
    """
    uniform = (secrets.randbits(_RESOLUTION) + 0.5) / 2**_RESOLUTION
    number, chances = 0, candidate_chances(selection)
    uniform -= (chance := next(chances))
    # What rounding leaves over belongs far out in the tail.
    while uniform >= 0 and not (number > selection.mean and chance < 1e-18):
        number += 1
        uniform -= (chance := next(chances))
    return number


def candidate_chances(selection: Selection) -> Iterator[float]:
    """The chances of 0, 1, 2, ... candidates, without end.

    >>> from itertools import islice
    >>> from securepfl.privacy.accounting.events import Release
    >>> one = Release(noise_multiplier=9.0, sample_rate=1.0, steps=20)
    >>> [round(chance, 3) for chance in islice(candidate_chances(Selection(candidate=(one,), mean=2.0, shape=1.0)), 4)]
    [0.0, 0.5, 0.25, 0.125]
    """
    if selection.shape == POISSON:
        yield from _poisson(selection.mean)
    yield 0.0
    yield from _negative_binomial(float(selection.shape), selection.mean)


def _poisson(mean: float) -> Iterator[float]:
    """The chances of 0, 1, 2, ... of this mean."""
    number, log_mean = 0, math.log(mean)
    while True:
        yield math.exp(number * log_mean - mean - math.lgamma(number + 1))
        number += 1


def _negative_binomial(shape: float, mean: float) -> Iterator[float]:
    """The chances of 1, 2, ... under the truncated negative binomial of this shape and mean."""
    halting = 1.0 if mean == 1 else _halting(shape, mean)
    if halting == 1:
        chance = 1.0
    elif shape == 0:
        chance = (1 - halting) / -math.log(halting)
    else:
        chance = shape * (1 - halting) / math.expm1(-shape * math.log(halting))
    number = 1
    while True:
        yield chance
        chance *= (1 - halting) * (number + shape) / (number + 1)
        number += 1


def _halting(shape: float, mean: float) -> float:
    """The parameter gamma in (0, 1] whose mean is `mean` or, by rounding, just less: never more than is accounted."""

    def excess(log_halting: float) -> float:
        halting = math.exp(log_halting)
        spread = -log_halting if shape == 0 else -math.expm1(shape * log_halting) / shape
        return math.log(-math.expm1(log_halting) / (halting * spread)) - math.log(mean)

    lower = -1.0
    while excess(lower) <= 0:
        lower *= 2
    root = float(brentq(excess, lower, -1e-12, xtol=1e-15, rtol=1e-13)) if excess(-1e-12) < 0 else -1e-12
    return min(1.0, math.exp(root) * (1 + 1e-12))
