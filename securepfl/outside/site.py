"""A hospital's rows as routing sees them: where they lie, where their masks count, and how sure an answer is."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from securepfl.data.images.placing import Placement
from securepfl.data.table import Table
from securepfl.errors import DataError
from securepfl.outside import criteria
from securepfl.outside.candidates import Pool, shared_model
from securepfl.tasks.agreement import expected_dice
from securepfl.tasks.prediction import placed_like
from securepfl.tasks.task import Task


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
        if pool.task.name != "segmentation":
            return Site(rows, None, pool.task)
        fit: str | None = getattr(getattr(pool, "spec", None), "fit", None)
        return Site(rows, _fields(table, rows, fit), pool.task)

    def score(self, criterion: str, looks: Tensor, views: int, index: Tensor | None = None) -> Tensor:
        """`criterion` of looks [L, m, ...] at the rows `index` [m] (None: all), [m]."""
        fields = self.fields if self.fields is None or index is None else self.fields[index.to(self.fields.device)]
        return criteria.score(criterion, looks, views, self.task, fields)


def certainty(site: Site, logits: Tensor) -> NDArray[np.float64]:
    """[n] in [0, 1]: a mask's expected Dice in its field, or the mean probability of what was decided."""
    if site.fields is not None:
        expected = expected_dice(logits.reshape(site.fields.shape).sigmoid(), site.fields.cpu())
        return np.asarray(expected.numpy(), dtype=np.float64)
    sure: NDArray[np.float64] = criteria.choices_of(site.task, logits).softmax(dim=-1).amax(dim=-1).mean(dim=1).numpy()
    return sure


def _fields(table: Table, rows: Tensor, fit: str | None) -> Tensor:
    """Where pixels count: the field of view, else the image without its padding. `fit`: how it was placed, None for as
    it must have been.
    """
    size = int(rows.shape[-2]), int(rows.shape[-1])
    if table.labels is not None:
        return torch.from_numpy(table.labels[:, 1] > 0).to(rows.device)
    if table.sizes is None:
        return torch.ones(len(rows), *size, dtype=torch.bool, device=rows.device)
    fit = fit or ("resize" if (table.sizes > np.array(size)).any() else "pad")
    wholes = [Placement.of((int(own[0]), int(own[1])), size, fit).whole for own in table.sizes]
    return torch.from_numpy(np.stack(wholes) > 0).to(rows.device)
