"""`ours` with declared weights in proportion to hospitals' training rows: what fedavg_sizes is to fedavg.

A declared weight is a public constant; here it is read off the rows, without privacy.
"""

from methods import ours
from methods.task import Fitted, Hyper, Settings, Task

GRID = ours.GRID
LARGEST = 1000


def fit(task: Task, settings: Settings, hyper: Hyper, seed: int) -> Fitted:
    tables: ours.Tables = {"model": {"personal": ours.personal(hyper)}, "sites": weights(task)}
    return ours.train(task, settings, hyper, seed, tables)


def weights(task: Task) -> dict[str, dict[str, int]]:
    """`[sites]` with the largest hospital at LARGEST, the most that a weight can be, and none at 0."""
    rows = {name: len(site.train_y) for name, site in task.sites.items()}
    return {name: {"weight": max(1, round(LARGEST * count / max(rows.values())))} for name, count in rows.items()}
