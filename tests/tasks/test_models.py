import pytest
import torch
from opacus import GradSampleModule
from opacus.validators import ModuleValidator

from securepfl.errors import ModelError
from securepfl.tasks.binary import bce
from securepfl.tasks.models import build_model


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("mlp", ["body.weight", "body.bias", "head.weight", "head.bias"]),
        ("logistic", ["linear.weight", "linear.bias"]),
    ],
)
def test_parameters_have_their_public_names_and_logits_are_one_vector(kind, names):
    model = build_model(kind, features=5, hidden=3)
    assert [name for name, _ in model.named_parameters()] == names
    assert model(torch.randn(7, 5)).shape == (7,)


def test_hospitals_start_from_the_same_weights_and_torch_generator_is_untouched():
    torch.manual_seed(1)
    first = build_model("mlp", features=5)
    drawn = torch.rand(1)
    torch.manual_seed(2)
    second = build_model("mlp", features=5)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1))
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(first.body.weight, build_model("mlp", features=5, seed=1).body.weight)
    assert first.body.weight.abs().max() <= 5**-0.5
    assert first.body.weight.unique().numel() == first.body.weight.numel()


def test_logistic_starts_at_even_odds():
    model = build_model("logistic", features=4)
    assert torch.equal(model(torch.randn(3, 4)), torch.zeros(3))


@pytest.mark.parametrize("kind", ["mlp", "logistic"])
def test_opacus_gives_the_gradient_of_each_record(kind):
    model = build_model(kind, features=4)
    assert ModuleValidator.validate(model) == []
    wrapped = GradSampleModule(model)
    bce(wrapped(torch.randn(6, 4, requires_grad=True)), torch.ones(6)).sum().backward()
    assert all(p.grad_sample.shape == (6, *p.shape) for p in model.parameters())


def test_bce_is_one_loss_per_record():
    losses = bce(torch.tensor([0.0, 100.0, -100.0]), torch.tensor([1, 1, 1]))
    torch.testing.assert_close(losses, torch.tensor([0.6931472, 0.0, 100.0]))


def test_bce_refuses_shapes_that_would_broadcast():
    with pytest.raises(ValueError, match=r"\(3, 1\)"):
        bce(torch.zeros(3, 1), torch.zeros(3))


def test_unknown_kind_is_named():
    with pytest.raises(ModelError, match='"transformer"'):
        build_model("transformer", features=4)


def test_a_model_without_inputs_is_refused():
    with pytest.raises(ValueError, match="not 0"):
        build_model("logistic", features=0)
