"""How many records are in memory at once: bounded, whatever model and records are."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from securepfl.privacy.training.physical import fitting_batch
from securepfl.privacy.training.units import PatientDataset


def records(*shape):
    return TensorDataset(torch.zeros(3, *shape), torch.zeros(3))


@pytest.mark.parametrize(("inputs", "shape"), [(30, (30,)), (10_000, (10_000,)), (10**6, (10**6,))])
def test_larger_models_and_records_are_fewer_at_once(inputs, shape):
    most = fitting_batch(nn.Linear(inputs, 1), records(*shape), "record")
    assert 1 <= most <= 4096
    assert most == 1 or most * inputs * 4 <= 2**28


def test_neither_a_large_model_nor_a_large_record_stops_training():
    assert fitting_batch(nn.Linear(10_000, 10_000, device="meta"), records(5), "record") == 32
    assert fitting_batch(nn.Linear(5, 1), records(300, 300, 300), "record") == 1


def test_a_patients_records_count_singly():
    one = PatientDataset([(torch.zeros(1, 50_000), torch.zeros(1))])
    many = PatientDataset([(torch.zeros(40, 50_000), torch.zeros(40))])
    assert fitting_batch(nn.Linear(5, 1), one, "patient") == fitting_batch(nn.Linear(5, 1), many, "patient") == 20


class Broken(torch.utils.data.Dataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        if index < 2:
            raise OSError("cut short")
        return torch.zeros(2**20), 0.0


def test_an_item_that_cannot_be_read_is_passed_over():
    assert fitting_batch(nn.Linear(5, 1), Broken(), "record") == 1
    assert fitting_batch(nn.Linear(5, 1), [("text", 1)], "record") == 256
