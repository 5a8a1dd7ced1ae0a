"""Power and false alarms of the tests of the clip and the draws, over seeded simulations."""

import math

import numpy as np
import pytest
from audits import fewest_hits, most_hits
from scipy.stats import binom

from securepfl.privacy.audit.contributions import contributions_verdict, rate_told
from securepfl.privacy.audit.verdicts import LEVELS


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
        contributions_verdict(
            contributions_of(rng.random((steps, 30)) < rate, rng), np.ones(5), rate, level=0.05
        ).accused
        for _ in range(count)
    )
    assert alarms <= most_hits(count, 0.05)


def test_smaller_contributions_and_rarer_draws_are_not_accused():
    rng = np.random.default_rng(32)
    drawn = rng.random((40, 30)) < 0.1
    assert not contributions_verdict(contributions_of(0.2 * drawn, rng), np.full(5, 0.2), 0.1).accused
    assert not contributions_verdict(contributions_of(0.0 * drawn, rng), np.full(5, 0.2), 0.1).accused
    assert not contributions_verdict(contributions_of(1.0 * drawn, rng), np.ones(5), 0.5).accused


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
        contributions_verdict(contributions_of(CONTRIBUTION_BUGS[bug](rng), rng), np.ones(5), 0.1).accused
        for _ in range(6)
    )


@pytest.mark.parametrize("unit", ["record", "patient"])
def test_a_unit_that_adds_more_than_the_clip_is_caught_and_its_norm_is_not_told(unit):
    contributions = contributions_of(np.ones((3, 60)), np.random.default_rng(34))
    verdicts = [
        contributions_verdict(contributions, np.array([1.0, norm_of_unit]), 1.0, unit=unit)
        for norm_of_unit in (1.02, 777.7, math.inf, math.nan)
    ]
    assert all(verdict.accused for verdict in verdicts)
    assert len(set(verdicts)) == 1
    assert verdicts[0].finding.startswith(f"a {unit} of the data set added more than 1.01 clips to one step")


@pytest.mark.parametrize("rate", [1.0, 0.2])
def test_norms_of_units_up_to_the_clip_change_nothing_in_the_verdict(rate):
    rng = np.random.default_rng(35)
    contributions = contributions_of(rng.random((20, 60)) < rate, rng)
    verdicts = {contributions_verdict(contributions, np.array([1e-9, size]), rate) for size in (1.0, 0.3, 0.0)}
    assert len(verdicts) == 1


# Draws, [steps, canaries], as a rehearsal has them at these rates, and the factor on the rate that shows with 99 %.
PLANS = [(0.5, (8, 500), 1.1), (0.1, (40, 900), 1.1), (0.01, (400, 990), 1.1), (0.001, (400, 990), 1.32)]


@pytest.mark.parametrize(("rate", "shape", "factor"), PLANS)
def test_a_rate_above_the_declared_one_is_caught_with_99_percent_and_the_finding_names_it(rate, shape, factor):
    rng, count, draws = np.random.default_rng(36), 4000, math.prod(shape)
    level = LEVELS["contributions"] / 3
    fewest = int(binom.isf(level, draws, rate)) + 1
    told = rate_told(draws, rate, level)
    assert rate < told <= factor * rate
    assert (rng.binomial(draws, told, count) >= fewest).sum() >= fewest_hits(count, 0.99)
    assert (rng.binomial(draws, told, count) >= fewest).sum() <= most_hits(count, 0.99)
    assert (rng.binomial(draws, rate, count) >= fewest).sum() <= most_hits(count, level)
    seen = contributions_verdict(contributions_of(rng.random(shape) < factor * rate, rng), np.ones(1), rate)
    assert seen.accused
    assert f"from {told:.4g} on it shows with 99%); records are drawn more often" in seen.finding


def test_a_rate_that_no_draws_could_show_is_named_as_one():
    assert rate_told(2, 0.5, 0.001) == 1.0


def test_draws_of_more_steps_and_canaries_than_are_simulated_are_not_accused():
    rng, count = np.random.default_rng(37), 6
    alarms = sum(
        contributions_verdict(
            contributions_of(rng.random((400, 990)) < 0.01, rng), np.ones(1), 0.01, level=0.05
        ).accused
        for _ in range(count)
    )
    assert alarms <= most_hits(count, 0.05)


@pytest.mark.parametrize("shapes", [((0, 4), (1,)), ((1, 4), (0,)), ((4,), (1,)), ((1, 4), (1, 1))])
def test_an_empty_table_is_refused(shapes):
    with pytest.raises(ValueError, match="at least one"):
        contributions_verdict(np.ones(shapes[0]), np.ones(shapes[1]), 1.0)
