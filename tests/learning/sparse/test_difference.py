import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securepfl.learning.sparse.difference import difference_sparse

pytest.importorskip("numba", reason="needs numba, the extra securepfl[sparse]")

TIES = st.integers(-3, 3).map(float)
PLAIN = st.integers(-(10**9), 10**9).map(lambda n: n / 1000)
WIDE = st.builds(lambda sign, power: sign * 10.0**power, st.sampled_from([-1.0, 1.0]), st.integers(-300, 300))
VECTORS = st.one_of(*(st.lists(values, min_size=1, max_size=40) for values in (TIES, PLAIN, WIDE))).map(np.array)
STRENGTHS = st.floats(1e-3, 30)

D = 300
CURVES = {
    "rising ramp": np.linspace(-1, 1, D),
    "falling ramp": np.linspace(1, -1, D),
    "alternating": (-1.0) ** np.arange(D),
    "parabola": np.linspace(-1, 1, D) ** 2 - 0.3,
    "sawtooth": np.arange(D) % 17 - 8.0,
    "constant": np.full(D, 0.1),
    "plateaus": np.repeat([1.0, -2.0, 1.0, 0.0, 3.0, -3.0], D // 6),
    "one spike": np.eye(1, D, D // 2)[0],
    "random walk": np.random.default_rng(5).normal(size=D).cumsum(),
}


def assert_optimal(g, v, gamma):
    """Primal and dual meet: with u the running sums of g - v, |u| <= gamma and u.Dv = gamma ||Dv||_1.

    Rounding v moves the sums by up to `slack`.
    """
    unit = max(np.abs(g).max(), gamma)
    u = np.cumsum((g / unit - v / unit).astype(np.longdouble))
    differences = np.append(v[:-1] / unit - v[1:] / unit, v[-1] / unit)
    slack = 1e-15 * g.size
    assert np.abs(u).max() <= gamma / unit + slack
    assert (gamma / unit * np.abs(differences) - u * differences).max() <= 4 * slack


def size_of(g):
    largest = np.abs(g).max()
    return largest * np.sqrt(np.mean((g / largest) ** 2)) if largest else 1.0


@pytest.mark.parametrize(
    ("gamma", "expected"),
    [(0, [3, 1, 2]), (1, [2, 1.5, 1.5]), (6, [0, 0, 0]), (7, [0, 0, 0]), (np.inf, [0, 0, 0])],
    ids=["0", "1", "6", "7", "infinite"],
)
def test_the_worked_example(gamma, expected):
    assert difference_sparse(np.array([3.0, 1.0, 2.0]), gamma).tolist() == expected


@settings(max_examples=300, deadline=None)
@given(g=VECTORS, strength=STRENGTHS)
def test_the_duality_gap_is_nil(g, strength):
    gamma = strength * size_of(g)
    assert_optimal(g, difference_sparse(g, gamma), gamma)


@pytest.mark.parametrize("strength", [1e-9, 0.1, 1.0, 10.0, 60.0])
@pytest.mark.parametrize("name", CURVES)
def test_the_duality_gap_is_nil_on_curves_that_fill_the_hulls(name, strength):
    gamma = strength * size_of(CURVES[name])
    assert_optimal(CURVES[name], difference_sparse(CURVES[name], gamma), gamma)


def test_the_duality_gap_is_nil_at_a_million_coordinates():
    g = np.random.default_rng(0).normal(size=10**6)
    for gamma in (0.5, 300.0):
        assert_optimal(g, difference_sparse(g, gamma), gamma)


@settings(max_examples=25, deadline=None)
@given(g=st.lists(st.floats(-5, 5), min_size=8, max_size=8).map(np.array), gamma=st.floats(0.01, 8))
def test_a_convex_solver_finds_the_same(g, gamma):
    """To its tolerance: the objective, curved by 1, is within about 1e-7 of its least, so v is within 1e-3."""
    cp = pytest.importorskip("cvxpy")
    v = cp.Variable(g.size)
    penalty = cp.norm1(cp.diff(v)) + cp.abs(v[-1])
    problem = cp.Problem(cp.Minimize(gamma * penalty + 0.5 * cp.sum_squares(v - g)))
    problem.solve(solver=cp.CLARABEL)
    theirs, least = v.value, problem.value
    ours = v.value = difference_sparse(g, gamma)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3)
    assert problem.objective.value <= least + 1e-6


@settings(max_examples=100, deadline=None)
@given(g=st.lists(st.integers(-50, 50), min_size=1, max_size=40).map(np.array), below=st.floats(0.01, 0.99))
def test_the_result_is_0_from_the_largest_running_sum_on_and_not_before(g, below):
    largest = int(np.abs(np.cumsum(g)).max())
    assert not difference_sparse(g, largest).any()
    assert largest == 0 or difference_sparse(g, below * largest).any()


@given(g=VECTORS)
def test_without_a_penalty_the_result_is_a_copy(g):
    v = difference_sparse(g, 0.0)
    assert v.tolist() == g.tolist()
    assert not np.shares_memory(v, g)


@settings(deadline=None)
@given(g=st.lists(TIES | PLAIN, min_size=1, max_size=40).map(np.array), strength=STRENGTHS, c=st.floats(1e-200, 1e200))
def test_scaling_update_and_penalty_scales_the_result(g, strength, c):
    gamma = strength * size_of(g)
    scaled = difference_sparse(c * g, c * gamma) / c
    np.testing.assert_allclose(scaled, difference_sparse(g, gamma), rtol=0, atol=1e-12 * np.abs(g).max())


@settings(deadline=None)
@given(g=VECTORS, strength=STRENGTHS)
def test_no_value_leaves_the_range_of_the_update_and_0(g, strength):
    v = difference_sparse(g, strength * size_of(g))
    rounding = 1e-14 * np.abs(g).max()
    assert min(g.min(), 0.0) - rounding <= v.min() <= v.max() <= max(g.max(), 0.0) + rounding


def test_a_large_value_does_not_blur_those_after_it():
    """The drop after it only adds gamma to the next value. One rounded running sum would lose all of the rest."""
    rest = np.random.default_rng(1).normal(size=200)
    v = difference_sparse(np.append(2.0**60, rest), 0.75)
    rest[0] += 0.75
    np.testing.assert_allclose(v[1:], difference_sparse(rest, 0.75), atol=1e-13)


def test_vanishing_and_overflowing_scales():
    assert difference_sparse(np.array([1e308, 1e308, -1e308]), 1e307).tolist() == pytest.approx(
        [9.5e307] * 2 + [-8e307]
    )
    assert difference_sparse(np.array([5e-324, 5e-324]), 1e308).tolist() == [0.0, 0.0]
    assert difference_sparse(np.array([1e308, -1e308]), 5e-324).tolist() == [1e308, -1e308]


@pytest.mark.parametrize(
    ("g", "gamma", "expected"),
    [([], 1.0, []), ([5.0], 2.0, [3.0]), ([-5.0], 2.0, [-3.0]), ([1.0], 2.0, [0.0]), ([0.0, 0.0], 0.5, [0.0, 0.0])],
    ids=["empty", "one", "one negative", "one small", "zeros"],
)
def test_small_vectors(g, gamma, expected):
    v = difference_sparse(np.array(g), gamma)
    assert v.dtype == np.float64
    assert v.tolist() == expected


def test_integers_and_strided_and_read_only_arrays_are_read_and_left_as_they_are():
    base = np.array([3, 9, 1, 9, 2, 9], dtype=np.float32)
    base.setflags(write=False)
    for g in (base[::2], base[::2].astype(np.int64), base[::2].astype(np.float64)):
        before = g.copy()
        assert difference_sparse(g, 1).tolist() == [2.0, 1.5, 1.5]
        assert (g == before).all()
    frozen = np.array([3.0, 1.0, 2.0])
    frozen.setflags(write=False)
    assert difference_sparse(frozen, 1).tolist() == [2.0, 1.5, 1.5]


@pytest.mark.parametrize("gamma", [-1.0, float("nan")])
def test_a_penalty_that_is_none_is_refused(gamma):
    with pytest.raises(ValueError, match="gamma must be at least 0"):
        difference_sparse(np.ones(3), gamma)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_an_update_that_is_not_finite_is_refused(bad, gamma):
    with pytest.raises(ValueError, match="g must be finite"):
        difference_sparse(np.array([1.0, bad, 2.0]), gamma)


def test_a_matrix_is_refused():
    with pytest.raises(ValueError, match="g must be a vector"):
        difference_sparse(np.ones((2, 3)), 1.0)
