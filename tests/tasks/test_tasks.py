"""What each task calls legal, loses, and measures."""

import math
from typing import get_args

import numpy as np
import pytest
import torch

from securepfl.errors import ConfigError
from securepfl.tasks.binary import BINARY
from securepfl.tasks.multiclass import Multiclass
from securepfl.tasks.multilabel import Multilabel
from securepfl.tasks.names import LABEL_KEYS, TaskName
from securepfl.tasks.own import OwnLoss
from securepfl.tasks.registry import TASKS, task_named
from securepfl.tasks.regression import Regression
from securepfl.tasks.task import baseline_metrics

NAN, INF = math.nan, math.inf
GRADE, SIGNS, PRESSURE = Multiclass(("a", "b", "c")), Multilabel(("x", "y")), Regression(120, 20, limit=5, unit="mmHg")


@pytest.mark.parametrize(
    ("task", "labels", "output"),
    [
        (BINARY, torch.tensor([0, 1]), ()),
        (BINARY, torch.tensor([True, False]), ()),
        (BINARY, torch.tensor([[0.0], [1.0]]), (1,)),
        (BINARY, torch.tensor([0.0, NAN]), ()),
        (GRADE, torch.tensor([0, 1, 2]), (3,)),
        (GRADE, torch.tensor([0.0, 2.0]), (3,)),
        (GRADE, torch.tensor([0, 2], dtype=torch.uint8), None),
        (Multiclass(), torch.tensor([0, 6]), (7,)),
        (SIGNS, torch.tensor([[0, 1], [1, 1]]), (2,)),
        (PRESSURE, torch.tensor([20.0, 220.0]), ()),
        (PRESSURE, torch.tensor([118, 130]), ()),
        (OwnLoss(), torch.tensor([[7, -3]]), (4, 4)),
    ],
)
def test_legal_labels_are_taken(task, labels, output):
    assert task.illegal(labels, output) is None


@pytest.mark.parametrize(
    ("task", "labels", "output", "place", "words"),
    [
        (BINARY, torch.tensor([1.0, -1.0]), (), 1, "label is -1: binary labels are 0 and 1"),
        (BINARY, torch.tensor([0, 1, 4]), None, 2, "label is 4"),
        (BINARY, torch.tensor([0.5]), (), 0, "label is 0.5"),
        (
            BINARY,
            torch.tensor([[0.0]]),
            (),
            0,
            "label is [1], and the model's output one number; reshape one of them, as by labels[:, 0]",
        ),
        (
            BINARY,
            torch.tensor([0.0]),
            (1,),
            0,
            "label is one number, and the model's output [1]; reshape one of them, as by nn.Flatten(0)",
        ),
        (BINARY, torch.tensor([[0.0, 1.0]]), None, 0, "label is [2]"),
        (GRADE, torch.tensor([0, 3]), (3,), 1, "label is 3: with 3 classes labels are whole numbers from 0 to 2"),
        (GRADE, torch.tensor([0, -1]), (3,), 1, "label is -1"),
        (GRADE, torch.tensor([0.0, 0.5]), (3,), 1, "label is 0.5"),
        (GRADE, torch.tensor([0.0, NAN]), (3,), 1, "label is nan"),
        (GRADE, torch.tensor([[0, 0, 1]]), (3,), 0, "label is [3], and a class is one number: hand in its number"),
        (Multiclass(), torch.tensor([0, 7]), (7,), 1, "with 7 classes"),
        (Multiclass(), torch.tensor([-2.0]), None, 0, "whole numbers from 0;"),
        (SIGNS, torch.tensor([[0, 1], [2, 0]]), (2,), 1, "label holds 2"),
        (SIGNS, torch.tensor([[0.0, NAN]]), (2,), 0, "label holds nan"),
        (SIGNS, torch.tensor([1, 0]), (2,), 0, "label is one number, and a multilabel label here is [2] of 0 and 1"),
        (SIGNS, torch.tensor([[1, 0, 0]]), (2,), 0, "label is [3]"),
        (PRESSURE, torch.tensor([120.0, 999.0]), (), 1, "label is 999: labels are declared to lie from 20 to 220"),
        (PRESSURE, torch.tensor([-INF]), (), 0, "label is -inf"),
        (Regression(), torch.tensor([1.0, NAN]), (), 1, "label is nan: labels are finite numbers"),
        (Regression(), torch.ones(2, 1), (), 0, "label is [1], and the model's output one number"),
        (OwnLoss(), torch.tensor([[1.0, NAN]]), None, 0, "label holds nan"),
    ],
)
def test_the_first_illegal_label_is_found_and_named(task, labels, output, place, words):
    found = task.illegal(labels, output)
    assert found is not None and found.place == place and words in found.problem


