"""Power and false alarms of the tests of the noise, over seeded simulations."""

import math

import numpy as np
import pytest
from audits import most_hits, noise_of
from scipy.stats import chi2, norm

from securepfl.privacy.audit.mechanism import mechanism_verdict


def replayed(noise, totals):
    noise[50] = noise[3]
    return noise, totals


def missing_in_one_layer(noise, totals):
    noise[:, 7] = totals[:, 7] = 0
    return noise, totals


def restarted_for_each_parameter(noise, totals):
    noise[:, 7], totals[:, 7] = noise[:, 0], totals[:, 0]
    return noise, totals


NOISE_BUGS = {
    "half": lambda noise, totals: (noise / 2, totals / 2),
    "nine tenths": lambda noise, totals: (noise * 0.9, totals * 0.9),
    "none": lambda noise, totals: (noise * 0, totals * 0),
    "constant": lambda noise, totals: (
        np.broadcast_to(noise[0], noise.shape),
        np.broadcast_to(totals[0], totals.shape),
    ),
    "replayed": replayed,
    "missing in one layer": missing_in_one_layer,
    "one for all values": lambda noise, totals: (noise[:, :1] + 0 * noise, totals[:, :1] + 0 * totals),
    "restarted for each parameter": restarted_for_each_parameter,
    "reused within a round": lambda noise, totals: (noise, totals * math.sqrt(8)),
    "opposite within a round": lambda noise, totals: (noise, totals * 0),
    "uniform": lambda noise, totals: (math.sqrt(12) * (norm.cdf(noise) - 0.5), totals),
    "a constant on top": lambda noise, totals: (noise + 0.5, totals),
}


@pytest.mark.parametrize("bug", NOISE_BUGS)
def test_noise_off_its_law_is_caught(bug):
    rng = np.random.default_rng(21)
    count = 100
    caught = sum(mechanism_verdict(*NOISE_BUGS[bug](*noise_of(rng))).accused for _ in range(count))
    assert caught == count


@pytest.mark.parametrize("values", [1, 3, 40])
def test_half_the_noise_shows_in_the_smallest_model(values):
    rng = np.random.default_rng(22)
    assert all(
        mechanism_verdict(noise / 2, totals / 2).accused
        for noise, totals in (noise_of(rng, values=values) for _ in range(100))
    )


@pytest.mark.parametrize("size", [1, 3])
def test_half_the_noise_of_one_layer_shows_in_that_layer(size):
    rng, layers = np.random.default_rng(25), np.arange(40) // size
    for _ in range(50):
        noise, totals = noise_of(rng)
        noise[:, layers == 5] /= 2
        verdict = mechanism_verdict(noise, totals, layers)
        assert verdict.accused and "spread is too small" in verdict.finding


@pytest.mark.parametrize("layers", [np.zeros(40, dtype=np.int64), np.arange(40), np.arange(40) // 7 + 100])
def test_layers_that_have_their_noise_are_not_accused(layers):
    rng, count = np.random.default_rng(26), 150
    alarms = sum(mechanism_verdict(*noise_of(rng), layers, level=0.05).accused for _ in range(count))
    assert alarms <= most_hits(count, 0.05)


@pytest.mark.parametrize("values", [1, 3, 40])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_enough_noise_is_not_accused(values, scale):
    """At a level of 5 %, so that a fault of one of the tests inside would show."""
    rng, count = np.random.default_rng(23), 150
    alarms = 0
    for _ in range(count):
        noise, totals = noise_of(rng, values=values)
        alarms += mechanism_verdict(scale * noise, scale * totals, level=0.05).accused
    assert alarms <= most_hits(count, 0.05)


def test_the_finding_says_what_is_chance_and_which_test_the_p_value_comes_from():
    noise, totals = noise_of(np.random.default_rng(24))
    verdict = mechanism_verdict(noise, totals)
    low, high = np.sqrt(chi2.ppf([0.005, 0.995], noise.size) / noise.size)
    assert f"(by chance {low:.4g} to {high:.4g})" in verdict.finding
    smallest, fault = verdict.finding.split("p-value: ")[1].split(" of the test whether ")
    assert min(1.0, 7 * float(smallest)) == pytest.approx(verdict.p_value, rel=0.05)
    assert fault.endswith("times 7 for the smallest of as many tests (at most 1)")
    noise[:, 7] *= 0.01
    assert mechanism_verdict(noise, totals).finding.endswith("; a value's spread is too small")


@pytest.mark.parametrize(
    ("noise", "totals"),
    [
        (np.empty((0, 3)), np.ones((2, 3))),
        (np.ones((1, 3)), np.ones((2, 3))),
        (np.ones((4, 3)), np.empty((0, 3))),
        (np.full((4, 3), math.nan), np.ones((2, 3))),
    ],
)
def test_noise_that_is_no_table_is_refused(noise, totals):
    with pytest.raises(ValueError, match="finite"):
        mechanism_verdict(noise, totals)
