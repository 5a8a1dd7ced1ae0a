"""The SDK as a method: a simulated federation of its real clients and coordinator.

Updates travel in clear packed integers unless `scheme` says otherwise: the same figures, faster
(tests/rounds/test_round.py compares the two). Bytes are all that passed between parties.
"""

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import TensorDataset

from methods.task import Fitted, Settings, Task
from securepfl.runtime.local import SimulatedRun, simulate
from securepfl.settings.federation import Federation

NO_PRIVACY = 1e6
"""Epsilon in place of infinity: the noise that is left is about .003 of the clip at 20 steps."""
Tables = Mapping[str, Mapping[str, Any]]
_MEMORY = Path("/dev/shm")  # parties sync each step to disk; here what they write is thrown away  # noqa: S108


def trained(task: Task, federation: Federation, seed: int) -> Fitted:
    """The task's hospitals after the bound `federation`'s last round."""
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


def declared(task: Task, **others: Any) -> dict[str, dict[str, Any]]:
    """`[sites]`: each hospital's units, and what else it declares. Read off the rows here, without privacy."""
    return {name: {"units": len(site.train_y), **others} for name, site in task.sites.items()}


def spent(settings: Settings) -> dict[str, float]:
    """`[privacy]`: epsilon and delta."""
    epsilon = settings.epsilon if math.isfinite(settings.epsilon) else NO_PRIVACY
    return {"epsilon": epsilon, "delta": settings.delta}


def _fitted(run: SimulatedRun, federation: Federation) -> Fitted:
    clients = run.clients
    return Fitted(
        models={name: client.personal_model() for name, client in clients.items()},
        upload_bytes=sum(run.traffic.upload.values()),
        download_bytes=sum(run.traffic.download.values()),
        facts={
            "rounds": federation.rounds,
            "steps": federation.rounds * federation.training.steps,
            "learning_rate": federation.training.learning_rate,
            "clip": federation.privacy.clip,
            "similarity": {name: dict(client.similarity) for name, client in clients.items()},
            "edges": [[name, other] for name, client in clients.items() for other in client.neighbours],
            "signal": {name: client.signal for name, client in clients.items()},
        },
    )
