"""The records that a hospital hands in for training, and what of a DataLoader is used of them."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    Subset,
    default_collate,
)

from securepfl.client.repeats import check_held_once
from securepfl.errors import DataError, ModelError, SecurePFLError, first_line
from securepfl.privacy.accounting.events import Unit
from securepfl.privacy.training.dpsgd import DPSettings, train_private
from securepfl.privacy.training.probe import check_independence
from securepfl.randomness import RandomStream, fresh_key

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class TrainingSet:
    """A map-style data set of (x, y), how its items become a batch, and how many there are: the declared units.

    `unit` is what an item is: a record, or a patient with all their records, x [r, ...] and y [r, ...].
    """

    dataset: Dataset[Any]
    collate: Callable[[list[Any]], Any] | None
    units: int
    unit: Unit = "record"

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
        return cls(dataset, collate, len(dataset), unit)

    def try_out(
        self, model: nn.Module, loss: Loss, device: torch.device, site: str, *, physical_batch: int = 256
    ) -> None:
        """Train a copy of `model` on the first two units and on the first one, and throw it away.

        A mistake in shapes, or a parameter without a gradient, then costs no budget later. On the whole data set,
        records that depend on one another in model, loss or collate function are looked for, and what the model keeps
        of them (see probe.check_independence). Raises
        ModelError or DataError naming `site`, also where no gradient of these units is finite: then likely none is.
        """
        with _told(site, self.unit):
            check_independence(
                model,
                self.dataset,
                loss,
                device=device,
                unit=self.unit,
                collate=self.collate,
                physical_batch=physical_batch,
            )
        settings = DPSettings(noise_multiplier=1.0, clip=1.0, sample_rate=1.0, steps=1, learning_rate=1e-3)
        for count in sorted({1, min(2, self.units)}):
            first: Subset[Any] = Subset(self.dataset, range(count))
            stream = RandomStream(fresh_key())
            with _told(site, self.unit):
                report = train_private(
                    copy.deepcopy(model),
                    first,
                    loss,
                    settings,
                    noise=stream,
                    sampling=stream,
                    device=device,
                    units=count,
                    unit=self.unit,
                    collate=self.collate,
                )
            if report.nonfinite_records == count == min(2, self.units):
                raise DataError(
                    f"{site}: the first {self.unit}s hold NaN or infinity, or numbers so large that the model's "
                    "gradients do, and would train nothing; mend them, or leave them out"
                )


@contextmanager
def _told(site: str, unit: Unit) -> Iterator[None]:
    """What fails within is raised as ModelError or DataError naming the site."""
    try:
        yield
    except (ModelError, DataError) as error:
        raise type(error)(f"{site}: {error}") from None
    except SecurePFLError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever the pipeline's own code raises
        raise ModelError(
            f"{site}: model and loss fail on this data set ({first_line(error)}); each {unit} is (x, y), and "
            "the loss takes the model's outputs and the labels of a batch"
        ) from None


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
