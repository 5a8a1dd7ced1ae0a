"""A patient of more records than any batch holds is one unit all the same: clipped as one, whole in every data set.

Clipped in parts, such a patient would move a sum by as many clips. So the patients here are of many more records than a
physical batch, and of the same record again and again, whose gradients add up.
"""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector

from securepfl.privacy.training.common_step import take_common_step
from securepfl.privacy.training.dpsgd import DPSettings, train_private
from securepfl.privacy.training.integer_sum import IntegerSum
from securepfl.privacy.training.shared_noise import SharedNoise
from securepfl.privacy.training.units import PatientDataset, group_records
from securepfl.randomness import RandomStream

RECORDS, CLIP, UNITS = 20_000, 0.5, 3
MODES = ["auto", "per-sample", "ghost", "functorch"]


def network():
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1)).double()


def loss(output, y):
    return (output[:, 0] - y) ** 2


def rows(records):
    """A table of one patient of `records` equal rows, and of two patients of one row."""
    x = torch.tensor([[1.0, -2.0]] * records + [[0.3, 0.1], [-0.2, 0.4]], dtype=torch.float64)
    y = torch.tensor([9.0] * records + [0.5, 0.1], dtype=torch.float64)
    return x, y, ["ann"] * records + ["bo", "cy"]


def moved(dataset, *, physical_batch, mode="auto"):
    """What a step without noise worth mentioning adds up, in clips, and the report."""
    model = network()
    trained = copy.deepcopy(model)
    report = train_private(
        trained,
        dataset,
        loss,
        DPSettings(1e-12, CLIP, 1.0, 1, 1.0, physical_batch),
        noise=RandomStream(bytes(32)),
        sampling=RandomStream(bytes([1]) * 32),
        device="cpu",
        units=UNITS,
        unit="patient",
        mode=mode,
    )
    difference = parameters_to_vector(model.parameters()) - parameters_to_vector(trained.parameters())
    return difference.detach() * UNITS / CLIP, report


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("physical_batch", [100, 256, 4096])
def test_a_patient_of_many_equal_records_adds_what_one_of_one_record_adds(physical_batch, mode):
    """Both gradients are longer than the clip, and of one direction."""
    one, many = (group_records(*rows(records)) for records in (1, RECORDS))
    expected, _ = moved(one, physical_batch=physical_batch, mode=mode)
    found, report = moved(many, physical_batch=physical_batch, mode=mode)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    assert report.clipped_fraction >= 1 / 3
    alone = PatientDataset([many[0]])
    assert float(moved(alone, physical_batch=physical_batch, mode=mode)[0].norm()) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("records", [1, RECORDS])
def test_under_shared_noise_too(records):
    noise = SharedNoise(grid=4096, scale=1, shares=1, dimension=9, limit=2**23)
    integers = IntegerSum.empty(noise, RandomStream(bytes([3]) * 32), 9)
    take_common_step(
        network(),
        PatientDataset([group_records(*rows(records))[0]]),
        loss,
        DPSettings(1.0, CLIP, 1.0, 1, 1.0),
        integers,
        shared=[name for name, _ in network().named_parameters()],
        noise=RandomStream(bytes(32)),
        sampling=RandomStream(bytes([1]) * 32),
        device="cpu",
        units=UNITS,
        unit="patient",
    )
    assert np.linalg.norm(integers.total / 4096) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("order", ["together", "apart"])
def test_a_table_makes_one_patient_of_all_rows_of_one(order):
    x, y, names = rows(RECORDS)
    if order == "apart":  # the others' rows between
        places = torch.randperm(len(y), generator=torch.Generator().manual_seed(1)).tolist()
        x, y, names = x[places], y[places], [names[place] for place in places]
    dataset = group_records(x, y, names)
    assert sorted(len(dataset[index][0]) for index in range(len(dataset))) == [1, 1, RECORDS]
    assert sorted(len(dataset[index][1]) for index in range(len(dataset))) == [1, 1, RECORDS]
