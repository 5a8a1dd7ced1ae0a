"""pFedMe: T. Dinh et al. 2020, arXiv 2006.08848, Algorithm 1: personal models through Moreau envelopes.

In a round each hospital repeats: theta goes near the minimum of f_i(theta) + lambda/2 |theta - w_i|^2 by a few gradient
steps, then w_i moves towards theta by eta lambda (`move`, a step on the envelope). The server averages the w_i
(beta = 1). A hospital's model is its last theta. Here: full batches, all hospitals in every round, equal weights, 5
gradient steps for a theta, the penalty stepped implicitly, gradients of the oracle. With move = 1 and one local
step the shared model is FedProx's.
"""

from torch import Tensor

from methods.oracle import Oracle
from methods.task import Fitted, Hyper, Settings, Task
from methods.training import COMMON, Grid, descend, fitted, mean, oracle_for

GRID: Grid = {**COMMON, "lambda": (0.1, 1.0, 10.0), "move": (0.3, 1.0), "local_steps": (1, 2)}

PROX_STEPS = 5


def fit(task: Task, settings: Settings, hyper: Hyper, seed: int) -> Fitted:
    return train(oracle_for(task, settings, seed, PROX_STEPS * int(hyper["local_steps"])), hyper)


def train(oracle: Oracle, hyper: Hyper) -> Fitted:
    rounds = oracle.settings.steps // (PROX_STEPS * int(hyper["local_steps"]))
    shared, thetas = oracle.start, dict.fromkeys(oracle.sites, oracle.start)
    for _ in range(rounds):
        own = []
        for site in oracle.sites:
            w, thetas[site] = local_round(oracle, site, shared, hyper)
            own.append(w)
        shared = mean(own)
    floats = rounds * len(oracle.sites) * len(shared)
    return fitted(oracle, thetas, floats, floats, rounds=rounds)


def local_round(oracle: Oracle, site: str, shared: Tensor, hyper: Hyper) -> tuple[Tensor, Tensor]:
    """(w_i, theta_i), [D] each, after a round that began at `shared`."""
    w = theta = shared
    for _ in range(int(hyper["local_steps"])):
        theta = descend(oracle, site, theta, float(hyper["lr"]), PROX_STEPS, anchor=w, pull=float(hyper["lambda"]))
        w = w - float(hyper["move"]) * (w - theta)
    return w, theta
