"""`ours` with weights in proportion to hospitals' training rows: what fedavg_sizes is to fedavg.

Declared units are public constants; here they are read off the rows, without privacy.
"""

from methods import ours
from methods.task import Fitted, Hyper, Settings, Task

GRID = ours.GRID


def fit(task: Task, settings: Settings, hyper: Hyper, seed: int) -> Fitted:
    tables: ours.Tables = {"model": {"personal": ours.personal(hyper)}, "sites": ours.declared(task)}
    return ours.train(task, settings, hyper, seed, tables)
