"""FedProx: Li et al. 2020, arXiv 1812.06127, Algorithm 2: local steps on f_i(w) + mu/2 |w - w_t|^2. One model for all.

Here: full batches, all hospitals in every round, equal weights, the same number of local steps at each hospital, the
proximal term stepped implicitly. With one local step it is FedAvg with the learning rate lr / (1 + lr mu).
"""

from methods.oracle import Oracle
from methods.task import Fitted, Hyper, Settings, Task
from methods.training import LOCAL, Grid, descend, fitted, mean, oracle_for

GRID: Grid = {**LOCAL, "mu": (0.01, 0.1, 1.0)}


def fit(task: Task, settings: Settings, hyper: Hyper, seed: int) -> Fitted:
    return train(oracle_for(task, settings, seed, int(hyper["local_steps"])), hyper)


def train(oracle: Oracle, hyper: Hyper) -> Fitted:
    lr, local_steps, mu = float(hyper["lr"]), int(hyper["local_steps"]), float(hyper["mu"])
    rounds = oracle.settings.steps // local_steps
    weights = oracle.start
    for _ in range(rounds):
        weights = mean(
            descend(oracle, site, weights, lr, local_steps, anchor=weights, pull=mu) for site in oracle.sites
        )
    floats = rounds * len(oracle.sites) * len(weights)
    return fitted(oracle, dict.fromkeys(oracle.sites, weights), floats, floats, rounds=rounds)
