"""A hospital's comparison on its own test rows: at its own operating point, on the same resamples for every model."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from securepfl.runtime.judging import Judged, scores_of
from securepfl.tasks.binary import BINARY

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
