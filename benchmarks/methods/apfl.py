"""APFL: Deng et al. 2020, arXiv 2003.13461, Algorithm 1: each hospital mixes a local model v with the global w.

Steps on w by its own gradient and on v by that of the mixture alpha v + (1 - alpha) w, which by the chain rule is alpha
times the loss's; half of all gradients go to either. adaptive = 1 takes a step on alpha a round with the gradient
<v - w, grad f(mixture)> of the round's first mixture (their equation for alpha), which costs nothing further. A
hospital's model is its mixture with the last average w. Here: full batches, all hospitals in every round, equal
weights, gradients of the oracle.
"""

from dataclasses import dataclass

from torch import Tensor

from methods.oracle import Oracle
from methods.task import Fitted, Hyper, Settings, Task
from methods.training import LOCAL, Grid, fitted, mean, oracle_for

GRID: Grid = {**LOCAL, "alpha": (0.25, 0.5, 0.75), "adaptive": (0, 1)}


@dataclass(frozen=True)
class Own:
    """What a hospital keeps: v [D], and the part alpha of it in its mixture."""

    v: Tensor
    alpha: float

    def mixture(self, w: Tensor) -> Tensor:
        return self.alpha * self.v + (1 - self.alpha) * w


def fit(task: Task, settings: Settings, hyper: Hyper, seed: int) -> Fitted:
    return train(oracle_for(task, settings, seed, 2 * int(hyper["local_steps"])), hyper)


def train(oracle: Oracle, hyper: Hyper) -> Fitted:
    rounds = oracle.settings.steps // (2 * int(hyper["local_steps"]))
    shared, own = oracle.start, dict.fromkeys(oracle.sites, Own(oracle.start, float(hyper["alpha"])))
    for _ in range(rounds):
        trained = []
        for site in oracle.sites:
            w, own[site] = local_round(oracle, site, shared, own[site], hyper)
            trained.append(w)
        shared = mean(trained)
    floats = rounds * len(oracle.sites) * len(shared)
    mixtures = {site: own[site].mixture(shared) for site in oracle.sites}
    alphas = {site: own[site].alpha for site in oracle.sites}
    return fitted(oracle, mixtures, floats, floats, rounds=rounds, alpha=alphas)


def local_round(oracle: Oracle, site: str, w: Tensor, own: Own, hyper: Hyper) -> tuple[Tensor, Own]:
    """The trained w [D], to be averaged, and what the hospital keeps."""
    lr, v, alpha = float(hyper["lr"]), own.v, own.alpha
    for step in range(int(hyper["local_steps"])):
        gradient = oracle.gradient(site, Own(v, own.alpha).mixture(w))
        if step == 0 and hyper["adaptive"]:
            alpha = min(max(alpha - lr * float((v - w) @ gradient), 0.0), 1.0)
        w, v = w - lr * oracle.gradient(site, w), v - lr * own.alpha * gradient
    return w, Own(v, alpha)
