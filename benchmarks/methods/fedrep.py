"""FedRep: Collins et al. 2021, arXiv 2102.07078, Algorithm 1: steps on the own head, then one on the shared body.

A hospital's model is the last average body with its own head. Here: full batches, all hospitals in every round, equal
weights; each step's gradient is of its part alone, so clip and noise are too.
"""

import torch
from torch import Tensor

from methods.oracle import Oracle
from methods.task import Fitted, Hyper, Settings, Task
from methods.training import COMMON, Grid, descend, fitted, mean, oracle_for

GRID: Grid = {**COMMON, "head_steps": (1, 4)}


def fit(task: Task, settings: Settings, hyper: Hyper, seed: int) -> Fitted:
    oracle = oracle_for(task, settings, seed, int(hyper["head_steps"]) + 1)
    return train(oracle, hyper, oracle.matching(task.head))


def train(oracle: Oracle, hyper: Hyper, head: Tensor) -> Fitted:
    """head: bool [D], the coordinates that stay at each hospital."""
    lr, head_steps = float(hyper["lr"]), int(hyper["head_steps"])
    rounds = oracle.settings.steps // (head_steps + 1)
    weights = dict.fromkeys(oracle.sites, oracle.start)
    for _ in range(rounds):
        for site in oracle.sites:
            headed = descend(oracle, site, weights[site], lr, head_steps, mask=head)
            weights[site] = descend(oracle, site, headed, lr, 1, mask=~head)
        body = mean(weights.values())
        weights = {site: torch.where(head, own, body) for site, own in weights.items()}
    floats = rounds * len(oracle.sites) * int((~head).sum())
    return fitted(oracle, weights, floats, floats, rounds=rounds, personal=int(head.sum()))
