"""A frozen backbone with a head that trains: nothing of the backbone moves, travels, takes noise or counts."""

import copy

import pytest
import torch
from parties import FEATURES, NAMES, close_all, exchange, parties, rows_of
from torch import nn

from securepfl import Federation, Simulation, local_parties, suggest_partition
from securepfl.errors import ConfigError, ModelError
from securepfl.learning.personal.partition import Partition
from securepfl.settings.binding import initial_model

ROWS = torch.randn(9, FEATURES, generator=torch.Generator().manual_seed(3))


class Transfer(nn.Module):
    """A backbone with batch norm and attention, frozen, and a head."""

    def __init__(self, frozen=True):
        super().__init__()
        self.backbone = nn.ModuleDict(
            {
                "first": nn.Linear(FEATURES, 8),
                "norm": nn.BatchNorm1d(8),
                "attention": nn.MultiheadAttention(8, 2, batch_first=True),
                "twin": nn.Linear(8, 8),
            }
        )
        self.backbone["norm"].running_mean.normal_()
        self.head = nn.Linear(8, 1)
        self.backbone.requires_grad_(not frozen)

    def forward(self, x):
        hidden = self.backbone["norm"](self.backbone["first"](x)).tanh()[:, None]
        mixed = self.backbone["attention"](hidden, hidden, hidden)[0][:, 0]
        return self.head(self.backbone["twin"](mixed)).squeeze(-1)


def build():
    return Transfer()


def federation_of(build_model=build, **tables):
    settings = {"rounds": 2, "release": {"experts": True}, "encryption": {"scheme": "none"}}
    settings |= tables
    return Federation.from_mapping(settings).bound(NAMES, build_model, units=40)


def test_the_head_alone_trains_travels_and_is_personal_in_part(tmp_path):
    federation = federation_of(model={"personal": "intercept"})
    assert (federation.shape.shared, federation.shape.personal) == (8, 1)
    coordinator, clients = parties(federation, tmp_path, model=build)
    for _ in range(2):
        exchange(coordinator, clients)
    for client in clients.values():
        models = [client.personal_model(), client.shared_model(), client.release("personal")[0]]
        for name, value in build_state(federation).items():
            same = [torch.equal(model.state_dict()[name], value) for model in models]
            assert all(same) if name.startswith("backbone") else not any(same), name
        assert client.predict(ROWS).shape == (9,)
        assert not any(p.requires_grad for p in models[0].backbone.parameters())
    close_all(clients)


def build_state(federation):
    return initial_model(build, federation).state_dict()


def test_frozen_parameters_and_what_is_frozen_are_part_of_what_hospitals_agree_on():
    def other_weight():
        model = build()
        with torch.no_grad():
            model.backbone["first"].weight[0, 0] += 1e-6
        return model

    def freezing(layer):
        def made():
            model = nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, 1))
            model[layer].requires_grad_(False)
            return model

        return made

    assert federation_of(other_weight).shape.digest != federation_of().shape.digest
    first, second = (federation_of(freezing(layer)) for layer in (0, 1))
    assert first.shape.shared == second.shape.shared and first.shape.digest != second.shape.digest


def test_patterns_that_match_frozen_parameters_only_are_told_so():
    with pytest.raises(ModelError, match=r'"backbone\.\*" matches frozen parameters only \(backbone\.first\.weight'):
        federation_of(model={"personal": ["backbone.*"]})


def test_a_model_that_is_frozen_whole_is_refused():
    with pytest.raises(ModelError, match="no trainable parameter"):
        federation_of(lambda: build().requires_grad_(False))


@pytest.mark.parametrize("rule", ["auto", "intercept", "head"])
def test_rules_say_that_the_output_layer_is_frozen(rule):
    def made():
        model = Transfer(frozen=False)
        model.backbone = nn.ModuleDict(
            {"first": nn.Linear(FEATURES, 8), "norm": nn.Tanh(), "attention": Same(), "twin": nn.Linear(8, 8)}
        )
        model.head.requires_grad_(False)
        return model

    with pytest.raises(ModelError, match='output layer "head" is frozen'):
        Partition.of(made(), rule)


class Same(nn.Module):
    def forward(self, query, key, value):
        return (query,)


def test_a_norm_whose_parameters_train_in_part_is_refused(tmp_path):
    def made():
        model = build()
        model.backbone["norm"].weight.requires_grad_(True)
        return model

    with pytest.raises(ModelError, match=r"backbone\.norm \(BatchNorm1d\) makes records depend"):
        parties(federation_of(made), tmp_path, model=made)


def test_adapters_correct_frozen_layers(tmp_path):
    def made():
        model = nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0))
        model[0].requires_grad_(False)
        return model

    federation = federation_of(made, model={"adapters": 1})
    coordinator, clients = parties(federation, tmp_path, model=made)
    exchange(coordinator, clients)
    exchange(coordinator, clients)
    client = clients["alder"]
    parameters = dict(client.personal_model().named_parameters())
    frozen = [name for name, p in parameters.items() if not p.requires_grad]
    assert frozen == ["0.base.weight", "0.base.bias"]
    assert parameters["0.adapter.up.weight"].any()
    assert federation.shape.shared == 9  # the head's own
    close_all(clients)


def test_a_suggestion_looks_at_trained_parameters(tmp_path):
    federation = federation_of(privacy={"budget": 1000.0})
    keyrings, _ = local_parties(federation)
    options = {"epsilon": 50.0, "device": "cpu", "simulation": Simulation(b"k" * 32)}
    suggestion = suggest_partition(
        federation, "alder", build, rows_of("alder"), keyrings["alder"].identity, ledgers=tmp_path, **options
    )
    assert all(name.startswith("head") for name in suggestion.personal)
    thawed = copy.deepcopy(build()).requires_grad_(True)
    with pytest.raises(ModelError, match="frozen in one of start"):
        suggest_partition(
            federation,
            "alder",
            build,
            rows_of("alder"),
            keyrings["alder"].identity,
            ledgers=tmp_path,
            start=thawed,
            **options,
        )


def test_a_hospital_that_freezes_otherwise_is_another_federation(tmp_path):
    federation = federation_of()
    with pytest.raises(ConfigError, match="not the federation's"):
        parties(federation, tmp_path, model=thawed_head_bias)


def thawed_head_bias():
    model = build()
    model.backbone["twin"].bias.requires_grad_(True)
    model.head.bias.requires_grad_(False)
    return model
