"""Experts gated by what their answers are worth without labels: for a whole site, or for each sample."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

import torch
from torch import Tensor

from securepfl.outside.calibration import scale_to, sharpness
from securepfl.outside.candidates import Looks, Pool, shared_model
from securepfl.outside.gating import gates_of
from securepfl.outside.mixed import Mixed, compared, joined, references, scales_of
from securepfl.outside.mixing import averaged, mixed_logits
from securepfl.outside.recipe import STABILITY, Recipe
from securepfl.outside.site import Site

_LEAST_ZOOM: Final = 0.05
"""A zoom of less weight, in parts of the largest, is not looked at: it would cost as much as one that counts."""


def mixed_by_gates(pool: Pool, site: Site, recipe: Recipe) -> Mixed:
    """The site's zooms first, by the shared model; then experts at those zooms, gated for the site or each sample.

    By stability, which is over all zooms: experts first, then the zooms of their mixture.
    """
    shared, model = shared_model(pool)
    names = list(pool.models)
    looks = Looks({**pool.models, shared: model}, site.rows, recipe)
    known = references(site, recipe, {**pool.models, shared: model})
    scales = scales_of(site, known, shared)
    if recipe.criterion == STABILITY:
        scores = _stabilities(site, recipe, looks, names)
        gates = gates_of(scores, recipe.temperature, _scope(recipe))
        weights, zoom_scores = _zooms(site, recipe, looks, lambda part, zoom: _mixture(looks, names, gates, part, zoom))
    else:
        weights, zoom_scores = _zooms(site, recipe, looks, lambda part, zoom: looks.of(shared, part, zoom))
        scores = _scores(site, recipe, looks, _counting(weights), {name: scales[name] for name in names})
        gates = gates_of(scores, recipe.temperature, _scope(recipe))
    zooms, parts = _counting(weights), []
    for number, index in enumerate(looks.parts):
        if recipe.mixing == "parameters":
            answer = _of_parameters(pool, looks, site.rows[index.to(site.rows.device)], gates[index], zooms)
        else:
            answers = torch.stack([looks.at(name, number, zooms) for name in names])
            answer = mixed_logits(gates[index], answers)
        judged = None
        if recipe.criterion == STABILITY:
            mixture = [_mixture(looks, names, gates, number, zoom) for zoom in recipe.zooms]
            judged = torch.cat(mixture), _at_all_zooms(recipe, looks, shared, number)
        parts.append(compared(site, recipe, answer, looks.of(shared, number), index, judged))
    each = torch.tensor(list(weights.values()), dtype=torch.float64, device=gates.device)
    by_candidate = torch.einsum("z,ne->nze", each, gates).flatten(1)
    return Mixed(*joined(parts), by_candidate.cpu(), scores, zoom_scores, _scale_of(site, gates, known, names, shared))


def _scope(recipe: Recipe) -> Literal["site", "sample", "both"]:
    return "site" if recipe.granularity == "layer" else recipe.granularity


def _counting(weights: Mapping[float, float]) -> dict[float, float]:
    return {zoom: weight for zoom, weight in weights.items() if weight}


def _mixture(looks: Looks, names: Sequence[str], gates: Tensor, part: int, zoom: float) -> Tensor:
    """Looks [L, m, ...] of the experts' mixture at a zoom."""
    return mixed_logits(gates[looks.parts[part]], torch.stack([looks.of(name, part, zoom) for name in names]))


def _at_all_zooms(recipe: Recipe, looks: Looks, name: str, part: int) -> Tensor:
    return torch.cat([looks.of(name, part, zoom) for zoom in recipe.zooms])


def _stabilities(site: Site, recipe: Recipe, looks: Looks, names: Sequence[str]) -> Tensor:
    """Scores [n, experts] over all views and zooms: who is wrong agrees with its mirror image, seldom with itself at
    another size.
    """
    count = looks.views * len(recipe.zooms)
    found = [
        torch.stack(
            [site.score(STABILITY, _at_all_zooms(recipe, looks, name, number), count, index) for name in names], 1
        )
        for number, index in enumerate(looks.parts)
    ]
    return torch.cat(found)


def _zooms(
    site: Site, recipe: Recipe, looks: Looks, answer: Callable[[int, float], Tensor]
) -> tuple[dict[float, float], Tensor]:
    """The site's weight of each zoom, no zoom first, and scores [n, zooms], of what `answer` says of (part, zoom). A
    weight is 0 where it is too small to be looked at, or the zoom is scored below no zoom.

    Zooms help where sizes differ from those of training, and cost where they don't; the score told one from the other.
    """
    zooms = [1.0, *(zoom for zoom in recipe.zooms if zoom != 1.0)]
    if len(zooms) == 1:
        return {1.0: 1.0}, torch.full((len(site.rows), 1), float("nan"), dtype=torch.float64)
    found = [
        torch.stack([site.score(recipe.zoom_criterion, answer(number, zoom), looks.views, index) for zoom in zooms], 1)
        for number, index in enumerate(looks.parts)
    ]
    scores = torch.cat(found)
    means = scores.mean(dim=0)
    weights = gates_of(scores, recipe.zoom_temperature, "site")[0]
    weights = torch.where((means < means[0]) | (weights < _LEAST_ZOOM * weights.max()), 0.0, weights)
    return dict(zip(zooms, (weights / weights.sum()).tolist(), strict=True)), scores


def _scale_of(site: Site, gates: Tensor, known: Mapping[str, Tensor], names: Sequence[str], shared: str) -> float:
    """What brings the logits of the mixture by a site's gates to the sharpness of `shared`."""
    if not known:
        return 1.0
    answers = torch.stack([known[name] for name in names])
    mixture = mixed_logits(gates[:1].expand(answers.shape[1], -1), answers[:, None])[0]
    return scale_to(sharpness(mixture, site.task), sharpness(known[shared], site.task))


def _scores(
    site: Site, recipe: Recipe, looks: Looks, zooms: Mapping[float, float], scales: Mapping[str, float]
) -> Tensor:
    """Scores [n, experts]. Masks are scored part by part; classes all at once, since some criteria are a site's."""
    numbers = range(len(looks.parts))
    if site.fields is None:
        whole = {name: torch.cat([looks.at(name, number, zooms) for number in numbers], dim=1) for name in scales}
        scaled = [each * scales[name] for name, each in whole.items()]
        return torch.stack([site.score(recipe.criterion, each, looks.views) for each in scaled], dim=1)
    found = [
        [
            site.score(recipe.criterion, looks.at(name, number, zooms), looks.views, looks.parts[number])
            for name in scales
        ]
        for number in numbers
    ]
    return torch.cat([torch.stack(each, dim=1) for each in found])


def _of_parameters(pool: Pool, looks: Looks, rows: Tensor, gates: Tensor, zooms: Mapping[float, float]) -> Tensor:
    """Looks of the model whose parameters are mixed by `gates` [n, E]; one model for all rows with equal gates."""
    models = list(pool.models.values())
    different, which = torch.unique(gates, dim=0, return_inverse=True)
    found: dict[int, Tensor] = {}
    for number, weights in enumerate(different):
        here = (which == number).nonzero().reshape(-1)
        model = averaged(models, weights.tolist())
        mine = rows[here.to(rows.device)]
        answers = torch.stack([weight * looks.by("mixed", model, mine, zoom) for zoom, weight in zooms.items()]).sum(0)
        found |= {int(place): answers[:, i] for i, place in enumerate(here)}
    return torch.stack([found[place] for place in range(len(rows))], dim=1)
