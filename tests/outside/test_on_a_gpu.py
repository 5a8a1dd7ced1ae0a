"""Routing as it would run on a GPU, on machines without one: on torch's meta device, where no value can be read.

(As tests/privacy/training/test_on_a_gpu.py.)
"""

import pytest
import torch
from torch import nn

from securepfl.outside.routing import RoutedModel, gate_summary


def routed_of():
    experts = [nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)) for _ in range(3)]
    return RoutedModel(experts).to("meta")


def reader(caught):
    """The line of ours at which a value was read."""
    return str([entry for entry in caught.traceback if "securepfl" in entry.frame.f_globals["__name__"]][-1].statement)


def test_a_pass_through_all_experts_stays_on_their_device():
    outputs = routed_of()(torch.randn(5, 4, device="meta"))
    assert (outputs.device.type, tuple(outputs.shape)) == ("meta", (5, 3))


def test_a_summary_of_gates_reads_their_means_alone():
    with pytest.raises(RuntimeError, match="meta") as caught:
        gate_summary(routed_of(), torch.randn(5, 4, device="meta"))
    assert "mean(dim=0).tolist()" in reader(caught)
