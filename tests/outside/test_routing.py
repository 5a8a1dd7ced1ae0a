import copy

import pytest
import torch
from torch import nn

from securepfl.errors import ModelError
from securepfl.outside.routing import RoutedModel, gate_summary
from securepfl.tasks.models import build_model
from securepfl.tasks.own import OwnLoss
from securepfl.tasks.prediction import predict


class Images(nn.Module):
    """Every kind of layer that routing takes, dropout, and one layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.twice = nn.Conv2d(4, 4, 1)
        self.again = self.twice
        self.drop = nn.Dropout(0.5)
        self.flat = nn.LayerNorm([4])
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.again(torch.relu(self.twice(self.norm(self.stem(x)))))
        return self.head(self.flat(self.drop(x.mean(dim=(2, 3)))))


def randomised(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def image_experts(count=3):
    return [randomised(Images(), seed).eval() for seed in range(count)]


def table_experts(count=3):
    return [randomised(build_model("mlp", features=4, hidden=3), seed).eval() for seed in range(count)]


IMAGES = torch.randn(5, 2, 6, 6, generator=torch.Generator().manual_seed(9))
TABLE = torch.randn(6, 4, generator=torch.Generator().manual_seed(9))
KINDS = pytest.mark.parametrize(("experts", "rows"), [(image_experts(), IMAGES), (table_experts(), TABLE)])


def set_gates(routed, bias):
    with torch.no_grad():
        for layer in routed.routed_layers().values():
            layer.gate.outer.bias.copy_(torch.tensor(bias))


def scatter_gates(routed, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in routed.gate_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))


@KINDS
def test_a_one_hot_gate_is_that_expert_exactly(experts, rows):
    routed = RoutedModel(experts)
    for index, expert in enumerate(experts):
        set_gates(routed, [1e4 * (index == other) for other in range(len(experts))])
        assert torch.equal(routed(rows), expert(rows))


@KINDS
def test_untrained_gates_are_uniform_and_give_the_parameter_average(experts, rows):
    routed = RoutedModel(experts)
    average = copy.deepcopy(experts[0])
    with torch.no_grad():
        for mean, *parts in zip(average.parameters(), *(e.parameters() for e in experts), strict=True):
            mean.copy_(torch.stack(parts).mean(dim=0))
    third = torch.ones(1).div(3).item()
    assert all(gates == [third] * 3 for gates in gate_summary(routed, rows).values())
    torch.testing.assert_close(routed(rows), average(rows), rtol=1e-4, atol=1e-5)


@KINDS
def test_identical_experts_make_the_gates_irrelevant(experts, rows):
    routed = RoutedModel([experts[0]] * 3)
    scatter_gates(routed)
    torch.testing.assert_close(routed(rows), experts[0](rows), rtol=1e-4, atol=1e-5)


@KINDS
def test_gates_differ_between_rows_and_sum_to_one(experts, rows):
    routed = RoutedModel(experts)
    scatter_gates(routed)
    first, second = gate_summary(routed, rows[:1]), gate_summary(routed, rows[1:2])
    assert all(first[name] != second[name] for name in first)
    assert all(sum(gates) == pytest.approx(1.0) and min(gates) >= 0 for gates in first.values())


@KINDS
def test_a_prediction_does_not_depend_on_the_other_rows(experts, rows):
    routed = RoutedModel(experts)
    scatter_gates(routed)
    together = torch.as_tensor(predict(routed.train(), rows, OwnLoss()))
    alone = torch.cat([torch.as_tensor(predict(routed, rows[i : i + 1], OwnLoss())) for i in range(len(rows))])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_experts_are_copied_and_frozen_and_only_gates_train():
    experts = table_experts()
    routed = RoutedModel(experts)
    trainable = {name for name, p in routed.named_parameters() if p.requires_grad}
    assert trainable
    assert all(".gate." in name for name in trainable)
    assert len(trainable) == len(list(routed.gate_parameters()))
    assert all(p.requires_grad for expert in experts for p in expert.parameters())
    before = routed(TABLE)
    with torch.no_grad():
        for expert in experts:
            expert.body.weight.add_(1.0)
    assert torch.equal(routed(TABLE), before)


def test_a_layer_called_under_two_names_is_routed_under_both():
    routed = RoutedModel(image_experts())
    assert routed.model.again is routed.model.twice
    assert set(routed.routed_layers()) == {"stem", "norm", "twice", "flat", "head"}


def test_a_model_that_is_one_layer_is_routed():
    experts = [randomised(nn.Linear(4, 2), seed) for seed in range(2)]
    routed = RoutedModel(experts)
    set_gates(routed, [0.0, 1e4])
    assert torch.equal(routed(TABLE), experts[1](TABLE))


def test_it_runs_on_the_experts_device(device):
    routed = RoutedModel([expert.to(device) for expert in table_experts()])
    assert routed(TABLE.to(device)).device.type == device.type
    assert len(gate_summary(routed, TABLE)["head"]) == 3


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.head = nn.Linear(4, 1)


class OwnLinear(nn.Linear):
    def forward(self, x):
        return super().forward(x).square()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Bare(), r'"scale"'),
        (nn.Sequential(nn.Linear(4, 4), nn.PReLU()), r'"1" \(PReLU\)'),
        (nn.Sequential(OwnLinear(4, 1)), r'"0" \(OwnLinear\)'),
        (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False)), "GroupNorm"),
        (nn.Tanh(), "no parameters"),
    ],
)
def test_what_cannot_be_mixed_exactly_is_refused_by_name(model, message):
    with pytest.raises(ModelError, match=message):
        RoutedModel([model, model])


def test_experts_of_another_architecture_are_refused():
    with pytest.raises(ModelError, match="expert 1"):
        RoutedModel([build_model("mlp", features=4), build_model("mlp", features=5)])
    with pytest.raises(ModelError, match="expert 1"):
        RoutedModel([nn.GroupNorm(2, 4), nn.GroupNorm(4, 4)])


def test_an_expert_with_a_broken_weight_is_refused():
    broken = table_experts(1)[0]
    with torch.no_grad():
        broken.head.bias.fill_(float("nan"))
    with pytest.raises(ModelError, match=r'expert 1 .* "head.bias"'):
        RoutedModel([*table_experts(1), broken])


def test_experts_that_differ_in_a_buffer_are_refused():
    experts = table_experts(2)
    for index, expert in enumerate(experts):
        expert.register_buffer("offset", torch.full((1,), float(index)))
    with pytest.raises(ModelError, match='"offset" of expert 1'):
        RoutedModel(experts)


def test_no_expert_no_rows_and_no_batch_dimension_are_refused():
    with pytest.raises(ValueError, match="experts"):
        RoutedModel([])
    with pytest.raises(ValueError, match="row"):
        gate_summary(RoutedModel(table_experts()), TABLE[:0])
    with pytest.raises(ValueError, match="batch"):
        RoutedModel(table_experts())(TABLE[0])
    with pytest.raises(ValueError, match="batch"):
        RoutedModel(image_experts())(IMAGES[0])
