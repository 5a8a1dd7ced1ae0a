import numpy as np
import pytest
import torch
from pools import bright, images, leaning, linear, masks, rows, tables

from securepfl.errors import DataError
from securepfl.outside.baselines import BASELINES, adamerging, best_expert, lowest_entropy, parameter_average, tent
from securepfl.outside.candidates import Panel
from securepfl.outside.gates import AdaptSettings, normalised_entropy
from securepfl.outside.recipe import CLASSES, SEGMENTATION, Recipe
from securepfl.outside.routed import routed
from securepfl.tasks.networks import build_network

ROWS = np.random.default_rng(0).normal(size=(30, 2))
TABLES = tables(shared=[1.0, 1.0], right=[3.0, 0.0], wrong=[0.0, 9.0])
MASKS = masks(shared=bright(), tilted=leaning())


def mask_labels():
    truth = images()[:, 0] > 0
    return np.stack([truth, np.ones_like(truth)], axis=1).astype(np.uint8)


def settled(panel):
    return {
        (name, key): value.clone() for name, model in panel.models.items() for key, value in model.state_dict().items()
    }


@pytest.mark.parametrize("name", BASELINES)
def test_all_answer_tables_and_images_and_leave_the_experts_as_they_are(name):
    for panel, table, recipe in (
        (TABLES, rows(ROWS, labels=(ROWS[:, 0] > 0).astype(int)), CLASSES),
        (MASKS, rows(images(), labels=mask_labels()), SEGMENTATION),
    ):
        before = settled(panel)
        logits = BASELINES[name](panel, table, recipe, 0.2)
        assert len(logits) == len(table)
        assert torch.isfinite(logits).all()
        assert all(torch.equal(value, before[key]) for key, value in settled(panel).items())


def test_the_global_baseline_is_what_routing_falls_back_to():
    for panel, table, recipe in ((TABLES, rows(ROWS), CLASSES), (MASKS, rows(images()), SEGMENTATION)):
        assert torch.equal(BASELINES["global"](panel, table, recipe, 0.2), routed(panel, table, recipe, 0.2).shared)


def test_the_average_of_linear_experts_is_their_ensemble():
    one, other = (
        BASELINES[name](TABLES, rows(ROWS), CLASSES, None) for name in ("parameter average", "logit ensemble")
    )
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(
        parameter_average(Panel({"a": linear([1.0, 2.0])}, TABLES.task), rows(ROWS), CLASSES),
        linear([1.0, 2.0])(torch.tensor(ROWS, dtype=torch.float32)).detach(),
    )


def test_the_lowest_entropy_is_the_surest_experts():
    found = lowest_entropy(tables(shared=[0.1, 0.0], sure=[50.0, 0.0]), rows(ROWS), CLASSES)
    torch.testing.assert_close(found, 50.0 * torch.tensor(ROWS[:, 0], dtype=torch.float32))


def test_labels_find_the_best_expert():
    labels = (ROWS[:, 0] > 0).astype(int)
    found = best_expert(TABLES, rows(ROWS, labels=labels), CLASSES)
    torch.testing.assert_close(found, TABLES.models["right"](torch.tensor(ROWS, dtype=torch.float32)).detach())
    with pytest.raises(DataError, match="there are none"):
        best_expert(TABLES, rows(ROWS), CLASSES)


def test_tent_lowers_entropy_where_there_are_norms_and_else_does_nothing():
    plain = BASELINES["global"](TABLES, rows(ROWS), CLASSES, None)
    assert torch.equal(tent(TABLES, rows(ROWS), CLASSES), plain)
    panel, table = Panel({"shared": build_network("cnn", 1, 4)}, TABLES.task), rows(images(24))
    recipe = Recipe(layers=AdaptSettings(batch=4))
    before, after = (found(panel, table, recipe, None) for found in (BASELINES["global"], tent))
    one, other = (normalised_entropy(TABLES.task.choices(each)).mean() for each in (before, after))
    assert other < one


def test_adamerging_starts_from_task_vectors():
    panel = tables(shared=[1.0, 0.0], a=[2.0, 0.0], b=[1.0, 1.0])
    # Adam moves a weight by at most 1e-3 a step: 20 steps of two batches leave it within .02 of .3.
    found = adamerging(panel, rows(ROWS), CLASSES)
    start = torch.tensor(ROWS @ [1.3, 0.3], dtype=torch.float32)
    torch.testing.assert_close(found, start, rtol=0, atol=0.021 * float(np.abs(ROWS).sum(axis=1).max()))
    assert not torch.equal(found, start)
