"""Bounds against closed forms and published figures; power and false alarms of each test over seeded simulations."""

import math

import msgspec
import numpy as np
import pytest
from scipy.stats import binom, chi2, nct, norm

from securepfl.privacy.audit import auditing
from securepfl.privacy.audit.auditing import Scores

DELTA = 1e-5
# Claimed epsilon and the canaries with which twice its mu has to show.
CLAIMS = [(4.0, 100), (2.0, 300), (1.0, 1000)]


def simulate(rng, canaries, mu, *, noise=1.0, gain=1.0, silent=1000):
    """Scores of a build with `noise` times the declared deviation whose canaries add `gain` times the clip."""
    included = rng.random(canaries) < 0.5
    scores = gain * mu * included + noise * rng.standard_normal(canaries)
    return Scores(scores, included, noise * rng.standard_normal(silent))


def most_hits(count, chance):
    """Hits that `count` trials of probability `chance` exceed once in 10,000 times."""
    return int(binom.isf(1e-4, count, chance))


def fewest_hits(count, chance):
    """Hits that `count` trials of probability `chance` fall short of once in 10,000 times."""
    return int(binom.ppf(1e-4, count, chance))


# --- Claims and curves --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("epsilon", "mu"), [(4.0, 0.9249308977), (2.0, 0.5015516892), (1.0, 0.2680511232)])
def test_mu_and_epsilon_are_the_two_names_of_one_curve(epsilon, mu):
    assert auditing.mu_of(epsilon, DELTA) == pytest.approx(mu, rel=1e-8)
    assert auditing.epsilon_of(mu, DELTA) == pytest.approx(epsilon, rel=1e-8)
    delta = norm.cdf(-epsilon / mu + mu / 2) - math.exp(epsilon) * norm.cdf(-epsilon / mu - mu / 2)
    assert delta == pytest.approx(DELTA, rel=1e-6)
    assert auditing.epsilon_of(0.0, DELTA) == 0.0


# --- Right guesses ------------------------------------------------------------------------------------------------


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
    assert auditing.guesses_p_value(canaries, guesses, right, epsilon, delta) == pytest.approx(p_value, rel=1e-9)


def test_lower_bounds_from_right_guesses_match_the_published_procedure():
    assert auditing.epsilon_lower_bound(1000, 600, 600, DELTA, 0.95) == pytest.approx(5.27, abs=2e-3)
    assert auditing.epsilon_lower_bound(100, 100, 100, DELTA, 0.95) == pytest.approx(3.49, abs=2e-3)
    assert auditing.epsilon_lower_bound(1000, 400, 300, DELTA, 0.99) == pytest.approx(0.825, abs=2e-3)
    assert auditing.epsilon_lower_bound(300, 120, 60, DELTA, 0.99) == 0.0
    # Without delta, all right, the binomial has a closed form: q^m = 1 - confidence.
    q = 0.05 ** (1 / 100)
    assert auditing.epsilon_lower_bound(100, 100, 100, 0.0, 0.95) == pytest.approx(math.log(q / (1 - q)), abs=1e-5)


@pytest.mark.parametrize("mu", [0.3, 1.0, 3.0])
def test_one_guess_refutes_a_curve_exactly_where_no_attack_on_it_is_as_good(mu):
    """The best attack on one canary is right with probability Phi(mu / 2)."""
    best = norm.cdf(mu / 2)
    assert auditing.trade_off_rejected(1, 1, 1, mu, best * 1.0001)
    assert not auditing.trade_off_rejected(1, 1, 1, mu, best * 0.9999)


