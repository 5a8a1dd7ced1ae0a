"""What single units add to a step, and how often they are drawn: the clip, the counting and the sampling."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv
from scipy.stats import binom

from securepfl.privacy.accounting.events import Unit
from securepfl.privacy.audit.verdicts import LEVELS, MOST_VECTORS, Floats, Verdict, rarest

LARGEST_CONTRIBUTION = 1.01
"""A contribution is read through noise of a thousandth of the clip: this is ten standard deviations above one clip."""
_SIMULATIONS = 9_999
_POWER = 0.99  # with what probability a sample rate that a finding names would have been caught


def contributions_verdict(
    contributions: Floats,
    units: Floats,
    sample_rate: float,
    level: float = LEVELS["contributions"],
    unit: Unit = "record",
) -> Verdict:
    """What each canary added to each step, [steps, canaries], in clips, seen through little noise.

    units: [units], the norm of what single units of the data set added, far above the clip before it, in clips. They
    are private: of them the verdict says one bit, whether any is above the limit. More than one clip: clipping is
    left out, or a unit counted twice. Drawn more often than declared, or not independently of other canaries and
    steps (batches of a fixed size, shuffled passes): amplification by sampling is not what the accounting takes it
    for. The finding names the rate that so many draws show with 99 %. Draws are binomial, and their spread is
    compared with simulated ones, which is exact (Barnard 1963). Raises ValueError where one is empty or has another
    shape.

    >>> contributions_verdict(np.ones((2, 3)), np.ones(4), sample_rate=1.0).accused
    False
    >>> contributions_verdict(2 * np.ones((2, 3)), np.ones(4), sample_rate=1.0).finding.split(":")[0]
    'a canary added 2 clips to one step'
    """
    if (contributions.ndim, units.ndim) != (2, 1) or contributions.size == 0 or units.size == 0:
        raise ValueError("contributions must be a table and units a vector with at least one number")
    largest = float(contributions.max())  # a NaN stays one
    faults = []
    if not largest <= LARGEST_CONTRIBUTION:
        faults.append(f"a canary added {largest:.4g} clips to one step")
    if not units.max() <= LARGEST_CONTRIBUTION:
        faults.append(f"a {unit} of the data set added more than {LARGEST_CONTRIBUTION} clips to one step")
    if faults:
        finding = f"{'; '.join(faults)}: clipping is left out or too wide, or a {unit} counts several times"
        return Verdict("contributions", 0.0, level, True, finding)
    # Half of what is added at most: contributions may be smaller than a clip, which is more private.
    drawn = contributions > max(largest / 2, 0.025)
    seen = f"a canary added at most {largest:.4g} clips and was in {drawn.mean():.4g} of the steps"
    if sample_rate == 1:
        # All are in each step, and nothing is claimed of draws.
        return Verdict("contributions", 1.0, level, False, seen)
    p_values = {
        f"{unit}s are drawn more often than declared": _rate_p_value(drawn, sample_rate),
        "draws of a step depend on one another": _spread_p_value(drawn),
        f"draws of a {unit} depend on one another": _spread_p_value(drawn.T),
    }
    fault, p_value, origin = rarest(p_values)
    told = rate_told(drawn.size, sample_rate, level / len(p_values))
    seen += f" (declared: {sample_rate:.4g}; from {told:.4g} on it shows with {_POWER:.0%})"
    accused = p_value <= level
    return Verdict("contributions", p_value, level, accused, f"{seen}; {fault if accused else origin}")


def rate_told(draws: int, sample_rate: float, level: float) -> float:
    """The smallest true rate that shows with 99 % as above `sample_rate`, in so many draws at `level`; 1 where none.

    >>> round(rate_told(4000, 0.1, 0.001 / 3), 3)
    0.129
    """
    fewest = float(binom.isf(level, draws, sample_rate)) + 1
    return float(betaincinv(fewest, draws - fewest + 1, _POWER)) if fewest <= draws else 1.0


def _rate_p_value(drawn: NDArray[np.bool_], sample_rate: float) -> float:
    return float(binom.sf(int(drawn.sum()) - 1, drawn.size, sample_rate))


def _spread_p_value(drawn: NDArray[np.bool_]) -> float:
    """Two-sided, of the squares of row sums, among tables with as many draws: fewer draws than declared are fine."""
    drawn = drawn[:MOST_VECTORS]
    rows, columns = drawn.shape
    tables = np.random.default_rng(0).multivariate_hypergeometric(
        np.full(rows, columns), int(drawn.sum()), size=_SIMULATIONS, method="marginals"
    )
    law, seen = (tables**2).sum(1), (drawn.sum(1) ** 2).sum()
    rarer = min(int((law <= seen).sum()), int((law >= seen).sum()))
    return min(1.0, 2 * (rarer + 1) / (_SIMULATIONS + 1))
