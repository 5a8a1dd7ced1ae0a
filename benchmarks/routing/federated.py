"""Training without privacy, so that noise hides nothing of what routing can do: FedAvg, then a fine-tuning each."""

import copy
from collections.abc import Sequence

import torch
from segmentation.training import TUNED, Schedule, averaged, copied
from torch import Tensor, nn

from routing.world import World
from securepfl.data.table import Table
from securepfl.outside.candidates import SHARED
from securepfl.randomness import RandomStream
from securepfl.tasks.augmentation import patches
from securepfl.tasks.models import public_stream
from securepfl.tasks.task import Task


class Member:
    """A hospital's rows and its minibatches: patches of masked images, else rows."""

    def __init__(self, rows: Table, task: Task, schedule: Schedule, stream: RandomStream) -> None:
        if rows.labels is None:
            raise ValueError(f"{rows.site}: has no labels")
        self.x, y = torch.from_numpy(rows.features), torch.from_numpy(rows.labels)
        self.y = y if y.ndim > 1 else y.float()
        self._task, self._schedule, self._stream = task, schedule, stream

    def train(self, model: nn.Module, optimiser: torch.optim.Optimizer, steps: int, rate: float) -> None:
        """`steps` minibatches."""
        for group in optimiser.param_groups:
            group["lr"] = rate
        for _ in range(steps):
            x, y = self._batch()
            loss = self._task.loss(model(x), y).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    def _batch(self) -> tuple[Tensor, Tensor]:
        batch = self._schedule.batch
        if self.y.ndim == 4:
            return patches(self.x, self.y, batch, self._schedule.patch, self._stream)
        chosen = torch.from_numpy(self._stream.permutation(len(self.x))[:batch])
        return self.x[chosen], self.y[chosen]


def experts(world: World, seed: int, finetuning: int) -> dict[str, nn.Module]:
    """The shared model by FedAvg, each hospital counting alike, and every hospital's expert: `finetuning` more steps.

    Each keeps its optimiser from round to round.
    """
    schedule = world.schedule
    members = [
        Member(rows, world.task, schedule, public_stream("routing", name, seed)) for name, rows in world.members.items()
    ]
    models = [world.build().train() for _ in members]
    optimisers = [torch.optim.Adam(model.parameters(), betas=(0.9, 0.99)) for model in models]
    for turn in range(schedule.rounds):
        for member, model, optimiser in zip(members, models, optimisers, strict=True):
            member.train(model, optimiser, schedule.steps, schedule.rate_at(turn / schedule.rounds))
        _meet(models)
    found = {SHARED: copy.deepcopy(models[0])}
    for name, member, model in zip(world.members, members, models, strict=True):
        own = torch.optim.Adam(model.parameters(), betas=(0.9, 0.99))
        for step in range(finetuning):
            member.train(model, own, 1, TUNED * schedule.rate_at(step / finetuning))
        found[name] = model
    return {name: model.eval().requires_grad_(False) for name, model in found.items()}


def _meet(models: Sequence[nn.Module]) -> None:
    mean = averaged([copied(model.state_dict()) for model in models], [1.0] * len(models))
    for model in models:
        model.load_state_dict(mean)
