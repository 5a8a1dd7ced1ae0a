"""Each metric against figures by hand and against scikit-learn's, one by one and for many weightings at once."""

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    recall_score,
    roc_auc_score,
)

from securepfl.tasks.binary import BINARY
from securepfl.tasks.metrics import auprc, auroc, balanced_accuracy, calibration
from securepfl.tasks.multiclass import Multiclass
from securepfl.tasks.regression import Regression
from securepfl.tasks.task import baseline_metrics

FIRST = ("accuracy", "balanced_accuracy", "auroc")


def first(metrics):
    return tuple(metrics[name] for name in FIRST)


def test_metrics_of_a_known_table():
    metrics = BINARY.evaluate(np.array([0.9, 0.2, 0.6, 0.5]), np.array([1, 0, 0, 1]))
    assert first(metrics) == (0.75, 0.75, 0.75) and all(type(value) is float for value in metrics.values())
    assert (metrics["sensitivity"], metrics["specificity"]) == (1.0, 0.5)
    assert metrics["auprc"] == pytest.approx((1 + 2 / 3) / 2)
    assert metrics["brier"] == pytest.approx((0.01 + 0.04 + 0.36 + 0.25) / 4)


def test_balanced_accuracy_and_accuracy_differ_where_classes_do():
    metrics = BINARY.evaluate(np.array([0.9, 0.9, 0.9, 0.9]), np.array([1, 1, 1, 0]))
    assert first(metrics) == (0.75, 0.5, 0.5) and metrics["auprc"] == 0.75
    assert metrics["calibration_slope"] is None, "equal predictions have no slope"
    assert metrics["calibration_intercept"] == pytest.approx(logit(0.75) - logit(0.9))


def test_one_class_leaves_what_needs_one():
    metrics = BINARY.evaluate(np.array([0.9, 0.1]), np.array([1, 1]))
    known = {name: value for name, value in metrics.items() if value is not None}
    assert known == {"accuracy": 0.5, "sensitivity": 0.5, "brier": pytest.approx(0.41)}


def test_no_rows_leave_nothing():
    assert set(BINARY.evaluate(np.empty(0), np.empty(0)).values()) == {None}


@pytest.mark.parametrize(("train", "accuracy"), [([1, 1, 0], 0.75), ([0, 0, 1], 0.25), ([0, 1], 0.75)])
def test_majority_answers_the_commoner_training_class(train, accuracy):
    metrics = baseline_metrics(BINARY, np.array(train), np.array([1, 1, 1, 0]))
    assert first(metrics) == (accuracy, 0.5, 0.5)
    assert metrics["calibration_slope"] is None and metrics["calibration_intercept"] is None


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        ([0.1], [0, 1], "alike"),
        ([[0.1]], [[1]], "one vector"),
        ([0.5], [2], "0 or 1"),
        ([np.nan], [1], "numbers"),
    ],
)
def test_what_is_no_binary_table_is_refused(probabilities, labels, message):
    with pytest.raises(ValueError, match=message):
        BINARY.evaluate(np.array(probabilities), np.array(labels))


def test_majority_needs_a_training_label():
    with pytest.raises(ValueError, match="train_labels"):
        baseline_metrics(BINARY, np.empty(0), np.array([1]))


@pytest.mark.parametrize("rows", [12, 90])
def test_every_weighting_gives_what_scikit_learn_gives_for_it(rows):
    """With ties among the scores, and weights of 0."""
    draw = np.random.default_rng(rows)
    truth = np.arange(rows) % 3 % 2
    chances = expit(np.round(draw.normal(size=rows) + truth, 1))
    weights = np.vstack([np.ones(rows), draw.multinomial(rows, np.full(rows, 1 / rows), size=40)]).astype(float)
    decided = BINARY.decide(chances, (0.4,))
    found = BINARY.measure(chances, decided, truth, weights)
    assert all(values.shape == (41,) for values in found.values())
    for at, of in enumerate(weights):
        for name, value in {
            "accuracy": accuracy_score(truth, decided, sample_weight=of),
            "balanced_accuracy": balanced_accuracy_score(truth, decided, sample_weight=of),
            "auroc": roc_auc_score(truth, chances, sample_weight=of),
            "auprc": average_precision_score(truth, chances, sample_weight=of),
            "sensitivity": recall_score(truth, decided, sample_weight=of),
            "specificity": recall_score(truth, decided, pos_label=0, sample_weight=of),
            "brier": brier_score_loss(truth, chances, sample_weight=of),
        }.items():
            assert found[name][at] == pytest.approx(value, abs=1e-12), name


