"""What replace_unsupported puts for torch's attention computes the same; its clipped gradients are each record's."""

import copy

import pytest
import torch
from opacus.layers import DPMultiheadAttention
from torch import nn
from torch.utils.data import TensorDataset

from securepfl.errors import ModelError
from securepfl.privacy.training.dpsgd import DPSettings, train_private
from securepfl.privacy.training.probe import check_independence
from securepfl.privacy.training.validation import replace_unsupported, validate_model
from securepfl.randomness import RandomStream

CLOSE = {"atol": 1e-5, "rtol": 0}


def padding(records, positions):
    """Each record hides another number of its last positions, the first of none."""
    return torch.arange(positions) >= positions - torch.arange(records)[:, None] % (positions - 1)


MASKS = {
    "none": lambda records, heads, own, other: {},
    "padding": lambda records, heads, own, other: {"key_padding_mask": padding(records, other)},
    "added padding": lambda records, heads, own, other: {"key_padding_mask": torch.randn(records, other)},
    "causal": lambda records, heads, own, other: {"attn_mask": torch.ones(own, other).triu(1).bool()},
    "added": lambda records, heads, own, other: {"attn_mask": torch.randn(own, other)},
    "by head": lambda records, heads, own, other: {"attn_mask": torch.randn(records * heads, own, other)},
    "both": lambda records, heads, own, other: {
        "attn_mask": torch.ones(own, other).triu(1).bool(),
        "key_padding_mask": padding(records, other),
    },
}


@pytest.mark.filterwarnings("ignore:Support for mismatched")
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize(
    ("heads", "options"),
    [
        (1, {}),
        (2, {"batch_first": True}),
        (4, {"bias": False}),
        (8, {"add_bias_kv": True, "batch_first": True}),
        (2, {"add_zero_attn": True, "add_bias_kv": True}),
        (4, {"kdim": 6, "vdim": 3, "batch_first": True}),
    ],
)
def test_outputs_and_weights_are_torchs(heads, options, masks, need_weights):
    torch.manual_seed(heads)
    plain = nn.MultiheadAttention(8, heads, **options)
    ours, replaced = replace_unsupported(plain)
    inputs = [torch.randn(3, n, f) for n, f in ((4, 8), (5, options.get("kdim", 8)), (5, options.get("vdim", 8)))]
    if not options.get("batch_first"):
        inputs = [x.transpose(0, 1) for x in inputs]
    asked = MASKS[masks](3, heads, 4, 5) | {"need_weights": need_weights}
    for average in (True, False):
        (want, weights), (got, own) = (m(*inputs, average_attn_weights=average, **asked) for m in (plain, ours))
        assert replaced == ("",)
        torch.testing.assert_close(got, want, **CLOSE)
        assert (weights is None) == (own is None) == (not need_weights)
        if need_weights:
            torch.testing.assert_close(own, weights, **CLOSE)


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"add_bias_kv": True}, {"kdim": 6, "vdim": 3}])
def test_opacuss_attention_becomes_torchs_with_its_weights(options):
    theirs = DPMultiheadAttention(8, 4, batch_first=True, **options)
    plain = nn.MultiheadAttention(8, 4, batch_first=True, **options)
    plain.load_state_dict(theirs.state_dict())
    x, k, v = torch.randn(3, 4, 8), torch.randn(3, 5, options.get("kdim", 8)), torch.randn(3, 5, options.get("vdim", 8))
    torch.testing.assert_close(replace_unsupported(theirs)[0](x, k, v)[0], plain(x, k, v)[0], **CLOSE)
    with pytest.raises(ModelError, match="something else than attention"):
        validate_model(theirs)


class Attending(nn.Module):
    """[B, 5, 4] -> [B, 1] through attention to other positions, some of which a record hides."""

    def __init__(self, **options):
        super().__init__()
        self.positions_last = not options.get("batch_first", False)
        self.embed, self.head = nn.Linear(4, 8), nn.Linear(8, 1)
        self.attention = nn.MultiheadAttention(8, **options)

    def forward(self, x):
        hidden = self.embed(x)
        turned = hidden.transpose(0, 1) if self.positions_last else hidden
        mixed, _ = self.attention(turned, turned, turned, key_padding_mask=x[:, :, 0] > 1)
        return self.head((mixed.transpose(0, 1) if self.positions_last else mixed).mean(1))


class Encoding(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.embed, self.head = nn.Linear(4, 8), nn.Linear(8, 1)
        layer = nn.TransformerEncoderLayer(8, 4, 16, batch_first=True, **({"dropout": 0.0} | options))
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(8))

    def forward(self, x):
        return self.head(self.encoder(self.embed(x), src_key_padding_mask=x[:, :, 0] > 1).mean(1))


