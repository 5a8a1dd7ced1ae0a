"""Every way to have per-record gradients gives the clipped sum that a plain loop over records gives."""

import copy
import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.layers import DPGRU, DPLSTM, DPRNN, DPMultiheadAttention
from torch import nn
from torch.nn.utils import parameters_to_vector
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.data import TensorDataset

from securepfl.errors import ModelError
from securepfl.privacy.training import clipping
from securepfl.privacy.training.canaries import Canaries
from securepfl.privacy.training.dpsgd import DPSettings, train_private, validate_model
from securepfl.privacy.training.gradients import Layer, choose_mode
from securepfl.privacy.training.validation import replace_unsupported
from securepfl.randomness import RandomStream

MODES = ["per-sample", "ghost", "functorch"]
CLIP = 0.5


def squared(output, y):
    """A loss per record that weighs every output differently."""
    flat = output.flatten(1)
    return ((flat * torch.linspace(-1, 2, flat.shape[1], dtype=flat.dtype) + y[:, None]) ** 2).sum(1)


def train(model, dataset, *, noise=1e-12, loss=squared, units=None, **options):
    """The sum that one step of a trained copy moved by, flat [parameters], and the report."""
    changed = {name: options.pop(name) for name in ("physical_batch", "clip", "sample_rate") if name in options}
    dp = DPSettings(
        **({"clip": CLIP, "sample_rate": 1.0} | changed), noise_multiplier=noise, steps=1, learning_rate=1.0
    )
    trained = copy.deepcopy(model)
    report = train_private(
        trained,
        dataset,
        loss,
        dp,
        noise=RandomStream(bytes([1]) * 32),
        sampling=RandomStream(bytes([2]) * 32),
        device="cpu",
        units=units or len(dataset),
        **options,
    )
    moved = parameters_to_vector(model.parameters()) - parameters_to_vector(trained.parameters())
    return moved.detach() * (units or len(dataset)), report


def gradients_of(model, dataset, keep=1.0):
    """Each record's gradient, one at a time by autograd, [records, parameters]; `keep` is the support."""
    rows = []
    for index in range(len(dataset)):
        x, y = (value[None] for value in dataset[index])
        parts = torch.autograd.grad(squared(model(x), y).sum(), list(model.parameters()))
        rows.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(rows) * keep


def loop(model, dataset, *, clip=CLIP, keep=1.0):
    """The clipped sum over records."""
    gradients = gradients_of(model, dataset, keep)
    return (gradients * (clip / gradients.norm(dim=1, keepdim=True)).clamp(max=1)).sum(0)


