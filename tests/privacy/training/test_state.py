"""A model that keeps something of what it sees is refused by the name of what it keeps, before anything is spent."""

import array
import functools
import io
import itertools
import random
from collections import deque
from decimal import Decimal
from typing import ClassVar

import numpy as np
import pytest
import torch
from parties import FEATURES, NAMES, close_all, exchange, parties
from torch import nn
from torch.distributions import Normal
from torch.utils.data import Dataset, TensorDataset

from securepfl import Federation
from securepfl.errors import ModelError
from securepfl.privacy.training.probe import check_independence
from securepfl.privacy.training.state import HeldState


class Keeping(nn.Module):
    """A layer before which `keep` sees the input."""

    kept_by_class: ClassVar[list[int]] = []

    def __init__(self, keep, **held):
        super().__init__()
        self.layer, self.keep = nn.Linear(4, 1), keep
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("hidden", torch.zeros(4), persistent=False)
        self.frozen = nn.Parameter(torch.zeros(4), requires_grad=False)
        self.children_made = nn.ModuleList()
        for name, value in held.items():
            setattr(self, name, value)

    def forward(self, x):
        self.keep(self, x.detach())
        return self.layer(x)


class Statistics:
    __slots__ = ("total",)

    def __init__(self):
        self.total = 0.0

    def add(self, x):
        self.total += float(x.sum())


class Named(dict):
    """A container with attributes of its own."""


class Counted:
    total = 0.0


def count(kind, x):
    kind.total = getattr(kind, "total", 0.0) + float(x.sum())


def squared(output, y):
    return (output[:, 0] - y) ** 2


def data(records=40):
    x = torch.randn(records, 4, generator=torch.Generator().manual_seed(5))
    return TensorDataset(x, x.sum(1))


def training_only(module, x):
    if module.training:
        module.mean.mul_(0.9).add_(0.1 * x.mean(0))


def after_three_batches(module, x):
    module.calls.append(0)
    if len(module.calls) > 3:
        module.mean.copy_(x.mean(0))


def replace_frozen(module, x):
    module.frozen = nn.Parameter(x.mean(0), requires_grad=False)


