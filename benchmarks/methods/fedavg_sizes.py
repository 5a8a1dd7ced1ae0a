"""FedAvg with hospitals weighed by their training rows, n_k / n, as McMahan et al. 2017, arXiv 1602.05629, have it.

All other methods but `ours` weigh hospitals alike. Sizes are read off the rows here, without privacy.
"""

from methods.fedavg import train
from methods.oracle import Oracle
from methods.task import Fitted, Hyper, Settings, Task
from methods.training import LOCAL, oracle_for

GRID = LOCAL


def fit(task: Task, settings: Settings, hyper: Hyper, seed: int) -> Fitted:
    oracle = oracle_for(task, settings, seed, int(hyper["local_steps"]))
    return train(oracle, hyper, sizes(oracle))


def sizes(oracle: Oracle) -> dict[str, float]:
    """Each hospital's share of all training rows; they sum to 1."""
    rows = {site: len(oracle.task.sites[site].train_y) for site in oracle.sites}
    return {site: count / sum(rows.values()) for site, count in rows.items()}
