"""Random patches: image and mask stay together, in the field, whatever was drawn."""

import pytest
import torch

from securepfl.tasks.augmentation import patches
from securepfl.tasks.models import public_stream


def disc(height, width, row, column, radius):
    rows, columns = torch.arange(height)[:, None] - row, torch.arange(width) - column
    return (rows**2 + columns**2 <= radius**2).float()


def labels_of(masks, fields=None):
    return torch.stack([masks, torch.ones_like(masks) if fields is None else fields], dim=1).to(torch.uint8)


def test_a_patch_of_the_image_and_of_its_mask_are_of_one_place():
    mask = disc(120, 90, 40, 60, 25)[None]
    x, y = patches(mask[:, None], labels_of(mask), 60, 64, public_stream("place"))
    middle = (x.amax(dim=(1, 2, 3)) + x.amin(dim=(1, 2, 3))) / 2
    some = y[:, 0].flatten(1).sum(dim=1) > 100
    assert some.sum() > 30
    apart = ((x[:, 0] > middle[:, None, None]) != y[:, 0].bool()).float().mean(dim=(1, 2))[some]
    assert apart.max() < 0.007
    sizes = y[:, 0].sum(dim=(1, 2)).float()[some]
    assert sizes.max() > 1.3 * mask.sum() and sizes.max() < 1.35**2 * 1.05 * mask.sum()


def test_patches_lie_in_the_field():
    field = torch.zeros(2, 200, 300)
    field[0, 100:180, 150:250] = field[1, 20:90, 30:110] = 1
    images = field[:, None].clone()
    _, y = patches(images, labels_of(torch.zeros_like(field), field), 40, 48, public_stream("field"))
    assert y[:, 1].float().mean(dim=(1, 2)).min() > 0.6
    _, elsewhere = patches(images, labels_of(torch.zeros_like(field)), 40, 48, public_stream("field"))
    assert elsewhere[:, 1].float().mean() > 0.9


def test_an_image_no_larger_than_a_patch_is_taken_whole_and_outside_of_it_nothing_is_scored():
    images, mask = torch.ones(3, 2, 40, 30), disc(40, 30, 20, 15, 4).expand(3, -1, -1)
    x, y = patches(images, labels_of(mask), 30, 64, public_stream("small"))
    assert x.shape == (30, 2, 40, 30) and y.shape == (30, 2, 40, 30)
    assert (y[:, 0].sum(dim=(1, 2)) > 20).all(), "the middle stays in the middle"
    scored = y[:, 1].float().mean(dim=(1, 2))
    assert scored.min() < 0.7 and scored.max() <= 1
    assert (y[:, 0] <= y[:, 1]).all()


def test_every_image_is_taken_as_often_and_a_stream_says_what_is_drawn():
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 80, 80).clone()
    empty = labels_of(torch.zeros(4, 80, 80))
    x, _ = patches(images, empty, 10, 16, public_stream("even"))
    of = x.mean(dim=(1, 2, 3))
    zero = (of.abs() < 1e-6).sum()
    assert zero in (2, 3)
    again, _ = patches(images, empty, 10, 16, public_stream("even"))
    assert torch.equal(again, x)
    assert not torch.equal(patches(images, empty, 10, 16, public_stream("other"))[0], x)


def test_an_image_without_a_field_has_patches_that_count_nothing():
    x, y = patches(torch.randn(1, 1, 50, 50), torch.zeros(1, 2, 50, 50, dtype=torch.uint8), 3, 20, public_stream("no"))
    assert x.isfinite().all() and not y.any()


@pytest.mark.parametrize(("count", "size", "images"), [(0, 8, 1), (1, 0, 1), (1, 8, 0)])
def test_nothing_to_draw_is_refused(count, size, images):
    with pytest.raises(ValueError, match="at least 1"):
        patches(torch.zeros(images, 1, 9, 9), torch.zeros(images, 2, 9, 9), count, size, public_stream("none"))


def test_patches_stand_where_they_are_not_turned():
    mask = torch.zeros(1, 2, 64, 64, dtype=torch.uint8)
    mask[:, 1], mask[:, 0, :32] = 1, 1

    def slanted(turn):
        _, y = patches(torch.zeros(1, 1, 64, 64), mask, 20, 40, public_stream("turn"), turn)
        above, below = (y[:, 0] * y[:, 1]).amax(dim=2), ((1 - y[:, 0]) * y[:, 1]).amax(dim=2)
        return int((above * below).amax(dim=1).sum())

    assert slanted(0.0) == 0
    assert slanted(180.0) > 10
