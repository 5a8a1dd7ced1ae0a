"""Experts mixed in each layer, by gates that are trained on a hospital's rows (Jiang et al., arXiv 2204.08467)."""

from typing import Final

import torch

from securepfl.outside.candidates import Looks, Pool, shared_model
from securepfl.outside.gates import adapt
from securepfl.outside.mixed import Mixed, compared, joined, references, scales_of
from securepfl.outside.recipe import Recipe
from securepfl.outside.routing import RoutedModel, gate_summary
from securepfl.outside.site import Site

_ROUTED: Final = "routed"


def mixed_by_layer(pool: Pool, site: Site, recipe: Recipe) -> Mixed:
    """The paper's: gates in each layer, trained on the rows."""
    shared, model = shared_model(pool)
    mixed = RoutedModel(list(pool.models.values()))
    adapt(mixed, site.rows, recipe.layers, pool.task)
    layers = gate_summary(mixed, site.rows)
    mean = torch.tensor(list(layers.values()), dtype=torch.float64).mean(dim=0)
    models = {_ROUTED: mixed, shared: model}
    looks = Looks(models, site.rows, recipe)
    parts = [
        compared(site, recipe, looks.of(_ROUTED, number), looks.of(shared, number), index)
        for number, index in enumerate(looks.parts)
    ]
    blank = torch.full((len(site.rows), len(mean)), float("nan"), dtype=torch.float64)
    scale = scales_of(site, references(site, recipe, models), shared)[_ROUTED]
    return Mixed(*joined(parts), mean.expand(len(site.rows), -1), blank, blank[:, :1], scale, layers)
