import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from securepfl.errors import ConfigError
from securepfl.learning.sparse.difference import load_solver
from securepfl.learning.sparse.shrinking import regularise, soft_threshold

UPDATE = np.array([3.0, 1.0, 2.0, -4.0])  # root mean square sqrt(7.5)


@pytest.fixture
def without_numba(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "securepfl.learning.sparse.taut_string", raising=False)


@given(g=st.lists(st.floats(-1e9, 1e9), max_size=20).map(np.array), threshold=st.floats(0, 1e9))
def test_soft_threshold_is_the_textbook_formula(g, threshold):
    expected = np.sign(g) * np.maximum(np.abs(g) - threshold, 0.0)
    np.testing.assert_allclose(soft_threshold(g, threshold), expected, rtol=1e-15, atol=0)


def test_soft_threshold_makes_zeros_exactly_and_leaves_the_input():
    g = np.array([[0.1, -0.1], [0.3, -2.0]])
    assert soft_threshold(g, 0.3).tolist() == [[0.0, 0.0], [0.0, -1.7]]
    assert soft_threshold(g, math.inf).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert g.tolist() == [[0.1, -0.1], [0.3, -2.0]]


@pytest.mark.parametrize("threshold", [-0.5, math.nan])
def test_a_threshold_that_is_none_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold must be at least 0"):
        soft_threshold(UPDATE, threshold)


def test_soft_threshold_refuses_what_is_not_finite():
    with pytest.raises(ValueError, match="g must be finite"):
        soft_threshold(np.array([1.0, math.nan]), 1.0)


def test_strength_is_in_root_mean_squares():
    root = math.sqrt(7.5)
    assert regularise(UPDATE, "soft", 1.0).tolist() == pytest.approx([3 - root, 0, 0, root - 4])
    pytest.importorskip("numba", reason="needs numba, the extra securepfl[sparse]")
    # The largest running sum is 3 + 1 + 2.
    assert regularise(UPDATE, "difference", 6.01 / root).tolist() == [0, 0, 0, 0]
    assert regularise(UPDATE, "difference", 5.99 / root).any()


@pytest.mark.parametrize("kind", ["soft", "difference"])
@pytest.mark.parametrize("c", [1e-200, -0.1, 1e200])
def test_a_scaled_update_gives_the_scaled_result(kind, c):
    if kind == "difference":
        pytest.importorskip("numba", reason="needs numba, the extra securepfl[sparse]")
    expected = c * regularise(UPDATE, kind, 0.3)
    np.testing.assert_allclose(regularise(c * UPDATE, kind, 0.3), expected, rtol=1e-12)
    assert expected.any()
    assert not regularise(0.0 * UPDATE, kind, 0.3).any()
    assert regularise(UPDATE[:0], kind, 0.3).size == 0


@pytest.mark.parametrize(
    ("update", "kind", "strength", "message"),
    [
        (UPDATE, "none", 1.0, 'kind must be "soft" or "difference", not \'none\''),
        (UPDATE, "soft", -1.0, "strength must be finite and at least 0, not -1.0"),
        (UPDATE, "soft", math.nan, "strength must be finite and at least 0, not nan"),
        (UPDATE, "soft", math.inf, "strength must be finite and at least 0, not inf"),
        (np.array([1.0, math.inf]), "soft", 1.0, "update must be a finite vector"),
        (np.ones((2, 2)), "soft", 1.0, "update must be a finite vector"),
    ],
    ids=["kind", "negative", "nan", "infinite", "update infinite", "matrix"],
)
def test_what_is_refused(update, kind, strength, message):
    with pytest.raises(ValueError, match=message):
        regularise(update, kind, strength)


@pytest.mark.usefixtures("without_numba")
@pytest.mark.parametrize("use", [load_solver, lambda: regularise(UPDATE, "difference", 0.0)], ids=["load", "use"])
def test_without_numba_the_remedy_is_named_in_one_line(use):
    with pytest.raises(ConfigError) as caught:
        use()
    message = str(caught.value)
    assert message.endswith(": pip install 'securepfl[sparse]'")
    assert "\n" not in message


@pytest.mark.usefixtures("without_numba")
def test_the_soft_threshold_needs_no_numba():
    assert regularise(UPDATE, "soft", 0.0).tolist() == UPDATE.tolist()
