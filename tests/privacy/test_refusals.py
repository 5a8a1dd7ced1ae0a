"""What no training that goes well shows: numbers that cannot be, layers and data with which nothing private is done."""

import copy
import itertools
import math
import threading

import numpy as np
import pytest
import torch
from dp_accounting.rdp.rdp_privacy_accountant import compute_delta
from opacus.validators import register_module_validator
from opacus.validators.module_validator import ModuleValidator
from torch import nn
from torch.nn import functional
from torch.nn.utils import parameters_to_vector
from torch.utils.data import Dataset, TensorDataset

from securepfl.errors import DataError, ModelError
from securepfl.privacy.accounting import calibration
from securepfl.privacy.accounting.accounting import Release, epsilon
from securepfl.privacy.accounting.renyi import _ORDERS, _curve, _twice, _with_tail, renyi_epsilon, rho_at_order
from securepfl.privacy.audit.subject import Training
from securepfl.privacy.audit.verdicts import rarest
from securepfl.privacy.training.canaries import Canaries
from securepfl.privacy.training.chance import without_dropout
from securepfl.privacy.training.dpsgd import DPSettings, train_private, validate_model
from securepfl.privacy.training.integer_sum import IntegerSum
from securepfl.privacy.training.items import alike, fetched
from securepfl.privacy.training.probe import check_independence
from securepfl.privacy.training.shared_noise import SharedNoise
from securepfl.privacy.training.state import HeldState
from securepfl.privacy.training.units import PatientDataset
from securepfl.randomness import RandomStream

DP = DPSettings(clip=0.5, sample_rate=1.0, noise_multiplier=1e-12, steps=1, learning_rate=1.0)


def squared(output, y):
    return (output.flatten(1).sum(1) - y) ** 2


def data(*shape):
    x = torch.randn(5, *shape, generator=torch.Generator().manual_seed(3))
    return TensorDataset(x, torch.ones(5))


def train(model, dataset, loss=squared, units=5, **options):
    """The sum of clipped gradients by which one step moved a copy, flat."""
    streams = {"noise": RandomStream(bytes([1]) * 32), "sampling": RandomStream(bytes([2]) * 32)}
    trained = copy.deepcopy(model)
    train_private(trained, dataset, loss, DP, units=units, device="cpu", **streams, **options)
    moved = parameters_to_vector(model.parameters()) - parameters_to_vector(trained.parameters())
    return moved.detach() * units


def by_hand(model, dataset):
    """The same by autograd, a record at a time."""
    total = 0.0
    for x, y in dataset:
        parts = torch.autograd.grad(squared(model(x[None]), y[None]).sum(), list(model.parameters()))
        flat = torch.cat([part.flatten() for part in parts])
        total = total + flat * min(1.0, DP.clip / float(flat.norm()))
    return total


class Built(nn.Module):
    """A linear layer in a forward of its own, beside whatever else a model holds."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.layer, self.run = nn.Linear(4, 1), forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.run(self, x)


class Twofold(nn.Module):
    """A layer with a weight that gives two things."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return x * self.weight, x


@pytest.mark.parametrize("target", [1e-9, 1e-11])
def test_no_target_is_so_small_that_rounding_spends_more(target):
    noise = calibration.noise_multiplier_for(target, max(target, 1e-12), 1.0, 1)
    assert epsilon([Release(noise_multiplier=noise, sample_rate=1.0, steps=1)], max(target, 1e-12)) <= target


@pytest.mark.parametrize(("leap", "before"), [(8.0, 100.0), (0.25, 1e9)])
def test_noise_meets_its_target_where_the_finer_grid_leaps(monkeypatch, leap, before):
    """Whatever the coarse grid says: up to some noise the fine one shows so many times its epsilon."""

    def found(steps, delta, coarser=1.0):
        noise = steps[0][0].noise
        return 10 / noise * (leap if coarser == 1 and noise < before else 1)

    monkeypatch.setattr(calibration, "epsilon_of_steps", found)
    noise = calibration._poisson_noise.__wrapped__(1.0, 1e-5, 0.1, 7, calibration.mu_of(1.0, 1e-5))
    assert found([(calibration.Step(noise, 0.1), 7)], 1e-5) <= 1 and noise < 200


def test_an_epsilon_of_both_directions_is_none_or_all_or_never_too_small():
    one = Release(noise_multiplier=2.0, sample_rate=0.5, steps=1)
    assert renyi_epsilon({Release(noise_multiplier=1e5, sample_rate=0.5, steps=1): 1}, 0.0, 0.9, "replace-one") == 0
    loud = Release(noise_multiplier=0.01, sample_rate=0.5, steps=1)
    assert math.isinf(renyi_epsilon({loud: 10**6}, 0.0, 1e-5, "replace-one"))
    for count in (1, 2, 3, 7, 8):
        half = _twice(_ORDERS, count * _curve(one, 1.0), 1e-5) / 2
        least = delta_of(count * _curve(one, 1.0), half)
        assert least * (1 + math.exp(half)) <= 1e-5
    steps = itertools.count(1)
    assert math.isinf(_with_tail(lambda left: 1e-3 * next(steps), 1e-30, 1e-5)), "what never settles bounds nothing"
    with pytest.raises(TypeError, match=r"release must be one of .* not str"):
        rho_at_order("a release", 10)


def delta_of(spent, half):
    return compute_delta(_ORDERS, spent, half)[0]


def test_a_verdict_of_one_test_is_not_multiplied():
    assert rarest({"steps repeat": 0.4})[1:] == (0.4, "p-value: 0.4 of the test whether steps repeat")


