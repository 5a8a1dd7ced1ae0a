import copy
import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.utils.data import IterableDataset, TensorDataset, default_collate

from securepfl.errors import DataError, ModelError
from securepfl.privacy.training.dpsgd import DPSettings, add_noise, train_private, validate_model
from securepfl.privacy.training.units import check_rows
from securepfl.randomness import RandomStream

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"))


def per_record_loss(output, y):
    return nn.functional.binary_cross_entropy_with_logits(output.squeeze(1), y, reduction="none")


def network(dtype=torch.float64):
    torch.manual_seed(3)
    model = nn.Sequential()
    model.add_module("body", nn.Linear(4, 3))
    model.add_module("act", nn.Tanh())
    model.add_module("head", nn.Linear(3, 1))
    return model.to(dtype)


def records(count=12, dtype=torch.float64, scale=3.0):
    generator = torch.Generator().manual_seed(5)
    x = scale * torch.randn(count, 4, generator=generator, dtype=dtype)
    return TensorDataset(x, (x.sum(1) > 0).to(dtype))


def dp_settings(**changes):
    defaults = {
        "noise_multiplier": 1.0,
        "clip": 0.5,
        "sample_rate": 1.0,
        "steps": 1,
        "learning_rate": 1.0,
    }
    return DPSettings(**(defaults | changes))


def train(model, dataset, settings, *, key=1, device="cpu", units=None, noise=None, **options):
    report = train_private(
        model,
        dataset,
        per_record_loss,
        settings,
        noise=noise or RandomStream(bytes([key]) * 32),
        sampling=RandomStream(bytes([key + 100]) * 32),
        device=device,
        units=units or len(dataset),
        **options,
    )
    return report, flat(model)


def flat(model):
    return torch.cat([p.detach().cpu().flatten() for p in model.parameters()])


def with_record(dataset, index, x, y):
    xs, ys = (tensor.clone() for tensor in dataset.tensors)
    xs[index], ys[index] = x, y
    return TensorDataset(xs, ys)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e30])
def test_one_record_moves_the_clipped_sum_by_at_most_the_clip(scale):
    """Same noise, one record against a zero gradient: the sums differ by that record's clipped gradient."""
    model, settings = network(), dp_settings(learning_rate=0.5)
    dataset = with_record(records(), 4, scale * torch.ones(4, dtype=torch.float64), 0.0)
    zeroed = with_record(dataset, 4, torch.full((4,), math.nan, dtype=torch.float64), 0.0)
    _, present = train(copy.deepcopy(model), dataset, settings)
    _, absent = train(copy.deepcopy(model), zeroed, settings)
    influence = (present - absent).norm() * len(dataset) / settings.learning_rate
    assert 0 < influence <= settings.clip * (1 + 1e-9)


def reference_round(model, dataset, settings, key):
    """DP-SGD written out for the full batch, one record at a time."""
    stream = RandomStream(bytes([key]) * 32)
    for _ in range(settings.steps):
        sums = [torch.zeros_like(p) for p in model.parameters()]
        for x, y in dataset:
            loss = per_record_loss(model(x[None]), y[None]).sum()
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            length = math.sqrt(sum(float((g**2).sum()) for g in gradients))
            factor = min(1.0, settings.clip / length)
            sums = [total + factor * g for total, g in zip(sums, gradients, strict=True)]
        total = torch.cat([part.flatten() for part in sums])
        noise = settings.noise_multiplier * settings.clip * torch.from_numpy(stream.gaussian(len(total)))
        step = settings.learning_rate * (total + noise) / len(dataset)
        with torch.no_grad():
            vector_to_parameters(parameters_to_vector(model.parameters()) - step, model.parameters())
    return flat(model)


