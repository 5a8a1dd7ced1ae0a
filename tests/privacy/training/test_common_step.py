"""A step under shared noise against the same step under local noise: one clip, two ways for the gradients to go."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from securepfl.errors import DataError
from securepfl.privacy.training.common_step import take_common_step
from securepfl.privacy.training.dpsgd import DPSettings, train_private
from securepfl.privacy.training.integer_sum import IntegerSum
from securepfl.privacy.training.shared_noise import SharedNoise
from securepfl.privacy.training.units import group_records
from securepfl.randomness import RandomStream

GRID, RECORDS, CLIP = 4096, 30, 0.7
SHARED = ("0.weight", "2.weight")


def stream(label):
    return RandomStream(bytes([label]) * 32)


def model_of():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)).double()


def records(scale=3.0):
    generator = torch.Generator().manual_seed(1)
    x = scale * torch.randn(RECORDS, 4, generator=generator, dtype=torch.float64)
    return TensorDataset(x, torch.randn(RECORDS, generator=generator, dtype=torch.float64))


def loss(output, y):
    return (output[:, 0] - y) ** 2


def settings(**changes):
    defaults = {"noise_multiplier": 1e-9, "clip": CLIP, "sample_rate": 1.0, "steps": 1, "learning_rate": 0.5}
    return DPSettings(**(defaults | changes))


def noise_of(model, masks=None):
    names = dict(model.named_parameters())
    size = sum(int(masks[n].sum()) if masks and n in masks else names[n].numel() for n in SHARED)
    return SharedNoise(grid=GRID, scale=1, shares=1, dimension=size, limit=2**23), size


def step(model, dataset, *, masks=None, multiplier=1.0, **options):
    noise, size = noise_of(model, masks)
    integers = IntegerSum.empty(noise, stream(3), size)
    take_common_step(
        model,
        dataset,
        loss,
        settings(noise_multiplier=multiplier, physical_batch=7),
        integers,
        shared=SHARED,
        noise=stream(1),
        sampling=stream(2),
        device="cpu",
        units=len(dataset),
        masks=masks,
        **options,
    )
    return integers.total


def clipped_sum(dataset, masks=None, **options):
    """By parameter: what a local step without noise worth mentioning moves, as a sum in clips."""
    model = model_of()
    before = copy.deepcopy(dict(model.named_parameters()))
    train_private(
        model,
        dataset,
        loss,
        settings(),
        noise=stream(1),
        sampling=stream(2),
        device="cpu",
        units=len(dataset),
        masks=masks,
        **options,
    )
    scale = len(dataset) / 0.5 / CLIP
    return {name: ((before[name] - p) * scale).detach().numpy() for name, p in model.named_parameters()}


def masks_of():
    mask = torch.zeros(3, 4, dtype=torch.float64)
    mask[1] = 1
    return {"0.weight": mask}


@pytest.mark.parametrize("masks", [None, masks_of()], ids=["dense", "masked"])
@pytest.mark.parametrize("unit", ["record", "patient"])
def test_integers_are_the_clipped_sum_on_the_grid(masks, unit):
    dataset = records()
    if unit == "patient":
        dataset = group_records(*dataset.tensors, [row % 4 for row in range(RECORDS)])
    found = step(model_of(), dataset, masks=masks, unit=unit)
    expected = clipped_sum(dataset, masks, unit=unit)
    kept = [expected[name][masks[name].bool().numpy() if masks and name in masks else ...].ravel() for name in SHARED]
    # Each unit's rounding is off by at most one step in a coordinate.
    assert np.abs(found / GRID - np.concatenate(kept)).max() <= len(dataset) / GRID
    assert np.abs(np.concatenate(kept)).max() > 20 / GRID


def test_personal_parameters_take_their_step_and_shared_ones_stay():
    model, dataset = model_of(), records()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    step(model, dataset)
    expected = clipped_sum(dataset)
    drawn = stream(1).gaussian(4)
    place = 0
    for name, p in model.named_parameters():
        moved = ((before[name] - p.detach()) * len(dataset) / 0.5 / CLIP).numpy()
        if name in SHARED:
            assert not moved.any()
        else:
            noise = drawn[place : place + p.numel()]
            place += p.numel()
            assert np.allclose(moved, expected[name] + noise, atol=1e-6)


def test_a_record_that_is_no_number_counts_as_zero():
    dataset = records()
    dataset.tensors[0][5] = float("nan")
    found = step(model_of(), dataset)
    without = TensorDataset(*(torch.cat([t[:5], t[6:]]) for t in dataset.tensors))
    again = step(model_of(), without)
    assert np.abs(found - again).max() <= RECORDS


@pytest.mark.parametrize(
    ("changes", "multiplier"),
    [({"steps": 2}, 1.0), ({"sample_rate": 0.5}, 1.0), ({}, 1e-9)],
    ids=["two steps", "Poisson", "too little noise"],
)
def test_what_the_accounting_does_not_cover_is_refused(changes, multiplier):
    model = model_of()
    noise, size = noise_of(model)
    with pytest.raises(ValueError, match=r"settings"):
        take_common_step(
            model,
            records(),
            loss,
            settings(noise_multiplier=multiplier, **changes),
            IntegerSum.empty(noise, stream(3), size),
            shared=SHARED,
            noise=stream(1),
            sampling=stream(2),
            device="cpu",
            units=RECORDS,
        )


def test_no_records_no_step():
    with pytest.raises(DataError, match="no records"):
        step(model_of(), TensorDataset(torch.zeros(0, 4), torch.zeros(0)))
