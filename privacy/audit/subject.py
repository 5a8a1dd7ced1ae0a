"""What is audited: a hospital's training, and rounds of it with canaries in them that are watched.

The code that draws, batches, clips, sums and adds noise is the one that real rounds run; only the canaries' gradients
are set (see training.canaries). A copy of the model is trained, and no ledger is written.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from securepfl.errors import ModelError
from securepfl.privacy.accounting.events import Unit
from securepfl.privacy.audit.verdicts import Floats
from securepfl.privacy.training.canaries import Canaries
from securepfl.privacy.training.dpsgd import DPSettings, Loss, train_private
from securepfl.privacy.training.gradients import ModeName
from securepfl.privacy.training.units import Collate, count_units
from securepfl.randomness import RandomStream, fresh_key

Positions = NDArray[np.int64]


class Trainer(Protocol):
    """How a round trains: each call is the next round, with random streams of its own."""

    def __call__(
        self,
        subject: "Training",
        model: nn.Module,
        dataset: Dataset[Any],
        settings: DPSettings,
        canaries: Canaries | None,
    ) -> None:
        """Train `model` in place by `settings` on `dataset`, as `subject` says otherwise."""


def train_by_itself(
    subject: "Training", model: nn.Module, dataset: Dataset[Any], settings: DPSettings, canaries: Canaries | None
) -> None:
    """train_private under fresh streams: no client's rounds."""
    train_private(
        model,
        dataset,
        subject.loss,
        settings,
        noise=subject.stream(),
        sampling=subject.stream(),
        device=subject.device,
        units=subject.units,
        unit=subject.unit,
        mode=subject.mode,
        masks=subject.masks,
        collate=subject.collate,
        canaries=canaries,
    )


@dataclass(frozen=True)
class Training:
    """What a hospital's rounds train with, as train_private takes it. dataset: map-style; an item is a unit. trainer:
    how a round trains with it.

    >>> settings = DPSettings(noise_multiplier=2.0, clip=1.0, sample_rate=1.0, steps=1, learning_rate=0.1)
    >>> data = torch.utils.data.TensorDataset(torch.randn(5, 3), torch.ones(5))
    >>> training = Training(nn.Linear(3, 1), data, lambda z, y: (z[:, 0] - y) ** 2, settings, units=5)
    >>> training.positions()
    array([0, 1, 2, 3])
    """

    model: nn.Module
    dataset: Dataset[Any]
    loss: Loss
    settings: DPSettings
    units: int
    device: torch.device | str = "cpu"
    unit: Unit = "record"
    mode: Literal["auto"] | ModeName = "auto"
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    collate: Collate | None = None
    trainer: Trainer = train_by_itself
    """A hospital's audit hands in its client's rounds (securepfl.client.rehearsed): their streams are audited too."""
    fresh: Callable[[], bytes] = fresh_key
    """Makes the key of each stream. Only a test that has to give the same result each time names another."""

    def positions(self) -> Positions:
        """Where in the concatenation of all trained parameters training may move the model."""
        supports = [self.masks.get(name, torch.ones(p.shape)) for name, p in trained(self.model).items()]
        flat = [support.cpu().reshape(-1) for support in [torch.zeros(0), *supports]]
        moving: Positions = np.flatnonzero(torch.cat(flat).numpy())
        if len(moving) == 0:
            raise ModelError("the model has no parameters to train: hand in one that has")
        return moving

    def stream(self) -> RandomStream:
        """A stream under a key of its own."""
        return RandomStream(self.fresh())

    def smallest(self) -> int:
        """Of which unit canaries are copies: of patients, one with the fewest records, quick to go through."""
        if self.unit == "record":
            return 0
        return min(range(count_units(self.dataset)), key=lambda index: len(self.dataset[index][1]))

    def take(self, model: nn.Module, dataset: Dataset[Any], settings: DPSettings, canaries: Canaries | None) -> None:
        """Trains `model` by `settings` on `dataset`, as the next round does."""
        self.trainer(self, model, dataset, settings, canaries)


class _WithCanaries(Dataset[Any]):
    """A data set with copies of its first item at its end; their gradients will be set."""

    def __init__(self, training: Training, canaries: int) -> None:
        self._dataset, self._first, self._canaries = training.dataset, count_units(training.dataset), canaries

    def __len__(self) -> int:
        return self._first + self._canaries

    def __getitem__(self, index: int) -> Any:
        return self._dataset[index if index < self._first else 0]


def watched_rounds(
    training: Training,
    settings: DPSettings,
    chosen: Positions,
    included: NDArray[np.bool_],
    rounds: int,
    scale: float = 1.0,
) -> Iterator[Floats]:
    """The sums of rounds of `settings.steps` steps at positions `chosen`, in clips.

    included: for each of the first positions whether its canary is in; empty for a training without canaries.
    What is watched starts each round at zero: the numbers read are then as exact as those that were added.
    """
    model = copy.deepcopy(training.model).to(training.device)
    coordinates = chosen[: len(included)][included]
    dataset = _WithCanaries(training, len(coordinates))
    canaries = Canaries(first=count_units(training.dataset), coordinates=coordinates, zeroed=chosen, scale=scale)
    in_clips = settings.sample_rate * training.units / (settings.learning_rate * settings.clip)
    for _ in range(rounds):
        _clear(model, chosen)
        training.take(model, dataset, settings, canaries if len(included) else None)
        yield -values_at(model, chosen) * in_clips


def values_at(model: nn.Module, chosen: Positions) -> Floats:
    """The parameters that train, at positions `chosen` of their concatenation, in double precision."""
    parts = [p.detach().reshape(-1).double().cpu() for p in trained(model).values()]
    values: Floats = torch.cat(parts).numpy()[chosen]
    return values


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that train, by name, in order: what positions count in."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _clear(model: nn.Module, chosen: Positions) -> None:
    parameters = list(trained(model).values())
    marked = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.bool)
    marked[torch.from_numpy(chosen)] = True
    parts = torch.split(marked, [p.numel() for p in parameters])
    with torch.no_grad():
        for p, part in zip(parameters, parts, strict=True):
            p.masked_fill_(part.view(p.shape).to(p.device), 0)
