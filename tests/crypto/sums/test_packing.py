"""Quantisation and slots."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securepfl.crypto.sums.packing import dequantise, dequantise_sum, pack, quantise, unpack
from securepfl.crypto.sums.parameters import choose_layout
from securepfl.randomness import RandomStream


def stream(label=0):
    return RandomStream(bytes([label]) * 32)


@pytest.mark.parametrize("bits", [2, 5, 10, 16])
def test_zero_and_both_limits_are_exact(bits):
    values = np.array([0.0, 0.3, -0.3] * 50)
    result = quantise(values, bits, 0.3, stream())
    assert (dequantise(result.levels, bits, 0.3) == values).all()
    assert result.clipped == 0


def test_clipping_is_counted_and_lands_on_the_limit():
    result = quantise(np.array([0.5, -9.0, 0.1]), 8, 0.25, stream())
    assert result.clipped == 2
    assert dequantise(result.levels, 8, 0.25)[:2].tolist() == [0.25, -0.25]


def test_rounding_is_unbiased_and_never_moves_past_a_neighbouring_level():
    values = np.full(20_000, 0.123456)
    back = dequantise(quantise(values, 6, 1.0, stream()).levels, 6, 1.0)
    step = 1.0 / (2**5 - 1)
    assert abs(back - values).max() < step
    assert abs(back.mean() - 0.123456) < 4 * step / 2 / 20_000**0.5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match="finite"):
        quantise(np.array([0.0, bad]), 8, 1.0, stream())


@given(st.integers(1, 40), st.integers(2, 12), st.integers(1, 5), st.integers(1, 3), st.data())
@settings(max_examples=60, deadline=None)
def test_weighted_sums_of_slots_unpack_to_weighted_sums_of_levels(values, bits, clients, max_weight, data):
    layout = choose_layout(values, bits, clients, max_weight)
    top = 2**bits - 2
    level = st.one_of(st.just(top), st.integers(0, top))
    rows = data.draw(st.lists(st.lists(level, min_size=values, max_size=values), min_size=1, max_size=clients))
    weights = [data.draw(st.integers(1, max_weight)) for _ in rows]
    slots, sums = np.zeros(layout.value_slots, dtype=np.uint64), np.zeros(values, dtype=np.uint64)
    for row, weight in zip(rows, weights, strict=True):
        levels = np.array(row, dtype=np.uint64)
        slots = (slots + pack(levels, layout) * np.uint64(weight)) % np.uint64(layout.parameters.plain_modulus)
        sums += levels * np.uint64(weight)
    assert (unpack(slots, layout) == sums).all()


def test_a_sum_of_levels_is_the_sum_of_the_values():
    rows = [quantise(np.linspace(-1, 1, 7) * scale, 10, 1.0, stream(i)) for i, scale in enumerate((1.0, 0.4))]
    total = dequantise_sum(rows[0].levels + np.uint64(2) * rows[1].levels, 3, 10, 1.0)
    apart = dequantise(rows[0].levels, 10, 1.0) + 2 * dequantise(rows[1].levels, 10, 1.0)
    np.testing.assert_allclose(total, apart, atol=1e-12)


def test_levels_off_the_grid_or_of_a_wrong_shape_are_refused():
    layout = choose_layout(3, 4, 2)
    with pytest.raises(ValueError, match="at most 14"):
        pack(np.array([0, 15, 0], dtype=np.uint64), layout)
    with pytest.raises(ValueError, match="shape"):
        pack(np.zeros(4, dtype=np.uint64), layout)
