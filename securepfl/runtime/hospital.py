"""A simulated hospital's rows, and what a client trains on."""

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch.utils.data import TensorDataset

from securepfl.data.table import Table
from securepfl.errors import ConfigError
from securepfl.privacy.accounting.events import Unit
from securepfl.privacy.training.units import PatientDataset, group_records
from securepfl.settings.federation import Federation


@dataclass(frozen=True)
class Hospital:
    """A simulated hospital's rows: training rows, and test rows that never train. Both labelled."""

    train: Table
    test: Table

    def __post_init__(self) -> None:
        if self.train.labels is None or self.test.labels is None:
            raise ValueError(f"{self.train.site}: training and test rows must be labelled")


def labels_of(table: Table) -> NDArray[Any]:
    """The labels [n, ...] of a labelled table. Raises ValueError for an unlabelled one."""
    if table.labels is None:
        raise ValueError(f"{table.site}: rows are not labelled")
    return table.labels


def dataset_of(table: Table, unit: Unit = "record") -> TensorDataset | PatientDataset:
    """A labelled table as items (features float32 [d], label float32), or as patients with all their rows; of images
    (float32 [channels, height, width], label float32, or the mask with its field uint8 [2, height, width]).

    A label that is a number is float64.

    Raises ConfigError where the unit is the patient and no column names them.
    """
    features, labels = torch.from_numpy(table.features), torch.from_numpy(labels_of(table))
    # Numbers stay as they are, so that the limits they were read under hold for them still; masks are four times less.
    labels = labels if labels.is_floating_point() or labels.ndim > 2 else labels.float()
    if unit == "record":
        return TensorDataset(features, labels)
    if table.patients is None:
        raise ConfigError('[privacy] unit = "patient": declare the column that names them, [data] patient = "..."')
    return group_records(features, labels, table.patients)


def tested_by(hospital: Hospital, federation: Federation) -> TensorDataset | PatientDataset | None:
    """What a hospital's client is handed of its test rows: where metrics are released about them alone."""
    if not federation.release.metrics:
        return None
    return dataset_of(hospital.test, federation.privacy.unit if len(hospital.test) else "record")
