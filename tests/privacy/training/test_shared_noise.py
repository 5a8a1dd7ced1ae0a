"""The integer grid: norms that never pass the sensitivity, unbiased rounding, shares that add up to the noise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from securepfl.errors import ConfigError
from securepfl.privacy.accounting.accounting import epsilon
from securepfl.privacy.training.discrete import tail_bound
from securepfl.privacy.training.integer_sum import IntegerSum
from securepfl.privacy.training.noise_plan import plan_shared_noise
from securepfl.privacy.training.shared_noise import TAIL, SharedNoise
from securepfl.randomness import RandomStream

LIMIT = 2**23 - 1


def plan(**changes):
    settings_ = {
        "epsilon": 1.0,
        "delta": 1e-5,
        "steps": 10,
        "hospitals": 8,
        "absent": 1,
        "dimension": 31,
        "units": 600,
        "limit": LIMIT,
    }
    return plan_shared_noise(**(settings_ | changes))


def stream(label=0):
    return RandomStream(bytes([label]) * 32)


def silent(grid=64, dimension=5):
    """A plan for looking at rounding alone; its noise is drawn by nobody here."""
    return SharedNoise(grid=grid, scale=8, shares=1, dimension=dimension, limit=LIMIT)


@pytest.mark.parametrize("target", [0.25, 1.0, 8.0])
@pytest.mark.parametrize(("hospitals", "absent"), [(4, 1), (16, 3)])
def test_the_plan_spends_epsilon_and_no_more(target, hospitals, absent):
    noise = plan(epsilon=target, hospitals=hospitals, absent=absent)
    spent = epsilon([noise.release("record", 10, 10)], 1e-5)
    assert 0.97 * target < spent <= target
    assert noise.shares == hospitals - absent


def test_with_more_shares_each_hospital_adds_less():
    few, many = plan(hospitals=5), plan(hospitals=17)
    assert many.scale / many.grid == pytest.approx(few.scale / few.grid / 2, rel=0.01)
    assert many.noise_multiplier == pytest.approx(few.noise_multiplier, rel=0.01)


@pytest.mark.parametrize("units", [10, 600, 20_000])
def test_no_sum_leaves_its_field_but_with_the_chance_that_delta_pays(units):
    noise = plan(units=units)
    room = LIMIT - units * noise.grid
    assert room > 0
    assert tail_bound(noise.scale, room) * noise.dimension * 10 * 8 <= TAIL
    assert noise.release("record", 3, 10).tail == pytest.approx(0.3 * TAIL)


@pytest.mark.parametrize("changes", [{"units": 10**6}, {"units": 50_000, "dimension": 10**6}])
def test_more_than_fits_is_refused_rather_than_drowned_in_rounding(changes):
    with pytest.raises(ConfigError, match="shared_noise"):
        plan(**changes)


@pytest.mark.parametrize("dimension", [31, 10_000, 10**6])
def test_rounding_adds_half_the_noise_at_most(dimension):
    noise = plan(dimension=dimension)
    assert noise.sensitivity <= 1.5 * noise.grid


@given(st.integers(1, 40), st.integers(0, 2**32 - 1), st.floats(0, 1), st.sampled_from([16, 256, 4096]))
@settings(max_examples=150, deadline=None)
def test_no_unit_moves_a_sum_by_more_than_the_sensitivity(dimension, seed, personal, grid):
    """Also those that rounding makes longest: all coordinates just above a half step."""
    noise, rng = silent(grid, dimension), np.random.default_rng(seed)
    for vector in (rng.standard_normal(dimension), np.ones(dimension), np.full(dimension, 0.5 / grid)):
        clipped = vector / max(1.0, np.linalg.norm(vector) / np.sqrt(1 - personal**2) + 1e-12)
        total = IntegerSum.empty(noise, stream(seed % 256), dimension)
        total.add(clipped[None], np.array([personal * (1 - 1e-9)]))
        assert (total.total**2).sum() + (personal * grid) ** 2 <= noise.sensitivity**2 * (1 + 1e-9)


def test_a_gradient_that_was_not_clipped_is_refused():
    total = IntegerSum.empty(silent(), stream(), 5)
    with pytest.raises(ValueError, match="clipped"):
        total.add(np.full((1, 5), 1.0), np.zeros(1))
    with pytest.raises(ValueError, match="clipped"):
        total.add(np.full((1, 5), 0.4), np.array([1.1]))


def test_rounding_is_unbiased():
    repeats, gradient = 20_000, np.array([0.3, -0.3, 0.004, 0.0, 0.7])
    total = IntegerSum.empty(silent(), stream(), 5)
    total.add(np.tile(gradient, (repeats, 1)), np.zeros(repeats))
    assert np.abs(total.total / repeats / 64 - gradient).max() < 5 * 0.5 / 64 / np.sqrt(repeats)


def test_the_shares_of_all_hospitals_add_up_to_the_noise():
    noise = plan(dimension=4000)
    shares = [IntegerSum.empty(noise, stream(label), 4000).noisy() for label in range(7)]
    total = np.sum(shares, axis=0) / noise.grid
    assert stats.kstest(total / noise.noise_multiplier, "norm").pvalue > 1e-4
    assert total.std() == pytest.approx(noise.noise_multiplier, rel=0.06)


def test_a_sum_takes_its_noise_once():
    sums = IntegerSum.empty(plan(), stream(), 5)
    sums.noisy()
    with pytest.raises(ValueError, match="drawn before"):
        sums.noisy()


def test_what_would_leave_the_field_stops_at_its_edge():
    noise = SharedNoise(grid=64, scale=1000, shares=1, dimension=50, limit=500)
    noisy = IntegerSum.empty(noise, stream(), 50).noisy()
    assert np.abs(noisy).max() == 500
