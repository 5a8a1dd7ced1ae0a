import numpy as np
import pytest

from securepfl.tasks.binary import BINARY
from securepfl.tasks.task import baseline_metrics


def test_metrics_of_a_known_table():
    metrics = BINARY.evaluate(np.array([0.9, 0.2, 0.6, 0.5]), np.array([1, 0, 0, 1]))
    assert metrics == {"accuracy": 0.75, "balanced_accuracy": 0.75, "auroc": 0.75}
    assert all(type(value) is float for value in metrics.values())


def test_balanced_accuracy_and_accuracy_differ_where_classes_do():
    metrics = BINARY.evaluate(np.array([0.9, 0.9, 0.9, 0.9]), np.array([1, 1, 1, 0]))
    assert metrics == {"accuracy": 0.75, "balanced_accuracy": 0.5, "auroc": 0.5}


def test_one_class_leaves_accuracy_only():
    assert BINARY.evaluate(np.array([0.9, 0.1]), np.array([1, 1])) == {
        "accuracy": 0.5,
        "balanced_accuracy": None,
        "auroc": None,
    }


def test_no_rows_leave_nothing():
    assert set(BINARY.evaluate(np.empty(0), np.empty(0)).values()) == {None}


@pytest.mark.parametrize(("train", "accuracy"), [([1, 1, 0], 0.75), ([0, 0, 1], 0.25), ([0, 1], 0.75)])
def test_majority_answers_the_commoner_training_class(train, accuracy):
    metrics = baseline_metrics(BINARY, np.array(train), np.array([1, 1, 1, 0]))
    assert metrics == {"accuracy": accuracy, "balanced_accuracy": 0.5, "auroc": 0.5}


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