class Scaled(nn.Module):
    """Parameters of its own, and layers within."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.5, 2.0, -1.0]))
        self.inner = nn.Conv1d(3, 3, 2)

    def forward(self, x):
        return self.inner(x * self.scale[:, None]).square()


class Last(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = replace_unsupported(nn.MultiheadAttention(4, 2, batch_first=True))[0]

    def forward(self, x):
        return self.layer(x, x, x)[0]


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(self.layer(x).tanh())


def embedded():
    return nn.Sequential(nn.Embedding(9, 4, padding_idx=0), nn.LayerNorm(4), nn.Linear(4, 2))


ZOO = {
    "linear": (lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2, bias=False)), (4,)),
    "sequences": (lambda: nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 2)), (6, 4)),
    "grid": (lambda: nn.Sequential(nn.Linear(4, 5), nn.RMSNorm(5), nn.Linear(5, 2)), (3, 2, 4)),
    "conv": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2), nn.GroupNorm(2, 4), nn.ReLU(True)),
        (2, 7, 7),
    ),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(2, 3, 3, dilation=2), nn.InstanceNorm1d(3, affine=True)), (2, 9)),
    "conv3d": (lambda: nn.Sequential(nn.Conv3d(1, 2, 2), nn.PReLU(2)), (1, 3, 3, 3)),
    "up": (
        lambda: nn.Sequential(
            nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), nn.PReLU(), nn.Conv2d(6, 1, 2)
        ),
        (4, 3, 3),
    ),
    "reflecting": (lambda: nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"), nn.Tanh()), (1, 4, 4)),
    "circular": (lambda: nn.Sequential(nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular")), (2, 5)),
    "norm without bias": (lambda: nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5, bias=False)), (4,)),
    "plain norm": (lambda: nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5, elementwise_affine=False)), (6, 4)),
    "embedding": (embedded, None),
    "own parameter": (lambda: nn.Sequential(nn.Conv1d(2, 3, 2), Scaled()), (2, 5)),
    "up1d": (lambda: nn.Sequential(nn.ConvTranspose1d(2, 3, 3, stride=2), nn.GELU(), nn.Conv1d(3, 1, 2)), (2, 4)),
    "twice": (Twice, (4,)),
    "gru": (lambda: Last(DPGRU(4, 3, batch_first=True)), (5, 4)),
    "lstm": (lambda: Last(DPLSTM(4, 3, batch_first=True, bidirectional=True)), (5, 4)),
    "attention": (Attention, (3, 4)),
}


def example(name, count=7, dtype=torch.float64):
    torch.manual_seed(3)
    build, shape = ZOO[name]
    model = build().to(dtype)
    x = torch.randint(0, 9, (count, 5)) if shape is None else 2 * torch.randn(count, *shape, dtype=dtype)
    return model, TensorDataset(x, torch.randn(count, dtype=dtype) * torch.logspace(-3, 1, count, dtype=dtype))


WITHOUT_SAMPLER = ("own parameter", "up1d", "reflecting", "circular", "norm without bias")
CASES = [(name, mode) for name in ZOO for mode in ("ghost", "functorch" if name in WITHOUT_SAMPLER else "per-sample")]


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_every_mode_gives_the_sum_of_a_loop_over_records(name, mode):
    model, dataset = example(name)
    clip = float(gradients_of(model, dataset).norm(dim=1).median())  # clips some records and not others
    moved, report = train(model, dataset, mode=mode, physical_batch=3, clip=clip)
    assert report.mode == mode
    assert 0 < report.clipped_fraction < 1
    torch.testing.assert_close(moved, loop(model, dataset, clip=clip), rtol=1e-5, atol=3e-6 * clip)


@pytest.mark.parametrize("name", ["sequences", "conv", "linear"])
def test_modes_draw_the_same_noise(name):
    model, dataset = example(name)
    first, *others = [train(model, dataset, mode=mode, noise=1.0)[0] for mode in MODES]
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["sequences", "linear", "conv"])
def test_masks_bound_the_support_in_every_mode(name, mode):
    model, dataset = example(name)
    masks = {key: (torch.rand(p.shape) < 0.3).double() for key, p in model.named_parameters()}
    keep = torch.cat([mask.flatten() for mask in masks.values()])
    moved, _ = train(model, dataset, mode=mode, masks=masks)
    torch.testing.assert_close(moved, loop(model, dataset, keep=keep), rtol=1e-5, atol=2e-6)
    assert (moved[keep == 0] == 0).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(("name", "mode"), [(name, mode) for name, mode in CASES if name != "embedding"])
def test_records_that_are_not_finite_leave_the_others_alone(name, mode, bad):
    model, dataset = example(name)
    x = dataset.tensors[0].clone()
    x[2] = bad
    others = TensorDataset(*(tensor[torch.arange(7) != 2] for tensor in dataset.tensors))
    moved, report = train(model, TensorDataset(x, dataset.tensors[1]), mode=mode)
    assert report.nonfinite_records == 1
    torch.testing.assert_close(moved, loop(model, others), rtol=1e-5, atol=2e-6)


class Cancelling(nn.Module):
    """A sequence whose positions nearly cancel in the gradients of its Linear layer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return (self.layer(x) * torch.linspace(-1, 1, x.shape[1])[:, None]).sum(1)


