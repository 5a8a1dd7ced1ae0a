"""ROC and calibration at the operating point, beside scikit-learn's."""

import numpy as np
import pytest
from sklearn.metrics import auc, roc_auc_score

from securepfl.tasks.curves import MOST_PARTS, Curves, observed_numbers, questions_of
from securepfl.tasks.multilabel import Multilabel
from securepfl.tasks.regression import Regression


def drawn(rows=400, seed=3):
    draw = np.random.default_rng(seed)
    said = np.round(draw.uniform(size=rows), 2)  # with ties
    return (draw.uniform(size=rows) < said).astype(int), said


def test_the_area_under_the_points_is_the_auroc():
    labels, said = drawn()
    curve = Curves.of(labels, said, said >= 0.5)
    assert curve.roc[0] == (0, 0) and curve.roc[-1] == (1, 1) and len(curve.roc) <= 101
    assert auc(*zip(*curve.roc, strict=True)) == pytest.approx(roc_auc_score(labels, said), abs=2e-3)


def test_the_counts_are_those_of_the_decisions():
    curve = Curves.of(np.array([1, 1, 0, 0, 0]), np.array([0.9, 0.2, 0.7, 0.1, 0.3]), np.array([1, 0, 1, 0, 0]))
    assert (curve.rows, curve.yes, curve.true_yes, curve.false_yes) == (5, 2, 1, 1)
    assert curve.calibration == (), "five rows are too few for two groups"


def test_groups_of_a_calibrated_model_hold_the_diagonal():
    labels, said = drawn(rows=4000)
    groups = Curves.of(labels, said, said >= 0.5).calibration
    assert len(groups) == 10 and sum(group.rows for group in groups) == 4000
    assert sum(group.low <= group.predicted <= group.high for group in groups) >= 9
    assert all(0 <= group.low <= group.observed <= group.high <= 1 for group in groups)


def test_rows_of_one_prediction_are_one_group_whatever_their_order():
    labels = np.repeat([0, 1, 0, 1], 20)
    (only,) = Curves.of(np.sort(labels), np.full(80, 0.5), labels).calibration
    assert (only.predicted, only.observed, only.rows) == (0.5, 0.5, 80)
    said = np.repeat([0.2, 0.7], [50, 30])
    groups = Curves.of(labels, said, labels).calibration
    assert [(group.predicted, group.rows) for group in groups] == [(0.2, 50), (0.7, 30)]


def test_one_class_has_no_roc():
    assert Curves.of(np.ones(20), np.linspace(0, 1, 20), np.ones(20)).roc == ()


def test_labels_are_asked_one_by_one_and_at_most_a_dozen():
    task, draw = Multilabel(), np.random.default_rng(0)
    labels, chances = draw.integers(0, 2, (30, 15)), draw.random((30, 15))
    asked = questions_of(task, labels, chances, task.decide(chances))
    assert [one.name for one in asked] == [str(number) for number in range(MOST_PARTS)]
    assert np.array_equal(asked[3].truth, labels[:, 3]) and np.array_equal(asked[3].decided, chances[:, 3] >= 0.5)
    assert questions_of(Regression(120, 20), chances[:, 0], chances[:, 0], chances[:, 0]) == []


def test_intervals_of_observed_numbers_hold_the_true_mean():
    """In about 95 of 100 groups: each of 400 groups of 40 is drawn around what was predicted."""
    draw = np.random.default_rng(1)
    held = 0
    for _ in range(40):
        predicted = draw.normal(120, 20, 400)
        for group in observed_numbers(predicted + draw.normal(0, 5, 400), predicted):
            held += group.low <= group.predicted <= group.high
    assert 0.9 < held / 400 <= 1
    assert observed_numbers(np.arange(15.0), np.arange(15.0)) == ()
