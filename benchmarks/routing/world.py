"""What a study of routing is given: who takes part, who doesn't, and for each of its rows the expert that is right."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from segmentation.training import Schedule
from torch import nn

from securepfl.data.table import Table
from securepfl.tasks.task import Task


@dataclass(frozen=True, eq=False)
class World:
    """Hospitals that take part, their tables by name; `unseen`, which doesn't.

    `right` names each unseen row's expert where there is a right one, else None. `build` gives the network that all
    start from, the same each time. `prior` is what the hospital declares, if anything.
    """

    task: Task
    build: Callable[[], nn.Module]
    members: Mapping[str, Table] = field(repr=False)
    unseen: Table = field(repr=False)
    schedule: Schedule
    right: NDArray[np.str_] | None = None
    prior: float | None = None


Worlds = Callable[[int], Mapping[str, World]]
"""By seed: a world for each hospital that is left out, by its name."""


def table(site: str, features: NDArray[np.float32], labels: NDArray[np.generic]) -> Table:
    """Rows of nobody in particular."""
    return Table(
        site=site,
        features=np.asarray(features, np.float32),
        labels=labels,
        patients=None,
        rows=np.arange(len(features)),
    )
