"""What a hospital trains for a round, and what that releases: an update of its own, or its part of one common step."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from securepfl.client.comparing import follow
from securepfl.client.records import Loss, TrainingSet
from securepfl.client.round import Round
from securepfl.client.state import ClientState, Doubles, Floats
from securepfl.errors import first_line
from securepfl.learning.personal.partition import Partition
from securepfl.privacy.accounting.calibration import noise_multiplier_for
from securepfl.privacy.accounting.events import AnyRelease
from securepfl.privacy.training.canaries import Canaries
from securepfl.privacy.training.common_step import take_common_step
from securepfl.privacy.training.dpsgd import DPSettings, TrainingReport, train_private
from securepfl.privacy.training.gradients import GradientMode, choose_mode
from securepfl.privacy.training.integer_sum import IntegerSum
from securepfl.privacy.training.shared_noise import SharedNoise
from securepfl.privacy.training.state import HeldState
from securepfl.settings.federation import Federation


@dataclass(frozen=True)
class Trained:
    """What a round's training came to, for what is sent and kept.

    `shared` [d] are the shared parameters as trained, `gradient` [d] how far they moved. Under shared noise they stay
    where they were, and `integers` [support size] is this hospital's part of the common step. `report` is for the
    hospital alone.
    """

    shared: Floats
    gradient: Doubles
    integers: NDArray[np.int64] | None
    report: TrainingReport


@dataclass(frozen=True)
class LocalTraining:
    """A hospital's model at the public start, records and settings. `units` is the number that it declares; `canaries`
    are those of a rehearsal, None in every real round. `shift` [d] is added to the shared parameters as they train: a
    public constant, by which this hospital's output bias differs from the others'.

    Each training takes a copy of `model`: what one leaves behind in it, other than in its trained parameters, goes
    neither into the next nor into any model that is handed out. A model that keeps something is refused all the same,
    and here too, as a probe of the data set can't show all.
    """

    federation: Federation
    model: nn.Module
    partition: Partition
    shift: Floats
    training: TrainingSet
    loss: Loss
    device: torch.device
    settings: DPSettings
    units: int
    canaries: Canaries | None = None

    def release(self, rounds: int = 1, extra: int = 0) -> AnyRelease:
        """What `rounds` rounds release, and `extra` steps of the same noise beside them."""
        unit, steps = self.federation.privacy.unit, rounds * self.settings.steps + extra
        if self._noise is not None:
            return self._noise.release(unit, steps, self.federation.run_steps)
        return replace(self.settings, steps=steps).release(unit)

    def finetune(self, model: nn.Module, round_: Round, steps: int) -> nn.Module:
        """A copy of `model` after `steps` further private steps on all that trains. Where training fails, the same is
        released of no units, as in a round.
        """
        try:
            self.training.check_length()
            return self._finetuned(model, round_, steps, self.training.dataset)
        except Exception:  # noqa: BLE001 - whatever the pipeline's own code raises
            return self._finetuned(model, round_, steps, None)

    def _finetuned(self, model: nn.Module, round_: Round, steps: int, dataset: Dataset[Any] | None) -> nn.Module:
        tuned = copy.deepcopy(model)
        held = HeldState.of(tuned, self.loss, trained=False)
        options = self._options(np.ones(self.partition.shared_size, dtype=np.bool_), round_)
        train_private(tuned, dataset, self.loss, replace(self.settings, steps=steps), **options)
        held.check_unchanged(tuned, self.loss, trained=False)
        return tuned

    def train(self, round_: Round, state: ClientState) -> Trained:
        """Train privately from the state's shared and personal parameters; the state's personal ones move, and its
        account of what is compared.

        Where training fails altogether, by model, loss, data set or for want of memory, the same is released of no
        units: noise alone. Otherwise a record that brings it down would show in who answers.
        """
        try:
            self.training.check_length()
            return self._trained(round_, state, self.training.dataset)
        except Exception as error:  # noqa: BLE001 - whatever the pipeline's own code raises
            trained = self._trained(round_, state, None)
            return replace(trained, report=replace(trained.report, failed=first_line(error)))

    def _trained(self, round_: Round, state: ClientState, dataset: Dataset[Any] | None) -> Trained:
        if self._noise is not None:
            return self._common_step(self._noise, round_, state, dataset)
        return self._own_update(round_, state, dataset)

    def _own_update(self, round_: Round, state: ClientState, dataset: Dataset[Any] | None) -> Trained:
        """With this hospital's own noise. Of the shared parameters those in the support move, or all where only the
        sending is sparse.
        """
        support = round_.support
        moving = support if self.federation.trains_support else np.ones_like(support)
        options = self._options(moving, round_)
        with copy_of(self.model, self.partition, state, self.shift, self.loss) as model:
            report = train_private(model, dataset, self.loss, self.settings, canaries=self.canaries, **options)
        trained, personal = as_floats(self.partition.flatten_shared(model)), self._personal(model)
        gradient = (state.shared + self.shift - trained).astype(np.float64)
        follow(self.federation, state, gradient, personal, moved=int(moving.sum()), variance=self.noise_variance)
        state.personal = personal
        return Trained(trained - self.shift, gradient, None, report)

    def _common_step(
        self, shared_noise: SharedNoise, round_: Round, state: ClientState, dataset: Dataset[Any] | None
    ) -> Trained:
        """This hospital's part of a step under shared noise: the noisy sum of rounded gradients in the support, in
        grid steps. The personal parameters took local noise.
        """
        integers = IntegerSum.empty(shared_noise, round_.streams["noise share"], int(round_.support.sum()))
        with copy_of(self.model, self.partition, state, self.shift, self.loss) as model:
            report = take_common_step(
                model,
                dataset,
                self.loss,
                replace(self.settings, noise_multiplier=shared_noise.noise_multiplier),
                integers,
                shared=self.partition.shared,
                **self._options(round_.support, round_),
            )
        state.personal = self._personal(model)
        return Trained(state.shared, np.zeros(state.shared.size), integers.noisy(), report)

    @property
    def gradient_mode(self) -> GradientMode:
        """How each unit's gradient is had from this model, and why that way."""
        return choose_mode(self.model, unit=self.training.unit, physical_batch=self.settings.physical_batch)

    @property
    def noise_variance(self) -> float:
        """Variance of the noise that a round adds to each coordinate it trains, as its steps add it to the gradient."""
        settings, units = self.settings, self.units
        deviation = settings.learning_rate * settings.noise_multiplier * settings.clip / (settings.sample_rate * units)
        return settings.steps * deviation**2

    @property
    def _noise(self) -> SharedNoise | None:
        return None if self.federation.shape is None else self.federation.shape.noise

    def _personal(self, model: nn.Module) -> Floats:
        return as_floats(self.partition.flatten_personal(model))

    def _options(self, moving: NDArray[np.bool_], round_: Round) -> dict[str, Any]:
        """What both kinds of training are told alike."""
        return {
            "noise": round_.streams["noise"],
            "sampling": round_.streams["sampling"],
            "masks": self.partition.mask_from_support(moving),
            "device": self.device,
            "units": self.units,
            "unit": self.training.unit,
            "collate": self.training.collate,
            "skipped": self.training.skipped,
        }


