"""securepfl for large models: a quarter of the coordinates a round, encrypted, a personal intercept, coupled.

What travels is counted whole: ciphertexts, personal parts, sketches, signatures and envelopes. Always five steps a
round, as rounds are what costs bytes; at this density and precision a round takes a tenth of FedAvg's bytes.
"""

from methods import ours_coupled, preset
from methods.sdk import Tables
from methods.task import Fitted, Hyper, Settings, Task
from methods.training import COMMON, Grid

GRID: Grid = {**COMMON, "local_steps": (5,)}
SPARSE: Tables = {
    "model": {"personal": "intercept"},
    "sparsity": {"density": 0.25, "block": 64},
    "encryption": {"scheme": "tenseal", "bits": 8, "limit": 0.1, "personal_limit": 1.0},
    **ours_coupled.COUPLED,
}


def fit(task: Task, settings: Settings, hyper: Hyper, seed: int) -> Fitted:
    return preset.train(task, settings, hyper, seed, SPARSE)
