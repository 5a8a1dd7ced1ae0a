"""What the methods have in common: choices offered to all alike, local steps, means, and the bill."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from methods.oracle import Oracle
from methods.task import Fitted, Settings, Task

Grid = Mapping[str, tuple[float | int | str, ...]]

COMMON: Grid = {"lr": (0.1, 0.5, 2.0, 8.0)}
LOCAL: Grid = {**COMMON, "local_steps": (1, 5)}

_BYTES = 4  # of a float


def oracle_for(task: Task, settings: Settings, seed: int, per_round: int = 1) -> Oracle:
    """An oracle with as many whole rounds of `per_round` steps as the settings have, so that no noise pays for a rest.

    Where not even one fits, it has the settings' steps, and no method starts a round.
    """
    steps = max(1, settings.steps // per_round) * per_round
    return Oracle(task, replace(settings, steps=min(steps, settings.steps)), seed)


def descend(
    oracle: Oracle,
    site: str,
    weights: Tensor,
    lr: float,
    steps: int,
    mask: Tensor | None = None,
    anchor: Tensor | None = None,
    pull: float = 0.0,
) -> Tensor:
    """Weights [D] after `steps` gradient steps on the hospital's loss + pull/2 |weights - anchor|^2.

    The penalty is stepped implicitly (forward-backward splitting): the same fixed point as with its gradient, and
    stable for every pull.
    """
    for _ in range(steps):
        weights = weights - lr * oracle.gradient(site, weights, mask)
        if anchor is not None:
            weights = (weights + lr * pull * anchor) / (1 + lr * pull)
    return weights


def mean(vectors: Iterable[Tensor]) -> Tensor:
    """Mean with equal weights: [D] of any number of [D]."""
    return torch.stack(list(vectors)).mean(0)


def weighted(vectors: Mapping[str, Tensor], shares: Mapping[str, float]) -> Tensor:
    """The sum [D] of hospitals' vectors [D], each times its share."""
    return torch.stack([shares[site] * vector for site, vector in vectors.items()]).sum(0)


def fitted(oracle: Oracle, weights: Mapping[str, Tensor], up: int, down: int, **facts: object) -> Fitted:
    """The hospitals' models; `up` and `down` are the floats that all hospitals sent and received in all rounds."""
    models = {site: oracle.model(weights[site]) for site in oracle.sites}
    return Fitted(models, _BYTES * up, _BYTES * down, {"steps": oracle.spent, **facts})
