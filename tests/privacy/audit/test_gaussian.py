"""Power and false alarms of the tests of canaries, over seeded simulations."""

import math

import numpy as np
import pytest
from audits import CLAIMS, DELTA, fewest_hits, most_hits, simulate
from scipy.stats import chi2, nct

from securepfl.privacy.accounting.gaussian import mu_of
from securepfl.privacy.audit.gaussian import Shift, runs_verdict, shift_between_runs, trade_off_verdict
from securepfl.privacy.audit.mechanism import small_spread_p_value
from securepfl.privacy.audit.report import lower_bounds
from securepfl.privacy.audit.verdicts import LEVELS, Scores


@pytest.mark.parametrize(("t", "freedom", "mu"), [(5.0, 98, 0.3), (5.0, 2, 0.3), (-1.0, 10, 0.1), (2.0, 1, 0.0)])
def test_the_noncentral_t_is_that_of_scipy(t, freedom, mu):
    shift = Shift(t, 0.1, freedom)
    assert shift.p_value(mu) == pytest.approx(nct.sf(t, freedom, mu / 0.1), rel=1e-3)


@pytest.mark.parametrize(("epsilon", "canaries"), CLAIMS)
@pytest.mark.parametrize("silent", [0, 1000])
def test_half_the_noise_is_caught_with_99_percent(epsilon, canaries, silent):
    mu, rng, count = mu_of(epsilon, DELTA), np.random.default_rng(canaries), 2000
    caught = sum(
        trade_off_verdict(simulate(rng, canaries, mu, noise=0.5, silent=silent), mu).accused for _ in range(count)
    )
    assert caught >= fewest_hits(count, 0.99)


@pytest.mark.parametrize(("epsilon", "canaries"), CLAIMS)
def test_a_record_counted_twice_is_caught_with_99_percent(epsilon, canaries):
    mu, rng, count = mu_of(epsilon, DELTA), np.random.default_rng(canaries + 1), 2000
    caught = sum(trade_off_verdict(simulate(rng, canaries, mu, gain=2.0), mu).accused for _ in range(count))
    assert caught >= fewest_hits(count, 0.99)


@pytest.mark.parametrize(("epsilon", "canaries"), CLAIMS)
@pytest.mark.parametrize("silent", [0, 1000])
def test_a_correct_build_is_accused_as_often_as_the_level_says(epsilon, canaries, silent):
    mu, rng, count = mu_of(epsilon, DELTA), np.random.default_rng(canaries + 2), 2000
    alarms = sum(trade_off_verdict(simulate(rng, canaries, mu, silent=silent), mu).accused for _ in range(count))
    assert alarms <= most_hits(count, LEVELS["gaussian"] + LEVELS["spread"])


@pytest.mark.parametrize("build", [{"noise": 2.0}, {"noise": 1.05}, {"gain": 0.5}, {"gain": 0.0}])
def test_a_build_at_least_as_private_as_claimed_is_not_accused(build):
    mu, rng, count = mu_of(2.0, DELTA), np.random.default_rng(9), 1000
    alarms = sum(trade_off_verdict(simulate(rng, 300, mu, **build), mu).accused for _ in range(count))
    assert alarms <= most_hits(count, LEVELS["gaussian"] + LEVELS["spread"])


@pytest.mark.parametrize("count", [50, 500, 3000])
@pytest.mark.parametrize("noise", [1.0, 1.02, 2.0])
def test_noise_around_the_canaries_of_the_declared_size_or_more_is_accused_as_often_as_the_level_says(count, noise):
    rng, tries = np.random.default_rng(count), 4000
    p_values = [small_spread_p_value(noise * rng.standard_normal(count)) for _ in range(tries)]
    for level in (0.05, LEVELS["spread"]):
        alarms = sum(p_value <= level for p_value in p_values)
        assert alarms <= most_hits(tries, level)
        assert noise > 1 or alarms >= fewest_hits(tries, level)  # exact, not only shy


@pytest.mark.parametrize("mu", [0.1, 0.2680511232])
def test_a_little_too_little_noise_around_the_canaries_is_caught_whatever_they_add(mu):
    rng, count = np.random.default_rng(15), 1000
    noise = 1 - 4 / math.sqrt(1450)  # absent canaries and silent directions, give or take
    for gain in (0.5, 1.0):
        seen = [simulate(rng, 1000, mu, noise=noise, gain=gain) for _ in range(count)]
        verdicts = [trade_off_verdict(one, mu) for one in seen]
        assert sum(verdict.accused for verdict in verdicts) >= fewest_hits(count, 0.99)
    assert "the noise around them is too small" in verdicts[0].finding


@pytest.mark.parametrize("others", [100, 300, 1700, 5000])
def test_the_deviation_that_shows_is_the_one_the_docstring_names(others):
    """Exact, from chi-square."""
    smallest = 1 - 4 / math.sqrt(others)
    assert chi2.cdf(chi2.ppf(LEVELS["spread"], others) / smallest**2, others) > 0.99


def test_many_runs_of_one_canary_tell_mu_from_its_double():
    mu, rng, count = mu_of(4.0, DELTA), np.random.default_rng(13), 1000
    runs = math.ceil((12.5 / mu) ** 2)
    honest = [runs_verdict(simulate(rng, runs, mu, silent=0), mu).accused for _ in range(count)]
    doubled = [runs_verdict(simulate(rng, runs, mu, noise=0.5, silent=0), mu).accused for _ in range(count)]
    assert sum(honest) <= most_hits(count, LEVELS["runs"])
    assert sum(doubled) >= fewest_hits(count, 0.99)


def test_many_runs_estimate_mu_and_bound_it_from_below():
    rng = np.random.default_rng(14)
    shifts = [shift_between_runs(simulate(rng, 100, 1.5, silent=0)) for _ in range(400)]
    assert np.mean([shift.estimate for shift in shifts]) == pytest.approx(1.5, abs=0.05)
    wrong = sum(shift.lower_bound(0.01) > 1.5 for shift in shifts)
    assert wrong <= most_hits(len(shifts), 0.01)
    assert np.mean([shift.lower_bound(0.01) for shift in shifts]) > 0.8


@pytest.mark.parametrize("included", [[], [True], [False], [True, True], [False, False]])
def test_too_few_canaries_show_nothing(included):
    seen = Scores(np.linspace(1, 9, len(included)), np.array(included, dtype=bool), np.empty(0))
    assert not runs_verdict(seen, 0.1).accused
    assert not trade_off_verdict(seen, 0.1).accused


def test_no_noise_at_all_is_accused_with_a_finite_bound():
    included = np.arange(20) % 2 == 0
    seen = Scores(included.astype(float), included, np.zeros(5))
    assert trade_off_verdict(seen, 1.0).accused
    assert math.isfinite(lower_bounds(seen, DELTA)[0].epsilon)


@pytest.mark.parametrize(
    ("scores", "included", "silent"),
    [
        (np.zeros(2), np.zeros(3, bool), np.zeros(1)),
        (np.zeros(2), np.zeros(2), np.zeros(1)),
        (np.array([0.0, math.nan]), np.zeros(2, bool), np.zeros(1)),
    ],
)
def test_scores_that_do_not_fit_are_refused(scores, included, silent):
    with pytest.raises(ValueError, match="must be"):
        Scores(scores, included, silent)
