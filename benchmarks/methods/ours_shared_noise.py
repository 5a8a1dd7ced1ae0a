"""securepfl with noise that all hospitals make together: masked sums alone are seen, each step is one.

Another promise than every other row's: epsilon holds against who sees the sums, and while all but one of the hospitals
keep their share of the noise to themselves; the others' holds against who sees a hospital's own update. A personal
intercept takes its hospital's own noise. Sums weigh records, not hospitals. Without privacy it would be `ours`.
"""

import math

from methods import preset
from methods.sdk import Tables, declared
from methods.task import Fitted, Hyper, Settings, Task
from methods.training import COMMON, Grid

GRID: Grid = {**COMMON, "personal": preset.PERSONAL}


def fit(task: Task, settings: Settings, hyper: Hyper, seed: int) -> Fitted:
    """Raises ValueError without privacy: there is no noise to share."""
    if not math.isfinite(settings.epsilon):
        raise ValueError("shared noise needs a finite epsilon; run ours")
    tables: Tables = {
        "model": {"personal": preset.personal(hyper)},
        "shared_noise": {},
        "sites": declared(task),
        "encryption": {"masking": "pairwise"},
    }
    return preset.train(task, settings, {**hyper, "local_steps": 1}, seed, tables)
