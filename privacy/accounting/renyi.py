"""Epsilon of releases of any kinds, composed by Renyi divergences (Mironov 2017, arXiv 1702.07476): upper bounds.

dp_accounting's divergence of Poisson-sampled steps at fractional orders can overstate a lot where orders are low: safe,
but loose. So shared noise or a selection together with sampled steps may cost clearly more than need be.

Where the kinds of later releases are chosen after a look at earlier results, the sum of their divergences at ONE order,
fixed before, bounds what all of them show (Feldman and Zrnic 2021, arXiv 2008.11193; Lecuyer 2021, arXiv 2103.01379):
the best of many orders, chosen at the end, does not.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from dp_accounting import dp_event
from dp_accounting.privacy_accountant import NeighboringRelation
from dp_accounting.rdp.rdp_privacy_accountant import compute_delta, compute_epsilon
from numpy.typing import NDArray
from scipy.optimize import brentq

from securepfl.privacy.accounting.events import POISSON, AnyRelease, Release, Selection, SharedRelease
from securepfl.privacy.accounting.losses import Adjacency
from securepfl.privacy.accounting.shared_noise import SharedNoiseAccountant, SharedNoiseDpEvent

# Below 2 dp_accounting often fails to converge for sampled steps; those orders only matter to an epsilon past use.
_ORDERS = [x / 10 for x in range(20, 110)] + list(range(11, 64)) + [round(64 * 2 ** (x / 4)) for x in range(21)]

_ROUNDING = 1e-15  # of a moment near 1, a step: a billion steps pay 1e-6 / (order - 1) for it


def renyi_epsilon(counts: Mapping[AnyRelease, int], tail: float, delta: float, adjacency: Adjacency) -> float:
    """Epsilon at `delta` where each release's single step happened as often as its count says; inf where none holds.

    tail: chance that something went otherwise than the releases say. On one data set it adds to delta, on its
    neighbour it is weighed by e^epsilon, so delta keeps (1 + e^epsilon) tail less for the conversion.

    >>> one = Release(noise_multiplier=5.0, sample_rate=1.0, steps=1)
    >>> round(renyi_epsilon({one: 30}, 0.0, 1e-5, "zero-out"), 1)  # 4.9 in truth
    5.3
    """
    sampled = any(_sampled(release) for release in counts)
    clips = 2.0 if adjacency == "replace-one" and not sampled else 1.0
    spent = np.zeros(len(_ORDERS))
    for release, count in counts.items():
        spent = spent + count * _curve(release, clips)
    if adjacency == "replace-one" and sampled:
        return _with_tail(lambda left: _twice(_ORDERS, spent, left), tail, delta)
    return _with_tail(lambda left: float(compute_epsilon(_ORDERS, spent, left)[0]), tail, delta)


@lru_cache(maxsize=1024)
def order_for(epsilon: float, delta: float) -> int:
    """The order at which a budget of `epsilon` at `delta` holds the most full-batch Gaussians: any would be valid.

    >>> order_for(4.0, 1e-5), order_for(1.0, 1e-5)
    (6, 18)
    """
    whole = [int(order) for order in _ORDERS if order == int(order)]
    # rdp + log(1 - 1 / a) - log(delta a) / (a - 1): Canonne, Kamath and Steinke 2020, Proposition 12.
    return max(whole, key=lambda a: (epsilon - math.log1p(-1 / a) + math.log(delta * a) / (a - 1)) / a)


def rho_at_order(release: AnyRelease, order: int) -> float:
    """Renyi divergence of one step of `release` at `order`, one of order_for's, under zero-out.

    >>> rho_at_order(Release(noise_multiplier=5.0, sample_rate=1.0, steps=1), 10)
    0.2
    """
    return _rho(release, order, 1.0)


def epsilon_at_order(
    counts: Mapping[AnyRelease, int], order: int, spent: float, tail: float, delta: float, adjacency: Adjacency
) -> float:
    """As `renyi_epsilon` by one order alone. spent: the divergence of all of them there, under zero-out.

    >>> one = Release(noise_multiplier=5.0, sample_rate=1.0, steps=1)
    >>> round(epsilon_at_order({one: 30}, 7, 30 * rho_at_order(one, 7), 0.0, 1e-5, "zero-out"), 1)
    5.6
    """
    orders = [order]
    if adjacency == "replace-one":
        if any(_sampled(release) for release in counts):
            return _with_tail(lambda left: _twice(orders, np.array([spent]), left), tail, delta)
        spent = math.fsum(count * _rho(release, order, 2.0) for release, count in counts.items())
    return _with_tail(lambda left: float(compute_epsilon(orders, [spent], left)[0]), tail, delta)


@lru_cache(maxsize=1024)
def _rho(release: AnyRelease, order: int, clips: float) -> float:
    # A selection's bound at one order takes its candidate's at others: some are enough.
    orders = [order, *_ORDERS[::6]] if isinstance(release, Selection) else [order]
    accountant = SharedNoiseAccountant(orders, NeighboringRelation.REPLACE_SPECIAL)
    rho = max(float(accountant.compose(_event(release, clips)).rdp[0]), 0.0)
    return rho + _ROUNDING / (order - 1) if _sampled(release) else rho


def _sampled(release: AnyRelease) -> bool:
    match release:
        case Release():
            return release.sample_rate < 1
        case Selection():
            return any(_sampled(one) for one in release.candidate)
        case _:
            return False


@lru_cache(maxsize=1024)
def _curve(release: AnyRelease, clips: float) -> NDArray[np.float64]:
    """Renyi divergence of ONE step of `release` at each of _ORDERS, where the sum moves by `clips` sensitivities.

    dp_accounting takes the logarithm of a moment near 1, so rounding may leave a sampled step's too low, even below 0.
    """
    # Under replace-one dp_accounting refuses Poisson sampling; zero-out changes nothing for the rest.
    accountant = SharedNoiseAccountant(_ORDERS, NeighboringRelation.REPLACE_SPECIAL)
    curve: NDArray[np.float64] = np.maximum(accountant.compose(_event(release, clips)).rdp, 0)
    return curve + _ROUNDING / (np.asarray(_ORDERS) - 1) if _sampled(release) else curve


def _event(release: AnyRelease, clips: float) -> Any:
    """One step of `release`, in dp_accounting's terms. Raises TypeError for a kind that is none of ours."""
    match release:
        case Release():
            gaussian = dp_event.GaussianDpEvent(release.noise_multiplier / clips)
            sampled = release.sample_rate < 1
            return dp_event.PoissonSampledDpEvent(release.sample_rate, gaussian) if sampled else gaussian
        case SharedRelease():
            return SharedNoiseDpEvent(release.scale, clips * release.sensitivity, release.shares, release.dimension)
        case Selection():
            parts = [dp_event.SelfComposedDpEvent(_event(one, clips), one.steps) for one in release.candidate]
            shape = math.inf if release.shape == POISSON else release.shape
            return dp_event.RepeatAndSelectDpEvent(dp_event.ComposedDpEvent(parts), release.mean, shape)
    raise TypeError(f"release must be one of {AnyRelease}, not {type(release).__name__}")