def test_matches_dp_sgd_written_out_with_one_clip_over_all_parameters():
    model, settings = network(), dp_settings(steps=3)
    expected = reference_round(copy.deepcopy(model), records(), settings, key=7)
    report, trained = train(model, records(), settings, key=7)
    assert report.steps == 3
    assert 0 < report.clipped_fraction <= 1
    torch.testing.assert_close(trained, expected, rtol=0, atol=2e-6)  # the margin shortens by 1e-6


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_physical_batches_only_bound_memory(device):
    model = network().to(device)
    _, whole = train(copy.deepcopy(model), records(), dp_settings(steps=2), device=device)
    _, split = train(model, records(), dp_settings(steps=2, physical_batch=5), device=device)
    torch.testing.assert_close(split, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_noise_has_the_declared_deviation(device):
    """Empty draws move by noise alone: squares sum to chi-square. One key in 10,000 fails; ours is fixed."""
    settings = dp_settings(
        noise_multiplier=3.0, clip=0.25, sample_rate=1e-12, steps=400, learning_rate=2.0, physical_batch=4
    )
    model = network().to(device)
    start, units = flat(model), 10**12
    report, end = train(model, records(), settings, units=units, device=device)
    assert (report.clipped_fraction, report.mean_loss) == (None, None)
    # One step has standard deviation learning_rate * noise_multiplier * clip / (sample_rate * units).
    squares = float((((end - start) / (2.0 * 3.0 * 0.25)) ** 2).sum()) / settings.steps
    assert chi2.ppf(5e-5, len(start)) < squares < chi2.ppf(1 - 5e-5, len(start))


def test_noise_is_independent_between_steps_and_coordinates():
    """Bounds are five standard deviations of the estimates; the key is fixed."""
    settings, model, noise = dp_settings(sample_rate=1e-12), network(), RandomStream(bytes(32))
    path = [flat(model)]
    for _ in range(250):
        train(model, records(), settings, units=10**12, noise=noise)
        path.append(flat(model))
    increments = torch.diff(torch.stack(path), dim=0).numpy()
    correlation = np.corrcoef(increments, rowvar=False)
    serial = (increments[1:] * increments[:-1]).mean() / (increments**2).mean()
    assert abs(correlation[np.triu_indices_from(correlation, 1)]).max() < 5 / math.sqrt(250)
    assert abs(serial) < 5 / math.sqrt(increments.size)


@pytest.mark.parametrize("masked", [False, True])
def test_noise_is_all_the_stream_gives_in_double_precision(masked):
    """Noise of single precision has gaps, by which neighbouring sums are told apart (Mironov 2012)."""
    entries = (torch.arange(400) % 3 != 0).nonzero().flatten() if masked else None
    total, settings, key = torch.zeros(400, dtype=torch.float64), dp_settings(noise_multiplier=3.0), bytes(32)
    add_noise(total, entries, settings, RandomStream(key))
    added = total if entries is None else total[entries]
    expected = RandomStream(key).gaussian(len(added)) * settings.noise_multiplier * settings.clip
    np.testing.assert_allclose(added.numpy(), expected, rtol=1e-15)
    assert (added != added.float().double()).double().mean() > 0.99


@pytest.mark.parametrize("sample_rate", [1.0, 0.5])
def test_coordinates_without_any_gradient_get_their_noise(sample_rate):
    """That a feature is zero in all records must not show in weights that stay where they were."""
    x, y = records().tensors
    x[:, 1] = 0
    model = network()
    start = model.body.weight.detach().clone()
    train(model, TensorDataset(x, y), dp_settings(sample_rate=sample_rate))
    assert (model.body.weight != start).all()


def test_coordinates_outside_the_masks_never_move_and_draw_no_clip():
    model = network()
    masks = {"body.weight": torch.zeros(3, 4), "body.bias": torch.tensor([1.0, 0.0, 1.0])}
    masks["body.weight"][1, 2] = 1
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(model, records(), dp_settings(steps=3), masks=masks)
    for name, p in model.named_parameters():
        assert torch.equal(p != before[name], masks.get(name, torch.ones_like(p)).bool())


def test_the_clip_sees_the_support_only():
    """With all but one coordinate frozen, that coordinate gets the whole clip."""
    masks = {name: torch.zeros_like(p) for name, p in network().named_parameters()}
    masks["head.bias"][0] = 1
    dataset = TensorDataset(torch.full((1, 4), 50.0, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    settings = dp_settings(noise_multiplier=1e-9, clip=1e-3)
    model = network()
    start = flat(model)
    _, end = train(model, dataset, settings, masks=masks)
    assert float((end - start).norm()) == pytest.approx(1e-3, rel=1e-5)


def test_poisson_draws_records_independently_and_divides_by_the_declared_batch():
    """Every record's clipped gradient is -1, so a step tells how many were drawn: binomial, not fixed."""
    model = nn.Linear(1, 1, bias=False).double()
    count, rate, units = 50, 0.3, 200
    dataset = TensorDataset(torch.full((count, 1), 1e6, dtype=torch.float64), torch.zeros(count).double())
    settings = dp_settings(sample_rate=rate, noise_multiplier=1e-9, clip=1.0)
    drawn = []
    for key in range(60):
        nn.init.constant_(model.weight, 1.0)
        _, end = train(model, dataset, settings, key=key, units=units)
        drawn.append(float(1.0 - end) * rate * units)
    np.testing.assert_allclose(drawn, np.round(drawn), atol=1e-3)
    spread = math.sqrt(count * rate * (1 - rate))
    assert np.mean(drawn) == pytest.approx(count * rate, abs=4 * spread / math.sqrt(len(drawn)))
    assert np.std(drawn) == pytest.approx(spread, rel=0.3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outliers_leave_the_others_gradients_intact(dtype):
    model = network(dtype)
    dataset = with_record(with_record(records(dtype=dtype), 2, 1e30, 0.0), 5, math.inf, 0.0)
    report, trained = train(model, dataset, dp_settings(steps=2, learning_rate=0.1))
    assert torch.isfinite(trained).all()
    assert report.nonfinite_records == 2  # the infinite row, in both steps; 1e30 is merely clipped
    assert report.mean_loss is not None


def test_streams_fix_the_result_bit_for_bit_even_with_dropout():
    def run(key, torch_seed):
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1)).double()
        for p in model.parameters():
            nn.init.constant_(p, 0.1)
        torch.manual_seed(torch_seed)
        before = torch.random.get_rng_state()
        _, trained = train(model, records(), dp_settings(steps=3, sample_rate=0.5), key=key)
        assert torch.equal(before, torch.random.get_rng_state())
        return trained

    assert torch.equal(run(1, 0), run(1, 99))
    assert not torch.equal(run(1, 0), run(2, 0))


def test_model_is_handed_back_clean():
    model = network()
    model.act.eval()
    train(model, records(), dp_settings())
    assert list(model.state_dict()) == ["body.weight", "body.bias", "head.weight", "head.bias"]
    for p in model.parameters():
        assert p.grad is None
        assert not vars(p)
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._backward_hooks
        assert not hasattr(module, "activations")
    assert (model.training, model.act.training) == (True, False)
    train(model, records(), dp_settings())  # and can be trained again


def test_convolutions_and_embeddings_train():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 1),
    )
    dataset = TensorDataset(torch.randn(6, 1, 8, 8), torch.ones(6))
    before = flat(model)
    _, after = train(model, dataset, dp_settings())
    assert (before != after).all()


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight


