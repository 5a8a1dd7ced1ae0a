"""Patients as the unit: whole in a batch, summed before the norm, and each bounded by the clip."""

import copy
import math
from decimal import Decimal
from uuid import UUID

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector
from torch.utils.data import TensorDataset

from securepfl.errors import DataError
from securepfl.privacy.training import clipping
from securepfl.privacy.training.canaries import Canaries
from securepfl.privacy.training.dpsgd import DPSettings, train_private
from securepfl.privacy.training.gradients import Layer
from securepfl.privacy.training.units import PatientDataset, group_records, patient_batches
from securepfl.randomness import RandomStream

MODES = ["per-sample", "ghost"]
SIZES = (1, 50, 3, 1, 17, 2, 8, 1, 30, 5)
CLIP = 0.7


def per_record_loss(output, y):
    return (output.squeeze(1) - y) ** 2


def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)).double()


def patients(sizes=SIZES):
    """Patients whose records agree (their gradients add up) and differ (they do not)."""
    generator = torch.Generator().manual_seed(5)
    centres = torch.randn(len(sizes), 4, generator=generator, dtype=torch.float64)
    xs = [
        centre + torch.randn(size, 4, generator=generator).double() for centre, size in zip(centres, sizes, strict=True)
    ]
    return PatientDataset([(x, x.sum(1) * 0.1) for x in xs])


def train(model, dataset, *, sample_rate=1.0, physical_batch=20, key=1, units=None, clip=CLIP, **options):
    """The sum that one step of a trained copy moved by, and the report."""
    trained, units = copy.deepcopy(model), units or len(dataset)
    report = train_private(
        trained,
        dataset,
        per_record_loss,
        DPSettings(1e-12, clip, sample_rate, 1, 1.0, physical_batch),
        noise=RandomStream(bytes([key]) * 32),
        sampling=RandomStream(bytes([key + 100]) * 32),
        device="cpu",
        units=units,
        unit="patient",
        **options,
    )
    moved = parameters_to_vector(model.parameters()) - parameters_to_vector(trained.parameters())
    return moved.detach() * units * sample_rate, report


def patient_gradient(model, x, y):
    """Sum over one patient's records, one at a time."""
    total = 0
    for record, label in zip(x, y, strict=True):
        loss = per_record_loss(model(record[None]), label[None]).sum()
        total = total + torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])
    return total


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("physical_batch", [1, 20, 1000])
def test_the_sum_is_that_of_a_loop_over_patients(mode, physical_batch):
    model, dataset = network(), patients()
    gradients = torch.stack([patient_gradient(model, *dataset[index]) for index in range(len(dataset))])
    clip = float(gradients.norm(dim=1).median())
    moved, report = train(model, dataset, clip=clip, mode=mode, physical_batch=physical_batch)
    expected = (gradients * (clip / gradients.norm(dim=1, keepdim=True)).clamp(max=1)).sum(0)
    torch.testing.assert_close(moved, expected, rtol=0, atol=2e-6 * clip * len(dataset))
    assert report.clipped_fraction == 0.5  # of ten patients, not of 118 records


@pytest.mark.parametrize("mode", MODES)
def test_a_patient_of_many_records_passes_in_parts(monkeypatch, mode):
    """Neither a pass nor what a layer gives is ever of more records than fit."""
    model, dataset = network(), patients((3, 500, 2))
    whole, _ = train(model, dataset, mode=mode, physical_batch=1000)
    passes, held = [], []
    real = Layer.gradients

    def counted(layer, activations, backprops):
        held.append((sum(p.numel() for p in layer.parameters), len(backprops)))
        return real(layer, activations, backprops)

    monkeypatch.setattr(Layer, "gradients", counted)
    monkeypatch.setattr(clipping, "_PIECE_BYTES", 8 * 7 * 30)  # seven records of the first layer
    hook = model.register_forward_pre_hook(lambda _, inputs: passes.append(len(inputs[0])))
    parts, report = train(model, dataset, mode=mode, physical_batch=20)
    hook.remove()
    assert max(passes) == 20
    assert max(count for size, count in held if size == 30) == 7
    assert sum(passes) == 505
    assert report.clipped_fraction > 0
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-9)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e12])
def test_one_patient_moves_the_sum_by_at_most_the_clip(mode, scale):
    """The patient with 50 records against the same data with that patient's gradient at zero."""
    model, dataset = network(), patients()
    chosen = [dataset[index] for index in range(len(dataset))]
    chosen[1] = (scale * torch.ones(50, 4, dtype=torch.float64), torch.full((50,), -5.0).double())
    refused = list(chosen)
    refused[1] = (torch.full((50, 4), math.nan).double(), chosen[1][1])
    present, _ = train(model, PatientDataset(chosen), mode=mode)
    absent, report = train(model, PatientDataset(refused), mode=mode)
    assert report.nonfinite_records == 1
    assert 0.5 * CLIP < (present - absent).norm() <= CLIP * (1 + 1e-9)


