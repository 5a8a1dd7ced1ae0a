"""IFCA: Ghosh et al. 2020, arXiv 2006.04088, Algorithm 1, model averaging: k models, each hospital joins the best.

In a round each hospital chooses the model with the lowest loss on its rows and takes local steps from there; each
model becomes the average of those who chose it, or stays. The models start at the task's plus noise of norm about 1
from a public stream. A hospital's model is the one that it chose in the last round, as trained there. Here: full
batches, all hospitals in every round, equal weights; at finite epsilon the choice is a noisy one that costs as much as
a gradient (Oracle.choose). With k = 1 there is no choice, and this is FedAvg.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from methods.oracle import Oracle
from methods.task import Fitted, Hyper, Settings, Task
from methods.training import LOCAL, Grid, descend, fitted, mean, oracle_for
from securepfl.tasks.models import public_stream

GRID: Grid = {**LOCAL, "clusters": (2, 3)}


def fit(task: Task, settings: Settings, hyper: Hyper, seed: int) -> Fitted:
    private = math.isfinite(settings.epsilon)
    return train(oracle_for(task, settings, seed, cost(hyper, private)), hyper)


def cost(hyper: Hyper, private: bool) -> int:
    """Steps of the budget that a round takes."""
    return int(hyper["local_steps"]) + int(private and int(hyper["clusters"]) > 1)


def train(oracle: Oracle, hyper: Hyper) -> Fitted:
    lr, local_steps, k = float(hyper["lr"]), int(hyper["local_steps"]), int(hyper["clusters"])
    rounds = oracle.settings.steps // cost(hyper, oracle.private)
    models = starts(oracle, k)
    chosen = dict.fromkeys(oracle.sites, 0)
    for _ in range(rounds):
        if k > 1:
            chosen = {site: oracle.choose(site, models) for site in oracle.sites}
        trained = {site: descend(oracle, site, models[j], lr, local_steps) for site, j in chosen.items()}
        models = [_joined(models[j], [trained[s] for s in oracle.sites if chosen[s] == j]) for j in range(k)]
    weights = {site: models[j] for site, j in chosen.items()}
    return _billed(oracle, weights, rounds, k, chosen)


def starts(oracle: Oracle, k: int) -> list[Tensor]:
    """k models [D] that differ, or the task's alone."""
    if k == 1:
        return [oracle.start]
    size = len(oracle.start)
    drawn = torch.from_numpy(public_stream("ifca", oracle.seed).gaussian(k * size)).view(k, size)
    return list(oracle.start + drawn.to(oracle.start.dtype) / math.sqrt(size))


def _joined(before: Tensor, members: list[Tensor]) -> Tensor:
    return mean(members) if members else before


def _billed(oracle: Oracle, weights: Mapping[str, Tensor], rounds: int, k: int, chosen: Mapping[str, int]) -> Fitted:
    """Up go a model and, among several, the number of its cluster; down come all k models."""
    exchanges = rounds * len(oracle.sites)
    up = exchanges * (len(oracle.start) + int(k > 1))
    return fitted(oracle, weights, up, exchanges * k * len(oracle.start), rounds=rounds, clusters=dict(chosen))
