import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securepfl.errors import ConfigError
from securepfl.privacy.accounting import calibration
from securepfl.privacy.accounting.accounting import Composition, Release, Selection, SharedRelease, epsilon
from securepfl.privacy.accounting.calibration import (
    Bracket,
    narrowed,
    noise_multiplier_for,
    selection_noise_for,
    shared_scale_for,
)


def release(noise=2.0, rate=1.0, steps=10):
    return Release(noise_multiplier=noise, sample_rate=rate, steps=steps)


@pytest.mark.parametrize("root", [0.0, 0.3, 1.0, 7.9])
@pytest.mark.parametrize("between", [lambda b: b.middle, lambda b: b.lower + 0.9 * b.width])
def test_a_bracket_narrows_around_the_root_from_both_sides(root, between):
    found = narrowed(lambda x: root - x, Bracket(-1.0, 8.0), lambda bracket: bracket.width < 1e-9, between)
    assert found.lower < root <= found.upper
    assert found.width < 1e-9
    assert (found.above, found.below) == (root - found.lower, root - found.upper)


def test_a_bracket_that_is_close_is_left_alone():
    def refuse(x):
        raise AssertionError("nothing is to be looked at")

    assert narrowed(refuse, Bracket(0.0, 1.0), lambda bracket: bracket.width <= 1) == Bracket(0.0, 1.0)


def test_a_leap_over_the_root_is_narrowed_to_where_it_leaps():
    found = narrowed(lambda x: 5.0 if x < 2.5 else -5.0, Bracket(0.0, 8.0), lambda bracket: bracket.width < 1e-6)
    assert found.lower < 2.5 <= found.upper


def test_what_is_no_number_meets_no_target(monkeypatch):
    found = narrowed(lambda x: math.nan if x < 2.5 else -1.0, Bracket(0.0, 8.0), lambda bracket: bracket.width < 1e-6)
    assert found.lower < 2.5 <= found.upper
    monkeypatch.setattr(calibration, "epsilon", lambda *_: math.nan)
    with pytest.raises(ConfigError, match="no noise brings"):
        selection_noise_for(1.0, 1e-5, 5.0, "poisson", 10)
    with pytest.raises(ConfigError, match="no scale"):
        shared_scale_for(1.0, 1e-5, 10, 3, 200.0, 100, 0.0)


@pytest.mark.parametrize(("mean", "shape"), [(1.0, 1.0), (4.0, 0.0), (9.0, "poisson")])
def test_the_noise_of_a_selection_is_within_a_thousandth_of_the_least_that_meets_its_target(mean, shape):
    def cost(noise):
        candidate = (Release(noise_multiplier=noise, sample_rate=1.0, steps=10),)
        return epsilon([Selection(candidate=candidate, mean=mean, shape=shape)], 1e-5)

    noise = selection_noise_for(2.0, 1e-5, mean, shape, 10)
    assert cost(noise) <= 2.0 < cost(noise / 1.001)


def test_a_selection_that_no_noise_makes_cheap_enough_is_refused():
    with pytest.raises(ConfigError, match=r"epsilon is 0\.001: no noise"):
        selection_noise_for(0.001, 1e-5, 4.0, 1.0, 10)


def test_calibrated_numbers_of_before_stay_what_they_were_to_the_last_bit():
    """They go into training: another last digit is another model for the same seed."""
    assert noise_multiplier_for(4.0, 1e-5, 1.0, 30) == 5.921767338884269
    assert noise_multiplier_for(4.0, 1e-5, 0.05, 500) == 1.4539972713237823
    assert shared_scale_for(4.0, 1e-5, 30, 3, 4200.5, 1000, 2.0**-40) == 15377
    assert selection_noise_for(1.0, 1e-5, 8.0, 0.0, 20) == 30.671122477928094


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


@pytest.mark.parametrize(("rate", "steps", "target"), [(1e-3, 100, 0.1), (0.01, 1000, 2.0), (0.1, 100_000, 10.0)])
def test_calibrated_poisson_noise_meets_the_target_within_one_percent(rate, steps, target):
    noise = noise_multiplier_for(target, 1e-5, rate, steps)
    assert 0.99 * target <= epsilon([release(noise, rate, steps)], 1e-5) <= target


@settings(max_examples=20, deadline=None)
@given(target=st.floats(0.1, 20), steps=st.integers(1, 1000), shares=st.integers(1, 50), sensitivity=st.floats(1, 1e6))
def test_the_shared_scale_is_the_least_that_meets_its_target(target, steps, shares, sensitivity):
    scale = shared_scale_for(target, 1e-5, steps, shares, sensitivity, 10**6, 1e-15)
    fields = {"sensitivity": sensitivity, "shares": shares, "dimension": 10**6, "tail": 1e-15, "steps": steps}
    assert epsilon([SharedRelease(scale=scale, **fields)], 1e-5) <= target
    assert scale == 8 or epsilon([SharedRelease(scale=scale - 1, **fields)], 1e-5) > target


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"target": 0.0}, "epsilon"),
        ({"delta": 0.0}, "delta"),
        ({"steps": 0}, "steps"),
        ({"shares": 0}, "shares"),
        ({"sensitivity": 0.5}, "sensitivity"),
        ({"dimension": 0}, "dimension"),
        ({"tail": 1e-5}, "tail"),
    ],
)
def test_the_shared_scale_names_the_setting_that_is_wrong(changes, named):
    fields = {"target": 1.0, "delta": 1e-5, "steps": 1, "shares": 2, "sensitivity": 9.0, "dimension": 5, "tail": 0.0}
    with pytest.raises(ConfigError, match=named):
        shared_scale_for(**fields | changes)


@pytest.mark.parametrize(
    ("target", "delta", "rate", "steps"),
    [
        (0.6717, 8.729479367822723e-09, 1.3960903654570052e-05, 14),
        (0.683, 8.7e-9, 1.396e-5, 14),
        (8.0, 1e-5, 0.999, 3),
        (1.134, 8.6e-9, 0.00281, 2),
        (2.124, 4.5e-12, 1e-3, 100_000),
        (0.2365, 2.2e-10, 0.951, 663),
    ],
)
def test_a_budget_of_the_target_always_pays_for_the_last_poisson_step(target, delta, rate, steps):
    noise = noise_multiplier_for(target, delta, rate, steps)
    composed = Composition.of([release(noise, rate, steps - 1)]).with_release(release(noise, rate, 1))
    assert 0.99 * target <= composed.epsilon(delta) <= target


@settings(max_examples=5, deadline=None)
@given(
    target=st.floats(0.1, 20), delta=st.floats(1e-10, 1e-5), rate=st.floats(1e-4, 0.999), steps=st.integers(1, 100_000)
)
def test_calibrated_poisson_noise_never_exceeds_its_target(target, delta, rate, steps):
    noise = noise_multiplier_for(target, delta, rate, steps)
    assert epsilon([release(noise, rate, steps)], delta) <= target


def test_where_hardly_anybody_is_drawn_no_noise_is_called_for():
    with pytest.raises(ConfigError, match="drawn"):
        noise_multiplier_for(1.0, 1e-3, 1e-5, 10)


@pytest.mark.parametrize("rate", [0.5, 1.0])
def test_calibrated_noise_can_be_released_up_to_an_epsilon_of_ten_thousand(rate):
    noise = noise_multiplier_for(1e4, 1e-5, rate, 1)
    assert epsilon([release(noise, rate, 1)], 1e-5) <= 1e4