@pytest.mark.parametrize(
    ("keep", "held", "told"),
    [
        (training_only, {}, "buffer mean"),
        (lambda m, x: m.hidden.copy_(x[0]), {}, "buffer hidden"),
        (lambda m, x: m.frozen.data.copy_(x.mean(0)), {}, "parameter frozen"),
        (replace_frozen, {}, "parameter frozen"),
        (lambda m, x: m.layer.bias.data.add_(x.mean()), {}, r"parameter layer\.bias"),
        (lambda m, x: m.register_buffer("new", x.mean(0)), {}, "buffer new"),
        (lambda m, x: setattr(m, "last", x[0]), {}, "attribute last"),
        (lambda m, x: setattr(m, "last", x[0]), {"last": None}, "attribute last"),
        (lambda m, x: setattr(m, "rows", m.rows + len(x)), {"rows": 0}, "attribute rows"),
        (lambda m, x: m.seen.append(x.mean().item()), {"seen": []}, "attribute .*seen"),
        (lambda m, x: m.seen.append(x[0]), {"seen": deque(maxlen=2)}, r"attribute seen\[0\]"),
        (lambda m, x: m.seen.update(x=x[0].tolist()), {"seen": {}}, "seen"),
        (lambda m, x: m.seen.add(float(x[0, 0])), {"seen": set()}, "attribute seen"),
        (lambda m, x: m.stats.add(x), {"stats": Statistics()}, r"attribute stats\.total"),
        (lambda m, x: m.array.__setitem__(0, float(x[0, 0])), {"array": np.zeros(3)}, "attribute array"),
        (lambda m, x: m.children_made.append(nn.Identity()), {}, "children_made"),
        (lambda m, x: torch.rand(1, generator=m.generator), {"generator": torch.Generator()}, "attribute generator"),
        (lambda m, x: m.generator.random(), {"generator": np.random.default_rng(0)}, "attribute generator"),
        (lambda m, x: m.generator.random(), {"generator": random.Random(0)}, "attribute generator"),  # noqa: S311
        (lambda m, x: next(m.count), {"count": itertools.count()}, "attribute count"),
        (lambda m, x: m.kept_by_class.append(1), {}, r"kept_by_class"),
        (functools.partial(lambda seen, m, x: seen.append(1), []), {}, "keep:arguments"),
        (after_three_batches, {"calls": []}, "calls|mean"),
        (lambda m, x: m.seen.append(float(x[0, 0])), {"seen": array.array("d")}, "attribute seen"),
        (lambda m, x: m.seen.write(str(float(x[0, 0]))), {"seen": io.StringIO()}, "attribute seen"),
        (lambda m, x: setattr(m, "sum", m.sum + Decimal(1)), {"sum": Decimal()}, "attribute sum"),
        (lambda m, x: count(m.seen, x), {"seen": Named()}, r"attribute seen\.total"),
        (lambda m, x: count(type(m.seen), x), {"seen": Counted()}, r"attribute seen\.total"),
        (lambda m, x: count(m.kind, x), {"kind": Counted}, r"attribute kind\.total"),
        (lambda m, x: setattr(m.mean, "seen", x.mean(0)), {}, r"attribute mean\.seen"),
        (lambda m, x: setattr(m.hidden, "grad", x.mean(0)), {}, r"attribute hidden\.grad"),
        (lambda m, x: setattr(m.layer.weight, "seen", x[0]), {}, r"attribute layer\.weight\.seen"),
        (
            lambda m, x: m.steps.param_groups[0].update(lr=float(x.mean())),
            {"steps": torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)},
            r"attribute steps\.param_groups\[0\]\['lr'\]",
        ),
        (
            lambda m, x: m.prior.loc.copy_(x.mean(0)),
            {"prior": Normal(torch.zeros(4), torch.ones(4))},
            r"attribute prior\.loc",
        ),
    ],
)
def test_what_a_model_keeps_is_named(keep, held, told):
    with pytest.raises(ModelError, match=f"{told}.* changes while the model is trained") as caught:
        check_independence(Keeping(keep, **held), data(), squared, device="cpu")
    assert "\n" not in str(caught.value)


class Running:
    """A loss that weighs by a mean of the labels so far."""

    def __init__(self):
        self.mean = 0.0

    def __call__(self, output, y):
        self.mean += 1e-6 * float(y.mean())
        return (1 + self.mean) * squared(output, y)


class Weighing(nn.Module):
    """One that is to be trained, which a loss never is."""

    def __init__(self):
        super().__init__()
        self.log_weight = nn.Parameter(torch.zeros(()))

    def forward(self, output, y):
        return squared(output, y) * torch.exp(-self.log_weight) + self.log_weight


@pytest.mark.parametrize(("loss", "told"), [(Running(), r"loss\.mean"), (Weighing(), r"loss\.log_weight\.grad")])
def test_what_a_loss_keeps_is_named(loss, told):
    with pytest.raises(ModelError, match=f"attribute {told} changes"):
        check_independence(nn.Linear(4, 1), data(), loss, device="cpu")


class Caching(Dataset):
    """Keeps what it has read, as data sets of images do."""

    def __init__(self):
        self.read = {}

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return self.read.setdefault(index, data()[index])

    def loss(self, output, y):
        return squared(output, y)


def test_data_may_be_cached_as_they_are_read():
    cached = Caching()
    check_independence(nn.Linear(4, 1), cached, cached.loss, device="cpu")
    assert len(cached.read) == 40


def hooked(register):
    seen = []
    model = Keeping(lambda m, x: None)
    register(model, seen)
    return model


@pytest.mark.parametrize(
    "register",
    [
        lambda m, seen: m.layer.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0].mean().item())),
        lambda m, seen: m.register_forward_pre_hook(lambda _, inputs: seen.append(1)),
        lambda m, seen: m.layer.register_full_backward_hook(lambda _, i, o: seen.append(o[0].sum().item())),
    ],
)
def test_what_hooks_close_over_is_looked_at(register):
    with pytest.raises(ModelError, match=r"hooks.*:seen"):
        check_independence(hooked(register), data(), squared, device="cpu")


