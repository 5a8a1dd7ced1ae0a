"""Renyi accounting of sums whose noise several hospitals share, and of all that is composed with them.

dp_accounting has no such event: here it is, with an accountant that knows it beside all that RdpAccountant
knows. What comes out are upper bounds from Renyi divergences, looser than a composition of privacy losses.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dp_accounting.dp_event import DpEvent
from dp_accounting.rdp import RdpAccountant
from numpy.typing import NDArray


@dataclass(frozen=True)
class SharedNoiseDpEvent(DpEvent):  # type: ignore[misc]
    """One sum of integer vectors with `shares` discrete Gaussians N_Z(0, scale^2) on each coordinate.

    sensitivity: largest L2 distance between the sums of two neighbouring data sets, in the same grid units.

    >>> SharedNoiseDpEvent(scale=100, sensitivity=50.0, shares=3, dimension=10).shares
    3
    """

    scale: int
    sensitivity: float
    shares: int
    dimension: int


class SharedNoiseAccountant(RdpAccountant):  # type: ignore[misc]
    """RdpAccountant that also composes SharedNoiseDpEvent. Raises UnsupportedEventError for what neither knows.

    >>> event = SharedNoiseDpEvent(scale=100, sensitivity=50.0, shares=3, dimension=10)
    >>> print(round(SharedNoiseAccountant([2.0, 8.0, 32.0]).compose(event).get_epsilon(1e-5), 2))
    1.55
    """

    def _maybe_compose(self, event: DpEvent, count: int, do_compose: bool) -> Any:
        if not isinstance(event, SharedNoiseDpEvent):
            return super()._maybe_compose(event, count, do_compose)
        if do_compose:
            self._rdp += count * shared_noise_rdp(self._orders, event)
        return None


def shared_noise_rdp(orders: Sequence[float] | NDArray[np.float64], event: SharedNoiseDpEvent) -> NDArray[np.float64]:
    """Renyi divergence of one sum at each order a > 1, a bound.

    A discrete Gaussian of variance s^2 has a S^2 / (2 s^2) (Canonne, Kamath and Steinke 2020, arXiv 2004.00010,
    Proposition 5). The noise of n shares is within e^(+-tau) of N_Z(0, n scale^2) on every integer (Kairouz, Liu and
    Steinke 2021, arXiv 2102.06387, Theorem 1). With P <= e^tau Q and P' >= e^-tau Q', the integral of P^a P'^(1-a) is
    at most e^((2a-1) tau) times that of Q^a Q'^(1-a), on each of the independent coordinates.

    >>> event = SharedNoiseDpEvent(scale=100, sensitivity=50.0, shares=1, dimension=10)
    >>> shared_noise_rdp([2.0, 4.0], event)
    array([0.25, 0.5 ])
    """
    a = np.asarray(orders, dtype=np.float64)
    gaussian = a * event.sensitivity**2 / (2 * event.shares * float(event.scale) ** 2)
    return gaussian + event.dimension * _log_ratio(event.scale, event.shares) * (2 * a - 1) / (a - 1)


def _log_ratio(scale: int, shares: int) -> float:
    """tau: how far, in logarithm, a sum of discrete Gaussians may be from one discrete Gaussian at any integer."""
    k = np.arange(1, shares, dtype=np.float64)
    return float(10 * np.exp(-2 * math.pi**2 * float(scale) ** 2 * k / (k + 1)).sum())
