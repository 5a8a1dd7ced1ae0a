import pytest
import torch
from torch import nn

from securepfl.errors import ModelError
from securepfl.learning.personal.adapters import with_adapters
from securepfl.learning.personal.choices import RULES
from securepfl.learning.personal.rule import candidates, default_personal, named_by, output_layer
from securepfl.tasks.models import build_model


class Shuffled(nn.Module):
    """The output layer is written first, and the last one written is used first."""

    def __init__(self):
        super().__init__()
        self.final = nn.Linear(4, 1)
        self.middle = nn.Linear(4, 4)
        self.stem = nn.Linear(3, 4)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = x + self.middle(x)
        return self.final(x).view(x.shape[0], -1).squeeze(-1)


class Auxiliary(Shuffled):
    """`middle` is called, and its result thrown away."""

    def forward(self, x, scale=None):
        hidden = self.stem(x)
        self.middle(hidden)
        out = torch.sigmoid(self.final(hidden))
        return out if scale is None else out * scale


class Branching(nn.Module):
    """Branches on values, as a part of a model."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 4)

    def forward(self, x):
        return self.inner(x) if x.sum() > 0 else self.inner(-x)


class TwoHeads(Shuffled):
    def forward(self, x):
        return self.final(torch.tanh(self.stem(x))) + self.middle(self.stem(x)).sum(-1, keepdim=True)


class Skipping(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return x * self.layer(x)


class Again(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return self.layer(torch.tanh(self.layer(x)))


class OwnParameter(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.layer(x) * self.scale


class Values(nn.Module):
    """No parameters, and a branch on values."""

    def forward(self, x):
        return x if x.sum() > 0 else -x


def segmenter(bias=True):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Sequential(nn.ReLU(), nn.Conv2d(4, 1, 1, bias=bias)), nn.Flatten()
    )


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (build_model("mlp", 3), "head"),
        (build_model("logistic", 3), "linear"),
        (nn.Linear(3, 1), ""),
        (segmenter(), "2.1"),
        (Shuffled(), "final"),
        (Auxiliary(), "final"),
        (nn.Sequential(Branching(), nn.Linear(4, 1), Values()), "1"),
        (with_adapters(Shuffled(), 1), "final"),
        (nn.Sequential(nn.Embedding(5, 3), nn.LayerNorm(3), nn.Linear(3, 2)), "2"),
    ],
    ids=["mlp", "logistic", "bare", "conv", "order", "unused", "branches", "adapters", "embedding"],
)
def test_the_output_layer_is_found_in_what_the_forward_pass_does(model, name):
    assert output_layer(model) == name


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (TwoHeads(), "comes from final, middle"),
        (Skipping(), "comes from layer, x"),
        (Again(), "also used before"),
        (OwnParameter(), "comes from layer, scale"),
        (nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)), '"1", not a Linear or Conv'),
        (nn.Sequential(nn.Linear(3, 3), Branching()), '"1", not a Linear or Conv'),
        (Branching(), "cannot be followed"),
    ],
    ids=["two heads", "input", "again", "own parameter", "norm", "opaque", "branching"],
)
def test_where_it_is_not_one_layer_nothing_is_guessed(model, words):
    with pytest.raises(ModelError, match=words) as caught:
        default_personal(model)
    assert "name patterns" in str(caught.value) and "\n" not in str(caught.value)
    assert candidates(model) == {"none": ()}


def test_the_smallest_part_comes_first_and_every_choice_is_named():
    intercept, head = ("head.bias",), ("head.weight", "head.bias")
    model = build_model("mlp", 3)
    assert candidates(model) == {"none": (), "intercept": intercept, "head": head}
    assert default_personal(model) == named_by("auto", model) == named_by("intercept", model) == intercept
    assert named_by("head", model) == head
    assert default_personal(segmenter(bias=False)) == ("2.1.weight",)
    assert candidates(build_model("logistic", 3)) == {"none": (), "intercept": ("linear.bias",)}


def test_adapters_are_personal_where_there_are_some():
    model = with_adapters(build_model("mlp", 3, hidden=2), 0)
    adapters = ("body.adapter.units.weight", "head.adapter.units.weight")
    assert default_personal(model) == named_by("adapters", model) == adapters
    assert candidates(model) == {
        "none": (),
        "intercept": ("head.base.bias",),
        "head": ("head.base.weight", "head.base.bias", "head.adapter.units.weight"),
        "adapters": adapters,
    }
    assert "adapters" in candidates(with_adapters(nn.Sequential(Branching()), 1))


@pytest.mark.parametrize(
    ("rule", "model", "words"),
    [
        ("auto", nn.Sequential(nn.Linear(3, 1, bias=False)), "adapters = 0"),
        ("intercept", segmenter(bias=False), '"2.1" has no bias'),
        ("head", build_model("logistic", 3), "nothing would be shared"),
        ("adapters", build_model("mlp", 3), "set adapters"),
        ("intercept", Branching(), "cannot be followed"),
    ],
    ids=["auto", "intercept", "head", "adapters", "unknown"],
)
def test_a_rule_that_does_not_suit_the_model_says_what_to_do(rule, model, words):
    assert rule in RULES
    with pytest.raises(ModelError, match=words):
        named_by(rule, model)


def test_frozen_parameters_are_no_choice():
    model = build_model("mlp", 3)
    model.head.bias.requires_grad_(False)
    assert default_personal(model) == ("head.weight",)


def test_looking_leaves_the_model_as_it_was():
    model = Shuffled()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    output_layer(model)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert isinstance(model(torch.zeros(2, 3)), torch.Tensor)
