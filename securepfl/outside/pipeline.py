"""Routing for pipelines that bring their own models and rows."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import nn

from securepfl.data.table import Table
from securepfl.outside.candidates import Panel
from securepfl.outside.prior import Prior
from securepfl.outside.recipe import Recipe
from securepfl.outside.routed import Routed, routed
from securepfl.tasks.registry import task_named
from securepfl.tasks.task import Task


def route(
    models: Mapping[str, nn.Module],
    features: NDArray[np.float32],
    task: Task | str = "binary",
    *,
    recipe: Recipe | None = None,
    prior: Prior | None = None,
    fields: NDArray[np.bool_] | None = None,
) -> Routed:
    """`features` [n, d], or images [n, channels, height, width], through `models` of one architecture by name.

    The one called "shared" is the global model that a guard falls back to; without it that is the parameters' mean.
    `recipe`: None for the task's own. `prior`: the share of label 1, of each label or class, or of the field that a
    structure covers. `fields` bool [n, height, width]: where a mask counts. `task.predict` makes predictions of what
    comes back. Raises as routed does, and ValueError for arrays that don't fit.

    >>> import securepfl
    >>> models = {name: nn.Sequential(nn.Linear(2, 1), nn.Flatten(0)) for name in ("shared", "north")}
    >>> securepfl.route(models, np.zeros((12, 2), dtype=np.float32)).logits.shape
    torch.Size([12])
    """
    chosen = task_named(task) if isinstance(task, str) else task
    rows = np.asarray(features, dtype=np.float32)
    labels = None
    if fields is not None:
        if rows.ndim != 4 or fields.shape != (len(rows), *rows.shape[2:]):
            raise ValueError(f"fields must have shape [n, height, width] of the images, not {list(fields.shape)}")
        labels = np.stack([np.zeros_like(fields), fields], axis=1).astype(np.uint8)
    count = np.arange(1, len(rows) + 1, dtype=np.int64)
    table = Table(site="new", features=rows, labels=labels, patients=None, rows=count)
    return routed(Panel(models, chosen), table, recipe, prior)
