"""FedBN: Li et al. 2021, arXiv 2102.07623, Algorithm 1: all but the normalisation layers is averaged.

Here their scale and shift stay at the hospital; there are no running statistics, as private training needs layers
such as GroupNorm. Where a task has no normalisation layer this is FedAvg. Full batches, all hospitals in every round,
equal weights, gradients of the oracle.
"""

from dataclasses import replace

from methods import fedper
from methods.task import Fitted, Hyper, Settings, Task
from methods.training import LOCAL, oracle_for

GRID = LOCAL


def fit(task: Task, settings: Settings, hyper: Hyper, seed: int) -> Fitted:
    oracle = oracle_for(task, settings, seed, int(hyper["local_steps"]))
    found = fedper.train(oracle, hyper, oracle.matching(task.norms))
    if task.norms:
        return found
    return replace(found, facts={**found.facts, "note": "no normalisation layers: this is FedAvg"})
