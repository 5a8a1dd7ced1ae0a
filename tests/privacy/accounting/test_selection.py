import math
from itertools import islice

import numpy as np
import pytest
from dp_accounting.rdp.rdp_privacy_accountant import _gamma_truncated_negative_binomial
from scipy.stats import geom, logser, nbinom, poisson

from securepfl.privacy.accounting.events import Release, Selection
from securepfl.privacy.accounting.selection import candidate_chances, candidate_count

CANDIDATE = (Release(noise_multiplier=5.0, sample_rate=1.0, steps=10),)


def selection(mean, shape):
    return Selection(candidate=CANDIDATE, mean=mean, shape=shape)


def chances(mean, shape, most=20_000):
    return np.array(list(islice(candidate_chances(selection(mean, shape)), most)))


def accounted(mean, shape, number):
    """The same chances as scipy has them, at the parameter that dp_accounting charges for."""
    if shape == "poisson":
        return poisson.pmf(number, mean)
    halting = _gamma_truncated_negative_binomial(shape, mean)
    if shape == 0:
        return logser.pmf(number, 1 - halting)
    if shape == 1:
        return geom.pmf(number, halting)
    return np.where(number > 0, nbinom.pmf(number, shape, halting) / (1 - halting**shape), 0.0)


CASES = [(mean, shape) for mean in (1.5, 10.0, 60.0) for shape in (0, 0.5, 1, 3.0, "poisson")]


@pytest.mark.parametrize(("mean", "shape"), CASES)
def test_chances_are_those_that_are_accounted(mean, shape):
    found = chances(mean, shape)
    assert found.sum() == pytest.approx(1, abs=1e-9)
    assert found @ np.arange(len(found)) == pytest.approx(mean, rel=1e-6)
    assert found[:200] == pytest.approx(accounted(mean, shape, np.arange(200)), rel=1e-6, abs=1e-12)


def test_a_mean_of_one_is_always_one_candidate():
    assert chances(1.0, 0.5, 4).tolist() == [0, 1, 0, 0]
    assert {candidate_count(selection(1.0, shape)) for shape in (0, 0.5, 1) for _ in range(50)} == {1}


@pytest.mark.parametrize("shape", [0, 0.5, 1, "poisson"])
def test_draws_have_the_declared_mean_and_spread(shape):
    drawn = np.array([candidate_count(selection(8.0, shape)) for _ in range(4000)])
    found = chances(8.0, shape)
    deviation = math.sqrt(found @ (np.arange(len(found)) - 8.0) ** 2)
    assert abs(drawn.mean() - 8.0) < 6 * deviation / math.sqrt(len(drawn))
    for number in (1, 5):
        share = found[number]
        assert abs((drawn == number).mean() - share) < 6 * math.sqrt(share / len(drawn))
    assert (drawn >= (0 if shape == "poisson" else 1)).all()
