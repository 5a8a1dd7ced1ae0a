"""Models, losses and collate functions in which records depend on one another are told before training."""

import copy

import pytest
import torch
from opacus.layers import DPLSTM
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset, TensorDataset

from securepfl.client.records import TrainingSet
from securepfl.client.scanning import scan_units
from securepfl.errors import ModelError
from securepfl.privacy.training.probe import check_independence
from securepfl.privacy.training.units import PatientDataset
from securepfl.privacy.training.validation import replace_unsupported
from securepfl.tasks.own import OwnLoss

DEPENDENT = "records depend on one another"
NOT_TORCHS = "not the one torch gives"


def squared(output, y):
    return (output.flatten(1).sum(1) - y) ** 2


def records(count=8, *shape, labels=None):
    torch.manual_seed(7)
    x = torch.randn(count, *(shape or (4,)))
    return TensorDataset(x, torch.randn(count) if labels is None else labels)


def check(model, dataset=None, loss=squared, **options):
    check_independence(model, dataset or records(), loss, device="cpu", **options)


class Wrapped(nn.Module):
    """A linear layer with something done to the rows before, and to the result."""

    def __init__(self, before=lambda module, x: x, after=lambda module, h: h, features=4):
        super().__init__()
        self.layer, self.before, self.after = nn.Linear(features, features), before, after

    def forward(self, x):
        return self.after(self, self.layer(self.before(self, x)))


class Sorted(nn.Module):
    """As for packed sequences: sorted, run, and put back, so that each output is right."""

    def __init__(self, zero_head=False):
        super().__init__()
        self.layer, self.head = nn.Linear(4, 6), nn.Linear(6, 1)
        if zero_head:
            nn.init.zeros_(self.head.weight)

    def forward(self, x):
        order = x[:, 0].argsort()
        return self.head(self.layer(x[order]).tanh()[order.argsort()])


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale, self.inner = nn.Parameter(torch.ones(4)), nn.Linear(4, 4)

    def forward(self, x):
        return self.inner(x) * self.scale


class Outside(nn.Module):
    def __init__(self):
        super().__init__()
        self.part = Scaled()

    def forward(self, x):
        return self.part.inner(self.part(x).tanh())


def normed(_, x):
    return functional.batch_norm(x, None, None, training=True)


def tied(module, h):
    return functional.linear(h.tanh(), module.layer.weight)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (Sorted(), DEPENDENT),
        (Sorted(zero_head=True), DEPENDENT),
        (Wrapped(before=lambda _, x: x - x.mean(0)), DEPENDENT),
        (Wrapped(after=lambda _, h: h.softmax(0)), DEPENDENT),
        (Wrapped(after=lambda module, h: normed(module, h) if len(h) > 1 else h), DEPENDENT),
        (Wrapped(after=tied), NOT_TORCHS),
        (Outside(), NOT_TORCHS),
        (Wrapped(before=lambda _, x: x + torch.randn_like(x)), "draw at random only in training"),
    ],
)
def test_models_that_void_the_clip_are_refused(model, told):
    with pytest.raises(ModelError, match=told):
        check(model)


def balanced(output, y):
    return squared(output, y) / (1 + y.sum())


@pytest.mark.parametrize("positive", [1, 40])
def test_losses_weighted_by_the_batch_are_refused(positive):
    """Also where only a record far down the data set has the label that shows it."""
    labels = torch.zeros(50)
    labels[positive] = 1
    with pytest.raises(ModelError, match=DEPENDENT):
        check(Wrapped(), records(50, labels=labels), balanced)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = replace_unsupported(nn.MultiheadAttention(4, 2, dropout=0.4, batch_first=True))[0]

    def forward(self, x):
        return self.layer(x, x, x)[0]


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = DPLSTM(4, 3, batch_first=True)

    def forward(self, x):
        return self.layer(x)[0][:, -1]


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.Linear(4, 9), nn.Dropout(0.5), nn.Linear(9, 1)), (4,)),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Dropout2d(0.5), nn.ReLU(inplace=True)), (1, 5, 5)),
        (Wrapped(after=lambda module, h: functional.dropout(h, 0.5, module.training)), (4,)),
        (Wrapped(after=lambda _, h: functional.scaled_dot_product_attention(h, h, h, None, 0.5)), (3, 4)),
        (Wrapped(before=lambda module, x: x + torch.randn_like(x) if module.training else x), (4,)),
        (Scaled(), (4,)),
        (Attention(), (3, 4)),
        (Recurrent(), (5, 4)),
    ],
)
@pytest.mark.parametrize("count", [1, 2, 8])
def test_sound_models_pass_and_are_left_alone(model, shape, count):
    before, state = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    model.eval()
    dataset = TensorDataset(torch.randn(count, *shape), torch.randn(count))
    torch.random.set_rng_state(state)
    check(model, dataset)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_records_that_are_not_finite_are_not_compared():
    x, y = records().tensors
    x[0] = torch.nan
    check(Wrapped(), TensorDataset(x, y))
    with pytest.raises(ModelError, match=DEPENDENT):
        check(Sorted(), TensorDataset(x, y))


def test_patients_depend_on_no_other_patient():
    torch.manual_seed(1)
    dataset = PatientDataset([(torch.randn(size, 4), torch.randn(size)) for size in (1, 5, 3, 2)])
    check(Wrapped(), dataset, unit="patient")
    with pytest.raises(ModelError, match="the gradient of patient"):
        check(Wrapped(before=lambda _, x: x - x.mean(0)), dataset, unit="patient")


class Texts(Dataset):
    """Items of different length, that only a collate function makes into tensors; drawn anew each time."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return {"words": [index + 1] * (2 + index), "noise": torch.randn(1)}


def padded(items):
    longest = max(len(item["words"]) for item in items)
    rows = [item["words"] + [0] * (longest - len(item["words"])) for item in items]
    return torch.tensor(rows, dtype=torch.float32)[:, :, None] * torch.ones(4), torch.cat([i["noise"] for i in items])


def mixed(items):
    x, y = padded(items)
    return (x + x.flip(0)) / 2, y


def test_collate_functions_make_each_row_of_one_record():
    def averaged(_, h):
        return h.mean(1)

    def weighed(_, h):
        return h.square().flatten(1).sum(1, keepdim=True)

    with pytest.raises(ModelError, match="padded to the longest of them; pad all to one length"):
        check(Wrapped(after=averaged), Texts(), collate=padded)
    with pytest.raises(ModelError, match=DEPENDENT):
        check(Wrapped(after=weighed), Texts(), collate=mixed)
    flat = TensorDataset(torch.ones(3, 4), torch.ones(3))
    check(Wrapped(), flat, collate=lambda items: (torch.randn(len(items), 4), torch.ones(len(items))))


def scan(training, model, loss):
    records, cpu = TrainingSet.of(training, "alder"), torch.device("cpu")
    return scan_units(records, records.found, OwnLoss(), model, loss, cpu, "alder", 256)


def test_a_client_tries_it_before_it_trains():
    for model, loss in ((Sorted(), squared), (nn.Linear(4, 1), balanced)):
        with pytest.raises(ModelError, match=f"alder: {DEPENDENT}"):
            scan(records(labels=torch.arange(8.0)), model, loss)
    assert scan(records(), Wrapped(), squared).scan.used == 8
