"""What the outside study compares: baselines with equal views and threshold, and the default recipe taken apart."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from securepfl.outside.recipe import SEGMENTATION, Recipe
from securepfl.outside.views import VIEWS

Which = Literal["shared", "trajectory", "finetuned", "both"]
Compared = Literal["short", "choices", "all"]
"""How much of it: without many views, zooms and other models; with those; and with gates trained on the images."""
EVEN: Final = 1e9
"""A temperature at which all gates are alike."""
HARD: Final = 1e-9
"""One at which the best has all."""
FOUR: Final = ("same", "mirrored", "half-turned", "upside-down")


@dataclass(frozen=True)
class Contestant:
    """A way to answer for the unseen hospital: which experts beside the shared model, and by which recipe."""

    experts: Which
    recipe: Recipe


def training(default: Recipe = SEGMENTATION) -> Recipe:
    """For baselines that train on the images: many small steps, in place of few large ones as long."""
    return replace(default, layers=replace(default.layers, passes=3, batch=4))


def contestants(compared: Compared = "short", default: Recipe = SEGMENTATION) -> dict[str, Contestant]:
    """The ways by name that are a recipe; "routed" is the default one over fine-tuned experts."""
    ways = {"routed": Contestant("finetuned", default), **reference(default), **ablation(default)}
    if compared == "short":
        return ways
    return ways | many(default) | (losses(default) if compared == "all" else {})


def reference(default: Recipe) -> dict[str, Contestant]:
    """Baselines beside those of outside/baselines.py: "bare" has neither views nor threshold, as a hospital would use a
    model that it was given; "zooms" are those that count, mixed evenly.
    """
    even = replace(default, temperature=EVEN, zoom_temperature=EVEN, guard=False)
    bare = Recipe(views=("same",), criterion="expected_dice", prior_weight=0.0, guard=False)
    lowest = replace(even, zooms=(1.0,), criterion="entropy", temperature=HARD, granularity="site")
    return {
        "global, bare": Contestant("shared", bare),
        "logit ensemble, zooms": Contestant("finetuned", even),
        "lowest entropy, site": Contestant("finetuned", lowest),
    }


def ablation(default: Recipe) -> dict[str, Contestant]:
    """The default with one thing changed."""
    changed: Mapping[str, Recipe] = {
        "criterion: stability": replace(default, criterion="stability"),
        "criterion: expected Dice": replace(default, criterion="expected_dice"),
        "criterion: consistency": replace(default, criterion="consistency"),
        "criterion: entropy": replace(default, criterion="entropy"),
        "gates: site and image": replace(default, granularity="both"),
        "gates: image": replace(default, granularity="sample"),
        "temperature: 0.003": replace(default, temperature=0.003),
        "temperature: 0.03": replace(default, temperature=0.03),
        "temperature: 0.1": replace(default, temperature=0.1),
        "views: 1, expected Dice": replace(default, views=("same",), criterion="expected_dice"),
        "zooms: none": replace(default, zooms=(1.0,)),
        "threshold: 0": replace(default, prior_weight=0.0),
        "threshold: whole": replace(default, prior_weight=1.0),
        "guard: none": replace(default, guard=False),
    }
    experts: Mapping[str, Contestant] = {
        "experts: fine-tuned": Contestant("finetuned", default),
        "experts: none": Contestant("shared", default),
    }
    return {**experts, **{name: Contestant("finetuned", recipe) for name, recipe in changed.items()}}


def many(default: Recipe) -> dict[str, Contestant]:
    """More looks, or other models, than the rest needs."""
    return {
        "experts: trajectory": Contestant("trajectory", default),
        "experts: both": Contestant("both", default),
        "mixing: parameters": Contestant("finetuned", replace(default, mixing="parameters")),
        "views: 4": Contestant("finetuned", replace(default, views=FOUR)),
        "views: 8": Contestant("finetuned", replace(default, views=VIEWS)),
        "zooms: 5": Contestant("finetuned", replace(default, zooms=(1.0, 0.6, 0.75, 1.33, 1.7))),
    }


def losses(default: Recipe) -> dict[str, Contestant]:
    """The paper's gates, in each layer, trained by its losses (arXiv 2204.08467) for two passes."""
    plain = replace(default, granularity="layer", zooms=(1.0,), mixing="logits", guard=False)
    terms = {
        "entropy": {"entropy": 10.0, "consistency": 0.0, "shape": 0.0},
        "consistency": {"entropy": 0.0, "consistency": 0.1, "shape": 0.0},
        "all three": {"entropy": 10.0, "consistency": 0.1, "shape": 1.0},
    }
    return {
        f"loss: {name}, gates by layer": Contestant(
            "finetuned", replace(plain, layers=replace(default.layers, passes=2, batch=4, **weights))
        )
        for name, weights in terms.items()
    }
