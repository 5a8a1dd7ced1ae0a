"""The records that a hospital hands in for training, and what of a DataLoader is used of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from securepfl.errors import DataError, ModelError
from securepfl.learning.prediction import evaluating


@dataclass(frozen=True)
class TrainingSet:
    """A map-style data set of (x, y), how its items become a batch, and how many there are: the declared units."""

    dataset: Dataset[Any]
    collate: Callable[[list[Any]], Any] | None
    units: int

    @classmethod
    def of(cls, training: DataLoader[Any] | Dataset[Any], site: str) -> "TrainingSet":
        """From a DataLoader or Dataset. Batches are drawn anew: full, or Poisson at the declared rate.

        Raises DataError for data that cannot be indexed or are empty, and for a DataLoader whose sampler leaves
        records out, repeats or weighs them: drawing anew would undo that unseen.
        """
        if isinstance(training, DataLoader):
            _check_sampler(training, site)
            dataset, collate = training.dataset, training.collate_fn
        else:
            dataset, collate = training, None
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
            raise DataError(
                f"{site}: {type(dataset).__name__} cannot be indexed, so records cannot be drawn independently; "
                "hand in a map-style data set (with __len__ and __getitem__)"
            )
        if not len(dataset):
            raise DataError(f"{site}: no training records; hand in at least one")
        return cls(dataset, collate, len(dataset))

    def try_out(
        self, model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], device: torch.device, site: str
    ) -> None:
        """Run model and loss on the first records once, so that a mistake in their shapes costs no budget later.

        Nothing is kept of it. Raises ModelError where they fail or the loss is not one number a record.
        """
        records = [self.dataset[index] for index in range(min(2, self.units))]
        try:
            x, y = (self.collate or default_collate)(records)
            with evaluating(model), torch.no_grad():
                losses = loss(model(x.to(device)), y.to(device))
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ModelError(
                f"{site}: model and loss fail on the first records ({reason}); records are (x, y), and the default "
                "loss takes one logit and one label of 0 or 1 for each"
            ) from None
        if losses.shape != (len(records),):
            raise ModelError(
                f"{site}: the loss gives shape {tuple(losses.shape)} for {len(records)} records; make it one number "
                "a record (in torch's losses, reduction='none')"
            )


def _check_sampler(loader: DataLoader[Any], site: str) -> None:
    if isinstance(loader.dataset, IterableDataset):
        return
    if loader.batch_size is None or type(loader.batch_sampler) is not BatchSampler:
        raise DataError(f"{site}: the DataLoader makes its own batches, which are not used; give it a batch_size")
    sampler, records = loader.sampler, len(loader.dataset)  # type: ignore[arg-type]
    shuffled = type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == records
    if not (shuffled or type(sampler) is SequentialSampler):
        raise DataError(
            f"{site}: the DataLoader's {type(sampler).__name__} is not used, every record would train; "
            "hand in torch.utils.data.Subset of the training records, without a sampler"
        )
