"""securepfl itself: a personal intercept or nothing personal, the trajectory over mixtures, no coupling.

The whole SDK: a simulated federation of its real clients and coordinator, in full-batch DP-SGD steps. Without
privacy, epsilon is 1e6: the noise that is left is about .003 of the clip at 20 steps. Updates travel in clear packed
integers unless `scheme` says otherwise: the same figures, faster (tests/rounds/test_round.py compares the two). Bytes
are all that passed between parties.
"""

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import TensorDataset

from methods.task import Fitted, Hyper, Settings, Task
from methods.training import LOCAL, Grid
from securepfl.runtime.local import SimulatedRun, simulate
from securepfl.settings.federation import Federation

NO_PRIVACY = 1e6
Tables = Mapping[str, Mapping[str, Any]]
_MEMORY = Path("/dev/shm")  # parties sync each step to disk; here what they write is thrown away  # noqa: S108

GRID: Grid = {**LOCAL, "personal": ("intercept", "nothing")}
HISTORY = 0.5
"""The trajectory's alpha under privacy, where averaging the mixture over rounds averages noise; without it, none."""


def fit(task: Task, settings: Settings, hyper: Hyper, seed: int) -> Fitted:
    return train(task, settings, hyper, seed, {"model": {"personal": personal(hyper)}})


def personal(hyper: Hyper) -> str | tuple[str, ...]:
    """The setting of a choice of GRID's axis."""
    return () if hyper["personal"] == "nothing" else str(hyper["personal"])


def train(task: Task, settings: Settings, hyper: Hyper, seed: int, tables: Tables) -> Fitted:
    """Train with the SDK; `tables` change settings of the federation, table by table."""
    federation = federation_of(task, settings, hyper, tables)
    training = {name: TensorDataset(site.train_x, site.train_y) for name, site in task.sites.items()}
    with (
        scratch_folder() as folder,
        simulate(
            federation, training, task.build_model, Path(folder), seed=seed, device="cpu", physical_batch=1024
        ) as run,
    ):
        return _fitted(run, federation)


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """Where parties write what is thrown away: in memory where the system has such a folder."""
    return tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None)


def federation_of(task: Task, settings: Settings, hyper: Hyper, tables: Tables) -> Federation:
    """The federation of a trial, bound to the task's hospitals and model."""
    private, local_steps = math.isfinite(settings.epsilon), min(int(hyper["local_steps"]), settings.steps)
    rounds = max(1, settings.steps // local_steps)
    defaults: dict[str, dict[str, Any]] = {
        "model": {"kind": "own"},
        "training": {"learning_rate": hyper["lr"], "steps": local_steps},
        "privacy": {
            "epsilon": settings.epsilon if private else NO_PRIVACY,
            "delta": settings.delta,
            "clip": 1.0 if private else 10.0,
        },
        "encryption": {"scheme": "none", "bits": 16, "limit": 4.0 * float(hyper["lr"]), "personal_limit": 16.0},
        "trajectory": {"of": "mixture", "alpha": HISTORY if private else 0.0},
    }
    merged = {name: defaults.get(name, {}) | dict(tables.get(name, {})) for name in defaults | dict(tables)}
    merged = {"sites": declared(task, weight=1), **merged}
    return Federation.from_mapping({"rounds": rounds, **merged}).bound(task.sites, task.build_model)


def declared(task: Task, **others: Any) -> dict[str, dict[str, Any]]:
    """`[sites]`: each hospital's units, and what else it declares. Read off the rows here, without privacy."""
    return {name: {"units": len(site.train_y), **others} for name, site in task.sites.items()}


def _fitted(run: SimulatedRun, federation: Federation) -> Fitted:
    clients = run.clients
    return Fitted(
        models={name: client.personal_model() for name, client in clients.items()},
        upload_bytes=sum(run.traffic.upload.values()),
        download_bytes=sum(run.traffic.download.values()),
        facts={
            "rounds": federation.rounds,
            "steps": federation.rounds * federation.training.steps,
            "similarity": {name: dict(client.similarity) for name, client in clients.items()},
            "edges": [[name, other] for name, client in clients.items() for other in client.neighbours],
            "signal": {name: client.signal for name, client in clients.items()},
        },
    )