BUILDERS = {
    "cancelling": (Cancelling, (8, 3)),
    "conv": (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.Flatten(), nn.Linear(32, 1)), (1, 6, 6)),
    "deep": (lambda: nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 1)), (8, 3)),
    "outer": (lambda: nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)), (3,)),
}


@pytest.mark.parametrize("mode", ["per-sample", "ghost"])
@pytest.mark.parametrize("name", BUILDERS)
@given(
    seed=st.integers(0, 2**20),
    exponent=st.floats(-25, 25),
    bias=st.floats(-1e8, 1e8, width=32),
    clip=st.floats(1e-6, 1e3),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_one_record_never_adds_more_than_the_clip(name, mode, seed, exponent, bias, clip):
    """In float32, with large and cancelling inputs; the sums are seen in double before the noise."""
    torch.manual_seed(seed)
    build, shape = BUILDERS[name]
    model, x = build(), torch.randn(3, *shape)
    x[1] = x[1] * 10.0**exponent + bias
    sums = [clipped_sum(model, data, mode, clip) for data in (x, blanked(x))]
    assert float((sums[0] - sums[1]).norm()) <= clip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(12))
def test_sequences_whose_positions_cancel_stay_within_the_clip(mode, seed):
    """Gram matrices in float32 find a norm of 0 here, and a second backward pass then adds up to 5,000 clips."""
    torch.manual_seed(seed)
    model, x = Cancelling(), torch.full((3, 8, 3), 1e7) * (1 + 1e-7 * torch.randn(3, 8, 3))
    difference = clipped_sum(model, x, mode, 1.0) - clipped_sum(model, blanked(x), mode, 1.0)
    assert float(difference.norm()) <= 1.0


def blanked(x):
    without = x.clone()
    without[1] = math.nan  # counts as zero: the zero-out neighbour
    return without


def clipped_sum(model, x, mode, clip):
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("securepfl.privacy.training.dpsgd.add_noise", lambda total, *_: seen.append(total.clone()))
        train(model, TensorDataset(x, torch.ones(len(x))), mode=mode, clip=clip)
    return seen[0]


def test_ghost_takes_a_layer_in_pieces_and_bounds_their_size(monkeypatch):
    model, dataset = example("sequences", count=20)
    whole, _ = train(model, dataset, mode="ghost")
    held, real = [], Layer.gradients

    def counted(layer, activations, backprops):
        found = real(layer, activations, backprops)
        held.append(sum(gradients.nbytes for gradients in found.values()))
        return found

    monkeypatch.setattr(Layer, "gradients", counted)
    limit = 3 * 8 * sum(p.numel() for p in model[0].parameters())  # three records of the largest layer
    monkeypatch.setattr(clipping, "_PIECE_BYTES", limit)
    pieces, _ = train(model, dataset, mode="ghost")
    assert max(held) == limit
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_memory_does_not_grow_with_the_logical_batch(monkeypatch, mode):
    rows, held = [], []
    real = Layer.gradients

    def counted(layer, activations, backprops):
        rows.append(len(backprops))
        found = real(layer, activations, backprops)
        held.append(max(gradients.nbytes for gradients in found.values()))
        return found

    monkeypatch.setattr(Layer, "gradients", counted)
    peaks = []
    for count in (8, 64):
        held.clear()
        model, dataset = example("conv", count=count)
        model.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
        train(model, dataset, mode=mode, physical_batch=8)
        peaks.append(max(held))
    assert max(rows) == 8
    assert peaks[0] == peaks[1]


def test_the_mode_follows_the_model_and_the_memory():
    plain, _ = example("conv")
    own, _ = example("own parameter")
    assert choose_mode(plain).name == "per-sample"
    chosen = choose_mode(own)
    assert (chosen.name, "layer 1 (Scaled)" in chosen.reason) == ("functorch", True)
    size = 8 * sum(p.numel() for p in plain.parameters())
    assert choose_mode(plain, physical_batch=10, kept_bytes=10 * size).name == "per-sample"
    ghost = choose_mode(plain, physical_batch=10, kept_bytes=10 * size - 1)
    assert (ghost.name, "10 records take" in ghost.reason) == ("ghost", True)