class Decoding(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(4, 8), nn.Linear(8, 1)
        self.decoder = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

    def forward(self, x):
        hidden = self.embed(x)
        return self.head(self.decoder(hidden[:, :3], hidden).mean(1))


def squared(output, y):
    return (output[:, 0] - y) ** 2


def data(records=7):
    torch.manual_seed(3)
    x = torch.randn(records, 5, 4)
    x[:, 0, 0] = 0  # each attends to something
    return TensorDataset(x, torch.randn(records))


def clipped_mean(model, dataset, clip):
    """Over records, each run alone and its gradient clipped, in double."""
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for x, y in dataset:
        found = torch.autograd.grad(squared(model(x[None]), y[None]).sum(), list(model.parameters()))
        norm = torch.cat([g.flatten() for g in found]).double().norm()
        for (name, _), gradient in zip(model.named_parameters(), found, strict=True):
            total[name] += gradient * min(1.0, float(clip / norm)) / len(dataset)
    return total


@pytest.mark.parametrize("mode", ["auto", "ghost", "functorch"])
@pytest.mark.parametrize(
    "model",
    [
        Attending(num_heads=2, batch_first=True),
        Attending(num_heads=4, add_bias_kv=True, bias=False),
        Attending(num_heads=8, add_zero_attn=True, batch_first=True),
        Encoding(),
        Encoding(norm_first=True, activation="gelu"),
        Encoding(bias=False),
        Decoding(),
    ],
)
def test_a_step_is_the_mean_of_each_records_clipped_gradient(model, mode):
    model, clip = replace_unsupported(model)[0], 0.7
    check_independence(model, data(), squared, device="cpu")
    want = clipped_mean(model.train(), data(), clip)
    before = copy.deepcopy(dict(model.named_parameters()))
    settings = DPSettings(noise_multiplier=1e-9, clip=clip, sample_rate=1.0, steps=1, learning_rate=1.0)
    streams = {"noise": RandomStream(b"n" * 32), "sampling": RandomStream(b"s" * 32)}
    report = train_private(model, data(), squared, settings, **streams, device="cpu", units=7, mode=mode)
    assert report.clipped_fraction > 0
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(before[name] - parameter, want[name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("masked", ["none", "mask", "padding", "both"])
@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_encoders_compute_what_torchs_do(norm_first, activation, masked):
    layer = nn.TransformerEncoderLayer(8, 4, 16, batch_first=True, norm_first=norm_first, activation=activation)
    plain = nn.TransformerEncoder(layer, 2).eval()
    ours, replaced = replace_unsupported(plain)
    assert replaced == ("layers.0.self_attn", "layers.1.self_attn")
    validate_model(ours)
    x = torch.randn(3, 5, 8)
    asked = {"mask": torch.ones(5, 5).triu(1).bool()} if masked in ("mask", "both") else {}
    hidden = padding(3, 5) if masked in ("padding", "both") else torch.zeros(3, 5).bool()
    asked |= {"src_key_padding_mask": hidden} if hidden.any() else {}
    for gradients in (True, False):  # without, torch takes its fast path and nested tensors
        with torch.set_grad_enabled(gradients):
            torch.testing.assert_close(ours(x, **asked)[~hidden], plain(x, **asked)[~hidden], **CLOSE)


def test_the_whole_transformer_computes_what_torchs_does():
    plain = nn.Transformer(8, 2, 1, 2, 16, batch_first=True).eval()
    ours, replaced = replace_unsupported(plain)
    assert len(replaced) == 5
    x, y = torch.randn(3, 5, 8), torch.randn(3, 4, 8)
    torch.testing.assert_close(ours(x, y), plain(x, y), **CLOSE)


def test_dropout_draws_in_training_alone():
    model = replace_unsupported(nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True))[0]
    x = torch.randn(3, 5, 8)
    for need_weights in (True, False):
        drawn = [model.train()(x, x, x, need_weights=need_weights)[0] for _ in range(2)]
        assert not torch.equal(*drawn)
        still = [model.eval()(x, x, x, need_weights=need_weights)[0] for _ in range(2)]
        assert torch.equal(*still)


def test_rows_that_torch_would_take_for_positions_are_refused():
    model = replace_unsupported(nn.MultiheadAttention(8, 2, batch_first=True))[0]
    x = torch.randn(5, 8)
    with pytest.raises(ModelError, match="three dimensions"):
        model(x, x, x)
    with pytest.raises(ModelError, match="is_causal needs attn_mask"):
        model(x[None], x[None], x[None], is_causal=True)


def test_what_is_frozen_stays_frozen():
    plain = nn.MultiheadAttention(8, 2)
    plain.out_proj.requires_grad_(False)
    ours = replace_unsupported(plain)[0]
    frozen = {name for name, p in ours.named_parameters() if not p.requires_grad}
    assert frozen == {"out_proj.weight", "out_proj.bias"}
    assert replace_unsupported(plain.requires_grad_(False))[1] == ()
