"""What training would do on a GPU, on machines without one: on torch's meta device.

Tensors there have shapes and no values: what mixes devices raises, and so does what reads a value, for which a GPU
would have to be waited for. Only the places named here may. (FakeTensorMode has CUDA tensors without CUDA, but no
backward pass through them: torch's engine aborts the process where it was built without CUDA.)
"""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from securepfl.errors import ModelError
from securepfl.privacy.training.common_step import take_common_step
from securepfl.privacy.training.dpsgd import DPSettings, train_private
from securepfl.privacy.training.integer_sum import IntegerSum
from securepfl.privacy.training.shared_noise import SharedNoise
from securepfl.privacy.training.units import PatientDataset
from securepfl.randomness import RandomStream
from securepfl.tasks.binary import BINARY
from securepfl.tasks.multiclass import Multiclass
from securepfl.tasks.prediction import predict

MODES = ["auto", "per-sample", "ghost", "functorch"]


class Scaled(nn.Module):
    """A layer without a sampler."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x):
        return x * self.scale


def table():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)), torch.randn(11, 4), torch.zeros(11).long()


def unsampled():
    return nn.Sequential(nn.Linear(4, 6), Scaled(), nn.Linear(6, 2)), torch.randn(11, 4), torch.zeros(11).long()


def images():
    layers = [nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.PReLU(), nn.ConvTranspose2d(4, 4, 2, 2), nn.Dropout(0.2)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    return model, torch.randn(11, 1, 8, 8), torch.zeros(11).long()


def sequences():
    model = nn.Sequential(nn.Embedding(9, 4, padding_idx=0), nn.Linear(4, 4), nn.Flatten(), nn.Linear(20, 2))
    return model, torch.zeros(11, 5).long(), torch.zeros(11).long()


CASES = {"table": table, "unsampled": unsampled, "images": images, "sequences": sequences}


def loss(output, y):
    return nn.functional.cross_entropy(output, y, reduction="none")


def last_of_ours(caught):
    return [entry for entry in caught.traceback if "securepfl" in entry.frame.f_globals["__name__"]][-1]


def first_read(model, dataset, unit="record", **options):
    """Where training reads the first value from the device, and what it had counted until then."""
    settings = DPSettings(1.0, 0.5, 1.0, 2, 0.1, physical_batch=4)
    with pytest.raises(RuntimeError, match="meta") as caught:
        train_private(
            model,
            dataset,
            loss,
            settings,
            noise=RandomStream(bytes(32)),
            sampling=RandomStream(bytes([1]) * 32),
            device="meta",
            units=11,
            unit=unit,
            **options,
        )
    return last_of_ours(caught)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("unit", ["record", "patient"])
@pytest.mark.parametrize("name", CASES)
def test_training_reads_nothing_before_its_report(name, unit, mode):
    if name == "unsampled" and mode == "per-sample":
        pytest.skip("refused: no sampler")
    model, x, y = CASES[name]()
    dataset = TensorDataset(x, y)
    if unit == "patient":
        dataset = PatientDataset([(x[:7], y[:7]), (x[7:9], y[7:9]), (x[9:], y[9:])])
    last = first_read(model, dataset, unit, mode=mode)
    assert last.name == "report"
    assert last.locals["self"].unusable.counts() == {}, (
        "no unit may have failed: a tensor on the wrong device would be counted here"
    )
    assert all(p.device == torch.device("meta") for p in model.parameters())


def test_a_common_step_reads_what_is_to_be_summed_and_nothing_before():
    model, x, y = images()
    noise = SharedNoise(grid=16, scale=40, shares=4, dimension=36, limit=2**20)
    with pytest.raises((RuntimeError, NotImplementedError), match="meta") as caught:
        take_common_step(
            model,
            TensorDataset(x, y),
            loss,
            DPSettings(5.0, 0.5, 1.0, 1, 0.1, physical_batch=4),
            IntegerSum.empty(noise, RandomStream(bytes(32)), 36),
            shared={"0.weight"},
            noise=RandomStream(bytes([1]) * 32),
            sampling=RandomStream(bytes([2]) * 32),
            device="meta",
            units=11,
        )
    assert "cpu().numpy()" in str(last_of_ours(caught).statement)


@pytest.mark.parametrize("task", [BINARY, Multiclass()])
def test_prediction_reads_what_it_returns_and_nothing_before(task):
    model = nn.Linear(4, 1 if task is BINARY else 2).to("meta")
    with pytest.raises(ModelError, match="Cannot copy out of meta tensor"):
        predict(model, np.zeros((5, 4)), task)
