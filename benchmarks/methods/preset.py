"""Tuned presets of the SDK, for those who know that one fits: what `ours_coupled` and others have in common.

Hospitals weigh alike, the trajectory is over mixtures, and clip and rounds are those of every other method.
"""

import math
from typing import Any

from methods.sdk import Tables, declared, spent, trained
from methods.task import Fitted, Hyper, Settings, Task
from securepfl.settings.federation import Federation

PERSONAL = ("intercept", "nothing")
HISTORY = 0.5
"""The trajectory's alpha under privacy, where averaging the mixture over rounds averages noise; without it, none."""


def personal(hyper: Hyper) -> str | tuple[str, ...]:
    """The setting of a choice of PERSONAL."""
    return () if hyper["personal"] == "nothing" else str(hyper["personal"])


def train(task: Task, settings: Settings, hyper: Hyper, seed: int, tables: Tables) -> Fitted:
    """Train with the SDK; `tables` change settings of the federation, table by table."""
    return trained(task, federation_of(task, settings, hyper, tables), seed)


def federation_of(task: Task, settings: Settings, hyper: Hyper, tables: Tables) -> Federation:
    """The federation of a trial, bound to the task's hospitals and model."""
    private, local_steps = math.isfinite(settings.epsilon), min(int(hyper["local_steps"]), settings.steps)
    rounds = max(1, settings.steps // local_steps)
    defaults: dict[str, dict[str, Any]] = {
        "model": {"kind": "own"},
        "training": {"learning_rate": hyper["lr"], "steps": local_steps},
        "privacy": {
            **spent(settings),
            "clip": 1.0 if private else 10.0,
        },
        "encryption": {"scheme": "none", "bits": 16, "limit": 4.0 * float(hyper["lr"]), "personal_limit": 16.0},
        "trajectory": {"of": "mixture", "alpha": HISTORY if private else 0.0},
    }
    merged = {name: defaults.get(name, {}) | dict(tables.get(name, {})) for name in defaults | dict(tables)}
    merged = {"sites": declared(task, weight=1), **merged}
    return Federation.from_mapping({"rounds": rounds, **merged}).bound(task.sites, task.build_model)
