"""Dice without labels."""

import numpy as np
import pytest
import torch

from securepfl.tasks.agreement import best_threshold, expected_dice, hard_dice, soft_dice


def chances_of(images=3, height=13, width=17, power=4):
    return torch.rand(images, height, width, generator=torch.Generator().manual_seed(power)) ** power


@pytest.mark.parametrize("power", [1, 4, 30])
def test_the_expected_dice_is_the_best_over_all_sorted_thresholds(power):
    chances = chances_of(power=power)
    field = torch.rand(chances.shape, generator=torch.Generator().manual_seed(1)) < 0.7
    found = expected_dice(chances, field)
    for at in range(len(chances)):
        ordered = np.sort(chances[at][field[at]].double().numpy())[::-1]
        curve = 2 * ordered.cumsum() / (np.arange(1, len(ordered) + 1) + ordered.sum())
        assert found[at].item() == pytest.approx(curve.max(), abs=1e-9)
    torch.testing.assert_close(best_threshold(chances, field), found / 2)


def test_the_expected_dice_is_what_truths_drawn_from_the_chances_give():
    chances = chances_of(1, 200, 200)
    mask = chances > best_threshold(chances).item()
    truths = torch.rand(20, 200, 200, generator=torch.Generator().manual_seed(2)) < chances
    drawn = hard_dice(truths.float(), mask.float().expand(20, -1, -1))
    assert drawn.mean().item() == pytest.approx(expected_dice(chances).item(), abs=0.003)
    for other in (0.8, 1.25):
        worse = chances > other * best_threshold(chances).item()
        assert hard_dice(truths.float(), worse.float().expand(20, -1, -1)).mean() < drawn.mean()


def test_what_lies_outside_the_field_changes_nothing():
    chances, other = chances_of(power=2), chances_of(power=3)
    field = torch.zeros(chances.shape, dtype=torch.uint8)
    field[:, 3:9, 2:11] = 1
    changed = torch.where(field.bool(), chances, 1 - chances)
    for measure in (lambda p: soft_dice(p, other, field), lambda p: hard_dice(p, other, field)):
        torch.testing.assert_close(measure(changed), measure(chances))
    torch.testing.assert_close(expected_dice(changed, field), expected_dice(chances, field))
    cropped = chances[:, 3:9, 2:11]
    torch.testing.assert_close(expected_dice(chances, field), expected_dice(cropped))
    torch.testing.assert_close(
        hard_dice(chances, other, field.numpy(), 0.3), hard_dice(cropped, other[:, 3:9, 2:11], None, 0.3)
    )


def test_empty_predictions_agree_on_nothing():
    empty = np.zeros((2, 4, 4), dtype=np.float32)
    for found in (soft_dice(empty, empty), hard_dice(empty, empty), expected_dice(empty)):
        assert found.tolist() == [0, 0]


def test_predictions_that_are_the_same_agree_fully_and_unlike_ones_less():
    chances = chances_of()
    torch.testing.assert_close(soft_dice(chances, chances), torch.ones(3, dtype=torch.float64))
    assert (soft_dice(chances, chances.flip(1)) < 0.9).all()


def test_gradients_pass():
    chances = chances_of().requires_grad_()
    (expected_dice(chances) + soft_dice(chances, chances.detach().flip(2))).sum().backward()
    assert chances.grad.isfinite().all() and chances.grad.abs().sum() > 0
