"""The report of an audit: its levels, its bounds and its sentence."""

import math

import msgspec
import numpy as np
import pytest
from audits import DELTA, most_hits, noise_of, simulate

from securepfl.privacy.accounting.gaussian import epsilon_of, mu_of
from securepfl.privacy.audit.gaussian import trade_off_verdict
from securepfl.privacy.audit.guesses import ceiling
from securepfl.privacy.audit.mechanism import mechanism_verdict
from securepfl.privacy.audit.report import AuditReport, conclude, lower_bounds
from securepfl.privacy.audit.verdicts import FALSE_ALARM, LEVELS


def report_of(noise, *, claimed=4.0, rehearsed=4.0):
    rng = np.random.default_rng(41)
    mu = mu_of(rehearsed, DELTA)
    seen = simulate(rng, 100, mu, noise=noise)
    verdicts = (
        mechanism_verdict(*(noise * part for part in noise_of(rng))),
        trade_off_verdict(seen, mu),
    )
    return conclude(seen, verdicts, claimed_epsilon=claimed, rehearsed_epsilon=rehearsed, delta=DELTA)


def test_levels_add_up_to_one_percent():
    assert math.fsum(LEVELS.values()) <= FALSE_ALARM * (1 + 1e-9)


@pytest.mark.parametrize("noise", [1.0, 0.5])
def test_the_report_is_builtins_and_says_it_in_one_line(noise):
    report = report_of(noise)
    assert report.accused == (noise < 1)
    assert (report.lower_bound > 4.0) == report.accused
    assert report.confidence == 0.99
    assert report.sentence.startswith("This build is less private" if report.accused else "Nothing contradicts")
    assert "\n" not in report.sentence
    assert msgspec.json.decode(msgspec.json.encode(report), type=AuditReport) == report


def test_the_report_says_when_the_rehearsal_claims_more_than_the_accounting():
    report = report_of(1.0, claimed=1.0, rehearsed=12.0)
    assert not report.accused
    assert "all records in each step, which claims 12" in report.sentence


def test_levels_of_all_verdicts_and_bounds_are_the_declared_ones():
    report = report_of(1.0)
    levels = {verdict.test: verdict.level for verdict in report.verdicts}
    assert levels["canaries"] == LEVELS["gaussian"] + LEVELS["spread"]
    assert levels["mechanism"] == LEVELS["mechanism"]


def test_all_bounds_of_a_correct_build_hold_together():
    """No bound passes the truth more often than all levels of the bounds together."""
    mu, rng, count = mu_of(2.0, DELTA), np.random.default_rng(11), 60
    wrong = 0
    for _ in range(count):
        wrong += max(bound.epsilon for bound in lower_bounds(simulate(rng, 60, mu, silent=60), DELTA)) > 2.0
    assert wrong <= most_hits(count, 0.007)


def test_bounds_show_a_leak_that_is_far_above_the_claim():
    seen = simulate(np.random.default_rng(12), 1000, 6.0)
    gaussian, curve, guesses = lower_bounds(seen, DELTA)
    truth = epsilon_of(6.0, DELTA)
    assert 0.9 * truth < gaussian.epsilon < truth
    assert 5 < curve.epsilon <= curve.ceiling
    assert 2 < guesses.epsilon <= guesses.ceiling


@pytest.mark.parametrize("canaries", [1, 2, 30, 300])
@pytest.mark.parametrize("method", ["f-DP", "guesses"])
def test_perfect_scores_reach_the_ceiling_and_nothing_passes_it(canaries, method):
    rng = np.random.default_rng(1)
    perfect = simulate(rng, canaries, 1000.0, silent=10)
    bound = next(b for b in lower_bounds(perfect, DELTA) if b.method == method)
    # All guessed right needs as many in as out where all are guessed; fewer guesses may do better still.
    assert bound.epsilon <= bound.ceiling == ceiling(canaries, DELTA, method)
    assert math.isfinite(bound.ceiling)
