"""What Gaussian scores show: how far canaries stand out of the noise that is there, against what the claim allows."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import ndtr
from scipy.stats import chi2

from securepfl.privacy.audit.mechanism import deviation_of, small_spread_p_value
from securepfl.privacy.audit.verdicts import LARGEST_MU, LEVELS, Floats, Scores, Verdict, largest_rejected


@dataclass(frozen=True)
class Shift:
    """What canaries add, in standard deviations of the noise that is there: a t statistic.

    Where true scores are N(mu * included, 1) up to a common scale, t is noncentral t with `freedom` degrees and
    noncentrality mu / error. estimate: of mu.

    >>> Shift(t=4.0, error=0.25, freedom=100).estimate
    1.0
    >>> round(Shift(t=4.0, error=0.25, freedom=100).lower_bound(0.01), 2)
    0.39
    """

    t: float
    error: float
    freedom: int

    @property
    def estimate(self) -> float:
        return self.t * self.error

    def p_value(self, mu: float) -> float:
        """Chance of a t at least this large, were mu the true one. Smaller true ones only make it rarer."""
        if self.freedom < 1:
            return 1.0
        scales, weights = _chi_nodes(self.freedom)
        return float(min(1.0, weights @ ndtr(mu / self.error - self.t * scales)))

    def lower_bound(self, level: float) -> float:
        """Lower bound on mu, wrong with probability at most `level`; at most 1,000."""
        return largest_rejected(self.p_value, level, LARGEST_MU)


@lru_cache(maxsize=64)
def _chi_nodes(freedom: int) -> tuple[Floats, Floats]:
    """Quadrature for the mean of a function of the root of chi-square over its degrees of freedom."""
    points, weights = np.polynomial.legendre.leggauss(400)
    return np.sqrt(chi2.ppf((points + 1) / 2, freedom) / freedom), weights / 2


def shift_in_one_run(seen: Scores) -> Shift:
    """The mean of included canaries over the noise in all directions, whose mean is known to be 0.

    Absent canaries and silent directions say how large the noise is, so that a build is judged by its own noise:
    half the noise shows as twice mu, and more noise never accuses.

    >>> present = np.array([True, False, True, False])
    >>> seen = Scores(np.array([1.2, 0.1, 0.9, -0.4]), present, np.array([0.3, -1.1, 0.8, -0.2]))
    >>> round(shift_in_one_run(seen).estimate, 2)
    1.88
    """
    present, others = seen.scores[seen.included], np.concatenate([seen.scores[~seen.included], seen.silent])
    count, freedom = len(present), len(seen.scores) + len(seen.silent) - 1
    if count == 0 or freedom < 1:
        return Shift(0.0, 1.0, 0)
    mean = float(present.mean())
    squares = float(((present - mean) ** 2).sum() + (others**2).sum())
    return _shift(mean, squares, 1 / count, freedom)


def shift_between_runs(seen: Scores) -> Shift:
    """The difference of the means of both groups over their pooled noise: no direction's mean is known.

    >>> present = np.array([True, False, True, False])
    >>> seen = Scores(np.array([1.2, 0.1, 0.9, -0.4]), present, np.array([0.3, -1.1, 0.8, -0.2]))
    >>> round(shift_between_runs(seen).estimate, 2)
    4.12
    """
    present, absent = seen.scores[seen.included], seen.scores[~seen.included]
    freedom = len(seen.scores) - 2
    if len(present) == 0 or len(absent) == 0 or freedom < 1:
        return Shift(0.0, 1.0, 0)
    squares = float(((present - present.mean()) ** 2).sum() + ((absent - absent.mean()) ** 2).sum())
    return _shift(float(present.mean() - absent.mean()), squares, 1 / len(present) + 1 / len(absent), freedom)


def _shift(difference: float, squares: float, variance: float, freedom: int) -> Shift:
    deviation = math.sqrt(squares / freedom)
    error = math.sqrt(variance)
    # Without any noise t would be infinite, or 0/0 where canaries add nothing either.
    return Shift(difference / (error * max(deviation, 1e-12)), error, freedom)


def trade_off_verdict(seen: Scores, mu: float) -> Verdict:
    """Whether canaries can be told better than `mu` allows, or the noise around them is smaller than declared.

    For equal spread, the likelihood ratio grows with the mean of the included. With m canaries and many silent
    directions, twice mu is missed where a standard normal is above mu sqrt(m/2) - Phi^-1(1 - level): under 1 % from
    m = 2 (4.91 / mu)^2 on. What canaries stand out by says little of noise a little too small; absent canaries and
    silent directions do, by chi-square, exact where scores are as declared: n of them show a deviation of
    1 - 4 / sqrt(n) with 99 %. Both share the level (weighted Bonferroni).

    >>> present = np.array([True, False, True, False])
    >>> seen = Scores(np.array([1.2, 0.1, 0.9, -0.4]), present, np.array([0.3, -1.1, 0.8, -0.2]))
    >>> trade_off_verdict(seen, 1.0).accused
    False
    """
    shift, others = shift_in_one_run(seen), np.concatenate([seen.scores[~seen.included], seen.silent])
    level = LEVELS["gaussian"] + LEVELS["spread"]
    p_values = {
        "they stand out by too much": level / LEVELS["gaussian"] * shift.p_value(mu),
        "the noise around them is too small": level / LEVELS["spread"] * small_spread_p_value(others),
    }
    fault, smallest = min(p_values.items(), key=lambda item: item[1])
    p_value = min(1.0, smallest)
    found = f"canaries stand out by {shift.estimate:.3g} standard deviations of the noise; the claim allows {mu:.3g}"
    if len(others):
        found += f"; the noise around them has {deviation_of(others)}"
    accused = p_value <= level
    return Verdict("canaries", p_value, level, accused, f"{found}; {fault}" if accused else found)


def runs_verdict(seen: Scores, mu: float, level: float = LEVELS["runs"]) -> Verdict:
    """The same over many runs of one canary each, from the difference of both groups.

    >>> present = np.array([True, False, True, False])
    >>> seen = Scores(np.array([1.2, 0.1, 0.9, -0.4]), present, np.array([0.3, -1.1, 0.8, -0.2]))
    >>> runs_verdict(seen, 1.0).finding[:68]
    'over 4 runs the canary stands out by 4.12 standard deviations of the'
    """
    shift = shift_between_runs(seen)
    p_value, least = shift.p_value(mu), shift.lower_bound(level)
    finding = (
        f"over {len(seen.scores)} runs the canary stands out by {shift.estimate:.3g} standard deviations of the noise "
        f"(at least {least:.3g}); the claim allows {mu:.3g}"
    )
    return Verdict("runs", p_value, level, p_value <= level, finding)
