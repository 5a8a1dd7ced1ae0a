"""How much a personal part helps on a hospital's own data: trained on one half of its units, scored on the other."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from securepfl.client.candidates import Candidate
from securepfl.client.records import Loss, TrainingSet
from securepfl.client.training import PHYSICAL_BATCH
from securepfl.privacy.accounting.events import Release
from securepfl.privacy.training.dpsgd import DPSettings, train_private
from securepfl.privacy.training.units import Batch, batches_of
from securepfl.randomness import RandomStream
from securepfl.settings.federation import Federation
from securepfl.tasks.models import public_stream
from securepfl.tasks.prediction import evaluating


@dataclass(frozen=True)
class Trial:
    """How one candidate is trained on one half of the units and scored on the other.

    The halves are disjoint and fixed by the units' places alone, so one unit is in one of them and a candidate costs
    the dearer (parallel composition). Both cost the same: `steps` steps of noise s, or one sum of noise
    s / sqrt(steps).
    """

    records: TrainingSet
    trained: Subset[Any]
    scored: list[int]
    settings: DPSettings
    score_noise: float
    gain_clip: float
    loss: Loss
    device: torch.device

    @classmethod
    def of(
        cls, federation: Federation, records: TrainingSet, one: Release, clip: float, loss: Loss, device: torch.device
    ) -> Self:
        """A trial that releases `one`; `clip` bounds what a unit adds to a score."""
        order = public_stream("suggestion halves", records.units).permutation(records.units).tolist()
        half = records.units // 2
        settings = DPSettings(
            noise_multiplier=one.noise_multiplier,
            clip=federation.privacy.clip,
            sample_rate=one.sample_rate,
            steps=one.steps,
            learning_rate=federation.training.learning_rate,
            physical_batch=PHYSICAL_BATCH,
        )
        score_noise = one.noise_multiplier / math.sqrt(one.steps)
        trained: Subset[Any] = Subset(records.dataset, sorted(order[:half]))
        return cls(records, trained, sorted(order[half:]), settings, score_noise, clip, loss, device)

    @property
    def resolution(self) -> float:
        """Standard deviation of the noise on a score, in units of the loss."""
        return self.score_noise * self.gain_clip / len(self.scored)

    def score(self, part: Candidate, noise: RandomStream, sampling: RandomStream) -> float:
        """How much less the scored half's mean loss is after training `part`: each unit's gain clipped, and noisy."""
        model = copy.deepcopy(part.model)
        train_private(
            model,
            self.trained,
            self.loss,
            self.settings,
            noise=noise,
            sampling=sampling,
            device=self.device,
            units=len(self.trained),
            unit=self.records.unit,
            masks=part.frozen(),
            collate=self.records.collate,
        )
        with evaluating(part.model), evaluating(model), torch.no_grad():
            total = math.fsum(float(self.gains(part.model, model, batch).sum()) for batch in self.batches())
        return (total + self.score_noise * self.gain_clip * float(noise.gaussian(1)[0])) / len(self.scored)

    def batches(self) -> Iterator[Batch]:
        """The scored units."""
        records = self.records
        return batches_of(records.dataset, self.scored, self.settings.physical_batch, records.unit, records.collate)

    def gains(self, before: nn.Module, after: nn.Module, batch: Batch) -> Tensor:
        """Each unit's gain, double [units] within +-gain_clip: a patient's is the mean over the patient's records."""
        gains = torch.cat(
            [
                (self.loss(before(x), y) - self.loss(after(x), y)).double()
                for x, y in zip(self._rows(batch.x), self._rows(batch.y), strict=True)
            ]
        )
        owner = batch.owner(gains.device)
        if owner is not None:
            sums = gains.new_zeros(len(batch.units)).index_add_(0, owner, gains)
            gains = sums / torch.bincount(owner, minlength=len(batch.units))
        # Not a number counts as nothing: a sum that holds one would not be bounded.
        return gains.nan_to_num(0.0, 0.0, 0.0).clamp(-self.gain_clip, self.gain_clip)

    def _rows(self, values: Tensor) -> Iterator[Tensor]:
        return (part.to(self.device) for part in torch.split(values, self.settings.physical_batch))
