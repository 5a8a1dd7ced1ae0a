"""FedPer: Arivazhagan et al. 2019, arXiv 1912.00818, Algorithms 1 and 2: a shared body, personal output layers.

Both parts take each local step together; only the body travels. A hospital's model is the last average body with its
own head. Here: full batches, all hospitals in every round, equal weights, gradients of the oracle (one clip for both).
"""

import torch
from torch import Tensor

from methods.oracle import Oracle
from methods.task import Fitted, Hyper, Settings, Task
from methods.training import LOCAL, descend, fitted, mean, oracle_for

GRID = LOCAL


def fit(task: Task, settings: Settings, hyper: Hyper, seed: int) -> Fitted:
    oracle = oracle_for(task, settings, seed, int(hyper["local_steps"]))
    return train(oracle, hyper, oracle.matching(task.head))


def train(oracle: Oracle, hyper: Hyper, personal: Tensor) -> Fitted:
    """personal: bool [D], the coordinates that stay at each hospital."""
    lr, local_steps = float(hyper["lr"]), int(hyper["local_steps"])
    rounds = oracle.settings.steps // local_steps
    weights = dict.fromkeys(oracle.sites, oracle.start)
    for _ in range(rounds):
        trained = {site: descend(oracle, site, weights[site], lr, local_steps) for site in oracle.sites}
        body = mean(trained.values())
        weights = {site: torch.where(personal, own, body) for site, own in trained.items()}
    shared, held = int((~personal).sum()), int(personal.sum())
    floats = rounds * len(oracle.sites) * shared
    return fitted(oracle, weights, floats, floats, rounds=rounds, personal=held)