@pytest.mark.parametrize("place", [0, 900, 1999])
def test_one_record_of_the_whole_data_set_shows_it(place):
    """Also where only training mode and only one input, far down, is kept."""
    x, y = data(2000).tensors
    x[place, 0] = 50.0

    def keep(module, seen):
        if module.training and bool((seen[:, 0] > 40).any()):
            module.mean.copy_(seen.mean(0))

    with pytest.raises(ModelError, match="buffer mean changes"):
        check_independence(Keeping(keep), TensorDataset(x, y), squared, device="cpu")


def test_models_that_draw_in_training_are_looked_at_in_training_too():
    def keep(module, x):
        module.noise = torch.randn(4) if module.training else torch.zeros(4)

    with pytest.raises(ModelError, match="attribute noise changes"):
        check_independence(Keeping(keep), data(), squared, device="cpu")

    class Drawing(Keeping):
        def forward(self, x):
            self.keep(self, x)
            return self.layer(x + torch.randn_like(x) if self.training else x)

    def keep_one(module, x):
        if module.training and bool((x[:, 0] > 40).any()):
            module.mean.copy_(x.mean(0))

    x, y = data(900).tensors
    check_independence(Drawing(keep_one), TensorDataset(x, y), squared, device="cpu")
    x[700, 0] = 50.0
    with pytest.raises(ModelError, match="buffer mean changes"):
        check_independence(Drawing(keep_one), TensorDataset(x, y), squared, device="cpu")


def test_what_does_not_change_passes():
    cycle = [1]
    cycle.append(cycle)
    held = {"table": torch.arange(3), "names": {"a": [1, "b"]}, "cycle": cycle, "generator": torch.Generator()}
    check_independence(Keeping(lambda m, x: m.table.sum(), **held), data(), squared, device="cpu")


def test_states_are_equal_where_values_are_and_nan_is_itself():
    model = Keeping(lambda m, x: None, value=float("nan"), tensor=torch.tensor([float("nan")]))
    assert HeldState.of(model).change(HeldState.of(model)) is None
    model.tensor = torch.tensor([1.0])
    assert HeldState.of(Keeping(lambda m, x: None)).change(HeldState.of(model)) is not None


LEAKS = [False]


class Leaking(nn.Module):
    """Keeps a mean where a global says so, which no look at the model shows."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(FEATURES, 1)
        self.register_buffer("mean", torch.zeros(FEATURES))

    def forward(self, x):
        if LEAKS[0]:
            self.mean.copy_(x.detach().mean(0))
        return self.layer(x).squeeze(-1)


def leaking():
    torch.manual_seed(0)
    return Leaking()


@pytest.mark.parametrize("noise", ["local", "shared"])
def test_what_no_probe_can_see_leaves_neither_in_a_message_nor_in_a_model(tmp_path, noise):
    settings = {"rounds": 2, "release": {"experts": noise == "local"}, "similarity": {"every": 0}}
    if noise == "shared":
        settings |= {
            "privacy": {"epsilon": 8.0},
            "shared_noise": {},
            "training": {"steps": 1},
            "encryption": {"masking": "pairwise"},
        }
    federation = Federation.from_mapping(settings).bound(NAMES, leaking, units=40)
    coordinator, clients = parties(federation, tmp_path, model=leaking)
    client, invitations = clients["alder"], coordinator.invite()
    LEAKS[0] = True
    try:
        client.contribute(invitations["alder"])  # noise alone: a model that keeps something of patients trains nothing
        if noise == "local":
            assert "buffer mean changes" in client.last_training.failed
        assert not client.personal_model().mean.any()
        if noise == "local":
            assert not client.release("personal")[0].mean.any()
    finally:
        LEAKS[0] = False
    close_all(clients)


def test_a_run_leaves_the_public_start_in_all_that_does_not_train(tmp_path):
    federation = Federation.from_mapping({"rounds": 1, "encryption": {"scheme": "none"}}).bound(
        NAMES, leaking, units=40
    )
    coordinator, clients = parties(federation, tmp_path, model=leaking)
    exchange(coordinator, clients)
    for client in clients.values():
        for model in (client.personal_model(), client.shared_model()):
            assert not model.mean.any() and not torch.equal(model.layer.weight, leaking().layer.weight)
    close_all(clients)
