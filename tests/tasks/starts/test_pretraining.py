"""A start is made, filled into a network, and made again; a tiny recipe stands for the real ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from securepfl.errors import ConfigError
from securepfl.tasks.networks import build_network
from securepfl.tasks.segmentation import Segmentation
from securepfl.tasks.starts import fill
from securepfl.tasks.starts.pretraining import Lesson, pretrain, scaled
from securepfl.tasks.starts.recipes import LUNGS, RECIPES, VESSELS, make, recipe_named


def scaling(intensity):
    def scale(values, field):
        inside = values[:, :, 0][field > 0]
        return ((values[:, :, 0] - inside.mean()) / inside.std() * field)[None].astype(np.float32)

    return scale


TINY = [
    replace(
        recipe, pools=tuple((4, 48) for _ in recipe.pools), lesson=replace(recipe.lesson, steps=3, size=32, batch=2)
    )
    for recipe in (VESSELS, LUNGS)
]


@pytest.mark.parametrize("recipe", TINY, ids=lambda recipe: recipe.name)
def test_made_twice_is_equal_and_another_seed_is_not(recipe):
    one, again, other = (make(recipe, scaling, seed=seed, hidden=2) for seed in (0, 0, 1))
    assert one.digest == again.digest != other.digest
    assert "No patient is in it" in one.card and one.network == {"kind": "unet", "channels": 1, "hidden": 2}


def test_a_filled_network_answers_as_the_trained_one(tmp_path):
    start = make(TINY[0], scaling, hidden=2)
    path = tmp_path / "s.safetensors"
    path.write_bytes(start.to_bytes())
    one, other = (build_network("unet", 1, 2, seed) for seed in (0, 7))
    for model in (one, other):
        fill(model, path)
    x = torch.randn(2, 1, 40, 36)
    assert torch.equal(one(x), other(x))
    assert not any(parameter.any() for parameter in one.head.parameters())


def test_features_are_standardised_and_independent_over_the_fields():
    start = make(TINY[1], scaling, hidden=2)
    model = build_network("unet", 1, 2)
    model.load_state_dict({**model.state_dict(), **{k: torch.from_numpy(v) for k, v in start.weights.items()}})
    x, y = scaled(TINY[1].draw(4, 0, 48), tuple(scaling(i) for i in TINY[1].intensities))
    with torch.no_grad():
        features = model.features(x).transpose(0, 1)[:, y[:, 1] > 0]
    varies = model.spread != 1
    assert varies.sum() > 3
    assert features.mean(dim=1).abs().max() < 0.1
    # A tenth of a variance is added before whitening, so the weak directions stay below 1.
    added = 0.1 * model.mixing @ model.mixing.T
    white = (torch.cov(features) + added)[varies][:, varies]
    assert torch.dist(white, 1.1 * torch.eye(len(white)), p=float("inf")) < 0.1
    assert (added.diag()[varies] < 0.9).sum() > 3


@pytest.mark.parametrize("recipe", TINY, ids=lambda recipe: recipe.name)
def test_a_few_steps_learn_the_images_they_see(recipe):
    pools = [scaled(recipe.draw(4, 0, 64), (scaling(None),))]
    model = build_network("unet", 1, 4)
    x, y = pools[0]
    task = Segmentation()
    before = task.loss(model(x), y).mean().item()
    heard = []
    pretrain(model, pools, replace(recipe.lesson, steps=40, batch=2, size=64, rate=2e-2), 0, heard.append)
    with torch.no_grad():
        assert task.loss(model(x), y).mean().item() < 0.9 * before
    assert heard == list(range(1, 41))


def test_global_randomness_plays_no_part():
    state = torch.random.get_rng_state()
    make(TINY[0], scaling, hidden=2)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("bad", [{"steps": 0}, {"batch": 0}, {"size": 0}, {"rate": 0.0}, {"upright": 1.5}])
def test_a_lesson_of_no_sense_is_refused(bad):
    with pytest.raises(ValueError, match="a lesson needs"):
        Lesson(**bad)


def test_an_unknown_start_is_named():
    with pytest.raises(ConfigError, match='no public start "brains"; use fundus-vessels or chest-lungs'):
        recipe_named("brains")
    assert set(RECIPES) == {"fundus-vessels", "chest-lungs"}