def test_records_alone_would_pass_the_clip_fiftyfold():
    """What the unit is for: as records, the same patient moves the sum by many clips."""
    model, dataset = network(), patients()
    x, y = dataset[1]
    shifted = TensorDataset(x.abs() + 5, y - 50)
    trained = copy.deepcopy(model)
    train_private(
        trained,
        shifted,
        per_record_loss,
        DPSettings(1e-12, CLIP, 1.0, 1, 1.0),
        noise=RandomStream(bytes(32)),
        sampling=RandomStream(bytes(32)),
        device="cpu",
        units=50,
    )
    moved = parameters_to_vector(model.parameters()) - parameters_to_vector(trained.parameters())
    assert float(moved.norm()) * 50 > 10 * CLIP


@pytest.mark.parametrize("mode", MODES)
def test_one_bad_record_refuses_its_patient_and_no_other(mode):
    model, dataset = network(), patients()
    items = [dataset[index] for index in range(len(dataset))]
    bad = items[4][0].clone()
    bad[3, 1] = math.inf
    others = PatientDataset([item for index, item in enumerate(items) if index != 4])
    items[4] = (bad, items[4][1])
    moved, report = train(model, PatientDataset(items), mode=mode)
    expected, _ = train(model, others, mode=mode)
    assert report.nonfinite_records == 1
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-9)


def test_batches_hold_whole_patients_up_to_the_limit():
    dataset = patients()
    batches = list(patient_batches(dataset, list(range(len(dataset))), 20))
    assert [batch.counts for batch in batches] == [(1,), (50,), (3, 1), (17, 2), (8, 1), (30,), (5,)]
    assert [unit for batch in batches for unit in batch.units] == list(range(len(dataset)))
    for batch in batches:
        assert len(batch.x) == sum(batch.counts) <= max(20, batch.counts[0])
        whole = torch.cat([dataset[unit][0] for unit in batch.units])
        assert torch.equal(batch.x, whole)


def test_patients_are_drawn_whole_and_the_step_divides_by_declared_patients():
    """Each patient's gradient has norm CLIP along one axis, so the sum counts patients, however many records."""
    model = nn.Linear(1, 1, bias=False).double()
    dataset = PatientDataset([(torch.full((size, 1), 1e6).double(), torch.zeros(size).double()) for size in SIZES * 6])
    nn.init.constant_(model.weight, 1.0)
    counts = []
    for key in range(40):
        moved, _ = train(model, dataset, sample_rate=0.3, units=300, key=key)
        counts.append(float(moved) / CLIP)
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-3)
    spread = math.sqrt(60 * 0.3 * 0.7)
    assert np.mean(counts) == pytest.approx(18, abs=4 * spread / math.sqrt(40))
    assert np.std(counts) == pytest.approx(spread, rel=0.35)


@pytest.mark.parametrize("mode", MODES)
def test_canaries_are_patients(mode):
    model, dataset = network(), patients()
    planted = Canaries(first=8, coordinates=np.array([3, 30]), zeroed=np.array([3, 10, 30]), scale=1.0)
    moved, _ = train(model, dataset, canaries=planted, mode=mode)
    np.testing.assert_allclose(moved[planted.zeroed].numpy(), [CLIP, 0, CLIP], atol=2e-6)


def test_masks_bound_a_patients_support():
    model, dataset = network(), patients()
    masks = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    masks["2.bias"][0] = 1
    moved, _ = train(model, dataset, masks=masks)
    gradients = [float(patient_gradient(model, *dataset[index])[-1]) for index in range(len(dataset))]
    assert float(moved[-1]) == pytest.approx(sum(np.clip(gradients, -CLIP, CLIP)), rel=1e-5)
    assert (moved[:-1] == 0).all()


@pytest.mark.parametrize("convert", [list, torch.tensor, np.array])
def test_a_table_is_grouped_in_order_of_first_appearance(convert):
    features, labels = torch.arange(12.0).reshape(6, 2), torch.arange(6)
    dataset = group_records(features, labels, convert([7, 3, 7, 9, 3, 7]))
    assert len(dataset) == 3
    assert [dataset[index][1].tolist() for index in range(3)] == [[0, 2, 5], [1, 4], [3]]
    assert torch.equal(dataset[1][0], features[[1, 4]])


@pytest.mark.parametrize(
    ("rows", "labels", "names"),
    [(0, 0, []), (2, 2, ["a"]), (2, 1, ["a", "a"]), (2, 2, ["a", None])]
    + [(2, 2, [1.0, missing]) for missing in (math.nan, np.float32("nan"), np.datetime64("NaT"), torch.tensor(1.0))],
)
def test_tables_that_do_not_name_each_records_patient_are_refused(rows, labels, names):
    with pytest.raises(DataError, match="patient identifier"):
        group_records(torch.zeros(rows, 2), torch.zeros(labels), names)


