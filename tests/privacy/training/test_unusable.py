"""One unit that cannot be used: it counts as zero, all others count as ever, and the step is taken."""

import copy
import math
from collections import Counter

import numpy as np
import pytest
import torch
from opacus.grad_sample import register_grad_sampler
from torch import nn
from torch.nn.utils import parameters_to_vector
from torch.utils.data import Dataset

from securepfl.errors import ModelError
from securepfl.privacy.training.canaries import Canaries
from securepfl.privacy.training.common_step import take_common_step
from securepfl.privacy.training.dpsgd import DPSettings, train_private
from securepfl.privacy.training.integer_sum import IntegerSum
from securepfl.privacy.training.shared_noise import SharedNoise
from securepfl.randomness import RandomStream

UNITS, BAD, CLASSES, CLIP = 13, 5, 3, 0.5
MODES = ["per-sample", "ghost", "functorch"]


class Listed(Dataset):
    """Items by number; one that is an exception is raised. Counts what was asked for."""

    def __init__(self, items):
        self.items, self.asked = items, Counter()

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        self.asked[index] += 1
        item = self.items[index]
        if isinstance(item, BaseException):
            raise item
        return item


class Hungry(nn.Module):
    """A pass over records that hold a 77 needs more memory than there is."""

    def forward(self, x):
        if (x == 77).any():
            torch.empty(2**60, dtype=torch.uint8)
        return x


def network():
    torch.manual_seed(3)
    layers = [Hungry(), nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, CLASSES)]
    return nn.Sequential(*layers).double()


def loss(output, y):
    return nn.functional.cross_entropy(output, y, reduction="none")


def items(unit, *bad, count=UNITS):
    generator = torch.Generator().manual_seed(5)
    found = []
    for index in range(count):
        rows = 1 + 3 * (index % 4)
        x = torch.randn(rows, 4, generator=generator, dtype=torch.float64)
        y = torch.randint(CLASSES, (rows,), generator=generator)
        found.append((x, y) if unit == "patient" else (x[0], y[0]))
    if bad:
        found[BAD] = bad[0]
    return Listed(found)


def faulty(fault, unit):
    """An item with a fault, and the reason that the hospital is told."""
    x, y = items(unit).items[BAD]
    wrong = y.clone()
    wrong.view(-1)[-1] = 7
    return {
        "raises": (OSError("image 5.dcm is cut short"), "unreadable"),
        "out of memory when read": (MemoryError(), "memory"),
        "no pair": ((x,), "unreadable"),
        "nothing": (None, "unreadable"),
        "another width": ((torch.cat([x, x], dim=-1), y), "refused"),
        "another type": ((x.to(torch.complex128), y), "refused"),  # torch.stack makes all of a batch complex
        "an illegal label": ((x, wrong), "refused"),
        "a label that is no number": ((x, "B"), "unreadable"),
        "too large": ((torch.full_like(x, 77), y), "memory"),
        "no number": ((torch.full_like(x, math.nan), y), "not finite"),
    }[fault]


FAULTS = [
    "raises",
    "out of memory when read",
    "no pair",
    "nothing",
    "another width",
    "another type",
    "an illegal label",
    "a label that is no number",
    "too large",
    "no number",
]


def train(dataset, unit="record", *, physical_batch=256, mode="auto", steps=1, model=None, units=UNITS, **options):
    """How far the parameters moved in steps of next to no noise, in units of the sum, and the report."""
    model = model or network()
    trained = copy.deepcopy(model)
    settings = DPSettings(1e-12, CLIP, 1.0, steps, 1.0, physical_batch)
    report = train_private(
        trained,
        dataset,
        loss,
        settings,
        noise=RandomStream(bytes(32)),
        sampling=RandomStream(bytes([1]) * 32),
        device="cpu",
        units=units,
        unit=unit,
        mode=mode,
        **options,
    )
    return units * (parameters_to_vector(model.parameters()) - parameters_to_vector(trained.parameters())), report


def common_step(dataset, unit, physical_batch=256):
    """The integers of a step under shared noise before its noise, in clips, and the report."""
    model = network()
    shared = [name for name, _ in model.named_parameters()][1:]
    size = sum(p.numel() for name, p in model.named_parameters() if name in shared)
    noise = SharedNoise(grid=4096, scale=1, shares=1, dimension=size, limit=2**23)
    integers = IntegerSum.empty(noise, RandomStream(bytes([3]) * 32), size)
    report = take_common_step(
        model,
        dataset,
        loss,
        DPSettings(1.0, CLIP, 1.0, 1, 1.0, physical_batch),
        integers,
        shared=shared,
        noise=RandomStream(bytes(32)),
        sampling=RandomStream(bytes([1]) * 32),
        device="cpu",
        units=UNITS,
        unit=unit,
    )
    return torch.cat(
        [parameters_to_vector(model.parameters()).detach(), torch.from_numpy(integers.total / 4096)]
    ), report


def others(unit):
    """The data set without the unit at fault."""
    found = items(unit)
    del found.items[BAD]
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("physical_batch", [3, 256])
@pytest.mark.parametrize("unit", ["record", "patient"])
@pytest.mark.parametrize("fault", FAULTS)
def test_it_counts_as_zero_and_the_others_as_ever(fault, unit, physical_batch, mode):
    bad, reason = faulty(fault, unit)
    moved, report = train(items(unit, bad), unit, physical_batch=physical_batch, mode=mode)
    expected, clean = train(others(unit), unit, mode=mode)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-9)
    assert expected.norm() > 1
    assert report.unusable == {reason: 1}
    assert report.unusable_units == 1
    assert report.mean_loss == pytest.approx(clean.mean_loss)
    assert clean.unusable == {}


