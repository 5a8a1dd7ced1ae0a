"""How much a personal part helps on a hospital's own data: trained on one half of its units, scored on the other."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from securepfl.client.candidates import Candidate
from securepfl.client.records import Loss, TrainingSet
from securepfl.client.training import PHYSICAL_BATCH
from securepfl.privacy.accounting.events import Release
from securepfl.privacy.training.dpsgd import DPSettings, train_private
from securepfl.privacy.training.units import Batch, use_batches
from securepfl.privacy.training.unusable import Unusable
from securepfl.randomness import RandomStream
from securepfl.settings.federation import Federation
from securepfl.tasks.models import public_stream
from securepfl.tasks.prediction import evaluating


@dataclass(frozen=True)
class Trial:
    """How one candidate is trained on one half of the units and scored on the other.

    The halves are disjoint and fixed by the units' places alone, so one unit is in one of them and a candidate costs
    the dearer (parallel composition). Both cost the same: `steps` steps of noise s, or one sum of noise
    s / sqrt(steps). `trained` and `scored` are the places of those that can be used; sums are divided by what the
    declared number comes to, `sizes`, however many there are.
    """

    records: TrainingSet
    trained: list[int]
    scored: list[int]
    sizes: tuple[int, int]
    settings: DPSettings
    score_noise: float
    gain_clip: float
    loss: Loss
    device: torch.device

    @classmethod
    def of(
        cls,
        federation: Federation,
        records: TrainingSet,
        units: int,
        one: Release,
        clip: float,
        loss: Loss,
        device: torch.device,
    ) -> Self:
        """A trial of `units` declared units that releases `one`; `clip` bounds what a unit adds to a score."""
        places = max(units, records.found)
        order = public_stream("suggestion halves", places).permutation(places).tolist()
        there = set(range(records.found)) - records.skipped
        trained, scored = (sorted(there.intersection(half)) for half in (order[: places // 2], order[places // 2 :]))
        sizes = (units // 2, units - units // 2)
        settings = DPSettings(
            noise_multiplier=one.noise_multiplier,
            clip=federation.privacy.clip,
            sample_rate=one.sample_rate,
            steps=one.steps,
            learning_rate=federation.training.learning_rate,
            physical_batch=PHYSICAL_BATCH,
        )
        score_noise = one.noise_multiplier / math.sqrt(one.steps)
        return cls(records, trained, scored, sizes, settings, score_noise, clip, loss, device)

    @property
    def resolution(self) -> float:
        """Standard deviation of the noise on a score, in units of the loss."""
        return self.score_noise * self.gain_clip / self.sizes[1]

    def score(self, part: Candidate, noise: RandomStream, sampling: RandomStream) -> float:
        """How much less the scored half's mean loss is after training `part`: each unit's gain clipped, and noisy."""
        model, dataset = copy.deepcopy(part.model), self.records.dataset
        train_private(
            model,
            Subset(dataset, self.trained) if self.trained else None,
            self.loss,
            self.settings,
            noise=noise,
            sampling=sampling,
            device=self.device,
            units=self.sizes[0],
            unit=self.records.unit,
            masks=part.frozen(),
            collate=self.records.collate,
        )
        with evaluating(part.model), evaluating(model), torch.no_grad():
            total = math.fsum(float(gains.sum()) for gains in self.all_gains(part.model, model))
        return (total + self.score_noise * self.gain_clip * float(noise.gaussian(1)[0])) / self.sizes[1]

    def all_gains(self, before: nn.Module, after: nn.Module) -> Iterator[Tensor]:
        """The scored units', batch by batch; one that cannot be used gains nothing."""
        records, gains = self.records, partial(self.gains, before, after)
        most, unit = self.settings.physical_batch, records.unit
        return use_batches(records.dataset, self.scored, most, unit, records.collate, gains, Unusable())

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
