from dataclasses import replace

import numpy as np
import pytest
import torch
from pools import bright, images, leaning, linear, masks, rows, tables
from torch import nn

from securepfl.errors import ConfigError, DataError, ModelError
from securepfl.outside.candidates import Panel
from securepfl.outside.recipe import Recipe, default_recipe
from securepfl.outside.routed import routed
from securepfl.tasks.binary import BINARY
from securepfl.tasks.logistic import fit_logistic
from securepfl.tasks.multiclass import Multiclass
from securepfl.tasks.networks import build_network
from securepfl.tasks.regression import Regression

HOT = 1e-9
"""A temperature at which the best candidate's gate is exactly 1."""
EVEN = 1e12
FREE = Recipe(guard=False)


def features(count=40, seed=0):
    """Two groups along the first axis; the second is noise."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.choice([-2.0, 2.0], count) + 0.3 * rng.normal(size=count), rng.normal(size=count)], axis=1)


def test_a_gate_of_one_is_that_expert_exactly():
    panel = tables(shared=[1.0, 1.0], right=[3.0, 0.0], wrong=[0.0, 9.0])
    found = routed(panel, rows(features()), Recipe(temperature=HOT, guard=False))
    assert found.gates[0].tolist() == [0.0, 1.0, 0.0]
    assert torch.equal(found.logits, panel.models["right"](torch.tensor(features(), dtype=torch.float32)).detach())


@pytest.mark.parametrize("mixing", ["logits", "parameters"])
def test_equal_gates_are_the_average(mixing):
    panel = tables(shared=[1.0, 1.0], right=[3.0, 0.0], wrong=[0.0, 9.0])
    found = routed(panel, rows(features()), Recipe(temperature=EVEN, mixing=mixing, guard=False))
    average = linear([4.0 / 3, 10.0 / 3])(torch.tensor(features(), dtype=torch.float32))
    torch.testing.assert_close(found.logits, average.detach())


def test_the_order_of_experts_does_not_matter():
    models = dict(tables(shared=[1.0, 1.0], right=[3.0, 0.0], wrong=[0.0, 9.0]).models)
    back = Panel(dict(reversed(models.items())), BINARY)
    one, other = routed(Panel(models, BINARY), rows(features()), FREE), routed(back, rows(features()), FREE)
    torch.testing.assert_close(one.logits, other.logits)
    np.testing.assert_allclose(one.gates, other.gates[:, ::-1])


def test_gates_do_not_matter_where_experts_are_the_same():
    one = bright()
    panel, alone = masks(shared=one, a=one, b=one), masks(shared=one)
    torch.testing.assert_close(routed(panel, rows(images())).logits, routed(alone, rows(images())).logits)


class SurerWhen(nn.Module):
    """Finds what is bright, three times as surely in images that are small, or in those that are not."""

    def __init__(self, small):
        super().__init__()
        self.found, self.small = bright(), small

    def forward(self, images):
        return self.found(images) * (3.0 if (images.shape[-1] < 48) == self.small else 1.0)


@pytest.mark.parametrize(("small", "gates"), [(True, [0, 0.5, 0, 0, 0.5, 0]), (False, [0, 1, 0, 0, 0, 0])])
def test_experts_are_seen_at_zooms_that_are_scored_no_lower_than_none(small, gates):
    panel = masks(shared=SurerWhen(small), steady=bright(), tilted=leaning(3.0))
    even = Recipe(views=("same", "mirrored"), criterion="agreement", zooms=(1.0, 0.5), zoom_temperature=EVEN)
    found = routed(panel, rows(images()), replace(even, temperature=HOT, granularity="sample", guard=False))
    steady = found.gates.reshape(3, 2, 3)[:, :, 1]
    np.testing.assert_allclose(steady, steady.sum(axis=1, keepdims=True) * np.array(gates)[[1, 4]])
    assert (found.zoom_scores[:, 1].mean() > found.zoom_scores[:, 0].mean()) == small
    one = routed(panel, rows(images()), replace(even, zoom_temperature=HOT))
    assert sorted(one.gates.reshape(3, 2, 3).sum(axis=2)[0]) == [0.0, 1.0]
    assert np.isfinite(one.zoom_scores).all()


def test_layers_of_a_u_net_are_mixed():
    panel = masks(shared=build_network("unet", 1, 4), other=build_network("unet", 1, 4, seed=1))
    recipe = replace(default_recipe("segmentation", images=True), granularity="layer", zooms=(1.0,))
    found = routed(panel, rows(images(2)), replace(recipe, layers=replace(recipe.layers, passes=1)))
    assert "body.final_conv" in found.layers
    np.testing.assert_allclose(found.gates.sum(axis=1), 1.0)


def test_an_expert_that_is_only_surer_gets_no_larger_gate():
    found = routed(tables(shared=[1.0, 0.0], sure=[50.0, 0.0]), rows(features()), FREE)
    np.testing.assert_allclose(found.gates, 0.5, atol=1e-5)
    assert (
        routed(
            tables(shared=[1.0, 0.0], sure=[50.0, 0.0]), rows(features()), Recipe(criterion="entropy", guard=False)
        ).gates[0, 1]
        > 0.9
    )


@pytest.mark.parametrize("criterion", ["consistency", "entropy"])
@pytest.mark.parametrize("mixing", ["logits", "parameters"])
def test_a_patient_alone_is_gated_as_among_others(criterion, mixing):
    recipe = Recipe(criterion=criterion, granularity="sample", mixing=mixing, temperature=0.3)
    panel = tables(shared=[1.0, 1.0], right=[3.0, 0.0], wrong=[0.0, 9.0])
    together = routed(panel, rows(features(5)), recipe)
    for i in range(5):
        alone = routed(panel, rows(features(5)[i : i + 1]), recipe)
        np.testing.assert_allclose(alone.gates[0], together.gates[i], rtol=1e-6)
        torch.testing.assert_close(alone.logits[0], together.logits[i])


def test_an_image_alone_is_gated_as_among_others():
    panel, recipe = (
        masks(shared=bright(), tilted=leaning()),
        Recipe(views=("same", "mirrored"), criterion="agreement", granularity="sample", temperature=0.3),
    )
    together = routed(panel, rows(images()), recipe)
    for i in range(3):
        alone = routed(panel, rows(images()[i : i + 1]), recipe)
        np.testing.assert_allclose(alone.gates[0], together.gates[i], rtol=1e-6)


def test_masks_follow_the_expert_whose_views_agree():
    panel = masks(shared=leaning(), steady=bright(), tilted=leaning(3.0))
    found = routed(panel, rows(images()))
    assert found.recipe == default_recipe("segmentation", images=True)
    assert [str(each) for each in found.candidates[3:]] == [
        f"{name} at zoom {zoom}" for zoom in (0.75, 1.33) for name in panel.models
    ]
    assert (found.gates.reshape(3, 3, 3)[:, :, 1].sum(axis=1) > 0.9).all()
    assert not found.fell_back
    np.testing.assert_allclose(found.gates.sum(axis=1), 1.0)


class OfOneSize(nn.Module):
    """Bright pixels of images of the size it knows, and dark ones of others: the same in every view."""

    def __init__(self, width):
        super().__init__()
        self.own, self.width = bright(), width

    def forward(self, x):
        return self.own(x) if x.shape[-1] == self.width else -self.own(x)


def test_stability_does_not_follow_an_expert_that_changes_with_size():
    panel = Panel({"shared": leaning(), "one size": OfOneSize(images().shape[-1]), "steady": bright()}, masks().task)
    recipe = Recipe(
        views=("same", "mirrored"), zooms=(1.0, 0.5), criterion="agreement", granularity="both", guard=False
    )
    fooled = routed(panel, rows(images()), replace(recipe, zooms=(1.0,)))
    np.testing.assert_allclose(fooled.gates[:, 1], fooled.gates[:, 2])
    found = routed(panel, rows(images()), replace(recipe, criterion="stability"))
    assert (found.gates.reshape(3, 2, 3)[:, :, 2].sum(axis=1) > 0.9).all()
    kept = routed(panel, rows(images()), replace(recipe, criterion="stability", guard=True))
    assert not kept.guarded.any() and kept.why.startswith("stability gains")


def test_gates_of_site_and_image_lie_between_and_are_an_images_own_where_it_is_alone():
    panel, recipe = (
        masks(shared=bright(), tilted=leaning()),
        Recipe(views=("same", "mirrored"), criterion="stability", temperature=0.3, guard=False),
    )
    scopes = {
        scope: routed(panel, rows(images()), replace(recipe, granularity=scope)) for scope in ("site", "sample", "both")
    }
    odds = {scope: np.log(found.gates[:, 1] / found.gates[:, 0]) for scope, found in scopes.items()}
    np.testing.assert_allclose(odds["both"], (odds["site"] + odds["sample"]) / 2, rtol=1e-6)
    alone = [
        routed(panel, rows(images()[:1]), replace(recipe, granularity=scope)).gates for scope in ("both", "sample")
    ]
    np.testing.assert_allclose(*alone)


def test_stability_needs_two_looks_and_chooses_no_zoom():
    with pytest.raises(ConfigError, match="two or more of either"):
        Recipe(criterion="stability")
    with pytest.raises(ConfigError, match="over all zooms"):
        Recipe(zooms=(1.0, 0.5), zoom_criterion="stability")


def test_views_leave_a_symmetric_expert_as_it_is():
    panel = masks(shared=bright(2.0))
    every = Recipe(views=("same", "turned", "half-turned", "upside-down"), criterion="agreement")
    found = routed(panel, rows(images()), every)
    with torch.no_grad():
        torch.testing.assert_close(
            found.logits, panel.models["shared"](torch.tensor(images(), dtype=torch.float32)), rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("value", [0.0, -3.0, 7.0])
def test_constant_images_are_answered(value):
    found = routed(masks(shared=bright(), tilted=leaning()), rows(np.full((2, 1, 20, 24), value)), prior=0.1)
    assert torch.isfinite(found.logits).all()
    assert np.isfinite(found.certainty).all()


def test_constant_rows_fall_back():
    found = routed(tables(shared=[1.0, 1.0], right=[3.0, 0.0]), rows(np.ones((20, 2))))
    assert found.fell_back
    assert torch.equal(found.logits, found.shared)
    assert found.gates[0].tolist() == [1.0, 0.0]


def test_one_row_falls_back_since_a_margin_is_a_sites():
    found = routed(tables(shared=[1.0, 1.0], right=[3.0, 0.0]), rows(features(1)))
    assert found.fell_back
    assert "margin" in found.why


def test_rows_of_the_shared_models_own_kind_fall_back():
    found = routed(tables(shared=[1.0, 0.0], other=[0.3, 1.0], third=[-0.4, 1.0]), rows(features()))
    assert found.fell_back or found.gates[0, 0] > 0.9


def test_one_expert_is_itself():
    found = routed(tables(only=[1.0, 2.0]), rows(features()))
    torch.testing.assert_close(found.logits, linear([1.0, 2.0])(torch.tensor(features(), dtype=torch.float32)).detach())
    assert not found.fell_back
    assert found.gates.tolist() == [[1.0]] * 40


def test_a_regression_is_the_shared_models():
    panel = Panel({"shared": linear([1.0, 1.0]), "a": linear([3.0, 0.0])}, Regression())
    found = routed(panel, rows(features()))
    assert found.fell_back
    assert torch.equal(found.logits, found.shared)


def test_without_a_shared_expert_the_average_guards():
    panel = tables(a=[1.0, 0.0], b=[0.0, 1.0])
    found = routed(panel, rows(np.ones((12, 2))))
    assert found.fell_back
    assert found.gates[0].tolist() == [0.5, 0.5]
    torch.testing.assert_close(found.logits, torch.ones(12))


def test_layers_have_gates_of_their_own():
    found = routed(tables(shared=[1.0, 1.0], right=[3.0, 0.0]), rows(features()), Recipe(granularity="layer"))
    assert list(found.layers) == ["linear"]
    np.testing.assert_allclose(sum(found.layers["linear"]), 1.0)


def test_padding_is_no_field():
    sizes = np.array([[20, 30]] * 3)
    found = routed(masks(shared=bright(), b=bright(2.0)), rows(images(), sizes=sizes), prior=0.2)
    padded = images()
    padded[:, :, 20:], padded[:, :, :, 30:] = 50.0, 50.0
    same = routed(masks(shared=bright(), b=bright(2.0)), rows(padded, sizes=sizes), prior=0.2)
    np.testing.assert_allclose(found.shift, same.shift, atol=0.3)


def test_half_the_way_to_a_prior():
    panel, table = tables(only=[1.0, 1.0]), rows(features(200))
    none, half = routed(panel, table), routed(panel, table, prior=0.1)
    full = routed(panel, table, Recipe(prior_weight=1.0), prior=0.1)
    np.testing.assert_allclose(BINARY.predict(full.logits).mean(), 0.1, atol=1e-4)
    torch.testing.assert_close(none.logits - half.logits, (none.logits - full.logits) / 2)
    assert torch.equal(half.logits, half.shared)


def test_classes_move_to_their_shares():
    model = nn.Linear(2, 3)
    panel, shares = Panel({"only": model}, Multiclass(classes=("a", "b", "c"))), (0.6, 0.3, 0.1)
    full = routed(panel, rows(features(300)), Recipe(prior_weight=1.0), prior=shares)
    np.testing.assert_allclose(panel.task.predict(full.logits).mean(axis=0), shares, atol=1e-4)


def test_few_rows_show_no_share():
    found = routed(tables(only=[1.0, 1.0]), rows(features(3)), prior=0.1)
    assert found.shift == (0.0,)
    assert "no share" in found.why


def test_labels_are_not_looked_at():
    panel, table = tables(shared=[1.0, 1.0], right=[3.0, 0.0]), rows(features())
    one, other = (routed(panel, rows(features(), labels=each), FREE) for each in (np.zeros(40), np.ones(40)))
    assert torch.equal(one.logits, other.logits)
    assert torch.equal(one.logits, routed(panel, table, FREE).logits)


def test_a_quarter_turn_that_a_shape_cannot_take_is_refused():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(32 * 48, 1))
    panel, recipe = Panel({"shared": flat}, BINARY), Recipe(views=("same", "turned"))
    with pytest.raises(ConfigError, match=r"turned.*leave that out"):
        routed(panel, rows(images()), Recipe(views=("same", "turned")))
    square = Panel({"shared": nn.Sequential(nn.Flatten(), nn.Linear(32 * 32, 1))}, BINARY)
    assert routed(square, rows(images(width=32)), recipe).logits.shape == (3, 1)


def test_tables_have_no_views():
    with pytest.raises(ConfigError, match="rows of a table have no views"):
        routed(tables(shared=[1.0, 1.0]), rows(features()), Recipe(views=("same", "mirrored")))


@pytest.mark.parametrize("prior", [0.0, 1.0, -0.5, float("nan"), (0.2, 0.3)])
def test_a_prior_that_is_no_share_is_refused(prior):
    with pytest.raises(ConfigError, match="prior"):
        routed(tables(shared=[1.0, 1.0]), rows(features()), prior=prior)


def test_no_expert_and_no_row_are_errors():
    with pytest.raises(ConfigError, match="no expert"):
        routed(Panel({}, BINARY), rows(features()))
    with pytest.raises(DataError, match="no rows"):
        routed(tables(shared=[1.0, 1.0]), rows(np.zeros((0, 2))))


def test_an_expert_that_answers_nan_or_differs_is_named():
    with pytest.raises(ModelError, match='"broken"'):
        routed(tables(shared=[1.0, 1.0], broken=[float("nan"), 0.0]), rows(features()))
    with pytest.raises(ModelError, match="differ in architecture"):
        routed(Panel({"a": linear([1.0]), "b": linear([1.0, 2.0])}, BINARY), rows(features()))


def test_masks_and_classes_have_their_own_criteria():
    with pytest.raises(ConfigError, match="of masks"):
        routed(tables(shared=[1.0, 1.0]), rows(features()), Recipe(criterion="expected_dice"))


def separable(seed, hospitals=4, columns=8, count=120):
    """Hospitals that measure the same in turned coordinates; the unseen one's are those of the first."""
    rng = np.random.default_rng(seed)
    turns = [np.linalg.qr(rng.normal(size=(columns, columns)))[0] for _ in range(hospitals)]
    for turn in (*turns, turns[0]):
        labels = rng.integers(0, 2, count)
        plain = rng.normal(size=(count, columns))
        plain[:, 0] += 2.0 * (2 * labels - 1)
        yield (plain @ turn).astype(np.float32), labels