def frozen():
    return network().requires_grad_(False)


@pytest.mark.parametrize(
    ("model", "named", "mend"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), "layer 1", "GroupNorm"),
        (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False)), "layer 1", "GroupNorm"),
        (nn.Sequential(nn.InstanceNorm1d(4, track_running_stats=True)), "layer 0", "track_running_stats"),
        (nn.Sequential(nn.LSTM(4, 4)), "layer 0", "replace_unsupported"),
        (nn.Sequential(nn.MultiheadAttention(4, 2)), "layer 0", "replace_unsupported"),
        (nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)), "layer", "buffers"),
        (Tied(), "second.weight", "first.weight"),
        (frozen(), "no parameters to train", "not all of them frozen"),
        (network(torch.bfloat16), "body.weight", "float32"),
        (nn.Sequential(nn.ReLU()), "no parameters", "hand in"),
    ],
)
def test_unsuitable_models_are_refused_by_name_with_the_mend(model, named, mend):
    with pytest.raises(ModelError, match=named) as caught:
        validate_model(model)
    assert mend in str(caught.value)
    assert "\n" not in str(caught.value)


class Folded(nn.Module):
    """Feeds each record to its layer as two rows, so its layer's gradients are not one per record."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, x):
        return self.layer(x.reshape(-1, 2)).reshape(len(x), 2).sum(1, keepdim=True)


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.idle = nn.Linear(4, 1), nn.Linear(4, 1)

    def forward(self, x):
        return self.used(x)


@pytest.mark.parametrize(("model", "named"), [(Folded(), "layer.weight"), (Unused(), "idle.weight")])
def test_gradients_that_are_not_one_per_record_are_refused(model, named):
    with pytest.raises(ModelError, match=named):
        train(model.double(), records(), dp_settings())


@pytest.mark.parametrize(
    ("loss", "mend"),
    [
        (lambda output, y: per_record_loss(output, y).mean(), "reduction='none'"),
        (lambda output, y: output, "one shape; the mean of a record's values"),
    ],
)
def test_a_loss_that_is_not_one_value_per_record_is_refused(loss, mend):
    with pytest.raises(ModelError, match=mend):
        train_private(
            network(),
            records(),
            loss,
            dp_settings(),
            noise=RandomStream(bytes(32)),
            sampling=RandomStream(bytes(32)),
            device="cpu",
            units=12,
        )


class Stream(IterableDataset):
    def __iter__(self):
        yield from records()

    def __len__(self):
        return 12


@pytest.mark.parametrize("dataset", [Stream(), TensorDataset(torch.empty(0, 4), torch.empty(0))])
def test_data_sets_that_records_cannot_be_drawn_from_are_refused(dataset):
    with pytest.raises(DataError, match="hand in"):
        train(network(), dataset, dp_settings(), units=12)


@pytest.mark.parametrize(
    "masks", [{"neck.bias": torch.ones(1)}, {"head.bias": torch.ones(2)}, {"head.bias": torch.tensor([0.5])}]
)
def test_masks_that_do_not_fit_are_refused(masks):
    with pytest.raises(ValueError, match=next(iter(masks))):
        train(network(), records(), dp_settings(), masks=masks)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("noise_multiplier", 0.0),
        ("clip", -1.0),
        ("learning_rate", math.inf),
        ("sample_rate", 0.0),
        ("steps", 0),
        ("physical_batch", 0),
    ],
)
def test_settings_name_the_field_that_is_wrong(field, value):
    with pytest.raises(ValueError, match=field):
        dp_settings(**{field: value})


def doubled(items):
    x, y = default_collate(items)
    return x.repeat(2, 1), y.repeat(2)


def test_a_collate_that_multiplies_records_is_refused():
    """Two rows of one record would each get the clip: twice the sensitivity that the ledger states."""
    with pytest.raises(DataError, match="24 rows of 12 records"):
        check_rows(*doubled(list(records())), 12)
    report, _ = train(network(), records(), dp_settings(steps=1), collate=doubled)
    assert report.unusable == {"unreadable": 12}


def test_labels_that_are_not_one_per_record_are_refused():
    """One label for all would be every record's: broadcast, it passes the loss."""
    with pytest.raises(DataError, match="1 rows of 12 records"):
        check_rows(default_collate(list(records()))[0], torch.ones(1), 12)


