import math

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.privacy_accountant import UnsupportedEventError
from dp_accounting.rdp import RdpAccountant
from scipy.special import logsumexp

from securepfl.privacy.accounting.shared_noise import SharedNoiseAccountant, SharedNoiseDpEvent, shared_noise_rdp

ORDERS = np.array([1.5, 2.0, 4.0, 16.0])


def discrete_gaussian(variance, reach=400):
    """P[X = k] for |k| <= reach."""
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * variance))
    return weights / weights.sum()


def divergence(p, shift, order):
    """Renyi divergence of `p` from itself moved by `shift`."""
    moved = np.roll(p, shift)
    both = (p > 0) & (moved > 0)
    return logsumexp(order * np.log(p[both]) - (order - 1) * np.log(moved[both])) / (order - 1)


@pytest.mark.parametrize("shares", [1, 2, 5])
@pytest.mark.parametrize("scale", [1, 2, 8])
def test_the_bound_holds_for_sums_that_are_convolved_number_by_number(scale, shares):
    """Scales below 8 too, where the sum is visibly no discrete Gaussian."""
    p = discrete_gaussian(scale**2)
    for _ in range(shares - 1):
        p = np.convolve(p, discrete_gaussian(scale**2), mode="same")
    for shift in (1, 3):
        bound = shared_noise_rdp(ORDERS, SharedNoiseDpEvent(scale, float(shift), shares, 1))
        exact = [divergence(p, shift, order) for order in ORDERS]
        assert (exact <= bound * (1 + 1e-6)).all()
        assert bound[0] <= 1.001 * exact[0] or scale == 1


def test_the_distance_from_one_discrete_gaussian_counts_for_every_coordinate():
    one, many = (shared_noise_rdp(ORDERS, SharedNoiseDpEvent(1, 1.0, 3, dimension)) for dimension in (1, 11))
    tau = 10 * (math.exp(-(math.pi**2)) + math.exp(-(math.pi**2) * 4 / 3))
    assert many - one == pytest.approx(10 * tau * (2 * ORDERS - 1) / (ORDERS - 1))


def test_one_share_is_a_gaussian_mechanism():
    ours = SharedNoiseAccountant(ORDERS).compose(SharedNoiseDpEvent(100, 25.0, 1, 10**6), 7)
    theirs = RdpAccountant(ORDERS).compose(dp_event.GaussianDpEvent(4.0), 7)
    assert ours.rdp == pytest.approx(theirs.rdp)


def test_it_composes_with_all_that_the_library_knows():
    shared = SharedNoiseDpEvent(100, 25.0, 4, 10)
    other = dp_event.PoissonSampledDpEvent(0.1, dp_event.GaussianDpEvent(2.0))
    nested = dp_event.ComposedDpEvent([dp_event.SelfComposedDpEvent(shared, 3), other])
    parts = SharedNoiseAccountant(ORDERS).compose(shared, 3).compose(other)
    assert SharedNoiseAccountant(ORDERS).compose(nested).rdp == pytest.approx(parts.rdp)
    assert parts.rdp == pytest.approx(3 * shared_noise_rdp(ORDERS, shared) + RdpAccountant(ORDERS).compose(other).rdp)
    assert SharedNoiseAccountant(ORDERS).supports(nested) and not RdpAccountant(ORDERS).supports(nested)


@pytest.mark.parametrize(
    "event",
    [
        dp_event.UnsupportedDpEvent(),
        dp_event.PoissonSampledDpEvent(0.1, SharedNoiseDpEvent(100, 25.0, 4, 10)),
        dp_event.ComposedDpEvent([SharedNoiseDpEvent(100, 25.0, 4, 10), dp_event.DpEvent()]),
    ],
)
def test_what_it_does_not_know_is_refused_and_changes_nothing(event):
    accountant = SharedNoiseAccountant(ORDERS)
    with pytest.raises(UnsupportedEventError):
        accountant.compose(event)
    assert (accountant.rdp == 0).all()


def test_an_event_never_changes():
    with pytest.raises(AttributeError):
        SharedNoiseDpEvent(100, 25.0, 4, 10).shares = 5
