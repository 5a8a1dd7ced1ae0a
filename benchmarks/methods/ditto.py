"""Ditto: Li et al. 2021, arXiv 2012.04221, Algorithm 1: FedAvg, and a personal model v held near it.

v takes steps on f_i(v) + lambda/2 |v - w_t|^2, with w_t the global model that the round began with. Half of all
gradients go to either. Here: full batches, all hospitals in every round, equal weights, as many steps on v as on
w, the penalty stepped implicitly, gradients of the oracle.
"""

from methods.oracle import Oracle
from methods.task import Fitted, Hyper, Settings, Task
from methods.training import LOCAL, Grid, descend, fitted, mean, oracle_for

GRID: Grid = {**LOCAL, "lambda": (0.03, 0.3, 3.0)}


def fit(task: Task, settings: Settings, hyper: Hyper, seed: int) -> Fitted:
    return train(oracle_for(task, settings, seed, 2 * int(hyper["local_steps"])), hyper)


def train(oracle: Oracle, hyper: Hyper) -> Fitted:
    lr, local_steps, pull = float(hyper["lr"]), int(hyper["local_steps"]), float(hyper["lambda"])
    rounds = oracle.settings.steps // (2 * local_steps)
    shared, own = oracle.start, dict.fromkeys(oracle.sites, oracle.start)
    for _ in range(rounds):
        for site in oracle.sites:
            own[site] = descend(oracle, site, own[site], lr, local_steps, anchor=shared, pull=pull)
        shared = mean(descend(oracle, site, shared, lr, local_steps) for site in oracle.sites)
    floats = rounds * len(oracle.sites) * len(shared)
    return fitted(oracle, own, floats, floats, rounds=rounds)