def test_linear_layers_alone_keep_no_gradients_of_records():
    """Their norms follow from what each layer sees; those of patients do not."""
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
    assert "Linear layers alone" in choose_mode(model).reason
    assert [choose_mode(model, unit=unit).name for unit in ("record", "patient")] == ["ghost", "per-sample"]


@pytest.mark.parametrize(("name", "batch", "mode"), [("conv", 8, "per-sample"), ("conv", 2**22, "ghost")])
def test_the_report_names_the_mode_that_was_chosen(name, batch, mode):
    model, dataset = example(name)
    assert train(model, dataset, physical_batch=batch)[1].mode == mode


def test_a_mode_that_the_model_cannot_do_is_refused_by_layer():
    model, dataset = example("own parameter")
    with pytest.raises(ModelError, match=r"layer 1 \(Scaled\).*'functorch'"):
        train(model, dataset, mode="per-sample")
    recurrent = Owning(DPLSTM(4, 3, batch_first=True))
    with pytest.raises(ModelError, match="beside a recurrent layer"):
        train(recurrent, TensorDataset(torch.randn(3, 5, 4), torch.ones(3)))
    with pytest.raises(ModelError, match="takes 2 inputs"):
        train(Paired(), TensorDataset(torch.randn(3, 4), torch.ones(3)))
    with pytest.raises(ValueError, match="mode must be"):
        train(model, dataset, mode="fast")


class Owning(Last):
    def __init__(self, layer):
        super().__init__(layer)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return super().forward(x) * self.scale


class Paired(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Bilinear(4, 4, 2)

    def forward(self, x):
        return self.layer(x, x)


class Changed(nn.Module):
    """Changes its layer's input after use, which torch only notices where it kept it."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        hidden = self.first(x).tanh() * 1.0
        output = self.second(hidden)
        hidden += 1.0
        return output


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = DPLSTM(4, 3, batch_first=True)

    def forward(self, x):
        lengths = torch.tensor([1, 5, 3][: len(x)])
        return self.layer(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))[1][0][0]


@pytest.mark.parametrize("mode", ["per-sample", "ghost"])
@pytest.mark.parametrize(
    ("model", "shape", "named"), [(Changed(), (4,), "layer second"), (Packed(), (5, 4), "PackedSequence")]
)
def test_models_that_would_be_clipped_wrongly_are_refused(model, shape, named, mode):
    with pytest.raises(ModelError, match=named):
        train(model, TensorDataset(torch.randn(3, *shape), torch.ones(3)), mode=mode)


class Extra(nn.Module):
    """Holds a parameter in a layer that doesn't know of it."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.layer.scale = nn.Parameter(torch.ones(3, dtype=torch.float64))

    def forward(self, x):
        output = self.layer(x)
        return output.flatten(2).sum(2) * self.layer.scale if output.dim() > 2 else output * self.layer.scale


@pytest.mark.parametrize("mode", ["per-sample", "ghost"])
@pytest.mark.parametrize(("layer", "shape"), [(nn.Linear(4, 3), (4,)), (nn.Conv1d(2, 3, 2), (2, 5))])
def test_a_parameter_that_its_layer_does_not_know_is_refused(layer, shape, mode):
    """Ghost summed an unclipped gradient for it beside a Linear, and none beside a convolution."""
    x = torch.randn(3, *shape, dtype=torch.float64)
    with pytest.raises(ModelError, match=r"layer \(.*no per-record gradient of scale"):
        train(Extra(layer.double()), TensorDataset(x, torch.ones(3, dtype=torch.float64)), mode=mode)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
@pytest.mark.parametrize("mode", ["per-sample", "ghost"])
def test_weight_norm_written_into_the_layer_is_refused(mode):
    """The old one, whose weight is no parameter, and which cannot be copied."""
    model = nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(1, 3)))
    dp = DPSettings(noise_multiplier=1e-12, clip=CLIP, sample_rate=1.0, steps=1, learning_rate=1.0)
    with pytest.raises(ModelError, match="weight_g, weight_v"):
        train_private(
            model,
            TensorDataset(torch.zeros(1, 1), torch.ones(1)),
            squared,
            dp,
            noise=RandomStream(bytes(32)),
            sampling=RandomStream(bytes(32)),
            device="cpu",
            units=1,
            mode=mode,
        )


