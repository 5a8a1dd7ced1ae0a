"""The records that a hospital hands in for training, and what of a DataLoader is used of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from securepfl.client.repeats import check_held_once
from securepfl.errors import DataError
from securepfl.privacy.accounting.events import Unit

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class TrainingSet:
    """A map-style data set of (x, y), and how its items become a batch.

    `unit` is what an item is: a record, or a patient with all their records, x [r, ...] and y [r, ...]. `skipped` are
    the places of those that count as zero. `scanned`: how many units there were when they were looked at, None before.
    """

    dataset: Dataset[Any]
    collate: Callable[[list[Any]], Any] | None
    unit: Unit = "record"
    skipped: frozenset[int] = frozenset()
    scanned: int | None = None

    @classmethod
    def of(cls, training: DataLoader[Any] | Dataset[Any], site: str, unit: Unit = "record") -> "TrainingSet":
        """From a DataLoader or Dataset. Batches are drawn anew: full, or Poisson at the declared rate.

        Raises DataError for data that cannot be indexed or are empty, for a Subset or ConcatDataset that holds one
        twice (see repeats.py), and for a DataLoader whose sampler leaves records out, repeats or weighs them: drawing
        anew would undo that unseen. So does a collate function for patients, whose records are concatenated here.
        """
        if isinstance(training, DataLoader):
            _check_sampler(training, site)
            dataset, collate = training.dataset, _collate_of(training, site, unit)
        else:
            dataset, collate = training, None
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
            raise DataError(
                f"{site}: {type(dataset).__name__} cannot be indexed, so records cannot be drawn independently; "
                "hand in a map-style data set (with __len__ and __getitem__)"
            )
        if not len(dataset):
            raise DataError(f"{site}: no training records; hand in at least one")
        check_held_once(dataset, site, unit)
        return cls(dataset, collate, unit)

    @property
    def found(self) -> int:
        """Units in the data set, used or not."""
        return len(self.dataset)  # type: ignore[arg-type]

    def check_length(self) -> None:
        """Raises DataError where units came or went since the scan: no ledger knows those that came, and places that
        moved would let units train that were left out.
        """
        if self.scanned is not None and self.found != self.scanned:
            raise DataError(
                f"the data set had {self.scanned} {self.unit}s when the Client was made and has {self.found} now; make "
                "the Client again when it changes"
            )


def _collate_of(loader: DataLoader[Any], site: str, unit: Unit) -> Callable[[list[Any]], Any] | None:
    if unit == "record":
        return loader.collate_fn
    if loader.collate_fn is not default_collate:
        raise DataError(
            f"{site}: the DataLoader's collate function is not used, records of patients are concatenated; leave it out"
        )
    return None


def _check_sampler(loader: DataLoader[Any], site: str) -> None:
    if isinstance(loader.dataset, IterableDataset):
        return
    if loader.batch_size is None or type(loader.batch_sampler) is not BatchSampler:
        raise DataError(f"{site}: the DataLoader makes its own batches, which are not used; give it a batch_size")
    sampler, records = loader.sampler, len(loader.dataset)  # type: ignore[arg-type]
    shuffled = type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == records
    in_order = type(sampler) is SequentialSampler and len(sampler) == records
    if not (shuffled or in_order):
        raise DataError(
            f"{site}: the DataLoader's {type(sampler).__name__} is not used, every record would train; "
            "hand in torch.utils.data.Subset of the training records, without a sampler"
        )