def test_an_embedding_that_rewrites_looked_up_rows_is_refused():
    with pytest.raises(ModelError, match="max_norm"):
        validate_model(nn.Sequential(nn.Embedding(10, 4, max_norm=1.0)))


class Temperature(nn.Module):
    """One trainable number, whose per-record gradient has shape [B]."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return x * self.scale


@pytest.mark.parametrize("sample_rate", [1.0, 1e-9])
def test_a_parameter_of_one_number_trains_also_on_an_empty_draw(sample_rate):
    model = nn.Sequential(nn.Linear(4, 1), Temperature())
    before = flat(model)
    train(model, records(dtype=torch.float32), dp_settings(sample_rate=sample_rate))
    assert torch.isfinite(flat(model)).all() and (flat(model) != before).all()


@pytest.mark.parametrize("mode", ["per-sample", "ghost", "functorch"])
def test_in_float32_too_the_clip_holds_to_the_margin(monkeypatch, mode):
    """Zero-out neighbours among 200 large records: their sums differ by at most the clip, rounding included."""
    sums = []
    monkeypatch.setattr("securepfl.privacy.training.dpsgd.add_noise", lambda total, *_: sums.append(total.clone()))
    dataset = with_record(records(200, torch.float32, scale=50.0), 4, 70 * torch.ones(4), 0.0)
    zeroed = with_record(dataset, 4, torch.full((4,), math.nan), 0.0)
    for data in (dataset, zeroed):
        train(network(torch.float32), data, dp_settings(physical_batch=256), mode=mode)
    assert 0.49 < (sums[0] - sums[1]).norm() <= 0.5


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e12])
def test_ghost_clips_within_the_support_as_kept_gradients_are_clipped(share, scale):
    """A masked Linear's norm comes from its two vectors and the mask: the same steps."""
    generator, ends = torch.Generator().manual_seed(9), {}
    masks = {
        name: (torch.rand(p.shape, generator=generator) < share).to(p.dtype)
        for name, p in network(torch.float32).named_parameters()
        if name != "head.weight"
    }
    dataset = records(40, torch.float32, scale)
    for mode in ("per-sample", "ghost"):
        model = network(torch.float32)
        report, ends[mode] = train(
            model, dataset, dp_settings(clip=0.35, noise_multiplier=1e-4), mode=mode, masks=masks
        )
        assert report.mode == mode
    moved = (ends["ghost"] - flat(network(torch.float32))).abs().max()
    assert moved > 0 and (ends["ghost"] - ends["per-sample"]).abs().max() < 1e-5 * moved
