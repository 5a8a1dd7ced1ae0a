import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector
from torch.utils.data import TensorDataset

from securepfl.errors import ModelError
from securepfl.learning.personal.adapters import Adapted, adapter_names, folded, with_adapters
from securepfl.learning.personal.partition import Partition
from securepfl.outside.routing import RoutedModel
from securepfl.privacy.training.dpsgd import DPSettings, train_private, validate_model
from securepfl.privacy.training.gradients import choose_mode
from securepfl.randomness import RandomStream
from securepfl.tasks.models import build_model


class Called(nn.Module):
    """One layer, called twice under one name."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(self.layer(x).tanh())


MODELS = {
    "table": (lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4, bias=False)), (6,)),
    "sequences": (lambda: nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 4)), (3, 4)),
    "signals": (lambda: nn.Sequential(nn.Conv1d(3, 5, 3, dilation=2), nn.ReLU(inplace=True)), (3, 8)),
    "images": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 5, 3, stride=2, padding=1, bias=False), nn.GroupNorm(1, 5), nn.Flatten(), nn.Linear(20, 4)
        ),
        (2, 4, 4),
    ),
    "volumes": (lambda: nn.Sequential(nn.Conv3d(2, 3, 3, padding="same"), nn.Tanh()), (2, 2, 3, 3)),
    "twice": (Called, (4,)),
}
EVERY_MODEL = pytest.mark.parametrize("kind", MODELS)
EVERY_RANK = pytest.mark.parametrize("rank", [0, 2, 99])
CLIP = 0.5


def model_of(kind, rank=None, *, seed=0, scatter=False):
    """(model, rows); with `scatter` all parameters are drawn anew, so that no correction is zero."""
    build, shape = MODELS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build()
        model = model if rank is None else with_adapters(model, rank)
        if scatter:
            for parameter in model.parameters():
                nn.init.normal_(parameter, std=0.5)
        return model, torch.randn(7, *shape)


@EVERY_MODEL
@EVERY_RANK
def test_the_function_is_unchanged_at_the_start_and_the_start_is_public(kind, rank):
    plain, rows = model_of(kind)
    before = torch.random.get_rng_state()
    one, other = with_adapters(copy.deepcopy(plain), rank), with_adapters(copy.deepcopy(plain), rank)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(one(rows), plain(rows))
    assert torch.equal(parameters_to_vector(one.parameters()), parameters_to_vector(other.parameters()))
    names = set(adapter_names(one))
    assert names == set(Partition.of(one, ("*.adapter.*",)).personal)
    shared = {name.replace(".base.", ".") for name, _ in one.named_parameters() if name not in names}
    assert shared == {name for name, _ in plain.named_parameters()}


def squared(output, y):
    flat = output.flatten(1)
    return ((flat * torch.linspace(-1, 2, flat.shape[1]) + y[:, None]) ** 2).sum(1)


def clipped_sum(model, rows, y):
    """The sum over records of clipped gradients, one record at a time by autograd."""
    total = 0
    for x, label in zip(rows, y, strict=True):
        parts = torch.autograd.grad(squared(model(x[None]), label[None]).sum(), list(model.parameters()))
        flat = parameters_to_vector(parts)
        total = total + flat * (CLIP / flat.norm()).clamp(max=1)
    return total


@EVERY_MODEL
@EVERY_RANK
def test_every_gradient_mode_gives_the_clipped_sum_of_a_loop_over_records(kind, rank):
    model, rows = model_of(kind, rank, scatter=True)
    validate_model(model)
    assert choose_mode(model).name != "functorch"  # no layer is without a sampler
    y = torch.linspace(-1, 1, len(rows))
    expected = clipped_sum(model, rows, y)
    for mode in ("per-sample", "ghost", "functorch"):
        trained = copy.deepcopy(model)
        train_private(
            trained,
            TensorDataset(rows, y),
            squared,
            DPSettings(noise_multiplier=1e-12, clip=CLIP, sample_rate=1.0, steps=1, learning_rate=1.0),
            noise=RandomStream(bytes([1]) * 32),
            sampling=RandomStream(bytes([2]) * 32),
            device="cpu",
            units=len(rows),
            mode=mode,
        )
        moved = parameters_to_vector(model.parameters()) - parameters_to_vector(trained.parameters())
        torch.testing.assert_close(moved * len(rows), expected, rtol=1e-3, atol=2e-5)


@EVERY_MODEL
@EVERY_RANK
def test_folding_gives_the_same_function_without_adapters(kind, rank):
    model, rows = model_of(kind, rank, scatter=True)
    before = parameters_to_vector(model.parameters()).clone()
    plain = folded(model)
    torch.testing.assert_close(plain(rows), model(rows), rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, Adapted) for module in plain.modules())
    assert torch.equal(parameters_to_vector(model.parameters()), before)
    layers = [type(module) for module in model_of(kind)[0].modules()]
    assert [type(module) for module in plain.modules()] == layers


def test_a_rank_that_is_full_is_one_matrix_and_rank_zero_a_bias():
    sizes = {}
    for rank in (0, 2, 3, 4):
        model = with_adapters(nn.Sequential(nn.Linear(3, 6)), rank)
        sizes[rank] = {name: tuple(p.shape) for name, p in model.named_parameters() if ".adapter." in name}
    assert sizes[0] == {"0.adapter.units.weight": (6, 1)}
    assert sizes[2] == {"0.adapter.up.weight": (6, 2), "0.adapter.up.bias": (6,)}
    assert sizes[3] == sizes[4] == {"0.adapter.weight": (6, 3), "0.adapter.bias": (6,)}


def test_a_convolutions_rank_counts_its_kernel():
    model = with_adapters(nn.Sequential(nn.Conv2d(1, 8, 2, bias=False)), 3)
    assert [tuple(p.shape) for p in model[0].adapter.parameters()] == [(8, 3, 1, 1)]
    assert model[0].adapter.down.weight.shape == (3, 1, 2, 2)
    model = with_adapters(nn.Sequential(nn.Conv2d(1, 8, 2, bias=False)), 4)
    assert [tuple(p.shape) for p in model[0].adapter.parameters()] == [(8, 1, 2, 2)]


def test_only_layers_that_match_are_corrected_and_two_do_not_start_alike():
    model = with_adapters(nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 5)), 2, ["0", "2"])
    assert [isinstance(module, Adapted) for module in model] == [True, False, True]
    assert not torch.equal(model[0].adapter.down.weight, model[2].adapter.down.weight)
    assert 0.2 < model[0].adapter.down.weight.abs().max() <= 5**-0.5


def test_type_mode_and_an_unbatched_row_are_kept():
    model = with_adapters(nn.Sequential(nn.Linear(4, 3), nn.Conv1d(1, 2, 2)).double().eval(), 0, ["*"])
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert not any(module.training for module in model.modules())
    assert model(torch.zeros(1, 4, dtype=torch.float64)).shape == (2, 2)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Linear(3, 3)
        self.other = nn.Linear(3, 3)
        self.other.weight = self.one.weight
        self.own = nn.Linear(3, 3)


class ByWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return x @ self.layer.weight


def two_names():
    model = nn.Sequential(nn.Linear(3, 3))
    model.append(model[0])
    return model


@pytest.mark.parametrize(
    ("build", "rank", "layers", "words"),
    [
        (lambda: build_model("mlp", 3), 1, ["bodi"], r'"bodi".*body, head'),
        (lambda: nn.Sequential(nn.Embedding(3, 2)), 1, ["*"], "layers are none"),
        (lambda: nn.Linear(3, 3), 1, ["*"], "nn.Sequential"),
        (lambda: with_adapters(build_model("mlp", 3), 1), 1, ["*"], "already"),
        (lambda: nn.Sequential(nn.Linear(2, 2), nn.Conv2d(4, 4, 3, groups=2)), 1, ["*"], r'"1" has 2 groups.*rank 0'),
        (Tied, 0, ["*"], r'"one" and "other" share their weight'),
        (two_names, 0, ["*"], r'"0" and "1" share their weight'),
    ],
    ids=["no match", "no layer", "bare", "twice", "groups", "tied", "two names"],
)
def test_what_cannot_be_corrected_is_named_and_left_as_it_was(build, rank, layers, words):
    model = build()
    before = repr(model)
    with pytest.raises(ModelError, match=words) as caught:
        with_adapters(model, rank, layers)
    assert "\n" not in str(caught.value) and repr(model) == before


def test_layers_beside_tied_ones_and_grouped_ones_at_rank_zero_are_corrected():
    assert adapter_names(with_adapters(Tied(), 1, ["own"]))
    grouped = with_adapters(nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)), 0)
    nn.init.ones_(grouped[0].adapter.units.weight)
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(grouped(x), grouped[0].base(x) + 1)


def test_code_that_takes_a_weight_past_its_layer_is_stopped():
    with pytest.raises(AttributeError, match=r'no "weight": let the model call the layer'):
        with_adapters(ByWeight(), 1)(torch.ones(2, 3))


@pytest.mark.parametrize(("rank", "layers"), [(-1, ["*"]), (1.5, ["*"]), (True, ["*"]), (1, "*")])
def test_a_bad_rank_or_a_bare_string_is_refused(rank, layers):
    with pytest.raises(ValueError, match=r"rank|layers"):
        with_adapters(build_model("mlp", 3), rank, layers)


@pytest.mark.parametrize("kind", ["table", "sequences", "images"])
@EVERY_RANK
def test_routing_takes_models_with_adapters_and_mixes_folded_ones_exactly(kind, rank):
    experts = [model_of(kind, rank, seed=seed, scatter=True)[0] for seed in (1, 2)]
    rows = model_of(kind)[1]
    for alike in ([experts[0]] * 2, [folded(experts[0])] * 2):
        torch.testing.assert_close(RoutedModel(alike)(rows), experts[0](rows), rtol=1e-4, atol=1e-4)
    plain = RoutedModel([folded(expert) for expert in experts])
    assert not any(".adapter" in name for name in plain.routed_layers())
    apart = RoutedModel(experts)
    for routed in (plain, apart):
        with torch.no_grad():
            for layer in routed.routed_layers().values():
                layer.gate.outer.bias.copy_(torch.tensor([-99.0, 99.0]))
        torch.testing.assert_close(routed(rows), experts[1](rows), rtol=1e-4, atol=1e-4)
