"""Power and false alarms of the test that compares rounds and layers, over seeded simulations."""

import numpy as np
import pytest
from audits import most_hits

from securepfl.privacy.audit.between import rounds_verdict

LAYERS = [60, 200, 30, 1]


def noise_of(rng, rounds=6, layers=LAYERS):
    return rng.standard_normal((rounds, sum(layers)))


def part(layer):
    start = sum(LAYERS[:layer])
    return slice(start, start + LAYERS[layer])


def kept_over_rounds(noise):
    noise[1:] = noise[0]


def one_round_again(noise):
    noise[4] = noise[1]


def again_and_something_else(noise):
    """The same draws, with as much of others on top: a correlation of .71."""
    noise[3] = (noise[0] + noise[3]) / np.sqrt(2)


def again_with_the_other_sign(noise):
    noise[5] = -noise[2]


def some_draws_of_one_layer_in_another(noise):
    """A stream that starts again gives other sums of the same draws to a layer of another size: a quarter of each."""
    noise[:, part(1)][:, :60] = noise[:, part(0)] / 3 + noise[:, part(1)][:, :60] * np.sqrt(8) / 3


def one_layer_as_another(noise):
    noise[:, part(1)][:, :60] = noise[:, part(0)]


def a_layer_as_another_was_in_the_round_before(noise):
    noise[1:, part(0)] = noise[:-1, part(1)][:, :60]


@pytest.mark.parametrize(
    "bug",
    [
        kept_over_rounds,
        one_round_again,
        again_and_something_else,
        again_with_the_other_sign,
        some_draws_of_one_layer_in_another,
        one_layer_as_another,
        a_layer_as_another_was_in_the_round_before,
    ],
)
def test_noise_that_comes_twice_is_caught(bug):
    rng = np.random.default_rng(31)
    for _ in range(50):
        noise = noise_of(rng)
        bug(noise)
        verdict = rounds_verdict(noise, LAYERS)
        assert verdict.accused and "draw the same noise" in verdict.finding


def test_the_finding_names_rounds_and_parameters():
    noise = noise_of(np.random.default_rng(32))
    noise[4, part(2)] = noise[1, part(0)][:30]
    found = rounds_verdict(noise, LAYERS).finding
    assert "parameter 1 in round 2 and parameter 3 in round 5" in found and "correlation of 1" in found


@pytest.mark.parametrize("layers", [LAYERS, [1], [2], [1, 1, 3], [5, 5000]])
@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_independent_noise_is_accused_no_more_often_than_the_level_says(layers, scale):
    """At a level of 5 %, so that a fault of the law would show."""
    rng, count = np.random.default_rng(33), 200
    alarms = sum(rounds_verdict(scale * noise_of(rng, 4, layers), layers, level=0.05).accused for _ in range(count))
    assert alarms <= most_hits(count, 0.05)


def test_the_law_is_the_exact_one_of_a_single_pair():
    """Two rounds of one layer: p-values are uniform."""
    rng, count = np.random.default_rng(34), 400
    values = [rounds_verdict(noise_of(rng, 2, [20]), [20]).p_value for _ in range(count)]
    assert abs(np.mean(values) - 0.5) < 5 / np.sqrt(12 * count)


def test_noise_that_is_missing_is_like_no_other():
    noise = noise_of(np.random.default_rng(35))
    noise[:, part(1)] = 0
    assert not rounds_verdict(noise, LAYERS).accused


@pytest.mark.parametrize(
    ("noise", "layers"),
    [
        (np.ones((1, 3)), [3]),
        (np.ones((2, 3)), [2]),
        (np.full((2, 3), np.nan), [3]),
        (np.ones(3), [3]),
    ],
)
def test_a_table_that_does_not_fit_is_refused(noise, layers):
    with pytest.raises(ValueError, match="table"):
        rounds_verdict(noise, layers)
