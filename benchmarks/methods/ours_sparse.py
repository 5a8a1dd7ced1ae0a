"""securepfl for large models: a fifth of the coordinates a round, encrypted, a personal head, coupled.

What travels is counted whole: ciphertexts, personal parts, sketches, signatures and envelopes.
"""

from methods import ours, ours_coupled
from methods.task import Fitted, Hyper, Settings, Task
from methods.training import LOCAL

GRID = LOCAL
SPARSE: ours.Tables = {
    "sparsity": {"density": 0.2, "block": 64},
    "encryption": {"scheme": "bfv", "bits": 8, "limit": 0.1, "personal_limit": 1.0},
    "similarity": {"every": 2},
    "coupling": {"strength": 0.75},
}


def fit(task: Task, settings: Settings, hyper: Hyper, seed: int) -> Fitted:
    return ours.train(task, settings, hyper, seed, {"model": {"personal": ours_coupled.wide(task)}, **SPARSE})
