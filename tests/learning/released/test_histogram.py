"""What is counted, that one patient moves it by no more than is stated, and that it comes back out of its sums."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from securepfl.learning.released.expected import binormal_cells
from securepfl.learning.released.figures import nonnegative
from securepfl.learning.released.histogram import BINS, Histogram

ONE = Histogram.around([0.3], [(0.3, 0.3)])
THREE = Histogram.around([0.2, 0.3, 0.5], None)
SPREAD = Histogram.around([0.3, 0.5], [(0.2, 0.4), (0.5, 0.5)])


def drawn(histogram, rows, seed=0, points=(0.3,)):
    rng = np.random.default_rng(seed)
    chances = rng.random((rows, histogram.outcomes))
    return chances, chances >= np.array(points)[: histogram.outcomes], rng.random(chances.shape) < 0.4


@pytest.mark.parametrize("histogram", [ONE, THREE, SPREAD])
def test_a_record_moves_what_is_released_by_exactly_the_bound(histogram):
    cells = histogram.of_records(*drawn(histogram, 200, points=(0.3, 0.5, 0.5)))
    assert (cells.sum(axis=(2, 3)) == 1).all()
    norms = np.linalg.norm(histogram.released(cells), axis=1)
    assert norms == pytest.approx(histogram.bound) and histogram.bound == pytest.approx(histogram.outcomes**0.5)


def test_a_patient_of_many_records_moves_it_by_no_more():
    cells = ONE.of_records(*drawn(ONE, 5000, seed=3))
    for count in (1, 2, 50, 5000):
        assert np.linalg.norm(ONE.released(cells[:count].mean(axis=0))) <= 1 + 1e-12


def test_a_score_on_the_threshold_is_on_the_side_that_was_decided():
    for threshold in np.random.default_rng(1).uniform(0.001, 0.999, 300):
        histogram = Histogram.around([threshold], [(threshold, threshold)])
        near = np.array([np.nextafter(threshold, 0), threshold, np.nextafter(threshold, 1)])[:, None]
        assert histogram.cells == BINS, "no cell that nobody can be in has noise"
        assert (histogram.of_records(near, near >= threshold, near > 2).sum(axis=(1, 2, 3)) == 1).all()


def test_hospitals_that_decide_elsewhere_have_cells_of_their_own():
    assert SPREAD.cells > BINS
    chances = np.array([[0.25, 0.6], [0.25, 0.6]])
    cells = SPREAD.of_records(chances, np.array([[True, True], [False, True]]), np.zeros((2, 2), bool))
    assert (cells[0, 0] != cells[1, 0]).any() and (cells[0, 1] == cells[1, 1]).all()


def test_least_squares_is_unbiased_and_its_covariance_is_stated():
    """Wide sums are about as exact as one number, where the sum of eight cells would have sqrt(8) times its noise."""
    rng, cells = np.random.default_rng(2), binormal_cells(ONE, auroc=0.8, prevalence=0.3, patients=400)
    noisy = ONE.released(cells) + rng.standard_normal((4000, ONE.size))
    found = np.array([ONE.estimated(one) for one in noisy])
    assert abs(found.mean(axis=0) - cells).max() < 0.08
    assert np.cov(found[:, 0, 1].T) == pytest.approx(ONE.covariance, abs=0.25)
    yes = ONE.decisions == 1
    assert found[:, 0, 1, yes].sum(axis=1).std() < 1.4 < 0.5 * yes.sum() ** 0.5 * np.sqrt(ONE.covariance[0, 0])


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=20))
def test_counts_without_negatives_keep_their_sum(values):
    found = nonnegative(np.array(values))
    assert (found >= 0).all() and found.sum() == pytest.approx(max(sum(values), 0), abs=1e-6)
