"""Masks: what is legal, what is lost, what is measured, and within which field."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import directed_hausdorff

from securepfl.settings.federation import Federation
from securepfl.tasks.registry import task_named
from securepfl.tasks.segmentation import Segmentation
from securepfl.tasks.task import baseline_metrics

VESSELS = Segmentation()


def labels_of(masks, fields=None):
    masks = np.asarray(masks, dtype=np.uint8)
    return np.stack([masks, np.ones_like(masks) if fields is None else np.asarray(fields, dtype=np.uint8)], axis=1)


@pytest.mark.parametrize("shape", [(2, 5, 7), (2, 30, 1)])
def test_masks_with_their_fields_are_legal(shape):
    labels = torch.ones(3, *shape, dtype=torch.uint8)
    assert VESSELS.illegal(labels, (1, *shape[1:])) is None
    assert VESSELS.illegal(labels, None) is None


@pytest.mark.parametrize(
    ("labels", "output", "place", "words"),
    [
        (torch.ones(2, 5, 7), (1, 5, 7), 0, r"label is [5, 7], and a mask with its field here is [2, 5, 7]"),
        (torch.ones(2, 2, 5, 8), (1, 5, 7), 0, r"label is [2, 5, 8]"),
        (torch.ones(2, 1, 5, 7), None, 0, r"here is [2, height, width]"),
        (torch.tensor([0.0, 255]).view(2, 1, 1, 1).expand(2, 2, 1, 1), (1, 1, 1), 1, "mask or field holds 255"),
        (torch.full((1, 2, 1, 1), torch.nan), None, 0, "holds nan"),
    ],
)
def test_other_masks_are_named(labels, output, place, words):
    found = VESSELS.illegal(labels, output)
    assert found.place == place and words in found.problem


def test_a_model_of_other_outputs_is_no_segmentation():
    assert VESSELS.misfit((1, 4, 4)) == ""
    assert "not one number" in VESSELS.misfit(())
    with pytest.raises(ValueError, match=r"\[3, 4, 4\]"):
        VESSELS.predict(torch.zeros(2, 3, 4, 4))


def test_the_loss_of_an_image_is_cross_entropy_plus_one_minus_dice_of_its_field_alone():
    outputs = torch.randn(3, 1, 6, 5, generator=torch.Generator().manual_seed(0))
    truth = (torch.arange(90).view(3, 6, 5) % 3 == 0).float()
    field = torch.ones(3, 6, 5)
    field[:, :, 3:] = 0
    field[2] = 0
    found = VESSELS.loss(outputs, torch.stack([truth, field], dim=1))
    for at in range(2):
        chances, mask = outputs[at, 0, :, :3].sigmoid(), truth[at, :, :3]
        entropy = torch.nn.functional.binary_cross_entropy(chances, mask)
        dice = (2 * (chances * mask).sum() + 1) / (chances.sum() + mask.sum() + 1)
        torch.testing.assert_close(found[at], entropy + 1 - dice)
    assert found[2] == 0
    changed = outputs.clone()
    changed[:, :, :, 3:] = 100
    torch.testing.assert_close(VESSELS.loss(changed, torch.stack([truth, field], dim=1)), found)
    with pytest.raises(ValueError, match="don't fit"):
        VESSELS.loss(outputs, truth)


def test_metrics_are_means_over_images_of_what_lies_in_their_fields():
    truth = np.zeros((3, 8, 8))
    truth[0, 2:4, 2:4] = truth[1, 2:4, 2:4] = 1
    chances = np.zeros((3, 8, 8), dtype=np.float32)
    chances[0, 2:4, 2:4] = 0.9
    chances[1, 2:4, 2:6] = 0.9
    chances[2, 0, 0] = 0.9
    chances[:, 7, 7] = 0.9
    field = np.ones((3, 8, 8))
    field[:, 7, 7] = 0
    found = VESSELS.evaluate(chances, labels_of(truth, field))
    assert found["dice"] == pytest.approx((1 + 2 / 3) / 2), "an image without the structure has no Dice"
    points = [np.argwhere(mask) for mask in (truth[1], chances[1, :7, :7] > 0.5)]
    assert directed_hausdorff(*points[::-1])[0] == 2
    assert 0 < found["hd95"] <= 1
    weights = np.array([[1.0, 0, 0], [0, 0, 3]])
    measured = VESSELS.measure(chances, VESSELS.decide(chances), labels_of(truth, field), weights)
    assert measured["dice"][0] == 1 and np.isnan(measured["dice"][1])


def test_the_threshold_is_the_operating_point():
    truth, chances = np.ones((1, 2, 2)), np.full((1, 2, 2), 0.4)
    assert VESSELS.evaluate(chances, labels_of(truth))["dice"] == 0
    assert VESSELS.evaluate(chances, labels_of(truth), (0.3,))["dice"] == 1
    assert VESSELS.columns(chances, (0.3,))["pixels"].tolist() == [4]


def test_an_empty_mask_is_the_baseline_and_has_no_distance():
    labels = labels_of(np.ones((4, 3, 5)))
    assert VESSELS.baseline(labels, 2).shape == (2, 3, 5)
    assert baseline_metrics(VESSELS, labels, labels) == {"dice": 0.0, "hd95": None}
    with pytest.raises(ValueError):
        VESSELS.baseline(labels[:0], 2)


def test_the_declared_shape_is_that_of_decided_masks():
    mask = np.zeros((1, 9, 12))
    mask[0, 1:6, 1:6], mask[0, 3, 3], mask[0, 1:4, 8:11], mask[0, 8, 8] = 1, 0, 1, 1
    mask[0, 4, 11] = 1  # of the second region, at its corner
    lungs = Segmentation(structures=2, holes=False)
    decided = lungs.decide(mask)
    assert not decided[0, 8, 8] and decided[0, 3, 3] and decided[0, 2, 9] and decided[0, 4, 11] and decided.sum() == 35
    assert VESSELS.decide(mask).sum() == mask.sum()
    with pytest.raises(ValueError, match="structures = 0"):
        Segmentation(structures=0)


@pytest.mark.parametrize(
    ("masks", "fields", "lacks"),
    [
        (np.zeros((2, 3, 3)), None, "hold empty masks only"),
        (np.ones((2, 3, 3)), None, "hold full masks only"),
        (np.eye(3)[None], np.zeros((1, 3, 3)), "have no field of view"),
        (np.eye(3)[None], None, ""),
    ],
)
def test_labels_without_anything_to_learn_are_told(masks, fields, lacks):
    assert VESSELS.lacking(labels_of(masks, fields)) == lacks


def test_what_is_chosen_is_each_pixel():
    outputs = torch.randn(2, 1, 3, 4)
    torch.testing.assert_close(VESSELS.choices(outputs).softmax(dim=2)[:, :, 1], outputs.sigmoid().flatten(1))


def test_the_declared_shape_of_a_structure_reaches_its_task():
    data = {"kind": "images", "size": [8, 8], "structures": 2, "holes": False}
    federation = Federation.from_mapping({"model": {"kind": "unet", "task": "segmentation"}, "data": data})
    assert task_named(federation.model.task, **federation.label_options) == Segmentation(structures=2, holes=False)
