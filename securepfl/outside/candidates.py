"""What each candidate, an expert at a zoom, answers for a hospital's rows in each view.

Rows are looked at in parts, an image or some hundreds of a table's rows; answers are kept while they are small and made
again where they are not, so that memory is bounded whatever a hospital holds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor, nn

from securepfl.errors import ConfigError, ModelError, first_line
from securepfl.outside.mixing import averaged
from securepfl.outside.recipe import Recipe
from securepfl.outside.views import seen, seen_back, turns_sides
from securepfl.outside.zooms import zoomed, zoomed_back
from securepfl.tasks.inference import is_large, logits_in_windows
from securepfl.tasks.layout import laid_out
from securepfl.tasks.models import public_stream
from securepfl.tasks.prediction import evaluating
from securepfl.tasks.task import Task

SHARED: Final = "shared"
AVERAGE: Final = "average"
_PIXELS: Final = 1 << 18
_KEPT: Final = 1 << 29
"""Bytes of answers that are kept."""
_LARGEST: Final = 1e30
_NUDGES: Final = 4


class Pool(Protocol):
    """Who answers, and what their answers mean: `Experts` of a run, or a Panel."""

    @property
    def models(self) -> Mapping[str, nn.Module]:
        """Models of one kind by name; "shared" is the global one."""

    @property
    def task(self) -> Task:
        """What all of them are for."""


@dataclass(frozen=True)
class Panel:
    """Experts that lie in memory, for studies and pipelines."""

    models: Mapping[str, nn.Module]
    task: Task


@dataclass(frozen=True)
class Candidate:
    """An expert at a zoom."""

    expert: str
    zoom: float = 1.0

    def __str__(self) -> str:
        return self.expert if self.zoom == 1.0 else f"{self.expert} at zoom {self.zoom:g}"


def shared_model(pool: Pool) -> tuple[str, nn.Module]:
    """Name and model that answer where routing doesn't: the shared one, else the average of all parameters.

    Raises ConfigError where there is no expert.
    """
    if not pool.models:
        raise ConfigError("no expert to route: name a run with released experts, or hand in at least one model")
    if SHARED in pool.models:
        return SHARED, pool.models[SHARED]
    models = list(pool.models.values())
    return AVERAGE, averaged(models, [1.0 / len(models)] * len(models))


def candidates_of(pool: Pool, recipe: Recipe) -> tuple[Candidate, ...]:
    """Each expert at each zoom: all experts with the image as it is first, then all at the next zoom.

    Raises ConfigError where there is no expert.
    """
    shared_model(pool)
    zooms = (1.0, *(zoom for zoom in recipe.zooms if zoom != 1.0))
    return tuple(Candidate(expert, zoom) for zoom in zooms for expert in pool.models)


class Looks:
    """The answers of `models` to `rows` [n, ...], part by part.

    Looks are the views, which the answer is the mean of, and behind them what only a score asks for: nudged rows, where
    the criterion is consistency and there is but one view. Raises ConfigError for a table's rows under views or zooms,
    and, when asked, for a view or zoom that a model's shape can't take; ModelError for an answer that is NaN.
    """

    def __init__(self, models: Mapping[str, nn.Module], rows: Tensor, recipe: Recipe) -> None:
        self._models, self._rows, self._recipe = models, rows, recipe
        if rows.ndim != 4 and (recipe.views != ("same",) or recipe.zooms != (1.0,)):
            raise ConfigError('recipe: rows of a table have no views or zooms: set views = ["same"] and zooms = [1.0]')
        nudged = recipe.criterion == "consistency" and len(recipe.views) == 1
        self._nudges = _nudges(rows, recipe.layers.noise) if nudged else []
        size = max(1, _PIXELS // max(1, rows[0].numel())) if len(rows) else 1
        self.parts = list(torch.split(torch.arange(len(rows)), size))
        self._kept: dict[tuple[str, float, int], Tensor] = {}
        self._bytes = 0

    @property
    def views(self) -> int:
        """How many of the looks are views."""
        return len(self._recipe.views)

    def of(self, name: str, part: int, zoom: float = 1.0) -> Tensor:
        """What the model of that name answers to `parts[part]` at `zoom`: [looks, rows of the part, ...]."""
        key = (name, zoom, part)
        if key in self._kept:
            return self._kept[key]
        rows = self._rows[self.parts[part].to(self._rows.device)]
        answers = self.by(name, self._models[name], rows, zoom)
        size = answers.numel() * answers.element_size()
        if self._bytes + size <= _KEPT:
            self._kept[key], self._bytes = answers, self._bytes + size
        return answers

    def by(self, name: str, model: nn.Module, rows: Tensor, zoom: float = 1.0) -> Tensor:
        """The same of another model, and of any rows."""
        return looked(name, model, rows, self._recipe.views, zoom, self._nudges)

    def at(self, name: str, part: int, zooms: Mapping[float, float]) -> Tensor:
        """The same, mixed over zooms by their weights."""
        answers = [weight * self.of(name, part, zoom) for zoom, weight in zooms.items()]
        return answers[0] if len(answers) == 1 else torch.stack(answers).sum(dim=0)


def looked(
    name: str, model: nn.Module, rows: Tensor, views: Sequence[str], zoom: float = 1.0, nudges: Sequence[Tensor] = ()
) -> Tensor:
    """What `model`, called `name` in errors, answers for `rows` in each view, and nudged: [looks, n, ...].

    Answers with a place for each pixel are brought back into the rows' own.
    """
    shown = zoomed(rows, zoom)
    with evaluating(model), laid_out(model), torch.no_grad():
        answers = [_answer(name, model, seen(shown, view) if view != "same" else shown, view, zoom) for view in views]
        answers += [_answer(name, model, shown + nudge, "same", zoom) for nudge in nudges]
    kinds = [*views, *["same"] * len(nudges)]
    placed = [_placed(answer, rows, kind, zoom) for answer, kind in zip(answers, kinds, strict=True)]
    if len({each.shape for each in placed}) > 1:
        raise ConfigError(f'recipe: expert "{name}" answers views {list(views)} in different shapes: leave some out')
    return torch.stack(placed)


def _placed(answer: Tensor, rows: Tensor, view: str, zoom: float) -> Tensor:
    if answer.ndim != 4:
        return answer
    return zoomed_back(seen_back(answer, view), (rows.shape[-2], rows.shape[-1]), zoom)


def _answer(name: str, model: nn.Module, rows: Tensor, view: str, zoom: float) -> Tensor:
    try:
        answer: Tensor = logits_in_windows(model, rows) if is_large(model, rows) else model(rows)
    except Exception as error:  # noqa: BLE001 - whatever a pipeline's own model raises
        if turns_sides(view) or zoom != 1.0:
            raise _refused(name, rows, view, zoom) from None
        raise ModelError(
            f'expert "{name}" fails on rows {list(rows.shape)} ({first_line(error)}): hand in rows as in training'
        ) from None
    # A model that flattens its input takes a turned one too, and means nothing by its answer.
    turned = turns_sides(view) and rows.shape[-2] != rows.shape[-1]
    if (turned and answer.ndim != rows.ndim) or (answer.ndim == 4 and answer.shape[-2:] != rows.shape[-2:]):
        raise _refused(name, rows, view, zoom)
    if torch.isnan(answer).any():
        raise ModelError(f'expert "{name}" answers NaN: leave it out, or look for rows beyond the declared ranges')
    return answer.float().clamp(-_LARGEST, _LARGEST)


def _refused(name: str, rows: Tensor, view: str, zoom: float) -> ConfigError:
    what = f"view {view!r}" if zoom == 1.0 else f"zoom {zoom:g}"
    sides = " x ".join(str(side) for side in rows.shape[-2:])
    return ConfigError(f'recipe: expert "{name}" cannot take {sides} pixels ({what}): leave that out')


def _nudges(rows: Tensor, noise: float) -> list[Tensor]:
    """Public directions, the same for each row: so a patient alone is scored as among others."""
    shape = rows.shape[1:]
    stream = public_stream("consistency", *shape)
    drawn = [torch.from_numpy(stream.gaussian(shape.numel())).reshape(shape).to(rows) * noise for _ in range(_NUDGES)]
    return [sign * each for each in drawn for sign in (1.0, -1.0)]