def test_canaries_sums_and_units_that_cannot_be():
    places = np.array([3])
    with pytest.raises(ValueError, match="first must not be negative, not -1"):
        Canaries(-1, places, places)
    for scale in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="scale must be positive and finite"):
            Canaries(0, places, places, scale)
    shared = SharedNoise(grid=16, scale=40, shares=4, dimension=8, limit=2**20)
    for size in (0, 9):
        with pytest.raises(ValueError, match="size must be in"):
            IntegerSum.empty(shared, RandomStream(bytes(32)), size)
    with pytest.raises(ValueError, match="units must be at least 1, not 0"):
        train(nn.Linear(4, 1), data(4), units=0)


def test_an_audit_of_a_model_that_trains_nothing_is_none():
    frozen = nn.Linear(4, 1).requires_grad_(False)
    still = {"weight": torch.zeros(1, 4), "bias": torch.zeros(1)}
    for training in (
        Training(frozen, data(4), squared, DP, units=5),
        Training(nn.Linear(4, 1), data(4), squared, DP, units=5, masks=still),
    ):
        with pytest.raises(ModelError, match="no parameters to train: hand in one that has"):
            training.positions()


def test_attention_asked_for_dropout_by_name_drops_nothing():
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))
    kept = functional.scaled_dot_product_attention(x, x, x)
    with without_dropout():
        assert torch.equal(functional.scaled_dot_product_attention(x, x, x, dropout_p=0.9), kept)


@pytest.mark.parametrize("mode", ["per-sample", "functorch", "ghost"])
def test_a_parameter_that_the_loss_does_not_use_is_named(mode):
    told = r"parameter spare\.weight gets no gradient from the loss: use it in forward\(\), or remove it"
    with pytest.raises(ModelError, match=told):
        train(Built(lambda m, x: m.layer(x), spare=nn.Linear(4, 1)), data(4), mode=mode)
    with pytest.raises(ModelError, match=r"parameter weight gets no gradient from the loss"):
        train(nn.Linear(4, 1), data(4), loss=lambda output, y: y * 1.0, mode=mode)


def looked_twice(module, x):
    with torch.no_grad():
        scale = 1 + module.layer(x).tanh()
    return module.layer(x) * scale


def test_a_layer_run_once_more_without_gradients_counts_once():
    model = Built(looked_twice)
    assert torch.allclose(train(model, data(4)), by_hand(model, data(4)), atol=1e-5)


def test_a_layer_that_gives_no_tensor_is_named():
    with pytest.raises(ModelError, match=r"layer other .*takes or gives a tuple: make it tensors"):
        train(Built(lambda m, x: m.layer(m.other(x)[0]), other=Twofold()), data(4))


def test_upsampling_whose_rows_reach_beyond_its_windows_trains_as_by_hand():
    """output_padding of at least the stride: torch takes it where dilation is larger."""
    for options in ({"stride": 1, "output_padding": 1, "dilation": 2}, {"stride": 2, "bias": False}):
        model = nn.ConvTranspose2d(1, 2, 2, **options)
        assert torch.allclose(train(model, data(1, 3, 3)), by_hand(model, data(1, 3, 3)), atol=1e-5)


def test_what_opacus_is_told_to_refuse_is_refused():
    @register_module_validator(Twofold)
    def validate(module):
        return [ValueError("not this one")]

    try:
        with pytest.raises(ModelError, match="has no per-record gradients in Opacus: replace it"):
            validate_model(Twofold())
    finally:
        del ModuleValidator.VALIDATORS[Twofold]
    validate_model(Twofold())


class Broken(Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        raise OSError("disk gone")


def test_items_that_cannot_be_read_are_named_and_odd_ones_compared():
    with pytest.raises(DataError, match=r"patient 2 of the data set cannot be read \(.*disk gone.*\): mend it"):
        fetched(Broken(), 2, "patient")
    assert alike({"id": "a", "x": 1.0}, {"id": "a", "x": 1.0}) and not alike({"id": "a"}, {"id": "b"})
    assert not alike(object(), object())


def test_what_a_model_holds_is_compared_where_it_has_no_value():
    """Parameters without values, names that are bound later, slots that are empty, and what cannot be pickled."""

    class Slotted:
        __slots__ = ("first", "later")

    def bound_later():
        return unbound

    slotted = Slotted()
    slotted.first = 1
    kept = [torch.zeros(2, device="meta"), slotted, threading.Lock(), bound_later]
    model = nn.Linear(1, 1)
    before = HeldState.of(model, kept)
    assert before.change(HeldState.of(model, kept)) is None
    kept[0] = torch.zeros(3, device="meta")
    assert before.change(HeldState.of(model, kept)) == "loss[0]"
    kept[0], slotted.later = torch.zeros(2, device="meta"), 5
    assert before.change(HeldState.of(model, kept)) == "loss[1].later"
    del slotted.later
    unbound = 7
    assert before.change(HeldState.of(model, kept)) == "loss[3]:unbound"
    assert bound_later() == 7


class InSingleAlone(nn.Module):
    """Centres large batches, and casts what it is given: it can't be run in double precision."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, x):
        x = x.float()
        return self.head(self.layer(x - x.mean(0) if len(x) > 60 else x).tanh())


def test_dependence_is_told_where_nothing_can_be_looked_at_in_double():
    x = torch.randn(200, 3, 4, generator=torch.Generator().manual_seed(2))
    patients = PatientDataset([(records, torch.zeros(3)) for records in x])
    torch.manual_seed(4)
    with pytest.raises(ModelError, match="depend on one another"):
        check_independence(InSingleAlone(), patients, squared, device="cpu", unit="patient")