@pytest.mark.parametrize("mu", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("canaries", [2, 7, 40])
def test_a_curve_is_never_refuted_by_what_its_own_mechanism_does_as_often(mu, canaries):
    """Guessing each of independent Gaussian scores by its sign is right Binomial(m, Phi(mu / 2)) times."""
    for right in range(1, canaries + 1):
        chance = float(binom.sf(right - 1, canaries, norm.cdf(mu / 2)))
        assert not auditing.trade_off_rejected(canaries, canaries, right, mu, chance * 0.9999)


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
        assert auditing.trade_off_rejected(canaries, guesses, right, mu, level) == expected
        seen.add(bool(expected))
    assert seen == {False, True}


def test_bounds_on_mu_rise_with_right_guesses():
    rising = [auditing.mu_lower_bound(100, 40, right, 0.99) for right in (20, 25, 30, 35, 40)]
    assert rising == sorted(rising)
    assert rising[0] == 0.0 < rising[2]


@pytest.mark.parametrize("counts", [(10, 11, 5), (10, 5, 6), (10, 5, -1), (10, 0, 0)])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(ValueError, match="not possible"):
        auditing.guesses_p_value(*counts, 1.0, DELTA)
    with pytest.raises(ValueError, match="not possible"):
        auditing.trade_off_rejected(*counts, 1.0, 0.01)


def test_guesses_take_the_extremes():
    seen = Scores(np.array([0.0, 5.0, -3.0, 1.0, 9.0]), np.array([True, True, False, False, False]), np.empty(0))
    assert auditing.right_guesses(seen, 1) == 0  # the highest, guessed present, was absent
    assert auditing.right_guesses(seen, 2) == 1
    assert auditing.right_guesses(seen, 4) == 2


@pytest.mark.parametrize("canaries", [1, 2, 30, 300])
@pytest.mark.parametrize("method", ["f-DP", "guesses"])
def test_perfect_scores_reach_the_ceiling_and_nothing_passes_it(canaries, method):
    rng = np.random.default_rng(1)
    perfect = simulate(rng, canaries, 1000.0, silent=10)
    bound = next(b for b in auditing.lower_bounds(perfect, DELTA) if b.method == method)
    # All guessed right needs as many in as out where all are guessed; fewer guesses may do better still.
    assert bound.epsilon <= bound.ceiling == auditing.ceiling(canaries, DELTA, method)
    assert math.isfinite(bound.ceiling)


def test_the_ceiling_grows_with_the_canaries():
    ceilings = [auditing.ceiling(canaries, DELTA, "guesses") for canaries in (10, 100, 1000)]
    assert ceilings == sorted(ceilings)
    assert ceilings[0] < 1  # ten canaries cannot show epsilon 1
    assert 2 < ceilings[1] < 3  # and a hundred not 3


# --- Canaries against the claim -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("t", "freedom", "mu"), [(5.0, 98, 0.3), (5.0, 2, 0.3), (-1.0, 10, 0.1), (2.0, 1, 0.0)])
def test_the_noncentral_t_is_that_of_scipy(t, freedom, mu):
    shift = auditing.Shift(t, 0.1, freedom)
    assert shift.p_value(mu) == pytest.approx(nct.sf(t, freedom, mu / 0.1), rel=1e-3)


@pytest.mark.parametrize(("epsilon", "canaries"), CLAIMS)
@pytest.mark.parametrize("silent", [0, 1000])
def test_half_the_noise_is_caught_with_99_percent(epsilon, canaries, silent):
    mu, rng, count = auditing.mu_of(epsilon, DELTA), np.random.default_rng(canaries), 2000
    caught = sum(
        auditing.trade_off_verdict(simulate(rng, canaries, mu, noise=0.5, silent=silent), mu).accused
        for _ in range(count)
    )
    assert caught >= fewest_hits(count, 0.99)


@pytest.mark.parametrize(("epsilon", "canaries"), CLAIMS)
def test_a_record_counted_twice_is_caught_with_99_percent(epsilon, canaries):
    mu, rng, count = auditing.mu_of(epsilon, DELTA), np.random.default_rng(canaries + 1), 2000
    caught = sum(auditing.trade_off_verdict(simulate(rng, canaries, mu, gain=2.0), mu).accused for _ in range(count))
    assert caught >= fewest_hits(count, 0.99)


@pytest.mark.parametrize(("epsilon", "canaries"), CLAIMS)
@pytest.mark.parametrize("silent", [0, 1000])
def test_a_correct_build_is_accused_as_often_as_the_level_says(epsilon, canaries, silent):
    mu, rng, count = auditing.mu_of(epsilon, DELTA), np.random.default_rng(canaries + 2), 2000
    alarms = sum(
        auditing.trade_off_verdict(simulate(rng, canaries, mu, silent=silent), mu).accused for _ in range(count)
    )
    assert alarms <= most_hits(count, auditing.LEVELS["gaussian"] + auditing.LEVELS["spread"])


@pytest.mark.parametrize("build", [{"noise": 2.0}, {"noise": 1.05}, {"gain": 0.5}, {"gain": 0.0}])
def test_a_build_at_least_as_private_as_claimed_is_not_accused(build):
    mu, rng, count = auditing.mu_of(2.0, DELTA), np.random.default_rng(9), 1000
    alarms = sum(auditing.trade_off_verdict(simulate(rng, 300, mu, **build), mu).accused for _ in range(count))
    assert alarms <= most_hits(count, auditing.LEVELS["gaussian"] + auditing.LEVELS["spread"])


@pytest.mark.parametrize("count", [50, 500, 3000])
@pytest.mark.parametrize("noise", [1.0, 1.02, 2.0])
def test_noise_around_the_canaries_of_the_declared_size_or_more_is_accused_as_often_as_the_level_says(count, noise):
    rng, tries = np.random.default_rng(count), 4000
    p_values = [auditing._small_spread_p_value(noise * rng.standard_normal(count)) for _ in range(tries)]
    for level in (0.05, auditing.LEVELS["spread"]):
        alarms = sum(p_value <= level for p_value in p_values)
        assert alarms <= most_hits(tries, level)
        assert noise > 1 or alarms >= fewest_hits(tries, level)  # exact, not only shy


@pytest.mark.parametrize("mu", [0.1, 0.2680511232])
def test_a_little_too_little_noise_around_the_canaries_is_caught_whatever_they_add(mu):
    rng, count = np.random.default_rng(15), 1000
    noise = 1 - 4 / math.sqrt(1450)  # absent canaries and silent directions, give or take
    for gain in (0.5, 1.0):
        seen = [simulate(rng, 1000, mu, noise=noise, gain=gain) for _ in range(count)]
        verdicts = [auditing.trade_off_verdict(one, mu) for one in seen]
        assert sum(verdict.accused for verdict in verdicts) >= fewest_hits(count, 0.99)
    assert "the noise around them is too small" in verdicts[0].finding


@pytest.mark.parametrize("others", [100, 300, 1700, 5000])
def test_the_deviation_that_shows_is_the_one_the_docstring_names(others):
    """Exact, from chi-square."""
    smallest = 1 - 4 / math.sqrt(others)
    assert chi2.cdf(chi2.ppf(auditing.LEVELS["spread"], others) / smallest**2, others) > 0.99


def test_all_bounds_of_a_correct_build_hold_together():
    """No bound passes the truth more often than all levels of the bounds together."""
    mu, rng, count = auditing.mu_of(2.0, DELTA), np.random.default_rng(11), 60
    wrong = 0
    for _ in range(count):
        wrong += max(bound.epsilon for bound in auditing.lower_bounds(simulate(rng, 60, mu, silent=60), DELTA)) > 2.0
    assert wrong <= most_hits(count, 0.007)


def test_bounds_show_a_leak_that_is_far_above_the_claim():
    seen = simulate(np.random.default_rng(12), 1000, 6.0)
    gaussian, curve, guesses = auditing.lower_bounds(seen, DELTA)
    truth = auditing.epsilon_of(6.0, DELTA)
    assert 0.9 * truth < gaussian.epsilon < truth
    assert 5 < curve.epsilon <= curve.ceiling
    assert 2 < guesses.epsilon <= guesses.ceiling


def test_many_runs_of_one_canary_tell_mu_from_its_double():
    mu, rng, count = auditing.mu_of(4.0, DELTA), np.random.default_rng(13), 1000
    runs = math.ceil((12.5 / mu) ** 2)
    honest = [auditing.runs_verdict(simulate(rng, runs, mu, silent=0), mu).accused for _ in range(count)]
    doubled = [auditing.runs_verdict(simulate(rng, runs, mu, noise=0.5, silent=0), mu).accused for _ in range(count)]
    assert sum(honest) <= most_hits(count, auditing.LEVELS["runs"])
    assert sum(doubled) >= fewest_hits(count, 0.99)


def test_many_runs_estimate_mu_and_bound_it_from_below():
    rng = np.random.default_rng(14)
    shifts = [auditing.shift_between_runs(simulate(rng, 100, 1.5, silent=0)) for _ in range(400)]
    assert np.mean([shift.estimate for shift in shifts]) == pytest.approx(1.5, abs=0.05)
    wrong = sum(shift.lower_bound(0.01) > 1.5 for shift in shifts)
    assert wrong <= most_hits(len(shifts), 0.01)
    assert np.mean([shift.lower_bound(0.01) for shift in shifts]) > 0.8


@pytest.mark.parametrize("included", [[], [True], [False], [True, True], [False, False]])
def test_too_few_canaries_show_nothing(included):
    seen = Scores(np.linspace(1, 9, len(included)), np.array(included, dtype=bool), np.empty(0))
    assert not auditing.runs_verdict(seen, 0.1).accused
    assert not auditing.trade_off_verdict(seen, 0.1).accused


def test_no_noise_at_all_is_accused_with_a_finite_bound():
    included = np.arange(20) % 2 == 0
    seen = Scores(included.astype(float), included, np.zeros(5))
    assert auditing.trade_off_verdict(seen, 1.0).accused
    assert math.isfinite(auditing.lower_bounds(seen, DELTA)[0].epsilon)


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


# --- The noise alone ----------------------------------------------------------------------------------------------


def noise_of(rng, steps=64, values=40, rounds=16):
    return rng.standard_normal((steps, values)), rng.standard_normal((rounds, values))


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
    caught = sum(auditing.mechanism_verdict(*NOISE_BUGS[bug](*noise_of(rng))).accused for _ in range(count))
    assert caught == count


@pytest.mark.parametrize("values", [1, 3, 40])
def test_half_the_noise_shows_in_the_smallest_model(values):
    rng = np.random.default_rng(22)
    assert all(
        auditing.mechanism_verdict(noise / 2, totals / 2).accused
        for noise, totals in (noise_of(rng, values=values) for _ in range(100))
    )


@pytest.mark.parametrize("values", [1, 3, 40])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_enough_noise_is_not_accused(values, scale):
    """At a level of 5 %, so that a fault of one of the tests inside would show."""
    rng, count = np.random.default_rng(23), 150
    alarms = 0
    for _ in range(count):
        noise, totals = noise_of(rng, values=values)
        alarms += auditing.mechanism_verdict(scale * noise, scale * totals, level=0.05).accused
    assert alarms <= most_hits(count, 0.05)


def test_the_finding_says_what_is_chance_and_which_test_the_p_value_comes_from():
    noise, totals = noise_of(np.random.default_rng(24))
    verdict = auditing.mechanism_verdict(noise, totals)
    low, high = np.sqrt(chi2.ppf([0.005, 0.995], noise.size) / noise.size)
    assert f"(by chance {low:.4g} to {high:.4g})" in verdict.finding
    smallest, fault = verdict.finding.split("p-value: ")[1].split(" of the test whether ")
    assert min(1.0, 7 * float(smallest)) == pytest.approx(verdict.p_value, rel=0.05)
    assert fault.endswith("times 7 for the smallest of as many tests (at most 1)")
    noise[:, 7] *= 0.01
    assert auditing.mechanism_verdict(noise, totals).finding.endswith("; a value's spread is too small")


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
        auditing.mechanism_verdict(noise, totals)


# --- Contributions ------------------------------------------------------------------------------------------------


def contributions_of(drawn, rng):
    return drawn + 1e-3 * rng.standard_normal(drawn.shape)


def of_a_fixed_size(rng, rate, steps, records):
    return np.argsort(rng.random((steps, records)), axis=1) < round(rate * records)


def in_shuffled_passes(rng, rate, steps, records):
    """Each record once in each pass of 1 / rate steps."""
    a_pass = round(1 / rate)
    turns = np.concatenate([np.argsort(rng.random((a_pass, records)), axis=0) for _ in range(steps // a_pass)])
    return turns == 0


@pytest.mark.parametrize("rate", [1.0, 0.3, 0.02])
def test_declared_draws_of_one_clip_are_not_accused(rate):
    rng, count = np.random.default_rng(31), 25
    steps = max(3, math.ceil(1 / rate))
    alarms = sum(
        auditing.contributions_verdict(
            contributions_of(rng.random((steps, 30)) < rate, rng), np.ones(5), rate, level=0.05
        ).accused
        for _ in range(count)
    )
    assert alarms <= most_hits(count, 0.05)


def test_smaller_contributions_and_rarer_draws_are_not_accused():
    rng = np.random.default_rng(32)
    drawn = rng.random((40, 30)) < 0.1
    assert not auditing.contributions_verdict(contributions_of(0.2 * drawn, rng), np.full(5, 0.2), 0.1).accused
    assert not auditing.contributions_verdict(contributions_of(0.0 * drawn, rng), np.full(5, 0.2), 0.1).accused
    assert not auditing.contributions_verdict(contributions_of(1.0 * drawn, rng), np.ones(5), 0.5).accused


CONTRIBUTION_BUGS = {
    "no clip": lambda rng: 100.0 * (rng.random((40, 60)) < 0.1),
    "twice": lambda rng: 2.0 * (rng.random((40, 60)) < 0.1),
    "drawn twice as often": lambda rng: 1.0 * (rng.random((40, 60)) < 0.2),
    "drawn always": lambda rng: np.ones((40, 60)),
    "batches of one size": lambda rng: 1.0 * of_a_fixed_size(rng, 0.1, 40, 60),
    "shuffled passes": lambda rng: 1.0 * in_shuffled_passes(rng, 0.1, 40, 60),
    "not a number": lambda rng: np.full((40, 60), math.nan),
}


@pytest.mark.parametrize("bug", CONTRIBUTION_BUGS)
def test_contributions_and_draws_off_the_declaration_are_caught(bug):
    rng = np.random.default_rng(33)
    assert all(
        auditing.contributions_verdict(contributions_of(CONTRIBUTION_BUGS[bug](rng), rng), np.ones(5), 0.1).accused
        for _ in range(6)
    )


@pytest.mark.parametrize("unit", ["record", "patient"])
def test_a_unit_that_adds_more_than_the_clip_is_caught_and_its_norm_is_not_told(unit):
    contributions = contributions_of(np.ones((3, 60)), np.random.default_rng(34))
    verdicts = [
        auditing.contributions_verdict(contributions, np.array([1.0, norm_of_unit]), 1.0, unit=unit)
        for norm_of_unit in (1.02, 777.7, math.inf, math.nan)
    ]
    assert all(verdict.accused for verdict in verdicts)
    assert len(set(verdicts)) == 1
    assert verdicts[0].finding.startswith(f"a {unit} of the data set added more than 1.01 clips to one step")


@pytest.mark.parametrize("rate", [1.0, 0.2])
def test_norms_of_units_up_to_the_clip_change_nothing_in_the_verdict(rate):
    rng = np.random.default_rng(35)
    contributions = contributions_of(rng.random((20, 60)) < rate, rng)
    verdicts = {auditing.contributions_verdict(contributions, np.array([1e-9, size]), rate) for size in (1.0, 0.3, 0.0)}
    assert len(verdicts) == 1


# Draws, [steps, canaries], as a rehearsal has them at these rates, and the factor on the rate that shows with 99 %.
PLANS = [(0.5, (8, 500), 1.1), (0.1, (40, 900), 1.1), (0.01, (400, 990), 1.1), (0.001, (400, 990), 1.32)]


@pytest.mark.parametrize(("rate", "shape", "factor"), PLANS)
def test_a_rate_above_the_declared_one_is_caught_with_99_percent_and_the_finding_names_it(rate, shape, factor):
    rng, count, draws = np.random.default_rng(36), 4000, math.prod(shape)
    level = auditing.LEVELS["contributions"] / 3
    fewest = int(binom.isf(level, draws, rate)) + 1
    told = auditing.rate_told(draws, rate, level)
    assert rate < told <= factor * rate
    assert (rng.binomial(draws, told, count) >= fewest).sum() >= fewest_hits(count, 0.99)
    assert (rng.binomial(draws, told, count) >= fewest).sum() <= most_hits(count, 0.99)
    assert (rng.binomial(draws, rate, count) >= fewest).sum() <= most_hits(count, level)
    seen = auditing.contributions_verdict(contributions_of(rng.random(shape) < factor * rate, rng), np.ones(1), rate)
    assert seen.accused
    assert f"from {told:.4g} on it shows with 99%); records are drawn more often" in seen.finding


def test_a_rate_that_no_draws_could_show_is_named_as_one():
    assert auditing.rate_told(2, 0.5, 0.001) == 1.0


def test_draws_of_more_steps_and_canaries_than_are_simulated_are_not_accused():
    rng, count = np.random.default_rng(37), 6
    alarms = sum(
        auditing.contributions_verdict(
            contributions_of(rng.random((400, 990)) < 0.01, rng), np.ones(1), 0.01, level=0.05
        ).accused
        for _ in range(count)
    )
    assert alarms <= most_hits(count, 0.05)


@pytest.mark.parametrize("shapes", [((0, 4), (1,)), ((1, 4), (0,)), ((4,), (1,)), ((1, 4), (1, 1))])
def test_an_empty_table_is_refused(shapes):
    with pytest.raises(ValueError, match="at least one"):
        auditing.contributions_verdict(np.ones(shapes[0]), np.ones(shapes[1]), 1.0)


# --- The report ---------------------------------------------------------------------------------------------------


def report_of(noise, *, claimed=4.0, rehearsed=4.0):
    rng = np.random.default_rng(41)
    mu = auditing.mu_of(rehearsed, DELTA)
    seen = simulate(rng, 100, mu, noise=noise)
    verdicts = (
        auditing.mechanism_verdict(*(noise * part for part in noise_of(rng))),
        auditing.trade_off_verdict(seen, mu),
    )
    return auditing.conclude(seen, verdicts, claimed_epsilon=claimed, rehearsed_epsilon=rehearsed, delta=DELTA)


def test_levels_add_up_to_one_percent():
    assert math.fsum(auditing.LEVELS.values()) <= auditing.FALSE_ALARM * (1 + 1e-9)


@pytest.mark.parametrize("noise", [1.0, 0.5])
def test_the_report_is_builtins_and_says_it_in_one_line(noise):
    report = report_of(noise)
    assert report.accused == (noise < 1)
    assert (report.lower_bound > 4.0) == report.accused
    assert report.confidence == 0.99
    assert report.sentence.startswith("This build is less private" if report.accused else "Nothing contradicts")
    assert "\n" not in report.sentence
    assert msgspec.json.decode(msgspec.json.encode(report), type=auditing.AuditReport) == report


def test_the_report_says_when_the_rehearsal_claims_more_than_the_accounting():
    report = report_of(1.0, claimed=1.0, rehearsed=12.0)
    assert not report.accused
    assert "all records in each step, which claims 12" in report.sentence


def test_levels_of_all_verdicts_and_bounds_are_the_declared_ones():
    report = report_of(1.0)
    levels = {verdict.test: verdict.level for verdict in report.verdicts}
    assert levels["canaries"] == auditing.LEVELS["gaussian"] + auditing.LEVELS["spread"]
    assert levels["mechanism"] == auditing.LEVELS["mechanism"]
