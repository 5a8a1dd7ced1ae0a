"""What right guesses show, against closed forms and published figures."""

import math

import numpy as np
import pytest
from audits import DELTA
from scipy.stats import binom, norm

from securepfl.privacy.audit.guesses import (
    ceiling,
    epsilon_lower_bound,
    guesses_p_value,
    mu_lower_bound,
    right_guesses,
    trade_off_rejected,
)
from securepfl.privacy.audit.verdicts import Scores


@pytest.mark.parametrize(
    ("canaries", "guesses", "right", "epsilon", "delta", "p_value"),
    [
        (100, 100, 100, 1.0, 1e-5, 5.63308984319765e-05),
        (1000, 600, 600, 5.0, 1e-5, 0.020850000376423358),
        (300, 120, 90, 0.5, 1e-3, 0.027146457191885198),
        (1000, 400, 300, 0.5, 1e-5, 0.0002867426206711923),
    ],
)
def test_p_values_of_right_guesses_match_the_published_procedure(canaries, guesses, right, epsilon, delta, p_value):
    """Figures from the procedure of Steinke et al. 2023, appendix D."""
    assert guesses_p_value(canaries, guesses, right, epsilon, delta) == pytest.approx(p_value, rel=1e-9)


def test_lower_bounds_from_right_guesses_match_the_published_procedure():
    assert epsilon_lower_bound(1000, 600, 600, DELTA, 0.95) == pytest.approx(5.27, abs=2e-3)
    assert epsilon_lower_bound(100, 100, 100, DELTA, 0.95) == pytest.approx(3.49, abs=2e-3)
    assert epsilon_lower_bound(1000, 400, 300, DELTA, 0.99) == pytest.approx(0.825, abs=2e-3)
    assert epsilon_lower_bound(300, 120, 60, DELTA, 0.99) == 0.0
    # Without delta, all right, the binomial has a closed form: q^m = 1 - confidence.
    q = 0.05 ** (1 / 100)
    assert epsilon_lower_bound(100, 100, 100, 0.0, 0.95) == pytest.approx(math.log(q / (1 - q)), abs=1e-5)


@pytest.mark.parametrize("mu", [0.3, 1.0, 3.0])
def test_one_guess_refutes_a_curve_exactly_where_no_attack_on_it_is_as_good(mu):
    """The best attack on one canary is right with probability Phi(mu / 2)."""
    best = norm.cdf(mu / 2)
    assert trade_off_rejected(1, 1, 1, mu, best * 1.0001)
    assert not trade_off_rejected(1, 1, 1, mu, best * 0.9999)


@pytest.mark.parametrize("mu", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("canaries", [2, 7, 40])
def test_a_curve_is_never_refuted_by_what_its_own_mechanism_does_as_often(mu, canaries):
    """Guessing each of independent Gaussian scores by its sign is right Binomial(m, Phi(mu / 2)) times."""
    for right in range(1, canaries + 1):
        chance = float(binom.sf(right - 1, canaries, norm.cdf(mu / 2)))
        assert not trade_off_rejected(canaries, canaries, right, mu, chance * 0.9999)


def refuted_as_published(canaries, guesses, right, mu, level):
    """Mahloujifar et al. 2025, the procedure with a cap on the guesses, written out as two sequences."""
    r, h = [0.0] * (right + 1), [0.0] * (right + 1)
    r[right], h[right] = level * right / canaries, level * (guesses - right) / canaries
    for i in range(right - 1, -1, -1):
        h[i] = max(h[i + 1], norm.cdf(norm.ppf(min(1.0, r[i + 1])) - mu))
        r[i] = r[i + 1] + i / (guesses - i) * (h[i] - h[i + 1])
    return r[0] + h[0] > guesses / canaries


def test_a_curve_is_refuted_where_the_published_procedure_refutes_it():
    rng = np.random.default_rng(2)
    seen = set()
    for _ in range(300):
        canaries = int(rng.integers(1, 60))
        guesses = int(rng.integers(1, canaries + 1))
        right, mu, level = int(rng.integers(guesses // 2, guesses + 1)), 3 * rng.random(), 10 ** (-3 * rng.random())
        expected = refuted_as_published(canaries, guesses, right, mu, level)
        assert trade_off_rejected(canaries, guesses, right, mu, level) == expected
        seen.add(bool(expected))
    assert seen == {False, True}


def test_bounds_on_mu_rise_with_right_guesses():
    rising = [mu_lower_bound(100, 40, right, 0.99) for right in (20, 25, 30, 35, 40)]
    assert rising == sorted(rising)
    assert rising[0] == 0.0 < rising[2]


@pytest.mark.parametrize("counts", [(10, 11, 5), (10, 5, 6), (10, 5, -1), (10, 0, 0)])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(ValueError, match="not possible"):
        guesses_p_value(*counts, 1.0, DELTA)
    with pytest.raises(ValueError, match="not possible"):
        trade_off_rejected(*counts, 1.0, 0.01)


def test_guesses_take_the_extremes():
    seen = Scores(np.array([0.0, 5.0, -3.0, 1.0, 9.0]), np.array([True, True, False, False, False]), np.empty(0))
    assert right_guesses(seen, 1) == 0  # the highest, guessed present, was absent
    assert right_guesses(seen, 2) == 1
    assert right_guesses(seen, 4) == 2


def test_the_ceiling_grows_with_the_canaries():
    ceilings = [ceiling(canaries, DELTA, "guesses") for canaries in (10, 100, 1000)]
    assert ceilings == sorted(ceilings)
    assert ceilings[0] < 1  # ten canaries cannot show epsilon 1
    assert 2 < ceilings[1] < 3  # and a hundred not 3