class Named(nn.Module):
    def __init__(self, layer, name):
        super().__init__()
        self.layer, self.name = layer, name

    def forward(self, x):
        return self.layer(**{self.name: x})


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return nn.functional.dropout(x * self.scale, 0.5, self.training)


@pytest.mark.parametrize("mode", ["auto", "ghost"])
@pytest.mark.parametrize(
    ("model", "told"),
    [
        (Named(nn.Linear(4, 2), "input"), "called with input by name"),
        (Named(Dropping(), "x"), "called with x by name"),
        (nn.Sequential(Dropping()), "draws at random"),
    ],
)
def test_calls_whose_gradients_would_be_others_are_refused(model, told, mode):
    with pytest.raises(ModelError, match=told):
        train(model, TensorDataset(torch.randn(3, 4), torch.ones(3)), mode=mode)


@pytest.mark.parametrize(
    ("layer", "mend"),
    [
        (nn.EmbeddingBag(4, 2), "use Embedding"),
        (DPMultiheadAttention(4, 1, batch_first=True), "replace_unsupported"),
        (DPMultiheadAttention(4, 2), "replace_unsupported"),
        (nn.TransformerEncoderLayer(4, 2, 8), "batch_first=True"),
        (DPRNN(4, 2), "batch_first=True"),
        (DPLSTM(4, 2), "batch_first=True"),
        (DPGRU(4, 2), "batch_first=True"),
        (nn.Embedding(4, 2, scale_grad_by_freq=True), "scale_grad_by_freq"),
    ],
)
def test_layers_that_mix_records_are_refused(layer, mend):
    with pytest.raises(ModelError, match=mend):
        validate_model(nn.Sequential(layer))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scale", [0.25, 1.0, 7.0])
