"""Encoding rounds exactly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securepfl.crypto.sums.encoding import encoded
from securepfl.crypto.sums.parameters import SETS


@pytest.mark.parametrize("parameters", SETS, ids=lambda p: p.name)
@given(st.data())
@settings(max_examples=40, deadline=None)
def test_words_are_scaled_and_rounded_exactly(parameters, data):
    q, t = parameters.coeff_modulus, parameters.plain_modulus
    drawn = data.draw(st.lists(st.integers(0, t - 1), min_size=1, max_size=50))
    # Those that lie nearest to a half, and the ends.
    halves = [pow(q, -1, t) * (t // 2 + shift) % t for shift in (-1, 0, 1, 2)]
    words = [0, 1, t - 1, *halves, *drawn]
    found = encoded(np.array(words, dtype=np.uint64), t, q).tolist()
    assert found == [(2 * q * word + t) // (2 * t) for word in words]
