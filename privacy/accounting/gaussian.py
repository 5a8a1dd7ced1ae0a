"""The analytic Gaussian mechanism: delta, epsilon and mu of it, each from the other two (Balle and Wang 2018,
arXiv 1805.06530, Theorem 8).

mu: by how many standard deviations of the noise one unit moves the mean. Full-batch Gaussian releases compose to one
such mechanism (Gaussian differential privacy, Dong, Roth and Su 2022, arXiv 1905.02383).
"""

import math
from functools import lru_cache

from scipy.optimize import brentq
from scipy.special import log_ndtr

__all__ = ["delta_of", "epsilon_of", "mu_of"]


def delta_of(epsilon: float, mu: float) -> float:
    """The delta at which a Gaussian of `mu` is exactly (epsilon, delta)-private; 0 for mu = 0.

    epsilon at least 0, mu at least 0. The two terms are subtracted as logarithms, so that tiny deltas do not cancel.

    >>> round(delta_of(1.0, 1.0), 6)
    0.126937
    """
    return math.exp(_log_delta(epsilon, mu)) if mu > 0 else 0.0


@lru_cache(maxsize=1024)
def epsilon_of(mu: float, delta: float) -> float:
    """Epsilon at `delta` of a Gaussian of `mu`: exact, to 1e-12; 0 where `delta` is enough for it alone.

    mu at least 0, delta in (0, 1). Inverse of delta_of in its first argument.

    >>> round(epsilon_of(1.0, 1e-5), 4)
    4.3772
    >>> epsilon_of(0.0, 1e-5)
    0.0
    """

    def excess(epsilon: float) -> float:
        return _log_delta(epsilon, mu) - math.log(delta)

    if mu == 0 or excess(0.0) <= 0:
        return 0.0
    upper = 1.0
    while excess(upper) > 0:
        upper *= 2
    return float(brentq(excess, 0.0, upper, xtol=1e-12))


def mu_of(epsilon: float, delta: float) -> float:
    """The mu of the Gaussian that is exactly (epsilon, delta)-private. epsilon above 0, delta in (0, 1).

    Inverse of epsilon_of in its first argument, to rounding.

    >>> round(mu_of(epsilon_of(0.5, 1e-5), 1e-5), 9)
    0.5
    """

    def excess(log_mu: float) -> float:
        return epsilon_of(math.exp(log_mu), delta) - epsilon

    upper = 0.0
    while excess(upper) <= 0:
        upper += 1
    lower = upper - 1
    while excess(lower) > 0:
        lower -= 1
    return math.exp(float(brentq(excess, lower, upper, xtol=1e-14)))


def _log_delta(epsilon: float, mu: float) -> float:
    """log(Phi(mu / 2 - epsilon / mu) - e^epsilon Phi(-mu / 2 - epsilon / mu)), with no difference of tiny numbers."""
    upper, lower = float(log_ndtr(mu / 2 - epsilon / mu)), epsilon + float(log_ndtr(-mu / 2 - epsilon / mu))
    return upper + math.log(-math.expm1(min(lower - upper, -1e-300)))