@pytest.mark.parametrize(
    ("task", "output"),
    [(BINARY, (2,)), (Regression(), (3,)), (Multiclass(), (1,)), (Multiclass(), ()), (GRADE, (4,)), (SIGNS, (3,))],
)
def test_a_model_with_other_outputs_is_no_model_of_the_task(task, output):
    assert task.misfit(output)
    assert not OwnLoss().misfit(output)


def test_losses_are_one_number_a_record():
    outputs, signs = torch.tensor([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0]]), torch.tensor([[0, 1], [1, 0]])
    torch.testing.assert_close(GRADE.loss(outputs, torch.tensor([1.0, 0.0])), torch.tensor([math.log(3), 0.000247]))
    torch.testing.assert_close(SIGNS.loss(torch.zeros(2, 2), signs), torch.full((2,), math.log(2)))
    torch.testing.assert_close(
        PRESSURE.loss(torch.tensor([1.0, 0.0]), torch.tensor([120, 160])), torch.tensor([1.0, 4.0])
    )
    torch.testing.assert_close(BINARY.loss(torch.zeros(2, 1), torch.ones(2, 1)), torch.full((2,), math.log(2)))


@pytest.mark.parametrize("task", [SIGNS, PRESSURE])
def test_shapes_that_would_broadcast_are_no_loss(task):
    with pytest.raises(ValueError, match="differ in shape"):
        task.loss(torch.zeros(2, 2), torch.zeros(2))


def test_metrics_of_classes():
    chances = np.array([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.1, 0.2, 0.7], [0.5, 0.3, 0.2]])
    found = GRADE.evaluate(chances, np.array([0, 1, 2, 1]))
    assert found == pytest.approx(
        {"accuracy": 0.75, "balanced_accuracy": 5 / 6, "mean_auroc": 1.0, "mean_auprc": 1.0, "brier": 0.31}
    )
    one = GRADE.evaluate(chances[:1], np.array([0]))
    assert one == {
        "accuracy": 1.0, "balanced_accuracy": None, "mean_auroc": None, "mean_auprc": None, "brier": pytest.approx(0.06)
    }  # fmt: skip
    assert set(GRADE.evaluate(np.empty((0, 3)), np.empty(0)).values()) == {None}


def test_metrics_of_labels():
    chances = np.array([[0.9, 0.2], [0.4, 0.7], [0.6, 0.1]])
    found = SIGNS.evaluate(chances, np.array([[1, 0], [0, 0], [1, 0]]))
    assert found == pytest.approx(
        {
            "label_accuracy": 5 / 6,
            "exact_match": 2 / 3,
            "mean_auroc": 1.0,
            "mean_auprc": 1.0,
            "mean_balanced_accuracy": 1.0,  # of the first label alone: the second has one answer
            "brier": 0.145,
        }
    )


def test_metrics_of_numbers():
    found = PRESSURE.evaluate(np.array([110.0, 130.0]), np.array([120.0, 150.0]))
    assert found == pytest.approx(
        {
            "mean_absolute_error": 15.0,
            "root_mean_squared_error": math.sqrt(250),
            "r2": 1 - 500 / 450,
            "mean_error": -15.0,
        }
    )
    assert PRESSURE.evaluate(np.array([110.0]), np.array([110.0]))["r2"] is None
    assert set(PRESSURE.evaluate(np.array([NAN]), np.array([110.0])).values()) == {None}
    huge = PRESSURE.evaluate(np.array([1e300, 0.0]), np.array([120.0, 150.0]))
    assert huge["root_mean_squared_error"] == pytest.approx(1e300 / math.sqrt(2)) and huge["r2"] is None
    assert all("mmHg" in metric.title for metric in PRESSURE.metrics[:2])


