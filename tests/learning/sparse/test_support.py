import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securepfl.learning.sparse.support import add_residual, choose_support, most_coordinates, new_residual

KEY = bytes(range(32))


DEFAULTS = {"density": 0.3, "block": 4, "exploration": 0.34, "key": KEY, "round_number": 1}


def support(last, size, **changed):
    return choose_support(last, size, **(DEFAULTS | changed))


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 300),
    block=st.integers(1, 40),
    percent=st.integers(1, 100),
    exploration=st.floats(0, 1),
    seen=st.booleans(),
)
def test_exactly_the_stated_number_of_whole_blocks_is_chosen(size, block, percent, exploration, seen):
    last = np.sin(np.arange(size)) * (np.arange(size) % 3 == 0) if seen else None
    chosen = support(last, size, density=percent / 100, block=block, exploration=exploration)
    blocks = [chosen[start : start + block] for start in range(0, size, block)]
    assert all(part.all() or not part.any() for part in blocks)
    assert sum(part.any() for part in blocks) == math.ceil(percent * len(blocks) / 100)
    assert 0 <= most_coordinates(size, percent / 100, block) - chosen.sum() < block


def test_a_density_that_is_a_whole_number_of_blocks_is_not_rounded_past_it():
    assert support(None, 100, density=0.07, block=1).sum() == 7


def test_without_exploration_the_blocks_of_largest_norm_are_chosen():
    last = np.full(40, 0.1)
    last[[5, 22, 39]] = [1.0, -3.0, 2.0]
    assert set(np.flatnonzero(support(last, 40, exploration=0.0)) // 4) == {1, 5, 9}


def test_norm_counts_the_whole_block_not_its_peak():
    last = np.array([3.0, 0, 0, 0, 2, 2, 2, 2])
    assert np.flatnonzero(support(last, 8, density=0.5, exploration=0.0)).tolist() == [4, 5, 6, 7]


def test_exploration_keeps_the_largest_and_draws_the_rest_anew_each_round():
    last = np.zeros(400)
    last[:40] = np.arange(40, 0, -1)
    draws = [set(np.flatnonzero(support(last, 400, density=0.1, round_number=r)[::4])) for r in range(6)]
    assert all(len(draw) == 10 and {0, 1, 2, 3, 4, 5} <= draw for draw in draws)
    assert len({frozenset(draw) for draw in draws}) == 6


def test_hospitals_agree_and_other_keys_or_rounds_do_not():
    one = support(None, 400, density=0.1)
    assert np.array_equal(one, support(None, 400, density=0.1))
    assert not np.array_equal(one, support(None, 400, density=0.1, key=bytes(32)))
    assert not np.array_equal(one, support(None, 400, density=0.1, round_number=2))


def test_every_coordinate_is_reached_in_time():
    last = np.zeros(80)
    last[:24] = 1.0
    reached = np.any([support(last, 80, round_number=r) for r in range(60)], axis=0)
    assert reached.all()


def test_blocks_with_the_same_values_in_another_order_tie_by_index():
    for seed in range(30):
        rng = np.random.default_rng(seed)
        values = rng.normal(size=257)
        last = np.concatenate([rng.permutation(values), rng.permutation(values)])
        chosen = support(last, last.size, density=0.5, block=257, exploration=0.0)
        assert chosen[:257].all()
        assert not chosen[257:].any()


@pytest.mark.parametrize("last", [None, np.zeros(50)])
def test_nothing_known_means_all_drawn(last):
    assert np.array_equal(support(last, 50, exploration=0.0), support(None, 50, exploration=1.0))


def test_full_density_is_everything():
    assert support(np.ones(10), 10, density=1.0).all()


def test_no_shared_parameters_give_an_empty_support():
    assert support(None, 0).shape == (0,)


@pytest.mark.parametrize(
    "wrong",
    [{"density": 0.0}, {"density": 1.1}, {"block": 0}, {"exploration": -0.1}, {"round_number": -1}],
)
def test_settings_out_of_range_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        support(None, 10, **wrong)


@pytest.mark.parametrize("last", [np.ones(9), np.full(10, np.nan)])
def test_an_aggregate_that_cannot_be_ranked_is_refused(last):
    with pytest.raises(ValueError, match="last_aggregate"):
        support(last, 10)


@settings(max_examples=20, deadline=None)
@given(rounds=st.integers(1, 8), seed=st.integers(0, 999))
def test_error_feedback_loses_nothing(rounds, seed):
    rng = np.random.default_rng(seed)
    residual, updates, sent_in_all = np.zeros(20), np.zeros(20), np.zeros(20)
    for round_number in range(rounds):
        update = rng.normal(size=20).astype(np.float32)
        corrected = add_residual(update, residual)
        sent = np.clip(np.rint(corrected * 8) / 8, -1, 1) * support(None, 20, round_number=round_number)
        residual = new_residual(corrected, sent)
        updates, sent_in_all = updates + update, sent_in_all + sent
    np.testing.assert_allclose(sent_in_all + residual, updates, atol=1e-12)


def test_error_feedback_refuses_shapes_that_would_broadcast():
    with pytest.raises(ValueError, match=r"\(1,\)"):
        add_residual(np.zeros(3), np.zeros(1))
    with pytest.raises(ValueError, match=r"\(1,\)"):
        new_residual(np.zeros(3), np.zeros(1))