@contextmanager
def copy_of(
    template: nn.Module, partition: Partition, state: ClientState, shift: Floats, loss: Loss
) -> Iterator[nn.Module]:
    """The model with the state's parameters, to be trained. Raises ModelError where more than these changes: then
    nothing of it is sent.
    """
    model = partition.filled(template, state.shared + shift, state.personal)
    held = HeldState.of(model, loss, trained=False)
    yield model
    held.check_unchanged(model, loss, trained=False)


PHYSICAL_BATCH = 256
"""Records in memory at once where a data set is looked at. It changes no result: so no shared setting."""


def as_floats(vector: Tensor) -> Floats:
    """A flat parameter vector as a float32 array of its own. Once a round, not in a training loop."""
    return vector.detach().cpu().numpy().astype(np.float32).copy()


def dp_settings(federation: Federation, units: int, steps: int, physical_batch: int = PHYSICAL_BATCH) -> DPSettings:
    """DP-SGD for `steps` steps on `units` units, with noise that spends epsilon over the whole run's steps."""
    privacy, training = federation.privacy, federation.training
    rate, run_steps = federation.sample_rate_for(units), federation.run_steps
    return DPSettings(
        noise_multiplier=noise_multiplier_for(privacy.epsilon, privacy.delta, rate, run_steps),
        clip=privacy.clip,
        sample_rate=rate,
        steps=steps,
        learning_rate=training.learning_rate,
        physical_batch=physical_batch,
    )