def test_a_declared_operating_point_decides_and_moves_no_probability():
    chances = np.array([0.2, 0.3, 0.6])
    assert BINARY.decide(chances).tolist() == [0, 0, 1] and BINARY.decide(chances, (0.3,)).tolist() == [0, 1, 1]
    assert BINARY.columns(chances, (0.3,))["prediction"].tolist() == [0, 1, 1]
    truth = np.array([0, 1, 1])
    half, low = BINARY.evaluate(chances, truth), BINARY.evaluate(chances, truth, (0.3,))
    assert (half["sensitivity"], low["sensitivity"], low["specificity"]) == (0.5, 1.0, 1.0)
    assert {name for name in half if half[name] != low[name]} == {"accuracy", "balanced_accuracy", "sensitivity"}
    two = np.stack([1 - chances, chances], axis=1)
    assert Multiclass().decide(two, (0.71, 0.29)).tolist() == BINARY.decide(chances, (0.29,)).tolist()
    assert Multiclass(("no", "yes")).columns(two, (0.71, 0.29))["prediction"].tolist() == ["no", "yes", "yes"]
    assert SIGNS.decide(np.array([[0.2, 0.2], [0.4, 0.6]]), (0.3, 0.5)).tolist() == [[0, 0], [1, 1]]
    assert SIGNS.columns(np.array([[0.2, 0.2]]), (0.1, 0.3))["prediction x"].tolist() == [1]
    assert PRESSURE.decide(np.array([118.0])).tolist() == [118.0]


@pytest.mark.parametrize("task", [BINARY, GRADE, SIGNS, PRESSURE, OwnLoss()])
def test_every_metric_that_a_task_names_is_measured_and_no_other(task):
    shape = {"multiclass": (4, 3), "multilabel": (4, 2)}.get(task.name, (4,))
    predictions, labels = np.full(shape, 0.5), np.zeros(shape if task.name != "multiclass" else 4)
    assert list(task.evaluate(predictions, labels)) == [metric.name for metric in task.metrics]
    assert sum(not metric.detail for metric in task.metrics) == (0 if task.name == "own loss" else 3)


def test_baselines_know_training_labels_only():
    assert baseline_metrics(GRADE, np.array([2, 2, 0]), np.array([2, 0]))["accuracy"] == 0.5
    assert baseline_metrics(SIGNS, np.array([[1, 0], [1, 0]]), np.array([[1, 0], [0, 1]]))["exact_match"] == 0.5
    assert baseline_metrics(PRESSURE, np.array([100, 140]), np.array([130.0]))["mean_absolute_error"] == 10.0
    for task in (GRADE, PRESSURE):
        with pytest.raises(ValueError, match="train_labels"):
            task.baseline(np.empty(0), 1)


def test_labels_that_teach_or_test_too_little_are_told():
    assert BINARY.lacking(np.array([1, 1])) == "hold one class"
    assert GRADE.lacking(np.array([0, 2])) == "hold 2 of 3 classes"
    assert SIGNS.lacking(np.array([[0, 1], [1, 1]])) == "hold one answer only of y"
    assert PRESSURE.lacking(np.array([120.0, 120.0])) == "hold one value only"
    assert not GRADE.lacking(np.array([0, 1, 2])) and not PRESSURE.lacking(np.array([1.0, 2.0]))


def test_predictions_become_a_table():
    assert list(BINARY.columns(np.array([0.5]))) == ["probability", "prediction"]
    grades = GRADE.columns(np.array([[0.1, 0.7, 0.2]]))
    assert grades["prediction"].tolist() == ["b"] and grades["probability c"].tolist() == [0.2]
    signs = SIGNS.columns(np.array([[0.1, 0.7]]))
    assert list(signs) == ["probability x", "prediction x", "probability y", "prediction y"]
    assert (signs["prediction x"], signs["prediction y"]) == ([0], [1])
    assert PRESSURE.columns(np.array([118.0])) == {"prediction (mmHg)": [118.0]}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_found_by_its_name_and_its_deciding_metric_is_one_of_its_own(name):
    task = task_named(name)
    assert task.name == name and task.deciding in {metric.name for metric in task.metrics}
    assert task_named(None) == BINARY


def test_an_unknown_task_is_refused_with_those_that_are_known():
    with pytest.raises(ConfigError, match="task 'ranking': known are binary, multiclass, multilabel, regression"):
        task_named("ranking")


@pytest.mark.parametrize(
    ("name", "declared"),
    [
        ("multiclass", {"classes": ("a",)}),
        ("multiclass", {"classes": ("a", "a")}),
        ("multilabel", {"labels": ("a",)}),
        ("regression", {"spread": 0.0}),
        ("regression", {"centre": NAN}),
    ],
)
def test_a_declaration_that_is_none_is_refused(name, declared):
    with pytest.raises(ValueError):
        task_named(name, **declared)


def test_settings_and_the_registry_know_the_same_tasks():
    assert tuple(TASKS) == tuple(LABEL_KEYS) == get_args(TaskName)
