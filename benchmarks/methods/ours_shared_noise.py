"""securepfl with noise that all hospitals make together: masked sums alone are seen, each step is one.

Another promise than every other row's: epsilon holds against who sees the sums, and while all but one of the hospitals
keep their share of the noise to themselves; the others' holds against who sees a hospital's own update. A personal
intercept takes its hospital's own noise. Sums weigh records, not hospitals. Without privacy it would be `ours`.
"""

import math

from methods import ours
from methods.task import Fitted, Hyper, Settings, Task
from methods.training import COMMON, Grid

GRID: Grid = {**COMMON, "personal": ours.GRID["personal"]}


def fit(task: Task, settings: Settings, hyper: Hyper, seed: int) -> Fitted:
    """Raises ValueError without privacy: there is no noise to share."""
    if not math.isfinite(settings.epsilon):
        raise ValueError("shared noise needs a finite epsilon; run ours")
    tables: ours.Tables = {
        "model": {"personal": ours.personal(hyper)},
        "shared_noise": {},
        "sites": ours.declared(task),
        "encryption": {"masking": "pairwise"},
    }
    return ours.train(task, settings, {**hyper, "local_steps": 1}, seed, tables)