def fitted(features, labels):
    found = fit_logistic(
        np.c_[features, np.ones(len(features))], np.zeros(len(labels)), labels, np.ones((1, len(labels)))
    )
    return linear(found[0, :-1].tolist(), float(found[0, -1]))


@pytest.mark.parametrize("seed", range(5))
def test_a_constructed_shift_finds_the_right_expert(seed):
    *sites, (unseen, truth) = separable(seed)
    noisy = [
        (features, np.where(np.random.default_rng(seed).random(len(labels)) < 0.05, 1 - labels, labels))
        for features, labels in sites
    ]
    models = {"shared": fitted(np.concatenate([x for x, _ in noisy]), np.concatenate([y for _, y in noisy]))}
    models |= {str(k): fitted(*site) for k, site in enumerate(noisy)}
    found = routed(Panel(models, BINARY), rows(unseen))
    assert found.gates[0, 1] > 0.8
    assert np.mean((found.logits.numpy() > 0) == truth) > np.mean((found.shared.numpy() > 0) == truth)


def test_a_sure_expert_that_says_yes_to_everybody_is_not_believed():
    panel = Panel({"shared": linear([1.0, 0.2]), "yes": linear([0.3, 2.0], bias=30.0)}, BINARY)
    assert routed(panel, rows(features()), FREE).gates[0, 0] > 0.99
    assert routed(panel, rows(features()), Recipe(criterion="entropy", guard=False)).gates[0, 1] > 0.9
