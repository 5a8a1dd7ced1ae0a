"""FedAvg: McMahan et al. 2017, arXiv 1602.05629, Algorithm 1. One model for all.

Here: full batches, all hospitals in every round, equal weights, gradients of the oracle.
"""

from collections.abc import Mapping

from methods.oracle import Oracle
from methods.task import Fitted, Hyper, Settings, Task
from methods.training import LOCAL, descend, fitted, mean, oracle_for, weighted

GRID = LOCAL


def fit(task: Task, settings: Settings, hyper: Hyper, seed: int) -> Fitted:
    return train(oracle_for(task, settings, seed, int(hyper["local_steps"])), hyper)


def train(oracle: Oracle, hyper: Hyper, shares: Mapping[str, float] | None = None) -> Fitted:
    """`shares` weigh hospitals, alike without them."""
    lr, local_steps = float(hyper["lr"]), int(hyper["local_steps"])
    rounds = oracle.settings.steps // local_steps
    weights = oracle.start
    for _ in range(rounds):
        found = {site: descend(oracle, site, weights, lr, local_steps) for site in oracle.sites}
        weights = mean(found.values()) if shares is None else weighted(found, shares)
    floats = rounds * len(oracle.sites) * len(weights)
    return fitted(oracle, dict.fromkeys(oracle.sites, weights), floats, floats, rounds=rounds)