def _twice(orders: Sequence[float], spent: NDArray[np.float64], delta: float) -> float:
    """Replace-one as two zero-outs: (e, d) twice is (2e, (1 + e^e) d), for the least e at which that is `delta`."""

    def excess(half: float) -> float:
        least = compute_delta(orders, spent, half)[0]
        return math.log(max(least, 1e-300)) + float(np.logaddexp(0, half)) - math.log(delta)

    if excess(0.0) <= 0:
        return 0.0
    upper = 1.0
    while excess(upper) > 0:
        upper *= 2
        if upper > 1e6:
            return math.inf
    root = float(brentq(excess, 0.0, upper, xtol=1e-9))
    while excess(root) > 0:
        root += 1e-9 * (1 + root)
    return 2 * root


def _with_tail(epsilon: Callable[[float], float], tail: float, delta: float) -> float:
    """The least fixed point of e = epsilon(delta - (1 + exp(e)) tail), approached from below."""
    if tail == 0:
        return epsilon(delta)
    found = 0.0
    for _ in range(100):
        left = delta - (1 + math.exp(min(found, 700.0))) * tail
        if left <= 0:
            return math.inf
        next_ = epsilon(left)
        if next_ <= found * (1 + 1e-12):
            return found
        found = next_ * (1 + 1e-12)
    return math.inf
