import copy
import dataclasses
import hashlib

import numpy as np
import pytest
import torch
from pools import SEGMENTATION, bright, images, leaning
from torch import nn

from securepfl.errors import ConfigError
from securepfl.outside.gates import AdaptSettings, adapt, consistency, normalised_entropy, ragged
from securepfl.outside.routing import RoutedModel, gate_summary
from securepfl.tasks.binary import BINARY, bce
from securepfl.tasks.models import build_model
from securepfl.tasks.multiclass import Multiclass
from securepfl.tasks.multilabel import Multilabel
from securepfl.tasks.prediction import predict
from securepfl.tasks.regression import Regression

QUICK = AdaptSettings(passes=5, learning_rate=0.05)


def digest(module):
    parts = (p.detach().cpu().numpy().tobytes() for p in module.parameters())
    return hashlib.sha256(b"".join(parts)).hexdigest()


def axis_expert(axis):
    """Decides by the sign of one of two inputs, and surely so."""
    model = build_model("logistic", features=2)
    with torch.no_grad():
        model.linear.weight[0, axis] = 4.0
    return model


def rows_along_first_axis(count=80):
    """The label is the sign of input 0; input 1 is weak noise, so expert 1 guesses and is unsure."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, count)
    features = np.stack([(2 * labels - 1) * rng.uniform(0.3, 1.5, count), 0.1 * rng.normal(size=count)], axis=1)
    return features, labels


def hospitals(shifts, count=120, seed=0):
    """Tables whose label depends on the same direction, measured by scanners that are set differently."""
    rng = np.random.default_rng(seed)
    for shift in shifts:
        plain = rng.normal(size=(count, 5))
        labels = (plain @ np.array([2.0, -1.0, 0.5, 0.0, 0.0]) + 0.5 * rng.normal(size=count) > 0).astype(int)
        yield plain + shift * np.array([0.3, 0.3, -0.3, 0.3, 0.3]), labels


def trained(model, features, labels, steps=60):
    model = copy.deepcopy(model)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    x, y = torch.tensor(features, dtype=torch.float32), torch.tensor(labels)
    for _ in range(steps):
        optimiser.zero_grad()
        bce(model(x), y).mean().backward()
        optimiser.step()
    return model


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_entropy_of_an_even_binary_prediction_is_one(shape):
    torch.testing.assert_close(normalised_entropy(BINARY.choices(torch.zeros(shape))), torch.ones(4))


@pytest.mark.parametrize("count", [2, 3, 7])
def test_entropy_of_equal_logits_is_one(count):
    equal = torch.full((4, count), 2.5)
    torch.testing.assert_close(normalised_entropy(Multiclass().choices(equal)), torch.ones(4))
    torch.testing.assert_close(normalised_entropy(Multilabel().choices(equal * 0)), torch.ones(4))


def test_entropy_of_a_sure_prediction_is_zero_and_a_row_counts_alone():
    sure = normalised_entropy(BINARY.choices(torch.tensor([100.0, -100.0, 0.0])))
    torch.testing.assert_close(sure, torch.tensor([0.0, 0.0, 1.0]))
    classes = normalised_entropy(Multiclass().choices(torch.tensor([[200.0, 0.0, 0.0], [0.0, 0.0, -200.0]])))
    torch.testing.assert_close(classes, torch.tensor([0.0, np.log(2) / np.log(3)], dtype=torch.float32))


def test_consistency_is_zero_for_the_same_view_and_known_for_another():
    choices = torch.randn(6, 1, 3)
    assert consistency(choices, choices) == 0
    sure, unsure = (BINARY.choices(torch.tensor([logit])) for logit in (100.0, -100.0))
    assert consistency(sure, unsure) == 1


def test_a_regression_has_no_entropy_to_lower():
    features, _ = rows_along_first_axis()
    with pytest.raises(ConfigError, match="regression have no entropy to lower: use the experts' average"):
        adapt(RoutedModel([axis_expert(0), axis_expert(1)]), features, QUICK, Regression())


def test_experts_are_unchanged_by_adaptation_and_gates_are_not(device):
    features, _ = rows_along_first_axis()
    routed = RoutedModel([axis_expert(0).to(device), axis_expert(1).to(device)])
    layer = routed.routed_layers()["linear"]
    before = digest(layer.experts), digest(layer.gate)
    report = adapt(routed, features, QUICK, BINARY)
    assert digest(layer.experts) == before[0]
    assert digest(layer.gate) != before[1]
    assert (report.rows, report.steps) == (80, 25)


def test_the_right_expert_wins_where_only_it_is_sure():
    features, labels = rows_along_first_axis()
    experts = [axis_expert(1), axis_expert(0)]
    routed = RoutedModel(experts)
    report = adapt(routed, features, QUICK, BINARY)
    assert gate_summary(routed, torch.tensor(features))["linear"][1] > 0.9
    assert report.entropy_after < report.entropy_before - 0.05
    assert BINARY.evaluate(predict(routed, features, BINARY), labels)["accuracy"] == 1.0
    assert BINARY.evaluate(predict(experts[0], features, BINARY), labels)["accuracy"] < 0.7


def test_permuting_experts_permutes_the_gates():
    features, _ = rows_along_first_axis()
    experts = [axis_expert(0), axis_expert(1), build_model("logistic", features=2)]
    summaries = []
    for order in ([0, 1, 2], [2, 0, 1]):
        routed = RoutedModel([experts[i] for i in order])
        adapt(routed, features, QUICK, BINARY)
        gates = gate_summary(routed, torch.tensor(features))["linear"]
        summaries.append([gates[order.index(i)] for i in range(3)])
    np.testing.assert_allclose(summaries[0], summaries[1], atol=1e-3)


@pytest.mark.parametrize("count", [12, 120])
@pytest.mark.parametrize("shift", [-1.0, 0.5, 2.0])
def test_an_unseen_hospital_is_served_no_worse_than_by_the_plain_models(shift, count):
    *sites, (features, labels) = hospitals([-1.5, -0.5, 0.5, 1.5, shift])
    pooled = np.concatenate([x for x, _ in sites]), np.concatenate([y for _, y in sites])
    shared = trained(build_model("mlp", features=5), *pooled)
    experts = [*(trained(shared, *site, steps=20) for site in sites), shared]
    routed = RoutedModel(experts)
    uniform = BINARY.evaluate(predict(routed, features, BINARY), labels)
    adapt(routed, features[:count], AdaptSettings(), BINARY)
    adapted = BINARY.evaluate(predict(routed, features, BINARY), labels)
    for baseline in (uniform, BINARY.evaluate(predict(shared, features, BINARY), labels)):
        assert adapted["accuracy"] >= baseline["accuracy"] - 0.03
        assert adapted["auroc"] >= baseline["auroc"] - 0.02


def test_one_row_alone_can_be_routed():
    features, _ = rows_along_first_axis()
    routed = RoutedModel([axis_expert(0), axis_expert(1)])
    assert adapt(routed, features[:1], AdaptSettings(passes=2), BINARY).steps == 2


def test_dropout_stays_off_and_modes_come_back():
    torch.manual_seed(0)
    experts = [nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 1)) for _ in range(2)]
    features, _ = rows_along_first_axis()
    gates = []
    for _ in range(2):
        routed = RoutedModel(experts).train()
        adapt(routed, features, QUICK, BINARY)
        assert all(module.training for module in routed.modules())
        gates.append(gate_summary(routed, torch.tensor(features)))
    assert gates[0] == gates[1]


def test_the_consistency_weight_has_an_effect():
    features, _ = rows_along_first_axis()
    gates = []
    for weight in (0.0, 100.0):
        routed = RoutedModel([axis_expert(0), axis_expert(1)])
        adapt(routed, features, AdaptSettings(entropy=0.0, consistency=weight, learning_rate=0.05, noise=0.5), BINARY)
        gates.append(gate_summary(routed, torch.tensor(features))["linear"])
    assert gates[0] == [0.5, 0.5]
    assert gates[1] != [0.5, 0.5]


@pytest.mark.parametrize(
    "wrong",
    [{"passes": 0}, {"batch": 0}, {"learning_rate": -1.0}, {"entropy": float("nan")}, {"noise": -0.1}],
)
def test_settings_out_of_range_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AdaptSettings(**wrong)


@pytest.mark.parametrize("features", [np.empty((0, 2)), np.full((3, 2), np.inf)])
def test_rows_that_cannot_be_used_are_refused(features):
    with pytest.raises(ValueError, match="features"):
        adapt(RoutedModel([axis_expert(0), axis_expert(1)]), features, AdaptSettings(), BINARY)


@pytest.mark.parametrize("level", [-4.0, 0.0, 3.0])
def test_a_constant_mask_has_no_shape_loss(level):
    assert ragged(torch.full((2, 1, 25, 40), level)).item() == 0.0


def test_an_outline_costs_shape():
    mask = torch.full((1, 1, 60, 60), -20.0)
    mask[..., 20:40, 20:40] = 20.0
    # Pixels within 10 of both sides of the square's outline: a square of 40 without the one of 0 in its middle.
    torch.testing.assert_close(ragged(mask), torch.tensor(40.0**2 / 60**2), rtol=1e-3, atol=0)


def test_shape_and_a_mirrored_second_look_adapt_masks_and_leave_the_experts():
    models = [bright(0.3), leaning(0.3)]
    routed, before = RoutedModel(models), [digest(model) for model in models]
    settings = AdaptSettings(passes=3, batch=2, learning_rate=0.05, entropy=0.0, consistency=1.0, shape=0.0, noise=0.0)
    rows = torch.tensor(images(), dtype=torch.float32)
    adapt(routed, rows, dataclasses.replace(settings, view="mirrored"), SEGMENTATION)
    # The leaning filter contradicts its mirrored look, the bright one never does.
    assert gate_summary(routed, rows)["filter"][0] > 0.5
    assert [digest(model) for model in models] == before
    outputs = RoutedModel([bright()])(rows)
    choices = (SEGMENTATION.choices(each) for each in (outputs, RoutedModel([bright()])(rows.flip(-1)).flip(-1)))
    assert consistency(*choices).item() == 0.0


def test_a_heavier_shape_loss_makes_masks_smoother():
    rows = torch.tensor(images(), dtype=torch.float32)
    ragged_of = []
    for shape in (0.0, 50.0):
        routed = RoutedModel([bright(4.0), bright(0.1)])
        settings = AdaptSettings(passes=5, batch=3, learning_rate=0.05, entropy=1.0, shape=shape)
        adapt(routed, rows, settings, SEGMENTATION)
        ragged_of.append(ragged(routed(rows)).item())
    assert ragged_of[1] < ragged_of[0]