@pytest.mark.parametrize("physical_batch", [3, 256])
@pytest.mark.parametrize("unit", ["record", "patient"])
@pytest.mark.parametrize("fault", FAULTS)
def test_it_counts_as_zero_under_shared_noise_too(fault, unit, physical_batch):
    moved, report = common_step(items(unit, faulty(fault, unit)[0]), unit, physical_batch)
    expected, clean = common_step(others(unit), unit, physical_batch)
    assert (moved - expected).abs().max() <= UNITS / 4096  # each unit's rounding is off by at most one step
    assert report.unusable_units == 1
    assert clean.unusable_units == 0


@pytest.mark.parametrize("fault", FAULTS)
def test_its_reason_is_counted_for_each_step_that_drew_it(fault):
    bad, reason = faulty(fault, "record")
    _, report = train(items("record", bad), steps=3)
    assert report.unusable == {reason: 3}


@pytest.mark.parametrize("unit", ["record", "patient"])
def test_several_faults_are_counted_apart(unit):
    dataset = items(unit)
    for index, fault in {0: "raises", 1: "an illegal label", 4: "too large", 7: "no number", 12: "nothing"}.items():
        dataset.items[index] = faulty(fault, unit)[0]
    moved, report = train(dataset, unit, physical_batch=4, skipped={2, 7})
    assert report.unusable == {"unreadable": 2, "refused": 1, "memory": 1, "skipped": 2}
    expected, _ = train(Listed([items(unit).items[index] for index in (3, 5, 6, 8, 9, 10, 11)]), unit)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-9)


def test_units_to_skip_are_not_looked_at():
    dataset = items("record")
    moved, report = train(dataset, skipped={BAD})
    assert dataset.asked[BAD] == 0
    assert report.unusable == {"skipped": 1}
    torch.testing.assert_close(moved, train(others("record"))[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("unit", ["record", "patient"])
def test_where_nothing_can_be_used_a_step_is_noise_alone(unit):
    """The same noise, bit for bit, as of a hospital that has no units."""
    nothing, told = train(None, unit, steps=2)
    assert told.unusable == {}
    assert told.clipped_fraction is None
    for broken in (Listed([OSError()] * UNITS), Listed([faulty("an illegal label", unit)[0]] * UNITS)):
        moved, report = train(broken, unit, steps=2)
        assert torch.equal(moved, nothing)
        assert report.unusable_units == 2 * UNITS
        assert report.clipped_fraction == 1
    assert 0 < nothing.abs().max() < 1e-9
    assert torch.equal(train(items(unit), unit, steps=2, skipped=range(UNITS))[0], nothing)


@pytest.mark.parametrize("dataset", [None, Listed([OSError()] * UNITS)])
def test_where_nothing_can_be_used_a_common_step_adds_nothing_and_personal_parameters_take_noise(dataset):
    moved, _ = common_step(dataset, "record")
    before = parameters_to_vector(network().parameters()).detach()
    own = moved[: len(before)] - before
    assert not moved[len(before) :].any()
    assert own[:24].all()
    assert not own[24:].any()


def test_a_model_at_fault_is_refused_where_no_unit_can_be_used():
    with pytest.raises(ModelError, match="one value per record"):
        train_private(
            network(),
            items("record"),
            lambda output, y: loss(output, y).mean(),
            DPSettings(1.0, CLIP, 1.0, 1, 1.0),
            noise=RandomStream(bytes(32)),
            sampling=RandomStream(bytes(32)),
            device="cpu",
            units=UNITS,
        )


@pytest.mark.parametrize("signal", [KeyboardInterrupt, SystemExit])
def test_a_stop_is_no_fault_of_a_unit(signal):
    with pytest.raises(signal):
        train(items("record", signal()))


@pytest.mark.parametrize("mode", MODES)
def test_canaries_stay_where_they_are(mode):
    planted = Canaries(first=10, coordinates=np.array([3, 8, 30]), zeroed=np.array([3, 8, 30]), scale=1.0)
    moved, report = train(items("record", faulty("an illegal label", "record")[0]), mode=mode, canaries=planted)
    np.testing.assert_allclose(moved.detach().numpy()[planted.zeroed], CLIP, atol=2e-6)
    assert report.unusable == {"refused": 1}


class Forgetful(nn.Linear):
    """A layer whose gradients fail once, the `failing`th time."""

    failing = taken = 0


@register_grad_sampler(Forgetful)
def _forgetful(layer, activations, backprops):
    layer.taken += 1
    if layer.taken == layer.failing:
        raise torch.OutOfMemoryError("no room for gradients")
    found = {layer.weight: torch.einsum("ni,nj->nij", backprops, activations[0])}
    return found | {layer.bias: backprops}


@pytest.mark.parametrize("mode", ["per-sample", "ghost"])
@pytest.mark.parametrize("failing", [1, 2])
def test_a_batch_that_fails_half_way_is_not_counted_twice(mode, failing):
    """Ghost clipping asks for gradients a second time when other layers are in the sum already."""
    model = nn.Sequential(Forgetful(4, 6), nn.Tanh(), nn.Linear(6, CLASSES)).double()
    expected, _ = train(items("record"), model=model, mode=mode)
    model[0].failing = failing
    moved, report = train(items("record"), model=model, mode=mode)
    assert report.unusable == {}
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-9)


def test_the_model_can_be_trained_on_and_used_after_faults():
    model = network()
    bad = items("record", faulty("an illegal label", "record")[0])
    train(bad, model=model)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    before = torch.get_rng_state()
    train(bad, model=model)
    assert torch.equal(torch.get_rng_state(), before)