def test_calibration_is_scikit_learns_logistic_regression_on_the_log_odds():
    draw = np.random.default_rng(4)
    truth = draw.integers(0, 2, 150)
    odds = 1.7 * (truth - 0.5) + draw.normal(0, 2, 150)
    weights = draw.multinomial(150, np.full(150, 1 / 150), size=25).astype(float)
    slope, intercept = calibration(truth, expit(odds), weights)
    for at, of in enumerate(weights):
        fitted = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(odds[:, None], truth, sample_weight=of)
        assert slope[at] == pytest.approx(fitted.coef_[0, 0], abs=1e-6)
        # With the slope held at 1 the intercept is where as many events are expected as there are.
        assert of @ expit(intercept[at] + odds) == pytest.approx(of @ truth, abs=1e-6)


def test_honest_probabilities_are_calibrated_and_sharpened_ones_say_by_how_much():
    odds = np.repeat(logit([0.1, 0.3, 0.5, 0.8]), 10)
    truth = np.concatenate([np.arange(10) < share for share in (1, 3, 5, 8)]).astype(int)
    one = np.ones((1, 40))
    slope, intercept = calibration(truth, expit(odds), one)
    assert (slope[0], intercept[0]) == (pytest.approx(1), pytest.approx(0, abs=1e-9))
    assert calibration(truth, expit(4 * odds), one)[0][0] == pytest.approx(0.25)
    shifted = calibration(truth, expit(odds - 1.5), one)
    assert (shifted[0][0], shifted[1][0]) == (pytest.approx(1), pytest.approx(1.5))


def test_a_slope_that_separation_makes_infinite_is_told_from_one_that_is_steep():
    truth, one = np.array([0, 0, 1, 1]), np.ones((1, 4))
    assert calibration(truth, np.array([0.1, 0.2, 0.2, 0.9]), one)[0][0] == np.inf, "a tie does not bring it back"
    assert calibration(truth, np.array([0.9, 0.8, 0.2, 0.1]), one)[0][0] == -np.inf
    assert BINARY.evaluate(np.array([0.1, 0.2, 0.8, 0.9]), truth)["calibration_slope"] is None
    steep = calibration(truth, np.array([0.4999, 0.50001, 0.5, 0.5001]), one)[0][0]
    assert np.isfinite(steep) and steep > 1000
    sure = calibration(np.array([0, 1, 0, 1]), np.array([0.0, 1.0, 1.0, 0.5]), one)
    assert np.isfinite(sure).all(), "a probability of exactly 1 that was wrong"


def test_a_class_that_a_resample_lacks_costs_only_that_resample():
    truth, chances = np.array([0, 0, 1]), np.array([0.2, 0.4, 0.9])
    weights = np.array([[1.0, 1, 1], [2, 1, 0], [0, 0, 3]])
    for values in (
        auroc(truth, chances, weights),
        auprc(truth, chances, weights),
        balanced_accuracy(truth, (chances > 0.3).astype(int), weights),
    ):
        assert np.isnan(values).tolist() == [False, True, True]


def test_class_and_number_metrics_are_weighted_too():
    """Against the same rows written out as often as they count."""
    draw = np.random.default_rng(2)
    counts = draw.integers(0, 4, 30)
    rows = np.repeat(np.arange(30), counts)
    for task, predictions, labels in (
        (Multiclass(), draw.dirichlet(np.ones(3), 30), draw.integers(0, 3, 30)),
        (Regression(), draw.normal(size=30), draw.normal(size=30)),
    ):
        found = task.measure(predictions, task.decide(predictions), labels, counts[None].astype(float))
        for name, value in task.evaluate(predictions[rows], labels[rows]).items():
            assert found[name][0] == pytest.approx(value, abs=1e-12), name
