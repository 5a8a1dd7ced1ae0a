"""A pipeline that embeds securepfl: `make check` has strict type checkers read it, as in a user's project."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

import securepfl
from securepfl.errors import SecurePFLError
from securepfl.tasks.task import Task


def build_model() -> nn.Module:
    """The pipeline's own model."""
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(0))


def records() -> torch.utils.data.TensorDataset:
    """One hospital's own."""
    return torch.utils.data.TensorDataset(torch.randn(40, 3), torch.randint(0, 2, (40,)).float())


def settings(path: Path) -> securepfl.Federation:
    """Read and bound."""
    federation = securepfl.Federation.read(path).replace(rounds=3)
    return federation.bound(["north", "south", "west"], build_model, units=40)


def digest_of(federation: securepfl.Federation) -> str:
    """What parties compare."""
    digest: bytes = federation.digest
    return digest.hex()


def rounds(path: Path, data: Mapping[str, torch.utils.data.TensorDataset]) -> list[str]:
    """A simulation, and what each hospital's model is."""
    try:
        with securepfl.simulate(settings(path), data, build_model, path.parent / "run") as run:
            client: securepfl.Client = run.clients["north"]
            task: Task = client.task
            model: nn.Module = client.personal_model()
            return [task.name, type(model).__name__]
    except SecurePFLError as error:
        return [str(error)]
