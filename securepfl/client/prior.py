"""How common the outcome is at a hospital, or how much of an image the structure covers: its sum over units, noisy.

One unit moves the sum by at most `limit`, and the noise is that of a training step: a Gaussian release like it.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from securepfl.client.records import TrainingSet
from securepfl.errors import ConfigError
from securepfl.privacy.accounting.events import Release
from securepfl.privacy.training.units import Batch, use_batches
from securepfl.privacy.training.unusable import Unusable
from securepfl.randomness import RandomStream
from securepfl.settings.federation import Federation
from securepfl.tasks.names import DEFAULT_TASK

_PHYSICAL_BATCH: Final = 64
PRIOR_ROUND: Final = 2
"""Behind the last round, and behind an expert's fine-tuning: its place in the ledger."""
_EDGE: Final = 1e-4
"""Released shares stay this far from 0 and 1: nothing is known to be impossible."""


@dataclass(frozen=True)
class Share:
    """What is asked of each unit: its share of each outcome, as its distance from `centre` [k], at most `limit` long.

    Both are declared facts. Labels are counted from the middle, so that none is cut. A structure covers about what
    `[data] prevalence` says, so shares are cut at twice that, and the noise is as much smaller.
    """

    task: str
    centre: tuple[float, ...]
    limit: float

    @classmethod
    def of(cls, federation: Federation) -> "Share":
        """Raises ConfigError for a task without outcomes to count."""
        task, spec, options = federation.model.task or DEFAULT_TASK, federation.data_spec, federation.label_options
        declared = None if spec is None else spec.prevalence
        match task:
            case "segmentation":
                middle = 0.5 if not isinstance(declared, float) else min(declared, 0.5)
                return cls(task, (middle,), middle)
            case "binary":
                return cls(task, (0.5,), 0.5)
            case "multilabel":
                count = len(options["labels"])
                return cls(task, (0.5,) * count, 0.5 * count**0.5)
            case "multiclass":
                count = len(options["classes"])
                return cls(task, (1 / count,) * count, (1 - 1 / count) ** 0.5)
        raise ConfigError(f"[release] prior: a {task} has no outcomes to count; set prior = false")

    def of_units(self, batch: Batch) -> Tensor:
        """What each unit of a batch adds, double [units, k]; nothing where it cannot be told."""
        shares = self._of_records(batch.y).double().reshape(len(batch.y), len(self.centre))
        owner = batch.owner(shares.device)
        if owner is not None:
            sums = shares.new_zeros(len(batch.units), shares.shape[1]).index_add_(0, owner, shares)
            shares = sums / torch.bincount(owner, minlength=len(batch.units))[:, None]
        away = (shares - shares.new_tensor(self.centre)).nan_to_num(0.0, 0.0, 0.0)
        lengths = away.norm(dim=1, keepdim=True)
        bounded: Tensor = away * (self.limit / lengths.clamp(min=self.limit))
        return bounded

    def _of_records(self, labels: Tensor) -> Tensor:
        if self.task == "segmentation":
            structure, field = (labels[:, channel].flatten(1) != 0 for channel in (0, 1))
            return (structure & field).sum(dim=1) / field.sum(dim=1)
        if self.task == "multiclass":
            return functional.one_hot(labels.long().reshape(-1), len(self.centre))
        return labels.clamp(0, 1)


@dataclass(frozen=True)
class Released:
    """Shares in (0, 1), and the standard deviation of the noise in each."""

    shares: tuple[float, ...]
    deviation: float


def released_shares(
    share: Share, training: TrainingSet, units: int, release: Release | None, stream: RandomStream
) -> Released:
    """The shares over `units` declared units: one step of `release`. Where it is None, those of the units that train,
    as they are.

    A declared unit that is not there counts as one of the centre: its number is private, as what a sum is divided by.

    >>> labels = torch.tensor([1.0, 0.0, 0.0, 0.0])
    >>> four = TrainingSet(torch.utils.data.TensorDataset(torch.zeros(4, 1), labels), None)
    >>> released_shares(Share("binary", (0.5,), 0.5), four, 4, None, RandomStream(bytes(32))).shares
    (0.25,)
    """
    rate = 1.0 if release is None else release.sample_rate
    there = np.array(sorted(set(range(training.found)) - training.skipped), dtype=np.int64)
    drawn = there if rate == 1.0 else there[stream.uniform(len(there)) < rate]
    total = np.zeros(len(share.centre))
    for part in use_batches(
        training.dataset, drawn.tolist(), _PHYSICAL_BATCH, training.unit, training.collate, share.of_units, Unusable()
    ):
        total += part.sum(dim=0).cpu().numpy()
    noise = 0.0 if release is None else release.noise_multiplier * share.limit
    noisy = total + noise * stream.gaussian(len(total))
    counted = rate * units if release is not None else max(1, len(there))
    shares = np.clip(np.array(share.centre) + noisy / counted, _EDGE, 1 - _EDGE)
    return Released(tuple(shares.tolist()), noise / counted)
