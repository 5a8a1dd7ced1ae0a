"""How experts are chosen and mixed for a hospital that never took part: one frozen object, one default a task.

Nothing in it is fitted to a hospital: what was decided, was decided once and for all data.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from math import isfinite
from typing import Any, Final, Literal, get_args

from securepfl.errors import ConfigError
from securepfl.outside.gates import AdaptSettings
from securepfl.outside.views import require_views
from securepfl.outside.zooms import require_zooms

Criterion = Literal["agreement", "stability", "expected_dice", "consistency", "margin", "entropy"]
Granularity = Literal["site", "sample", "both", "layer"]
Mixing = Literal["logits", "parameters"]
OF_A_SITE = ("margin",)
"""Criteria that say nothing of a sample alone."""
STABILITY: Final = "stability"
"""Agreement over all views and zooms together, which comes before zooms are chosen."""
_OF_MASKS = ("expected_dice", STABILITY)
RULES: Final = 1
"""Of how a recipe is applied. Whoever changes what the same recipe answers raises it, and all digests with it."""


@dataclass(frozen=True)
class Recipe:
    """Everything that routing does with a hospital's rows, but the rows.

    `views` (outside/views.py) and `zooms` are what experts are shown. `criterion` scores experts without labels
    (outside/criteria.py); gates are softmax(score / `temperature`), one set for the site, for each sample, or of the
    mean of both. Zooms are gated for the site, by `zoom_criterion` of the shared model and `zoom_temperature`, and
    count where no zoom isn't scored higher; under
    the criterion "stability", which looks at all zooms, by that of the experts' mixture. `mixing` of logits, or of
    parameters. `prior_weight` is how much of the way the threshold moves to a declared prior. `guard`: the shared model
    answers where the criterion doesn't improve over it.
    Granularity "layer" is the paper's (arXiv 2204.08467): gates in each layer trained as `layers` says, by entropy,
    consistency and shape; criterion and temperature then serve the guard alone.
    Raises ConfigError for a value out of range, and for combinations that mean nothing.

    >>> Recipe(views=("same",), criterion="agreement")
    Traceback (most recent call last):
    securepfl.errors.ConfigError: recipe: agreement is between views: name two or more, or another criterion
    """

    views: tuple[str, ...] = ("same",)
    zooms: tuple[float, ...] = (1.0,)
    criterion: Criterion = "margin"
    temperature: float = 0.01
    zoom_criterion: Criterion = "expected_dice"
    zoom_temperature: float = 0.01
    granularity: Granularity = "site"
    mixing: Mixing = "logits"
    prior_weight: float = 0.5
    guard: bool = True
    layers: AdaptSettings = field(default_factory=AdaptSettings)

    def __post_init__(self) -> None:
        require_views(self.views)
        require_zooms(self.zooms)
        known = {"criterion": Criterion, "zoom_criterion": Criterion, "granularity": Granularity, "mixing": Mixing}
        for name, names in known.items():
            if getattr(self, name) not in get_args(names):
                raise ConfigError(f"recipe: {name} {getattr(self, name)!r} is none of {', '.join(get_args(names))}")
        for name in ("temperature", "zoom_temperature"):
            if not isfinite(getattr(self, name)) or getattr(self, name) <= 0.0:
                raise ConfigError(f"recipe: {name} = {getattr(self, name)}: must be above 0")
        if not isinstance(self.guard, bool):
            raise ConfigError(f"recipe: guard {self.guard!r}: true or false")
        if not 0.0 <= self.prior_weight <= 1.0:
            raise ConfigError(f"recipe: prior_weight = {self.prior_weight}: must be between 0 and 1")
        self._check_together()

    @property
    def whose_gates(self) -> str:
        """Whose gates they are, for people.

        >>> Recipe(granularity="both", views=("same", "mirrored"), criterion="consistency").whose_gates
        'site and sample'
        """
        return "site and sample" if self.granularity == "both" else self.granularity

    def _check_together(self) -> None:
        if len(self.views) < 2 and "agreement" in (self.criterion, *self._gated_by()):
            raise ConfigError("recipe: agreement is between views: name two or more, or another criterion")
        if self.criterion == STABILITY and len(self.views) * len(self.zooms) < 2:
            raise ConfigError("recipe: stability is between views and zooms: name two or more of either")
        if self.zoom_criterion == STABILITY:
            raise ConfigError("recipe: stability is over all zooms: let another zoom_criterion choose among them")
        if self.granularity in ("sample", "both") and self.criterion in OF_A_SITE:
            raise ConfigError(f"recipe: {self.criterion} is a site's: set granularity to site, or another criterion")
        if self.granularity == "layer" and (len(self.zooms) > 1 or self.mixing == "parameters"):
            raise ConfigError("recipe: gates by layer have neither zooms nor mixed parameters: leave those out")

    def _gated_by(self) -> tuple[str, ...]:
        return (self.zoom_criterion,) if len(self.zooms) > 1 else ()

    def fit_for(self, masks: bool) -> None:
        """Raises ConfigError where a criterion is of masks and the task has none.

        >>> Recipe(criterion="expected_dice").fit_for(masks=False)
        Traceback (most recent call last):
        securepfl.errors.ConfigError: recipe: expected_dice is of masks: choose margin, consistency or entropy for ...
        """
        for name in (self.criterion, *self._gated_by()):
            if name in _OF_MASKS and not masks:
                raise ConfigError(f"recipe: {name} is of masks: choose margin, consistency or entropy for this task")

    def to_mapping(self) -> dict[str, Any]:
        """As JSON holds it.

        >>> Recipe.from_mapping(Recipe(temperature=0.5).to_mapping()).temperature
        0.5
        """
        return asdict(self) | {"views": list(self.views), "zooms": list(self.zooms)}

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], where: str = "recipe") -> "Recipe":
        """The inverse; what is left out is as in Recipe(). Raises ConfigError for what is no recipe.

        >>> Recipe.from_mapping(Recipe().to_mapping()) == Recipe()
        True
        """
        if unknown := sorted(set(mapping) - {each.name for each in fields(cls)}):
            raise ConfigError(f"{where}: {unknown[0]!r} is no part of a recipe; take it out")
        given = dict(mapping)
        try:
            if "views" in given:
                given["views"] = tuple(given["views"])
            if "zooms" in given:
                given["zooms"] = tuple(float(zoom) for zoom in given["zooms"])
            if "layers" in given:
                given["layers"] = AdaptSettings(**given["layers"])
            return cls(**given)
        except (TypeError, ValueError):
            raise ConfigError(f"{where}: not a recipe; write one with Recipe.to_mapping") from None

    @property
    def digest(self) -> str:
        """SHA-256 of the recipe's canonical JSON and of RULES: two hospitals that name the same were routed alike."""
        text = json.dumps({"rules": RULES} | self.to_mapping(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


SEGMENTATION = Recipe(
    views=("same", "mirrored"),
    zooms=(1.0, 0.75, 1.33),
    criterion="agreement",
    layers=AdaptSettings(batch=2, noise=0.5, shape=1.0, view="mirrored"),
)
CLASSES_OF_IMAGES = Recipe(views=("same", "mirrored"))
CLASSES = Recipe()


def default_recipe(task: str, images: bool) -> Recipe:
    """The recipe of the task of that name, on images or on tables.

    >>> default_recipe("segmentation", images=True).criterion
    'agreement'
    """
    if task == "segmentation":
        return SEGMENTATION
    return CLASSES_OF_IMAGES if images else CLASSES