def test_canaries_show_at_their_coordinates_and_only_there(mode, scale):
    """Three canaries, the second absent: what is summed there is the clipped canary, and nothing of others."""
    model, dataset = example("sequences", count=9)
    zeroed = np.array([2, 26, 40])  # in three different parameters
    planted = Canaries(first=7, coordinates=zeroed[[0, 2]], zeroed=zeroed, scale=scale)
    moved, _ = train(model, dataset, mode=mode, canaries=planted, physical_batch=4)
    expected = [min(scale, 1) * CLIP, 0.0, min(scale, 1) * CLIP]
    np.testing.assert_allclose(moved[zeroed].numpy(), expected, rtol=1e-5, atol=1e-9)
    others = TensorDataset(*(tensor[:7] for tensor in dataset.tensors))
    keep = torch.ones(len(moved))
    keep[zeroed] = 0
    ordinary = loop(model, others, keep=keep)
    torch.testing.assert_close(moved * keep, ordinary, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(("coordinates", "zeroed"), [([1], [2]), ([1, 1], [1]), ([-1], [-1]), ([10**6], [10**6])])
def test_canaries_that_do_not_fit_are_refused(coordinates, zeroed):
    model, dataset = example("linear")
    with pytest.raises(ValueError, match=r"coordinates|outside"):
        train(model, dataset, canaries=Canaries(6, np.array(coordinates), np.array(zeroed)))


@pytest.mark.parametrize(
    ("layer", "shape", "kind"),
    [
        (nn.BatchNorm2d(6), (6, 4, 4), nn.GroupNorm),
        (nn.BatchNorm1d(4, affine=False), (4,), nn.GroupNorm),
        (nn.InstanceNorm1d(4, affine=True, track_running_stats=True), (4, 5), nn.InstanceNorm1d),
        (nn.LSTM(4, 3, batch_first=True), (5, 4), DPLSTM),
        (nn.GRU(4, 3, batch_first=True), (5, 4), DPGRU),
        (nn.RNN(4, 3, batch_first=True), (5, 4), DPRNN),
    ],
)
def test_unsupported_layers_are_replaced_in_a_copy_that_trains(layer, shape, kind):
    wrapped = Last(layer) if isinstance(layer, nn.RNNBase) else nn.Sequential(layer)
    model = nn.ModuleDict({"part": wrapped}).double().eval()
    before = copy.deepcopy(model.state_dict())
    copied, names = replace_unsupported(model)
    path = "part.layer" if isinstance(layer, nn.RNNBase) else "part.0"
    assert names == (path,)
    assert type(copied.get_submodule(path)) is kind
    assert not any(module.training for module in copied.modules())
    assert all(p.dtype == torch.float64 for p in copied.parameters())
    assert model.get_submodule(path) is layer
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    trained = nn.Sequential(copied["part"], nn.Flatten(), nn.LazyLinear(1)).double()
    x = torch.randn(4, *shape, dtype=torch.float64)
    trained(x)
    train(trained, TensorDataset(x, torch.ones(4, dtype=torch.float64)))


@pytest.mark.parametrize("shape", [(), (5,)])
def test_what_replaces_a_batch_norm_of_a_table_lets_values_through(shape):
    """With groups of one channel, each value of [records, 16] would become its bias, whatever it was."""
    copied, _ = replace_unsupported(nn.Sequential(nn.BatchNorm1d(16)))
    x = torch.randn(8, 16, *shape)
    out = copied(x)
    assert (out.std(dim=0) > 0.1).all()
    torch.testing.assert_close(copied(x[:1]), out[:1])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN, functools.partial(nn.RNN, nonlinearity="relu")])
def test_replaced_recurrent_layers_compute_the_same(kind):
    model = Last(kind(4, 3, num_layers=2, bidirectional=True, batch_first=True))
    model.layer.weight_hh_l0.requires_grad_(False)
    copied, _ = replace_unsupported(model)
    x = torch.randn(2, 5, 4)
    torch.testing.assert_close(copied(x), model(x))
    assert {name for name, p in copied.layer.named_parameters() if not p.requires_grad} == {"weight_hh_l0"}


def test_a_projected_recurrent_layer_has_no_substitute():
    model = Last(nn.LSTM(4, 3, proj_size=2, batch_first=True))
    assert replace_unsupported(model)[1] == ()
    with pytest.raises(ModelError, match=r"layer layer \(LSTM\) has proj_size"):
        validate_model(model)


@pytest.mark.parametrize("frozen", [0, 1])
@pytest.mark.parametrize(("name", "mode"), CASES)
def test_frozen_parameters_stay_and_do_not_count_in_the_clip(name, mode, frozen):
    """Every other parameter is frozen: what moves is the clipped sum over the rest, in every mode."""
    model, dataset = example(name)
    parts = [torch.full_like(p, float(i % 2 != frozen)).flatten() for i, p in enumerate(model.parameters())]
    keep = torch.cat(parts)
    want = loop(model, dataset, keep=keep)
    for i, p in enumerate(model.parameters()):
        p.requires_grad_(i % 2 != frozen)
    moved, _ = train(model, dataset, mode=mode, physical_batch=3)
    torch.testing.assert_close(moved, want, rtol=1e-5, atol=2e-6)
    assert not moved[keep == 0].any() and moved.any()
    assert [p.requires_grad for p in model.parameters()] == [i % 2 != frozen for i in range(len(parts))]