@pytest.mark.parametrize(
    "names",
    [{0: "a", 1: "b"}, {"a", "b"}, "ab", b"ab", 5, None, np.zeros((2, 1)), torch.zeros(2, 2)],
)
def test_what_holds_no_identifier_a_record_is_refused(names):
    with pytest.raises(DataError, match=r"patient identifiers in a .* hand in a list"):
        group_records(torch.zeros(2, 2), torch.zeros(2), names)


@pytest.mark.parametrize(
    "names",
    [
        [7, "7.0", 7.0, np.int64(7), np.float32(7), " 7", Decimal("7.00"), "\u0667", b"7", np.str_("7\u200b")],
        ["K\u00f6hler", "Ko\u0308hler", "K\u00f6hler\u00a0"],
        np.array([3, 3, 3], dtype=np.uint8),
        np.array(["a", "a "]),
        np.array([b"a", b"a"]),
        torch.tensor([5.0, 5.0], dtype=torch.bfloat16),
        pa.array(["p 1", None, "p  1"]).drop_null().dictionary_encode(),
        [UUID(int=1), str(UUID(int=1))],
        [0.0, -0.0, 0, np.float32("-0.0")],
    ],
)
def test_one_patient_is_one_unit_however_the_identifier_is_stored(names):
    rows = len(names)
    assert len(group_records(torch.zeros(rows, 2), torch.zeros(rows), names)) == 1


@pytest.mark.parametrize(
    "names",
    [
        ["p1", "P1"],
        [7, "007"],
        ["ash1", "ash001"],
        ["p1", "p 1"],
        ["p1", "p-1"],
        ["pa", "p\u0430"],
        ["secret", "Secret"],
    ],
)
def test_identifiers_that_may_be_one_patient_are_refused_by_their_records(names):
    with pytest.raises(DataError, match="records 0 and 2 have patient identifiers that differ only in") as caught:
        group_records(torch.zeros(3, 2), torch.zeros(3), [names[0], "q", names[1]])
    assert "hid" not in str(caught.value).lower()


@pytest.mark.parametrize(
    "name",
    [True, np.bool_(False), b"\xff", "1.2E+11", 2.0**53, np.float32(2**24), ("a", 1), "", " ", "NA", "n/a", math.inf],
)
def test_an_identifier_that_is_not_one_patients_is_refused(name):
    with pytest.raises(DataError, match="record 1 has a patient identifier"):
        group_records(torch.zeros(2, 2), torch.zeros(2), ["a", name])


def test_a_patient_is_one_unit_however_many_records():
    """Two units of 250 records would move the sum by up to twice the clip."""
    names = ["small", *["large"] * 500, "other"]
    x = torch.ones(502, 4, dtype=torch.float64)
    dataset = group_records(x, torch.full((502,), -5.0).double(), names)
    assert [len(dataset[index][0]) for index in range(len(dataset))] == [1, 500, 1]
    without = PatientDataset([dataset[0], dataset[2]])
    present, _ = train(network(), dataset, units=3)
    absent, _ = train(network(), without, units=3)
    assert 0.9 * CLIP < (present - absent).norm() <= CLIP * (1 + 1e-9)


class Unchecked(torch.utils.data.Dataset):
    """A data set of the user's own."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


@pytest.mark.parametrize(
    ("item", "wrong"),
    [
        ((torch.zeros(0, 4), torch.zeros(0)), "patient 1 has no records"),
        ((torch.zeros(2, 4), torch.zeros(3)), "patient 1 is not a pair"),
        ((torch.zeros(2, 4), 1.0), "patient 1 is not a pair"),
        ((torch.zeros(2, 4), torch.tensor(1.0)), "patient 1 is not a pair"),
    ],
)
def test_items_that_are_no_patients_are_refused_by_number(item, wrong):
    good = (torch.zeros(2, 4).double(), torch.zeros(2).double())
    with pytest.raises(DataError, match=wrong):
        PatientDataset([good, item])
    with pytest.raises(DataError, match=wrong):
        list(patient_batches(Unchecked([good, item]), [0, 1], 20))
    _, report = train(network(), Unchecked([good, item]))
    assert report.unusable == {"unreadable": 1}


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="collate"):
        train(network(), patients(), collate=torch.utils.data.default_collate)
    with pytest.raises(ValueError, match="unit must be"):
        train_private(
            network(),
            patients(),
            per_record_loss,
            DPSettings(1.0, 1.0, 1.0, 1, 1.0),
            noise=RandomStream(bytes(32)),
            sampling=RandomStream(bytes(32)),
            device="cpu",
            units=10,
            unit="hospital",
        )
