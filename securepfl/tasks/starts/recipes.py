"""The two public starts: which images each is trained on, for how long, and what its card says."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from securepfl.errors import ConfigError
from securepfl.tasks.models import public_stream
from securepfl.tasks.networks import UNet
from securepfl.tasks.starts import lungs, vessels
from securepfl.tasks.starts.drawn import Drawn
from securepfl.tasks.starts.pretraining import Lesson, Pool, Scale, pretrain, scaled, standardise
from securepfl.tasks.starts.start import Start, taken

Intensity = Mapping[str, Any]
"""`intensity` and what belongs to it, as `[data]` declares them."""
Scaling = Callable[[Intensity], Scale]
"""Gives the function that scales patients' images as declared, so that synthetic ones are scaled by the same."""
Told = Callable[[int, int], None]
"""Hears how many steps of how many are done."""


@dataclass(frozen=True)
class Recipe:
    """How one start is made: `draw(count, seed, side)`, pools of (count, side) images, intensities, lesson, card."""

    name: str
    draw: Callable[[int, int, int], Drawn]
    pools: tuple[tuple[int, int], ...]
    intensities: tuple[Intensity, ...]
    lesson: Lesson
    shown: str

    @property
    def card(self) -> str:
        """What the start is, in plain English."""
        return (
            f"Public start {self.name}. No patient is in it. It was trained only on {self.shown} They were drawn by "
            "securepfl from anatomy and optics: published ranges where a source is named, our judgement elsewhere. No "
            "image of a patient was used to draw them, to choose a number of the generator, or to train. It is a place "
            "for training to begin, not a medical device: by itself it is wrong often, and nobody has "
            "tested it on patients for clinical use."
        )


VESSELS: Final = Recipe(
    name="fundus-vessels",
    draw=vessels.draw,
    pools=((112, vessels.SIDE),),
    intensities=tuple(MappingProxyType({"intensity": "local", "window": window}) for window in (25, 37, 49)),
    lesson=Lesson(),
    shown="synthetic photographs of the retina, whose vessels grow and fork by Murray's law with measured widths.",
)
LUNGS: Final = Recipe(
    name="chest-lungs",
    draw=lungs.draw,
    pools=((192, lungs.SIDE), (96, 192)),
    intensities=(MappingProxyType({"intensity": "image"}),),
    lesson=Lesson(upright=0.5),
    shown="synthetic chest X-rays, made of shapes with published proportions and of what each absorbs.",
)
RECIPES: Final = MappingProxyType({recipe.name: recipe for recipe in (VESSELS, LUNGS)})


def recipe_named(name: str) -> Recipe:
    """The recipe of this name. Raises ConfigError where there is none.

    >>> recipe_named("chest-lungs").lesson.steps
    1000
    """
    if name not in RECIPES:
        raise ConfigError(f'there is no public start "{name}"; use {" or ".join(RECIPES)}')
    return RECIPES[name]


def make(
    recipe: Recipe, scaling: Scaling, *, seed: int = 0, hidden: int = 8, told: Told = lambda _done, _of: None
) -> Start:
    """Draw the images, train a U-Net of width `hidden` on them, and give it as a start.

    One thread and one machine: the same seed gives the same digest. Raises ConfigError without MONAI.
    """
    model = UNet(1, hidden, public_stream("unet", 1, hidden, seed))
    pools = _pools(recipe, scaling, seed)
    pretrain(model, pools, recipe.lesson, seed, lambda done: told(done, recipe.lesson.steps))
    made = {"seed": seed, "steps": recipe.lesson.steps, "batch": recipe.lesson.batch, "patch": recipe.lesson.size}
    return as_start(recipe, model, recipe.card, made)


def as_start(recipe: Recipe, model: UNet, card: str, made: Mapping[str, Any]) -> Start:
    """A U-Net's body and its features' scale, as a start for such images."""
    hidden = model.widths[1]
    network = {"kind": "unet", "channels": model.channels, "hidden": hidden}
    images = {"intensities": [dict(intensity) for intensity in recipe.intensities]}
    return Start(name=recipe.name, weights=taken(model), network=network, images=images, made=dict(made), card=card)


def standardised(recipe: Recipe, scaling: Scaling, model: UNet, seed: int) -> None:
    """Set the features' scale of a body that was trained elsewhere, by the recipe's images; grey in each channel."""
    images, labels = _pools(recipe, scaling, seed)[0]
    standardise(model, images.expand(-1, model.channels, -1, -1), labels[:, 1])


def _pools(recipe: Recipe, scaling: Scaling, seed: int) -> list[Pool]:
    scales = tuple(scaling(intensity) for intensity in recipe.intensities)
    return [scaled(recipe.draw(count, seed, side), scales) for count, side in recipe.pools]
