"""A hospital's rows through released experts, chosen and mixed as a recipe says, without a label."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from securepfl.data.table import Table
from securepfl.errors import DataError
from securepfl.outside import criteria, guard
from securepfl.outside.calibration import public_rows, scale_to, sharpness
from securepfl.outside.candidates import Candidate, Looks, Pool, candidates_of, looked, shared_model
from securepfl.outside.gates import adapt
from securepfl.outside.gating import gates_of
from securepfl.outside.mixing import averaged, mixed_logits
from securepfl.outside.prior import Prior, checked_prior
from securepfl.outside.recipe import OF_A_SITE, Recipe, default_recipe
from securepfl.outside.routing import RoutedModel, gate_summary
from securepfl.outside.threshold import LEAST_ROWS, shift_to
from securepfl.tasks.agreement import expected_dice
from securepfl.tasks.prediction import placed_like
from securepfl.tasks.task import Task

_LEAST_ZOOM: Final = 0.05
"""A zoom of less weight is not looked at: it would cost as much as one that counts."""
_ROUTED: Final = "routed"


@dataclass(frozen=True, eq=False)
class Site:
    """A hospital's rows [n, ...] on the experts' device; `fields` bool [n, H, W]: where its masks count, or None."""

    rows: Tensor
    fields: Tensor | None
    task: Task

    @staticmethod
    def of(pool: Pool, table: Table) -> "Site":
        """Raises DataError for no rows, ConfigError for no expert."""
        _, model = shared_model(pool)
        if not len(table):
            raise DataError(f"{table.site}: no rows to predict; name data with at least one")
        rows = placed_like(model, table.features)
        return Site(rows, _fields(table, rows) if pool.task.name == "segmentation" else None, pool.task)

    def score(self, criterion: str, looks: Tensor, views: int, index: Tensor | None = None) -> Tensor:
        """`criterion` of looks [L, m, ...] at the rows `index` [m] (None: all), [m]."""
        fields = self.fields if self.fields is None or index is None else self.fields[index.to(self.fields.device)]
        return criteria.score(criterion, looks, views, self.task, fields)


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


@dataclass(frozen=True, eq=False)
class _Mixed:
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
    mixed = _by_layer(pool, site, recipe) if recipe.granularity == "layer" else _by_gates(pool, site, recipe)
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


def certainty(site: Site, logits: Tensor) -> NDArray[np.float64]:
    """[n] in [0, 1]: a mask's expected Dice in its field, or the mean probability of what was decided."""
    if site.fields is not None:
        expected = expected_dice(logits.reshape(site.fields.shape).sigmoid(), site.fields.cpu())
        return np.asarray(expected.numpy(), dtype=np.float64)
    sure: NDArray[np.float64] = criteria.choices_of(site.task, logits).softmax(dim=-1).amax(dim=-1).mean(dim=1).numpy()
    return sure


def _fields(table: Table, rows: Tensor) -> Tensor:
    """Where pixels count: the field of view, else the image without its padding."""
    n, height, width = len(rows), rows.shape[-2], rows.shape[-1]
    if table.labels is not None:
        return torch.from_numpy(table.labels[:, 1] > 0).to(rows.device)
    if table.sizes is None:
        return torch.ones(n, height, width, dtype=torch.bool, device=rows.device)
    own = torch.from_numpy(table.sizes).to(rows.device)
    down = torch.arange(height, device=rows.device)[None, :, None] < own[:, 0, None, None]
    right = torch.arange(width, device=rows.device)[None, None, :] < own[:, 1, None, None]
    return down & right


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


def _by_gates(pool: Pool, site: Site, recipe: Recipe) -> _Mixed:
    """The site's zooms first, by the shared model; then experts at those zooms, gated for the site or each sample."""
    shared, model = shared_model(pool)
    names = list(pool.models)
    looks = Looks({**pool.models, shared: model}, site.rows, recipe)
    weights, zoom_scores = _zooms(site, recipe, looks, shared)
    zooms = {zoom: weight for zoom, weight in weights.items() if weight}
    known = _references(site, recipe, {**pool.models, shared: model})
    scales = _scales(site, known, shared)
    scores = _scores(site, recipe, looks, zooms, {name: scales[name] for name in names})
    gates = gates_of(scores, recipe.temperature, "sample" if recipe.granularity == "sample" else "site")
    parts = []
    for number, index in enumerate(looks.parts):
        if recipe.mixing == "parameters":
            answer = _of_parameters(pool, recipe, site.rows[index.to(site.rows.device)], gates[index], zooms)
        else:
            answers = torch.stack([looks.at(name, number, zooms) for name in names])
            answer = mixed_logits(gates[index], answers)
        parts.append(_compared(site, recipe, answer, looks.of(shared, number)[: len(answer)], index))
    each = torch.tensor(list(weights.values()), dtype=torch.float64, device=gates.device)
    by_candidate = torch.einsum("z,ne->nze", each, gates).flatten(1)
    return _Mixed(
        *_joined(parts), by_candidate.cpu(), scores, zoom_scores, _scale_of(site, gates, known, names, shared)
    )


