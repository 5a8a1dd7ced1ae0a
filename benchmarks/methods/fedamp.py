"""FedAMP: Huang et al. 2021, arXiv 2007.03797, Algorithm 1: a cloud model for each hospital, made of similar ones.

The cloud takes a gradient step on sum_{i<j} A(|w_i - w_j|^2), A(x) = 1 - exp(-x / sigma), which gives hospital i
u_i = sum_j xi_ij w_j with xi_ij = alpha A'(|w_i - w_j|^2) for j != i, alpha twice the step, and the rest its own. The
hospital then goes from w_i towards the minimum of f_i(w) + pull/2 |w - u_i|^2 (pull is their lambda / alpha). Here
alpha = sigma / N for N hospitals, so that xi_ij = exp(-|w_i - w_j|^2 / sigma) / N: never negative, and the plain mean
where all are equal. Full batches, all hospitals in every round, the penalty stepped implicitly.
"""

import torch
from torch import Tensor

from methods.oracle import Oracle
from methods.task import Fitted, Hyper, Settings, Task
from methods.training import LOCAL, Grid, descend, fitted, oracle_for

GRID: Grid = {**LOCAL, "sigma": (0.1, 1.0, 10.0), "pull": (0.1, 1.0, 10.0)}


def fit(task: Task, settings: Settings, hyper: Hyper, seed: int) -> Fitted:
    return train(oracle_for(task, settings, seed, int(hyper["local_steps"])), hyper)


def train(oracle: Oracle, hyper: Hyper) -> Fitted:
    lr, local_steps, pull = float(hyper["lr"]), int(hyper["local_steps"]), float(hyper["pull"])
    rounds = oracle.settings.steps // local_steps
    own = torch.stack([oracle.start for _ in oracle.sites])
    for _ in range(rounds):
        cloud = attention(own, float(hyper["sigma"])) @ own
        pairs = zip(oracle.sites, own, cloud, strict=True)
        own = torch.stack([descend(oracle, s, w, lr, local_steps, anchor=u, pull=pull) for s, w, u in pairs])
    floats = rounds * own.numel()
    weights = dict(zip(oracle.sites, own, strict=True))
    return fitted(oracle, weights, floats, floats, rounds=rounds)


def attention(models: Tensor, sigma: float) -> Tensor:
    """xi [N, N] of models [N, D]: symmetric, rows add up to 1."""
    # Differences, not Gram matrices: these would lose small distances of large models to rounding.
    squared = (models[:, None] - models[None]).square().sum(2)
    weights = torch.exp(-squared / sigma) / len(models)
    weights.fill_diagonal_(0)
    return weights + torch.diag(1 - weights.sum(1))
