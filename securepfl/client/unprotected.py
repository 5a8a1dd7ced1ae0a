"""Training without protection, in simulations alone: ordinary minibatches, nothing clipped, no noise, no epsilon."""

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from securepfl.client.comparing import follow
from securepfl.client.records import Loss, TrainingSet
from securepfl.client.round import Round
from securepfl.client.state import ClientState, Floats
from securepfl.client.training import Trained, as_floats, copy_of
from securepfl.errors import DataError, StorageError
from securepfl.learning.personal.partition import Partition
from securepfl.privacy.training.tally import TrainingReport
from securepfl.privacy.training.validation import set_training
from securepfl.randomness import RandomStream
from securepfl.settings.federation import Federation
from securepfl.tasks.augmentation import patches
from securepfl.tasks.layout import laid_out

BETAS: Final = (0.9, 0.99)
Moments = dict[str, Floats]
"""What Adam knows of t trained numbers in p parameters: "steps" [p], "mean" [t] and "square" [t] of gradients."""
_MOMENTS: Final = MappingProxyType({"mean": "exp_avg", "square": "exp_avg_sq"})
PATCH: Final = 128
"""Pixels a side of the patches that segmentation trains on; smaller images are taken whole."""


@dataclass(frozen=True, eq=False)
class Minibatches:
    """A hospital's training records in memory, on the device: x [n, ...], y [n, ...]. `patched`: x are images and y
    masks with their fields, of which random patches are taken.
    """

    x: Tensor
    y: Tensor
    patched: bool

    @classmethod
    def of(cls, training: TrainingSet, device: torch.device, *, patched: bool) -> "Minibatches":
        """All records of the units that train. Raises DataError where they are not of one shape, or there are none."""
        items = [training.dataset[place] for place in range(training.found) if place not in training.skipped]
        if not items:
            raise DataError("no training record can be used")
        try:
            pairs = [(torch.as_tensor(x), torch.as_tensor(y)) for x, y in items]
            join = torch.cat if training.unit == "patient" else torch.stack
            x, y = (join(list(column)) for column in zip(*pairs, strict=True))
        except (TypeError, ValueError, RuntimeError):
            raise DataError(
                '[privacy] protection = "none" needs records (x, y) that are numbers of one shape; mend the data set, '
                'or set protection = "dp"'
            ) from None
        return cls(x.to(device), y.to(device), patched)

    def draw(self, count: int, stream: RandomStream) -> tuple[Tensor, Tensor]:
        """`count` records: each once in random order before any comes again."""
        if self.patched:
            return patches(self.x, self.y, count, PATCH, stream)
        turns = -(-count // len(self.x))
        order = np.argsort(stream.uniform(turns * len(self.x)).reshape(turns, -1), axis=1)
        rows = torch.from_numpy(order.ravel()[:count]).to(self.x.device)
        return self.x[rows], self.y[rows]


@dataclass(frozen=True)
class Plain:
    """How the steps are taken: Adam (Kingma and Ba, arXiv 1412.6980), whose rate falls over all steps of a run along a
    quarter of a wave: `rate` cos^2(pi t / 2T).
    """

    rate: float
    batch: int
    whole: int

    @classmethod
    def of(cls, federation: Federation, steps: int | None = None) -> "Plain":
        """As the settings say, for `steps` in all (default: those of the rounds)."""
        training = federation.training
        return cls(training.learning_rate, training.batch, steps or federation.rounds * training.steps)

    def rates(self, first: int, steps: int) -> Iterator[float]:
        """Of so many steps, from step `first` (from 0) on.

        >>> [round(rate, 3) for rate in Plain(rate=1.0, batch=4, whole=4).rates(0, 4)]
        [1.0, 0.854, 0.5, 0.146]
        """
        for step in range(first, first + steps):
            yield self.rate * (1 + math.cos(math.pi * min(1.0, step / self.whole))) / 2

    def train(
        self,
        model: nn.Module,
        records: Minibatches,
        loss: Loss,
        stream: RandomStream,
        *,
        steps: int,
        first: int = 0,
        masks: Mapping[str, Tensor] | None = None,
        moments: Moments | None = None,
    ) -> TrainingReport:
        """Takes `steps` steps on `model`, in place. `masks`: 0/1 by parameter, where a 0 never moves. `moments`: what
        Adam knows from earlier steps, and is given what it knows after these; None to begin anew and keep nothing.
        Raises StorageError for moments that are not of this model, before a step is taken.
        """
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        still = {
            p: masks[name].to(p) for name, p in trained.items() if masks and name in masks and not masks[name].all()
        }
        optimiser = torch.optim.Adam(trained.values(), lr=self.rate, betas=BETAS)
        total = torch.zeros((), device=records.x.device)
        with laid_out(model, trained=True), _training(model), torch.random.fork_rng(range(torch.cuda.device_count())):
            torch.manual_seed(int(stream.words(1)[0] >> 1))
            if moments:
                _recall(optimiser, moments)
            for rate in self.rates(first, steps):
                optimiser.param_groups[0]["lr"] = rate
                x, y = records.draw(self.batch, stream)
                value = loss(model(x), y).mean()
                optimiser.zero_grad(set_to_none=True)
                torch.autograd.backward(value)
                for parameter, mask in still.items():
                    if parameter.grad is not None:
                        parameter.grad.mul_(mask)
                optimiser.step()
                total += value.detach()
            optimiser.zero_grad(set_to_none=True)
        if moments is not None:
            moments |= _known(optimiser)
        return TrainingReport(steps, clipped_fraction=None, mean_loss=float(total) / steps, mode="unprotected")


@contextmanager
def _training(model: nn.Module) -> Iterator[None]:
    """In training mode inside the block; afterwards each submodule is in the mode it was in before."""
    modes = [(module, module.training) for module in model.modules()]
    set_training(model)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _known(optimiser: torch.optim.Adam) -> Moments:
    """Of all parameters in their order, of those that had no gradient yet nothing: zeros."""
    pairs = [(parameter, optimiser.state.get(parameter, {})) for parameter in optimiser.param_groups[0]["params"]]
    steps = np.array([float(its.get("step", 0)) for _, its in pairs], dtype=np.float32)
    return {"steps": steps} | {
        name: as_floats(torch.cat([its.get(key, torch.zeros_like(parameter)).flatten() for parameter, its in pairs]))
        for name, key in _MOMENTS.items()
    }


def _fit(moments: Moments, sizes: list[int]) -> bool:
    """Whether moments are whole, and of parameters of these sizes."""
    shapes = {"steps": (len(sizes),), "mean": (sum(sizes),), "square": (sum(sizes),)}
    if {name: array.shape for name, array in moments.items()} != shapes:
        return False
    positive = bool((moments["steps"] >= 0).all() and (moments["square"] >= 0).all())
    return positive and all(bool(np.isfinite(array).all()) for array in moments.values())


def _recall(optimiser: torch.optim.Adam, moments: Moments) -> None:
    parameters: list[Tensor] = optimiser.param_groups[0]["params"]
    sizes = [parameter.numel() for parameter in parameters]
    if not _fit(moments, sizes):
        raise StorageError("state.safetensors: what Adam knows is of another model, or damaged; restore it from a copy")
    parts = {key: torch.split(torch.from_numpy(moments[name].copy()), sizes) for name, key in _MOMENTS.items()}
    for place, (parameter, steps) in enumerate(zip(parameters, moments["steps"], strict=True)):
        kept = {key: torch.empty_like(parameter).copy_(flat[place].view_as(parameter)) for key, flat in parts.items()}
        optimiser.state[parameter] = {"step": torch.tensor(float(steps)), **kept}


@dataclass(frozen=True)
class UnprotectedTraining:
    """A hospital's rounds without protection: what LocalTraining is with it."""

    federation: Federation
    model: nn.Module
    partition: Partition
    shift: np.ndarray
    training: TrainingSet
    loss: Loss
    device: torch.device
    units: int
    noise_variance: float = 0.0

    def release(self, rounds: int = 1, extra: int = 0) -> None:
        """Nothing that an epsilon is known of."""

    def train(self, round_: Round, state: ClientState) -> Trained:
        """Train from the state's shared and personal parameters; the state's personal ones move, its account of what is
        compared, and what Adam knows. Under a support, which changes, Adam begins anew in each round. Raises what
        model, loss and data set raise.
        """
        self.training.check_length()
        support, steps = round_.support, self.federation.training.steps
        moving = support if self.federation.trains_support else np.ones_like(support)
        with copy_of(self.model, self.partition, state, self.shift, self.loss) as model:
            report = Plain.of(self.federation).train(
                model,
                self.records,
                self.loss,
                round_.streams["sampling"],
                steps=steps,
                first=(round_.number - 1) * steps,
                masks=self.partition.mask_from_support(moving),
                moments=state.moments if moving.all() else None,
            )
        trained, personal = (
            as_floats(self.partition.flatten_shared(model)),
            as_floats(self.partition.flatten_personal(model)),
        )
        gradient = (state.shared + self.shift - trained).astype(np.float64)
        follow(self.federation, state, gradient, personal, moved=int(moving.sum()), variance=0.0)
        state.personal = personal
        return Trained(trained - self.shift, gradient, None, report)

    def finetune(self, model: nn.Module, round_: Round, steps: int) -> nn.Module:
        """A copy of `model` after `steps` further steps on all that trains, at a rate that falls anew."""
        tuned, stream = copy.deepcopy(model), round_.streams["sampling"]
        Plain.of(self.federation, steps).train(tuned, self.records, self.loss, stream, steps=steps)
        return tuned

    @cached_property
    def records(self) -> Minibatches:
        """The records that train. Raises DataError."""
        return minibatches(self.federation, self.training, self.device)


def minibatches(federation: Federation, training: TrainingSet, device: torch.device) -> Minibatches:
    """What a hospital of these settings trains on. Raises DataError."""
    patched = federation.model.task == "segmentation" and federation.model.trained != "head"
    return Minibatches.of(training, device, patched=patched)