def _zooms(site: Site, recipe: Recipe, looks: Looks, shared: str) -> tuple[dict[float, float], Tensor]:
    """The site's weight of each zoom, no zoom first, 0 where it is too small to be looked at; and scores [n, zooms]."""
    zooms = [1.0, *(zoom for zoom in recipe.zooms if zoom != 1.0)]
    if len(zooms) == 1:
        return {1.0: 1.0}, torch.full((len(site.rows), 1), float("nan"), dtype=torch.float64)
    found = [
        torch.stack(
            [site.score(recipe.zoom_criterion, looks.of(shared, number, zoom), looks.views, index) for zoom in zooms], 1
        )
        for number, index in enumerate(looks.parts)
    ]
    scores = torch.cat(found)
    weights = gates_of(scores, recipe.zoom_temperature, "site")[0]
    weights = torch.where(weights < _LEAST_ZOOM, 0.0, weights)
    return dict(zip(zooms, (weights / weights.sum()).tolist(), strict=True)), scores


def _references(site: Site, recipe: Recipe, models: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Answers [512, ...] to rows of nobody, where the criterion needs them; else none."""
    public = public_rows(site.rows) if recipe.criterion in OF_A_SITE else None
    if public is None:
        return {}
    return {name: looked(name, model, public, ("same",))[0] for name, model in models.items()}


def _scales(site: Site, known: Mapping[str, Tensor], to: str) -> Mapping[str, float]:
    """What brings each one's logits to the sharpness of `to`; 1 where nothing is known."""
    sharp = {name: sharpness(answers, site.task) for name, answers in known.items()}
    return defaultdict(lambda: 1.0, {name: scale_to(each, sharp[to]) for name, each in sharp.items()})


def _scale_of(site: Site, gates: Tensor, known: Mapping[str, Tensor], names: Sequence[str], shared: str) -> float:
    """The same of the mixture by a site's gates."""
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


def _compared(
    site: Site, recipe: Recipe, answer: Tensor, shared: Tensor, index: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Looks [L, m, ...] of rows `index`, as a part of _Mixed's logits, shared and gains."""
    views = len(recipe.views)
    gains = None
    if recipe.criterion not in OF_A_SITE:
        one, other = (site.score(recipe.criterion, looks, views, index) for looks in (answer, shared))
        gains = one - other
    return answer[:views].mean(dim=0), shared[:views].mean(dim=0), gains


def _joined(parts: Sequence[tuple[Tensor, Tensor, Tensor | None]]) -> tuple[Tensor, Tensor, Tensor | None]:
    logits, shared, gains = zip(*parts, strict=True)
    return torch.cat(logits), torch.cat(shared), None if gains[0] is None else torch.cat(gains)


def _of_parameters(pool: Pool, recipe: Recipe, rows: Tensor, gates: Tensor, zooms: Mapping[float, float]) -> Tensor:
    """Views of the model whose parameters are mixed by `gates` [n, E]; one model for all rows with equal gates."""
    models = list(pool.models.values())
    different, which = torch.unique(gates, dim=0, return_inverse=True)
    found: dict[int, Tensor] = {}
    for number, weights in enumerate(different):
        here = (which == number).nonzero().reshape(-1)
        model = averaged(models, weights.tolist())
        looks = [
            weight * looked("mixed", model, rows[here.to(rows.device)], recipe.views, zoom)
            for zoom, weight in zooms.items()
        ]
        answers = torch.stack(looks).sum(dim=0)
        found |= {int(place): answers[:, i] for i, place in enumerate(here)}
    return torch.stack([found[place] for place in range(len(rows))], dim=1)


def _by_layer(pool: Pool, site: Site, recipe: Recipe) -> _Mixed:
    """The paper's: gates in each layer, trained on the rows."""
    shared, model = shared_model(pool)
    mixed = RoutedModel(list(pool.models.values()))
    adapt(mixed, site.rows, recipe.layers, pool.task)
    layers = gate_summary(mixed, site.rows)
    mean = torch.tensor(list(layers.values()), dtype=torch.float64).mean(dim=0)
    models = {_ROUTED: mixed, shared: model}
    looks = Looks(models, site.rows, recipe)
    parts = [
        _compared(site, recipe, looks.of(_ROUTED, number), looks.of(shared, number), index)
        for number, index in enumerate(looks.parts)
    ]
    blank = torch.full((len(site.rows), len(mean)), float("nan"), dtype=torch.float64)
    scale = _scales(site, _references(site, recipe, models), shared)[_ROUTED]
    return _Mixed(*_joined(parts), mean.expand(len(site.rows), -1), blank, blank[:, :1], scale, layers)


def _verdict(pool: Pool, site: Site, recipe: Recipe, mixed: _Mixed) -> guard.Verdict:
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
