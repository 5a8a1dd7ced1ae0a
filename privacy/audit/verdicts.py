"""What a test of a build may say, and how sure it has to be. The levels of all tests add up to 1 %.

A canary is a unit whose coin put it in the rehearsal or left it out; its score is what is seen in its own
direction, in standard deviations of the declared noise. Under the claim "mu-Gaussian differential privacy" (Dong,
Roth and Su 2022, arXiv 1905.02383) scores are normal with mean 0 or mu.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from securepfl.privacy.accounting.calibration import Bracket, narrowed

FALSE_ALARM = 0.01
# Most goes to the test that has to tell small differences; bugs that the others look for show far beyond theirs.
LEVELS = {
    "mechanism": 0.00025,
    "rounds": 0.00025,
    "contributions": 0.001,
    "runs": 0.001,
    "gaussian": 0.005,
    "spread": 0.0005,
    "f-DP": 0.001,
    "guesses": 0.001,
}
MOST_VECTORS = 256
"""Of a table, so many rows are compared with one another."""
LARGEST_MU = 1e3
"""No bound on mu is sought above."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Verdict:
    """Of one test. p_value: how likely evidence as strong is at most, from a build that keeps its claim.

    accused: p_value is at most level. finding: what was seen, one sentence.

    >>> Verdict("runs", 0.0002, LEVELS["runs"], True, "the canary stands out by too much").accused
    True
    """

    test: str
    p_value: float
    level: float
    accused: bool
    finding: str


@dataclass(frozen=True)
class Bound:
    """A lower bound on epsilon, wrong with probability at most 1 - confidence. assumes: what it rests on.

    ceiling: the largest that as many canaries could ever show by this method; None where it has none.

    >>> Bound("guesses", 0.8, 1 - LEVELS["guesses"], "nothing but fair coins", 3.9).epsilon
    0.8
    """

    method: str
    epsilon: float
    confidence: float
    assumes: str
    ceiling: float | None


@dataclass(frozen=True)
class Scores:
    """Of a rehearsal. Raises ValueError where they do not fit together.

    scores, included: [canaries]. silent: scores of directions in which no canary lies; they measure the noise.

    >>> Scores(np.zeros(2), np.array([True]), np.zeros(5))
    Traceback (most recent call last):
    ValueError: scores and included must be vectors of one length, and silent a vector
    """

    scores: Floats
    included: NDArray[np.bool_]
    silent: Floats

    def __post_init__(self) -> None:
        if self.scores.ndim != 1 or self.scores.shape != self.included.shape or self.silent.ndim != 1:
            raise ValueError("scores and included must be vectors of one length, and silent a vector")
        if self.included.dtype != np.bool_:
            raise ValueError(f"included must be bool, not {self.included.dtype}")
        if not (np.isfinite(self.scores).all() and np.isfinite(self.silent).all()):
            raise ValueError("scores must be finite")


def largest_rejected(p_value: Callable[[float], float], level: float, largest: float) -> float:
    """The largest parameter up to `largest` that is found to be rejected; 0 where 0 is not. p_value must not fall.

    >>> round(largest_rejected(lambda claimed: claimed / 10, 0.5, 50.0), 4)
    5.0
    """
    if p_value(0.0) > level:
        return 0.0
    if p_value(largest) <= level:
        return largest
    return narrowed(
        lambda value: 1.0 if p_value(value) <= level else -1.0,
        Bracket(0.0, largest),
        lambda bracket: bracket.width <= 1e-6 * max(1.0, bracket.lower),
    ).lower


def rarest(p_values: dict[str, float]) -> tuple[str, float, str]:
    """The fault with the smallest p-value, that times their number, and where it comes from in words.

    >>> rarest({"steps repeat": 0.4, "values repeat": 0.02})[:2]
    ('values repeat', 0.04)
    """
    fault, smallest = min(p_values.items(), key=lambda item: item[1])
    p_value = min(1.0, len(p_values) * smallest)
    origin = f"p-value: {smallest:.2g} of the test whether {fault}"
    if len(p_values) > 1:
        origin += f", times {len(p_values)} for the smallest of as many tests (at most 1)"
    return fault, p_value, origin
