"""A hospital's rows through released experts, chosen and mixed as a recipe says, without a label."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from securepfl.data.table import Table
from securepfl.outside import guard
from securepfl.outside.candidates import Candidate, Pool, candidates_of, looked, shared_model
from securepfl.outside.gated import mixed_by_gates
from securepfl.outside.layered import mixed_by_layer
from securepfl.outside.mixed import Mixed
from securepfl.outside.prior import Prior, checked_prior
from securepfl.outside.recipe import Recipe, default_recipe
from securepfl.outside.site import Site, certainty
from securepfl.outside.threshold import LEAST_ROWS, shift_to


@dataclass(frozen=True, eq=False)
class Routed:
    """What routing says of n rows, and how it came to it.

    `logits` [n, ...] as an expert's, the threshold moved: task.predict makes predictions of them; `shared` the same of
    the shared model under the same views and prior. `gates` [n, C] are those that served; `scores` [n, C] what the
    recipe's criterion gave a candidate's expert at the site's zooms, and `zoom_scores` [n, zooms] what its own gave
    each zoom, no zoom first; NaN where none was asked for. `certainty` [n] in [0, 1] is the expected Dice or the
    probability of what was decided, NaN where the task decides nothing. `guarded` [n]: rows that the shared model
    answered; `fell_back` where that is all of them, and `why` in a line. `shift` is what was taken from the logits;
    `layers` mean gates by layer where each has its own.
    """

    candidates: tuple[Candidate, ...]
    logits: Tensor
    shared: Tensor
    gates: NDArray[np.float64]
    scores: NDArray[np.float64]
    zoom_scores: NDArray[np.float64]
    certainty: NDArray[np.float64]
    guarded: NDArray[np.bool_]
    fell_back: bool
    why: str
    shift: tuple[float, ...]
    recipe: Recipe
    layers: Mapping[str, list[float]] = field(default_factory=dict)


def routed(pool: Pool, table: Table, recipe: Recipe | None = None, prior: Prior | None = None) -> Routed:
    """`table`'s rows through the experts of `pool`, by `recipe` (None: the task's default).

    `prior`: the structure's share of the field, label 1's share, or a tuple of one for each label or class. Labels are
    never read, but for the field of view that a segmentation's hold.
    Raises ConfigError for no expert, a prior outside (0, 1), a recipe that this task or these shapes can't take;
    DataError for no rows; ModelError for experts that differ in architecture, fail or answer NaN.

    >>> from securepfl.outside.candidates import Panel
    >>> from securepfl.tasks.binary import BINARY
    >>> from securepfl.tasks.models import build_model
    >>> panel = Panel({"shared": build_model("logistic", features=2)}, BINARY)
    >>> rows = np.zeros((3, 2), dtype=np.float32)
    >>> table = Table(site="new", features=rows, labels=None, patients=None, rows=np.arange(3))
    >>> routed(panel, table).why
    'one expert: there is nothing to choose between'
    """
    site = Site.of(pool, table)
    recipe = recipe or default_recipe(pool.task.name, table.features.ndim == 4)
    recipe.fit_for(site.fields is not None)
    shares = checked_prior(prior, pool.task)
    if not _chooses(site, pool):
        return _unscored(pool, site, recipe)
    mixed = mixed_by_layer(pool, site, recipe) if recipe.granularity == "layer" else mixed_by_gates(pool, site, recipe)
    verdict = _verdict(pool, site, recipe, mixed)
    shared = mixed.shared
    keep = ~verdict.guarded.to(shared.device).reshape(-1, *[1] * (shared.ndim - 1))
    logits = torch.where(keep, mixed.logits, shared)
    shift, shared_shift = (
        shift_to(each, site.fields, pool.task, shares, recipe.prior_weight) for each in (logits, shared)
    )
    moved = (logits - shift).cpu()
    why = verdict.why
    if shares and site.fields is None and len(table) < LEAST_ROWS:
        why += f"; fewer than {LEAST_ROWS} rows show no share, so the prior moved nothing"
    return Routed(
        candidates=candidates_of(pool, recipe),
        logits=moved,
        shared=(shared - shared_shift).cpu(),
        gates=_served(pool, recipe, mixed.gates, verdict.guarded).numpy(),
        scores=mixed.scores.repeat(1, len(recipe.zooms)).cpu().numpy(),
        zoom_scores=mixed.zoom_scores.cpu().numpy(),
        certainty=certainty(site, moved),
        guarded=verdict.guarded.cpu().numpy(),
        fell_back=verdict.fell_back and bool(verdict.guarded.any()),
        why=why,
        shift=tuple(shift.reshape(-1).tolist()),
        recipe=recipe,
        layers=mixed.layers,
    )


def _chooses(site: Site, pool: Pool) -> bool:
    return site.fields is not None or pool.task.choices(torch.zeros(1, pool.task.outputs)) is not None


def _unscored(pool: Pool, site: Site, recipe: Recipe) -> Routed:
    """A regression: nothing can be scored, so the shared model answers."""
    name, model = shared_model(pool)
    candidates, n = candidates_of(pool, recipe), len(site.rows)
    answers = looked(name, model, site.rows, recipe.views).mean(dim=0).cpu()
    guarded = torch.ones(n, dtype=torch.bool)
    empty = torch.zeros(n, len(candidates), dtype=torch.float64)
    return Routed(
        candidates=candidates,
        logits=answers,
        shared=answers,
        gates=_served(pool, recipe, empty, guarded).numpy(),
        scores=np.full((n, len(candidates)), np.nan),
        zoom_scores=np.full((n, len(recipe.zooms)), np.nan),
        certainty=np.full(n, np.nan),
        guarded=guarded.numpy(),
        fell_back=True,
        why=f"predictions of a {pool.task.name} choose nothing, so that no expert can be scored",
        shift=(0.0,),
        recipe=recipe,
    )


def _verdict(pool: Pool, site: Site, recipe: Recipe, mixed: Mixed) -> guard.Verdict:
    n, gains = len(site.rows), mixed.gains
    nobody = torch.zeros(n, dtype=torch.bool)
    if len(candidates_of(pool, recipe)) == 1:
        return guard.Verdict(nobody, "one expert: there is nothing to choose between")
    if not recipe.guard:
        return guard.Verdict(nobody, "no guard: the recipe leaves it out")
    if gains is not None and recipe.granularity == "sample":
        return guard.by_sample(recipe.criterion, gains.cpu())

    def gain_of(index: Tensor) -> float:
        rows = index.to(site.rows.device)
        if gains is not None:
            return float(gains[rows].mean())
        pair = (mixed.logits * mixed.scale, mixed.shared)
        one, other = (site.score(recipe.criterion, each[None, rows], 1) for each in pair)
        return float((one - other).mean())

    return guard.by_site(recipe.criterion, gain_of, n)


def _served(pool: Pool, recipe: Recipe, gates: Tensor, guarded: Tensor) -> Tensor:
    """`gates` [n, C], and in guarded rows the shared model's, without a zoom."""
    name, _ = shared_model(pool)
    alone = gates.new_zeros(len(candidates_of(pool, recipe)), device="cpu")
    for place, each in enumerate(pool.models):
        alone[place] = float(name == each) if name in pool.models else 1.0 / len(pool.models)
    return torch.where(guarded.cpu()[:, None], alone, gates.cpu())
