"""What a mixture of experts answers, beside what the shared model does."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from securepfl.outside.calibration import public_rows, scale_to, sharpness
from securepfl.outside.candidates import looked
from securepfl.outside.recipe import OF_A_SITE, Recipe
from securepfl.outside.site import Site


@dataclass(frozen=True, eq=False)
class Mixed:
    """Logits [n, ...] of the mixture and of the shared model, the mean over views; `gains` [n] in score of the one over
    the other, None where the criterion is a site's; gates and scores [n, C] behind them. `scale` brings the mixture's
    logits to the shared model's sharpness.
    """

    logits: Tensor
    shared: Tensor
    gains: Tensor | None
    gates: Tensor
    scores: Tensor
    zoom_scores: Tensor
    scale: float = 1.0
    layers: Mapping[str, list[float]] = field(default_factory=dict)


def compared(
    site: Site,
    recipe: Recipe,
    answer: Tensor,
    shared: Tensor,
    index: Tensor,
    judged: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Looks [L, m, ...] of rows `index`, as a part of Mixed's logits, shared and gains. `judged`: other looks of the
    mixture and of the shared model, all views, by which their scores are compared.
    """
    views = len(recipe.views)
    gains = None
    if recipe.criterion not in OF_A_SITE:
        pair, scored = ((answer, shared), views) if judged is None else (judged, len(judged[0]))
        one, other = (site.score(recipe.criterion, looks, scored, index) for looks in pair)
        gains = one - other
    return answer[:views].mean(dim=0), shared[:views].mean(dim=0), gains


def joined(parts: Sequence[tuple[Tensor, Tensor, Tensor | None]]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Mixed's logits, shared and gains, of the parts that `compared` gave."""
    logits, shared, gains = zip(*parts, strict=True)
    return torch.cat(logits), torch.cat(shared), None if gains[0] is None else torch.cat(gains)


def references(site: Site, recipe: Recipe, models: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Answers [512, ...] to rows of nobody, where the criterion needs them; else none."""
    public = public_rows(site.rows) if recipe.criterion in OF_A_SITE else None
    if public is None:
        return {}
    return {name: looked(name, model, public, ("same",))[0] for name, model in models.items()}


def scales_of(site: Site, known: Mapping[str, Tensor], to: str) -> Mapping[str, float]:
    """What brings each one's logits to the sharpness of `to`; 1 where nothing is known."""
    sharp = {name: sharpness(answers, site.task) for name, answers in known.items()}
    return defaultdict(lambda: 1.0, {name: scale_to(each, sharp[to]) for name, each in sharp.items()})
