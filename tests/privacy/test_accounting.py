import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import PRVAccountant, RDPAccountant
from scipy.optimize import brentq
from scipy.stats import norm

from securepfl.errors import ConfigError
from securepfl.privacy.accounting import Release, epsilon, noise_multiplier_for


def release(noise=2.0, rate=1.0, steps=10):
    return Release(noise_multiplier=noise, sample_rate=rate, steps=steps)


def balle_wang(mu, delta):
    """Theorem 8 of arXiv 1805.06530, solved for epsilon."""

    def excess(eps):
        return norm.cdf(mu / 2 - eps / mu) - math.exp(eps + norm.logcdf(-mu / 2 - eps / mu)) - delta

    return brentq(excess, 0, 500, xtol=1e-12)


def opacus_epsilon(accountant, noise, rate, steps, delta):
    accountant.history = [(noise, rate, steps)]
    return accountant.get_epsilon(delta)


@pytest.mark.parametrize(("noise", "steps", "delta"), [(4.8, 20, 1e-5), (1.0, 1, 1e-3), (50.0, 10, 1e-6)])
def test_full_batches_compose_to_one_gaussian_mechanism_exactly(noise, steps, delta):
    mu = math.sqrt(steps) / noise
    assert epsilon([release(noise, 1.0, steps)], delta) == pytest.approx(balle_wang(mu, delta), rel=1e-9)
    assert epsilon([release(noise, 1.0, steps)], delta, "replace-one") == pytest.approx(
        balle_wang(2 * mu, delta), rel=1e-9
    )


def test_different_full_batch_noises_add_as_inverse_squares():
    mu = math.sqrt(3 / 4.0 + 5 / 9.0)
    assert epsilon([release(2.0, 1.0, 3), release(3.0, 1.0, 5)], 1e-5) == pytest.approx(balle_wang(mu, 1e-5))


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")  # in Opacus, at a sample rate of 1
@pytest.mark.parametrize(("noise", "rate", "steps"), [(4.8, 1.0, 20), (1.36, 0.2, 20), (1.1, 0.01, 200)])
def test_agrees_with_opacus(noise, rate, steps):
    ours = epsilon([release(noise, rate, steps)], 1e-5)
    # PRV's answer carries its own error bound of .01; RDP's conversion is looser and must lie above.
    assert ours == pytest.approx(opacus_epsilon(PRVAccountant(), noise, rate, steps, 1e-5), abs=0.03)
    assert ours <= opacus_epsilon(RDPAccountant(), noise, rate, steps, 1e-5)


def test_exact_formula_agrees_with_the_loss_distribution_at_a_sample_rate_of_almost_one():
    exact, composed = (epsilon([release(4.8, rate, 20)], 1e-5) for rate in (1.0, 1 - 1e-9))
    assert composed == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize(("rate", "over_rate"), [(1.0, 4.8), (0.2, 6.8), (0.05, 14.9)])
def test_noise_per_step_at_epsilon_4_and_20_steps(rate, over_rate):
    noise = noise_multiplier_for(4.0, 1e-5, rate, 20)
    assert noise / rate == pytest.approx(over_rate, rel=0.01)
    assert 3.96 <= epsilon([release(noise, rate, 20)], 1e-5) <= 4.0


@settings(max_examples=50, deadline=None)
@given(st.floats(0.01, 100), st.floats(1e-12, 0.1), st.integers(1, 10_000))
def test_calibrated_full_batch_noise_meets_the_target_from_below(target, delta, steps):
    reached = epsilon([release(noise_multiplier_for(target, delta, 1.0, steps), 1.0, steps)], delta)
    assert (1 - 1e-6) * target <= reached <= target


def test_calibrated_rounds_fit_when_they_are_composed_one_by_one():
    noise = noise_multiplier_for(4.0, 1e-5, 1.0, 30)
    assert epsilon([release(noise, 1.0, 1)] * 30, 1e-5) <= 4.0
    assert epsilon([release(noise, 1.0, 1)] * 31, 1e-5) > 4.0


def test_order_and_grouping_do_not_matter_and_more_costs_more():
    mixed = [release(2.0, 1.0, 1), release(1.5, 0.2, 4), release(2.0, 1.0, 2)]
    regrouped = [release(1.5, 0.2, 1), release(2.0, 1.0, 3), release(1.5, 0.2, 3)]
    assert epsilon(mixed, 1e-5) == epsilon(regrouped, 1e-5)
    assert epsilon(mixed, 1e-5) > epsilon(mixed[:2], 1e-5) > epsilon(mixed[:1], 1e-5)


@pytest.mark.parametrize("rate", [1.0, 0.2])
def test_replace_one_costs_more_than_zero_out(rate):
    spent = [release(2.0, rate, 10)]
    assert epsilon(spent, 1e-5, "replace-one") > 1.3 * epsilon(spent, 1e-5)


def test_nothing_released_costs_nothing():
    assert epsilon([], 1e-5) == 0.0
    assert epsilon([release(steps=0)], 1e-5) == 0.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("noise_multiplier", 0.0),
        ("noise_multiplier", math.nan),
        ("sample_rate", 0.0),
        ("sample_rate", 1.1),
        ("steps", -1),
        ("steps", True),
        ("mechanism", "laplace"),
        ("unit", "patient"),
    ],
)
def test_release_names_the_field_that_is_wrong(field, value):
    with pytest.raises(ValueError, match=field):
        Release(**({"noise_multiplier": 1.0, "sample_rate": 1.0, "steps": 1} | {field: value}))


@pytest.mark.parametrize("delta", [0.0, 1.0, 1e-13, math.nan])
def test_delta_out_of_range_is_refused(delta):
    with pytest.raises(ValueError, match="delta"):
        epsilon([release()], delta)


def test_unknown_adjacency_is_refused():
    with pytest.raises(ValueError, match="add-or-remove"):
        epsilon([release()], 1e-5, "add-or-remove")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((0.0, 1e-5, 1.0, 20), "epsilon"),
        ((-1.0, 1e-5, 1.0, 20), "epsilon"),
        ((math.inf, 1e-5, 1.0, 20), "epsilon"),
        ((4.0, 0.0, 1.0, 20), "delta"),
        ((4.0, 1.0, 1.0, 20), "delta"),
        ((4.0, 1e-5, 0.0, 20), "sample_rate"),
        ((4.0, 1e-5, 1.0, 0), "steps"),
    ],
)
def test_calibration_names_the_setting_that_is_wrong(arguments, named):
    with pytest.raises(ConfigError, match=named):
        noise_multiplier_for(*arguments)


@pytest.mark.parametrize("target", [1e-4, 1e-3, 1e3])
@pytest.mark.parametrize("steps", [1, 20, 300])
def test_calibrated_noise_never_exceeds_its_target_however_extreme(target, steps):
    noise = noise_multiplier_for(target, 1e-5, 1.0, steps)
    assert epsilon([Release(noise_multiplier=noise, sample_rate=1.0, steps=steps)], 1e-5) <= target
