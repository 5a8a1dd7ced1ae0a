"""Intervals over test units, from resamples that anybody can draw again."""

import numpy as np
import pytest
from scipy import stats

from securepfl.tasks.binary import BINARY
from securepfl.tasks.metrics import auroc
from securepfl.tasks.resampling import Scored, resampled, score, score_resampled

PATIENTS = np.repeat(np.arange(40), 5)


def scored(chances, truth, weights):
    return score_resampled(BINARY, chances, BINARY.decide(chances), truth, weights)


def test_rows_of_one_patient_come_and_go_together_and_resamples_hold_as_many_patients():
    drawn = resampled("north", PATIENTS, 50)
    assert drawn.shape == (51, 200) and (drawn[0] == 1).all()
    by_patient = drawn.reshape(51, 40, 5)
    assert (by_patient == by_patient[:, :, :1]).all() and (by_patient[:, :, 0].sum(axis=1) == 40).all()


def test_draws_repeat_for_a_site_and_differ_between_sites():
    units = np.arange(30)
    assert (resampled("north", units, 20) == resampled("north", units, 20)).all()
    assert (resampled("north", units, 20)[1:] != resampled("south", units, 20)[1:]).any()
    assert resampled("north", np.empty(0), 20).shape == (21, 0)


def test_an_interval_of_a_share_is_the_binomial_one():
    truth = (np.arange(100) < 70).astype(int)
    found = scored(np.ones(100), truth, resampled("north", np.arange(100), 1000))
    low, high = found.interval("accuracy")
    exact = stats.binom(100, 0.7).ppf([0.025, 0.975]) / 100
    assert found.point["accuracy"] == 0.7 and (low, high) == pytest.approx(tuple(exact), abs=0.015)


def test_patients_with_alike_records_widen_the_interval_by_the_root_of_their_number():
    truth = np.repeat((np.arange(40) < 28).astype(int), 5)
    width = {}
    for unit, units in (("patient", PATIENTS), ("record", np.arange(200))):
        low, high = scored(np.ones(200), truth, resampled("north", units, 1000)).interval("accuracy")
        width[unit] = high - low
    assert width["patient"] / width["record"] == pytest.approx(5**0.5, rel=0.15)


def test_an_interval_covers_the_truth_as_often_as_it_says():
    """200 test sets of 80 patients: the AUROC of a model whose true one is known in closed form."""
    draw, shift, covered = np.random.default_rng(0), 1.0, 0
    for trial in range(200):
        truth = np.arange(80) % 2
        chances = stats.norm.cdf(draw.normal(size=80) + shift * truth)
        found = Scored({"auroc": auroc(truth, chances, resampled(str(trial), np.arange(80), 400))})
        low, high = found.interval("auroc")
        covered += low <= stats.norm.cdf(shift / 2**0.5) <= high
    assert 0.90 <= covered / 200 <= 0.985


def test_a_difference_of_models_on_the_same_resamples_is_narrower_than_either():
    draw = np.random.default_rng(1)
    truth = np.arange(100) % 2
    one = stats.norm.cdf(draw.normal(size=100) + truth)
    other = np.clip(one + draw.normal(0, 0.01, 100), 0, 1)
    weights = resampled("north", np.arange(100), 500)
    first, second = scored(one, truth, weights), scored(other, truth, weights)
    (low, high), (least, most) = first.minus(second).interval("auroc"), first.interval("auroc")
    assert high - low < (most - least) / 5
    assert first.minus(first).interval("auroc") == (0.0, 0.0)


def test_there_is_no_interval_where_resamples_often_lack_a_class():
    chances = np.linspace(0.1, 0.9, 16)
    for negatives, known in ((1, False), (2, False), (4, True)):
        truth = (np.arange(16) >= negatives).astype(int)
        found = scored(chances, truth, resampled("north", np.arange(16), 1000))
        assert (found.interval("auroc") is not None) == known and found.point["auroc"] == 1.0
        assert found.interval("accuracy") is not None
    assert scored(chances, np.ones(16, int), resampled("north", np.arange(16), 100)).interval("auroc") is None


def test_an_end_without_bound_is_none():
    """Resamples that are separated by chance have an infinite slope."""
    truth = np.repeat([0, 1], 6)
    chances = np.array([0.1, 0.2, 0.3, 0.3, 0.4, 0.7, 0.3, 0.6, 0.7, 0.8, 0.8, 0.9])
    low, high = scored(chances, truth, resampled("north", np.arange(12), 1000)).interval("calibration_slope")
    assert low > 0 and high is None


def test_a_mean_over_hospitals_leaves_out_who_has_no_figure():
    both = score(BINARY, np.array([0.2, 0.9]), np.array([0, 1]))
    one = score(BINARY, np.array([0.2, 0.9]), np.array([1, 1]))
    mean = Scored.mean([both, one])
    assert (mean.point["auroc"], mean.point["accuracy"]) == (1.0, 0.75)
    by_rows = Scored.mean([both, one], [1, 3])
    assert (by_rows.point["auroc"], by_rows.point["accuracy"]) == (1.0, 0.625)


def test_many_rows_are_counted_in_parts_with_the_same_result(monkeypatch):
    draw = np.random.default_rng(3)
    truth, chances = draw.integers(0, 2, 60), draw.random(60)
    weights = resampled("north", np.arange(60), 30)
    whole = scored(chances, truth, weights)
    monkeypatch.setattr("securepfl.tasks.resampling._ROWS", 200)
    parts = scored(chances, truth, weights)
    for name, values in whole.values.items():
        assert np.allclose(values, parts.values[name], rtol=1e-9, equal_nan=True), name


def test_a_handful_of_units_has_no_interval_and_hospitals_count_together():
    """Of two models that are alike, one is better at all of three patients in a quarter of trials."""
    drawn = Scored({"dice": np.array([0.8, 0.7, 0.9])})
    assert drawn.of_units(4).interval("dice") is None and drawn.of_units(5).interval("dice") == (0.7, 0.9)
    assert drawn.of_units(4).minus(drawn.of_units(9)).interval("dice") is None
    assert Scored.mean([drawn.of_units(2), drawn.of_units(3)]).interval("dice") == pytest.approx((0.7, 0.9))
    without = Scored({"dice": np.full(3, np.nan)}).of_units(50)
    assert Scored.mean([drawn.of_units(2), without]).interval("dice") is None
