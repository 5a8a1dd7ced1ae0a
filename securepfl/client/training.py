"""What a hospital trains for a round, and what that releases: an update of its own, or its part of one common step."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from securepfl.client.records import Loss, TrainingSet
from securepfl.client.state import ClientState, Floats
from securepfl.learning.personal.partition import Partition
from securepfl.privacy.accounting.calibration import noise_multiplier_for
from securepfl.privacy.accounting.events import AnyRelease
from securepfl.privacy.training.common_step import take_common_step
from securepfl.privacy.training.dpsgd import DPSettings, TrainingReport, train_private
from securepfl.privacy.training.integer_sum import IntegerSum
from securepfl.privacy.training.shared_noise import SharedNoise
from securepfl.randomness import RandomStream
from securepfl.settings.federation import Federation


@dataclass(frozen=True)
class LocalTraining:
    """A hospital's model, records and settings. `model` is a workspace: its parameters are those trained last."""

    federation: Federation
    model: nn.Module
    partition: Partition
    training: TrainingSet
    loss: Loss
    device: torch.device
    settings: DPSettings

    def release(self, rounds: int = 1) -> AnyRelease:
        """What `rounds` rounds release."""
        unit = self.federation.privacy.unit
        if self._noise is not None:
            return self._noise.release(unit, rounds * self.settings.steps, self.federation.rounds)
        return self.settings.release(unit, rounds)

    def train(
        self, state: ClientState, support: NDArray[np.bool_], *, noise: RandomStream, sampling: RandomStream
    ) -> tuple[Floats, Floats, TrainingReport]:
        """Train privately from (shared, personal), of the shared only those in `support` [d]: the pair, and a report
        for the hospital alone.
        """
        self._load(state)
        options = self._options(support, noise, sampling)
        report = train_private(self.model, self.training.dataset, self.loss, self.settings, **options)
        shared = self.partition.flatten_shared(self.model)
        return as_floats(shared), as_floats(self.partition.flatten_personal(self.model)), report

    def common_step(
        self,
        state: ClientState,
        support: NDArray[np.bool_],
        *,
        noise: RandomStream,
        sampling: RandomStream,
        shares: RandomStream,
    ) -> tuple[NDArray[np.int64], Floats]:
        """This hospital's part of a step under shared noise: the noisy sum of rounded gradients in `support`, in grid
        steps [support size], and its new personal parameters, which took local noise. `shares` rounds and draws.
        """
        if self._noise is None:
            raise ValueError("the federation's noise is local: use train")
        integers = IntegerSum.empty(self._noise, shares, int(support.sum()))
        self._load(state)
        take_common_step(
            self.model,
            self.training.dataset,
            self.loss,
            replace(self.settings, noise_multiplier=self._noise.noise_multiplier),
            integers,
            shared=self.partition.shared,
            **self._options(support, noise, sampling),
        )
        return integers.noisy(), as_floats(self.partition.flatten_personal(self.model))

    @property
    def noise_variance(self) -> float:
        """Variance of the noise that a round adds to each coordinate it trains, as its steps add it to the gradient."""
        settings, units = self.settings, self.training.units
        deviation = settings.learning_rate * settings.noise_multiplier * settings.clip / (settings.sample_rate * units)
        return settings.steps * deviation**2

    @property
    def _noise(self) -> SharedNoise | None:
        return None if self.federation.shape is None else self.federation.shape.noise

    def _load(self, state: ClientState) -> None:
        self.partition.load_shared(self.model, torch.from_numpy(state.shared))
        self.partition.load_personal(self.model, torch.from_numpy(state.personal))

    def _options(self, support: NDArray[np.bool_], noise: RandomStream, sampling: RandomStream) -> dict[str, Any]:
        """What both kinds of training are told alike."""
        return {
            "noise": noise,
            "sampling": sampling,
            "masks": self.partition.mask_from_support(support),
            "device": self.device,
            "units": self.training.units,
            "unit": self.training.unit,
            "collate": self.training.collate,
        }


def as_floats(vector: Tensor) -> Floats:
    """A flat parameter vector as a float32 array of its own. Once a round, not in a training loop."""
    return vector.detach().cpu().numpy().astype(np.float32).copy()


def dp_settings(federation: Federation, units: int, steps: int) -> DPSettings:
    """DP-SGD for `steps` steps on `units` units, with noise that spends epsilon over the whole run's steps."""
    privacy, training = federation.privacy, federation.training
    rate, run_steps = privacy.rate_for(units), federation.rounds * training.steps
    return DPSettings(
        noise_multiplier=noise_multiplier_for(privacy.epsilon, privacy.delta, rate, run_steps),
        clip=privacy.clip,
        sample_rate=rate,
        steps=steps,
        learning_rate=training.learning_rate,
        physical_batch=training.physical_batch,
    )
