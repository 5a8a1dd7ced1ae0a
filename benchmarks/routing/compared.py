"""Routing and what it must beat on one unseen hospital, under the same views, zooms and threshold."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import nn

from routing.world import World
from securepfl.outside.baselines import BASELINES
from securepfl.outside.candidates import Panel
from securepfl.outside.recipe import default_recipe
from securepfl.outside.routed import Routed, routed

ROUTED: Final = "routed"
CEILING: Final = "best expert by labels"
_TABLES_LEAVE_OUT: Final = "global at zooms"


@dataclass(frozen=True)
class Outcome:
    """The deciding metric by way; the mean gate on the right expert (NaN where none is); what served, and why."""

    scores: Mapping[str, float]
    right: float
    gates: Mapping[str, float]
    guarded: float
    why: str

    def to_mapping(self) -> dict[str, object]:
        """As JSON holds it."""
        right = None if np.isnan(self.right) else self.right
        told = {"guarded": self.guarded, "why": self.why}
        return {"scores": dict(self.scores), "right": right, "gates": dict(self.gates), **told}


def compared(world: World, models: Mapping[str, nn.Module]) -> Outcome:
    """The unseen hospital by the task's default recipe, and by each baseline."""
    panel, rows = Panel(models, world.task), world.unseen
    recipe = default_recipe(world.task.name, rows.features.ndim == 4)
    found = routed(panel, rows, recipe, world.prior)
    scores = {ROUTED: measured(world, found.logits)}
    for name, baseline in BASELINES.items():
        if name != _TABLES_LEAVE_OUT or len(recipe.zooms) > 1:
            scores[name] = measured(world, baseline(panel, rows, recipe, world.prior))
    gates = _by_expert(found)
    right = float("nan")
    if world.right is not None:
        right = float(np.mean([gates[name][row] for row, name in enumerate(world.right.tolist())]))
    means = {name: float(values.mean()) for name, values in gates.items()}
    return Outcome(scores, right, means, float(found.guarded.mean()), found.why)


def measured(world: World, logits: object) -> float:
    """The deciding metric of the unseen rows."""
    value = world.task.evaluate(world.task.predict(logits), world.unseen.labels)[world.task.deciding]  # type: ignore[arg-type]
    return float("nan") if value is None else float(value)


def _by_expert(found: Routed) -> dict[str, NDArray[np.float64]]:
    """Gates [n] of each expert, over its zooms."""
    gates: dict[str, NDArray[np.float64]] = {}
    for place, candidate in enumerate(found.candidates):
        gates[candidate.expert] = gates.get(candidate.expert, 0.0) + found.gates[:, place]
    return gates
