"""SCAFFOLD: Karimireddy et al. 2020, arXiv 1910.06378, Algorithm 1 with option II. One model for all.

Local steps y <- y - lr (g_i(y) - c_i + c); then c_i <- c_i - c + (x - y) / (K lr), and the server takes the mean of y
(global learning rate 1) and of c_i. At the global optimum the corrected gradients are zero, however the hospitals
differ. Model and control variate travel both ways. Here: full batches, all hospitals in every round, equal weights,
gradients of the oracle; under privacy the control variates are the noisy gradients' and cost nothing further. With one
local step it is FedAvg.
"""

from methods.oracle import Oracle
from methods.task import Fitted, Hyper, Settings, Task
from methods.training import LOCAL, fitted, mean, oracle_for

GRID = LOCAL


def fit(task: Task, settings: Settings, hyper: Hyper, seed: int) -> Fitted:
    return train(oracle_for(task, settings, seed, int(hyper["local_steps"])), hyper)


def train(oracle: Oracle, hyper: Hyper) -> Fitted:
    lr, local_steps = float(hyper["lr"]), int(hyper["local_steps"])
    rounds = oracle.settings.steps // local_steps
    x, c = oracle.start, oracle.start * 0
    own = dict.fromkeys(oracle.sites, c)
    for _ in range(rounds):
        trained = {}
        for site in oracle.sites:
            y = x
            for _ in range(local_steps):
                y = y - lr * (oracle.gradient(site, y) - own[site] + c)
            own[site] = own[site] - c + (x - y) / (local_steps * lr)
            trained[site] = y
        x, c = mean(trained.values()), mean(own.values())
    floats = rounds * len(oracle.sites) * 2 * len(x)
    return fitted(oracle, dict.fromkeys(oracle.sites, x), floats, floats, rounds=rounds)
