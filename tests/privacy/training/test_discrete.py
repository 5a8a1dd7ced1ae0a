"""The discrete Gaussian's sampler against its law, and the law's tail."""

import numpy as np
import pytest
from scipy import stats

from securepfl.privacy.training.discrete import discrete_gaussian, tail_bound
from securepfl.randomness import RandomStream

COUNT = 200_000


def stream(label=0):
    return RandomStream(bytes([label]) * 32)


def law(scale):
    """All integers that matter, and their probabilities."""
    reach = np.arange(-40 * scale, 40 * scale + 1)
    weights = np.exp(-(reach.astype(float) ** 2) / (2 * scale**2))
    return reach, weights / weights.sum()


@pytest.mark.parametrize("scale", [1, 2, 3, 17])
def test_every_value_comes_as_often_as_the_law_says(scale):
    drawn = discrete_gaussian(COUNT, scale, stream(scale))
    reach, chances = law(scale)
    expected = chances * COUNT
    common = expected >= 20
    seen = np.array([np.count_nonzero(drawn == value) for value in reach[common]])
    both = np.append(seen, COUNT - seen.sum()), np.append(expected[common], expected[~common].sum())
    assert stats.chisquare(*both).pvalue > 1e-4


@pytest.mark.parametrize("scale", [1000, 2**20])
def test_large_scales_are_gaussian_to_the_eye_of_a_test(scale):
    drawn = discrete_gaussian(COUNT, scale, stream())
    assert stats.kstest(drawn / scale, "norm").pvalue > 1e-4
    assert abs(drawn.var() / scale**2 - 1) < 5 * np.sqrt(2 / COUNT)


def test_samples_do_not_depend_on_one_another():
    drawn = discrete_gaussian(COUNT, 50, stream()).astype(float)
    for lag in (1, 2, 7, 64):
        assert abs(np.corrcoef(drawn[lag:], drawn[:-lag])[0, 1]) < 5 / np.sqrt(COUNT)


@pytest.mark.parametrize("scale", [1, 4, 25])
def test_the_tail_is_bounded(scale):
    reach, chances = law(scale)
    for beyond in (0, scale, 3 * scale, 8 * scale):
        assert chances[np.abs(reach) > beyond].sum() <= tail_bound(scale, beyond)


def test_the_variance_never_exceeds_the_scale():
    for scale in (1, 2, 8):
        reach, chances = law(scale)
        assert (chances * reach.astype(float) ** 2).sum() <= scale**2 * (1 + 1e-12)


def test_as_many_as_asked_for():
    assert [discrete_gaussian(count, 5, stream()).shape for count in (0, 1, 131_073)] == [(0,), (1,), (131_073,)]


@pytest.mark.parametrize("scale", [0, -1, 2**20 + 1])
def test_scales_out_of_range_are_refused(scale):
    with pytest.raises(ValueError, match="scale"):
        discrete_gaussian(1, scale, stream())
