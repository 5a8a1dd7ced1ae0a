"""A hospital's comparison on its own test rows: at its own operating point, on the same resamples for every model."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from securepfl.runtime.judging import Judged, scores_of
from securepfl.tasks.binary import BINARY
from securepfl.tasks.regression import Regression
from securepfl.tasks.segmentation import Segmentation

MODELS = ("personalised", "shared", "local", "majority")
ONE, OTHER = np.array([0, 0, 1, 1, 0, 1]), np.array([1, 0, 1, 1])
CHANCES = {"a": np.array([0.1, 0.3, 0.35, 0.9, 0.2, 0.6]), "b": np.array([0.7, 0.55, 0.9, 0.5])}


def rows_of(labels, chances, point, units=None, **predictions):
    return Judged(
        labels=labels,
        units=np.arange(len(labels)) if units is None else units,
        points=dict.fromkeys(MODELS, point),
        predictions=dict.fromkeys(MODELS, chances) | predictions,
    )


def both(**predictions):
    return {
        "a": rows_of(ONE, CHANCES["a"], (0.3,), **predictions),
        "b": rows_of(OTHER, CHANCES["b"], (0.6,), **predictions),
    }


def test_each_hospital_decides_at_its_own_threshold_also_where_all_are_pooled():
    sites, pooled = scores_of(BINARY, both())
    decided = {"a": CHANCES["a"] >= 0.3, "b": CHANCES["b"] >= 0.6}
    assert sites["a"]["local"].point["accuracy"] == accuracy_score(ONE, decided["a"])
    assert sites["b"]["local"].point["accuracy"] == accuracy_score(OTHER, decided["b"])
    truth, chances = np.concatenate([ONE, OTHER]), np.concatenate(list(CHANCES.values()))
    assert pooled["local"].point["accuracy"] == accuracy_score(truth, np.concatenate(list(decided.values())))
    assert pooled["local"].point["auroc"] == roc_auc_score(truth, chances)


def test_models_may_have_operating_points_of_their_own():
    one = rows_of(ONE, CHANCES["a"], (0.3,))
    other = Judged(one.labels, one.units, {**one.points, "shared": (0.95,)}, one.predictions)
    sites, _ = scores_of(BINARY, {"a": other})
    assert sites["a"]["shared"].point["sensitivity"] == 0.0 and sites["a"]["local"].point["sensitivity"] == 1.0


def test_models_that_say_the_same_differ_in_no_resample():
    sites, pooled = scores_of(BINARY, both())
    for scores in (sites["a"], sites["b"], pooled):
        for name, values in scores["personalised"].minus(scores["local"]).values.items():
            assert (values[np.isfinite(values)] == 0).all(), name
    assert len(pooled["local"].values["accuracy"]) == 1001


def test_a_model_that_is_missing_at_one_hospital_has_no_figures_over_all():
    one, other = both().values()
    sites, pooled = scores_of(
        BINARY, {"a": one, "b": Judged(other.labels, other.units, other.points, {**other.predictions, "shared": None})}
    )
    assert set(sites["b"]["shared"].point.values()) == {None} == set(pooled["shared"].point.values())
    assert sites["a"]["shared"].point["auroc"] is not None and pooled["shared"].interval("auroc") is None


def test_a_hospital_without_test_rows_takes_no_part_in_figures_over_all():
    empty = rows_of(np.empty(0), np.empty(0), ())
    sites, pooled = scores_of(BINARY, {"a": rows_of(ONE, CHANCES["a"], (0.3,)), "b": empty})
    assert set(sites["b"]["local"].point.values()) == {None} and empty.unit_count == 0
    assert pooled["local"].point == pytest.approx(sites["a"]["local"].point)


def test_patients_are_what_is_drawn_and_counted():
    patients = np.array(["p1", "p1", "p2", "p2", "p3", "p3"])
    one = rows_of(ONE, CHANCES["a"], (), units=patients)
    assert one.unit_count == 3
    sites, _ = scores_of(BINARY, {"a": one})
    # Of three patients with two records each, any resample holds each record of one as often as the other.
    right = (CHANCES["a"] >= 0.5) == ONE
    by_patient = right.reshape(3, 2).mean(axis=1)
    possible = {round(float(np.mean(by_patient[list(drawn)])), 9) for drawn in np.ndindex(3, 3, 3)}
    assert {round(float(value), 9) for value in sites["a"]["local"].values["accuracy"]} <= possible


def images_of(count, seed, point=(0.5,)):
    """Discs of different sizes, and predictions of them that are the more shifted the later the image."""
    rows, columns = np.mgrid[:40, :30]
    radii = np.random.default_rng(seed).integers(3, 12, size=(count, 1, 1))
    shifts = (np.arange(count) % 4)[:, None, None]
    truth, said = ((rows - 20) ** 2 + (columns - 15 - by) ** 2 <= radii**2 for by in (0, shifts))
    labels = np.stack([truth, np.ones_like(truth)], axis=1).astype(np.uint8)
    return rows_of(labels, np.float32(0.8) * said, point, majority=np.zeros_like(said, dtype=np.float32))


class Counting(Segmentation):
    """Counts the images that it measured."""

    def by_image(self, predictions, decided, labels):
        measured.append(len(labels))
        return super().by_image(predictions, decided, labels)


measured = []


def test_images_are_measured_once_each_and_pooled_as_the_task_would():
    judged, task = {"a": images_of(7, 1), "b": images_of(5, 2, (0.3,))}, Segmentation()
    measured.clear()
    sites, pooled = scores_of(Counting(), judged)
    assert sum(measured) == 12 * len(MODELS)
    for model in MODELS:
        alone = task.evaluate(judged["a"].predictions[model], judged["a"].labels)
        assert sites["a"][model].point == alone
        labels = np.concatenate([one.labels for one in judged.values()])
        said = np.concatenate([one.predictions[model] for one in judged.values()])
        assert pooled[model].point == pytest.approx(task.evaluate(said, labels))
    assert pooled["majority"].point == {"dice": 0.0, "hd95": None}
    low, high = pooled["local"].interval("dice")
    assert 0.5 < low < pooled["local"].point["dice"] < high < 1
    assert pooled["majority"].interval("hd95") is None


def test_a_hospital_without_test_images_or_without_a_model_has_no_figures():
    empty = rows_of(np.empty((0, 2, 40, 30)), np.empty((0, 40, 30)), ())
    sites, pooled = scores_of(Segmentation(), {"a": images_of(4, 1), "b": empty})
    assert sites["b"]["local"].point == {"dice": None, "hd95": None}
    assert pooled["local"].point == sites["a"]["local"].point
    lacking = images_of(4, 1)
    lacking = Judged(lacking.labels, lacking.units, lacking.points, {**lacking.predictions, "shared": None})
    _, pooled = scores_of(Segmentation(), {"a": images_of(3, 2), "b": lacking})
    assert pooled["shared"].point == {"dice": None, "hd95": None} and pooled["local"].point["dice"] > 0


def test_one_patient_and_one_at_each_hospital_show_nothing():
    one = Judged(np.array([0.0] * 3), np.array(["p"] * 3), dict.fromkeys(MODELS, ()), {m: np.zeros(3) for m in MODELS})
    sites, pooled = scores_of(Regression(), dict.fromkeys("abcdefgh", one))
    assert all(value is None for value in sites["a"]["local"].intervals.values())
    assert all(value is None for value in pooled["local"].intervals.values())
