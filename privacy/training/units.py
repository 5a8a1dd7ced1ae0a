"""The unit of privacy: one record, or one patient with all records of that patient.

A patient is one item of the data set, (x, y) with x [r, ...] and y [r, ...], r >= 1. Drawing picks patients,
and no patient spans physical batches, so that a patient's gradient is whole before its norm is taken.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset, default_collate

from securepfl.errors import DataError
from securepfl.identifiers import identified
from securepfl.privacy.accounting.events import Unit
from securepfl.privacy.training.unusable import Made, Unusable

Collate = Callable[[list[Any]], Any]


@dataclass(frozen=True)
class Batch:
    """Whole units whose gradients are in memory together.

    x, y: [records, ...]. units: index in the data set of each unit, in order. counts: records of each unit,
    which follow one another; None where each unit is one record.

    >>> Batch(torch.zeros(3, 2), torch.zeros(3), units=(4, 7), counts=(2, 1)).owner(torch.device("cpu"))
    tensor([0, 0, 1])
    """

    x: Tensor
    y: Tensor
    units: tuple[int, ...]
    counts: tuple[int, ...] | None = None

    def owner(self, device: torch.device) -> Tensor | None:
        """Number of the unit within the batch of each record, shape [records]; None where they are the same."""
        if self.counts is None:
            return None
        return torch.arange(len(self.units)).repeat_interleave(torch.tensor(self.counts)).to(device)


class PatientDataset(Dataset[tuple[Tensor, Tensor]]):
    """Items are patients: (features [r, ...], labels [r, ...]) of each, r varying, at least 1.

    Raises DataError, naming the patient's number, for one without records or whose features and labels differ in
    length. `group_records` makes one from a table.

    >>> import torch
    >>> from securepfl import PatientDataset
    >>> first, second = (torch.zeros(3, 2), torch.zeros(3)), (torch.zeros(1, 2), torch.zeros(1))
    >>> len(PatientDataset([first, second]))
    2
    >>> PatientDataset([first, (torch.zeros(0, 2), torch.zeros(0))])
    Traceback (most recent call last):
    securepfl.errors.DataError: patient 1 has no records: leave it out of the data set
    """

    def __init__(self, patients: Sequence[tuple[Tensor, Tensor]]) -> None:
        for index, (x, y) in enumerate(patients):
            _check_patient(index, x, y)
        self._patients = tuple(patients)

    def __len__(self) -> int:
        return len(self._patients)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._patients[index]


def group_records(features: Tensor, labels: Tensor, patients: Sequence[Any] | Tensor | NDArray[Any]) -> PatientDataset:
    """The records of a table as patients, in the order in which each patient first appears.

    features [n, ...], labels [n, ...], patients: n identifiers (texts, numbers, UUIDs). Records of one patient keep
    their order, and are one patient's however the identifier is spelled: 7, 7.0 and " 7". Raises DataError where the
    lengths differ or there are none, for what is no list or column of identifiers, for a missing one, and for two that
    might be one patient's ("007" and "7", "p1" and "P1"): two units of one patient would cost twice what the ledger
    says.

    >>> import torch
    >>> from securepfl import group_records
    >>> visits = torch.tensor([[61.0], [58.0], [63.0]])
    >>> patients = group_records(visits, torch.tensor([0.0, 1.0, 1.0]), ["ann", "bo", " ann"])
    >>> len(patients)
    2
    >>> patients[0][0].tolist()
    [[61.0], [63.0]]
    """
    objects = _objects(patients)
    if not len(features) == len(labels) == len(objects) or not len(features):
        raise DataError(
            f"{len(features)} rows of features, {len(labels)} labels and {len(objects)} patient identifiers: "
            "hand in one of each for every record, and at least one record"
        )
    rows: dict[str, list[int]] = {}
    for row, patient in enumerate(identified(objects)):
        rows.setdefault(patient, []).append(row)
    return PatientDataset([(features[own], labels[own]) for own in rows.values()])


def _objects(patients: Any) -> list[Any]:
    """Identifiers as Python's or numpy's own objects, each still of its type: what float32 merged must show.

    Raises DataError for what holds no identifier a record in order: a table, a mapping, a set, one text or number.
    """
    ordered = isinstance(patients, Iterable) and not isinstance(patients, str | bytes | Mapping | Set)
    if not ordered or getattr(patients, "ndim", 1) != 1:
        raise DataError(
            f"patient identifiers in a {type(patients).__name__}: hand in a list, or one column, of one for each record"
        )
    if isinstance(patients, Tensor):
        patients = patients.float() if patients.dtype == torch.bfloat16 else patients
        patients = patients.detach().numpy(force=True)
    objects: list[Any] = patients.to_pylist() if hasattr(patients, "to_pylist") else list(patients)
    return objects


def count_units(dataset: Dataset[Any]) -> int:
    """Length of a data set whose items can be drawn independently. Raises DataError.

    >>> count_units(torch.utils.data.TensorDataset(torch.zeros(5, 2)))
    5
    """
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise DataError(
            f"{type(dataset).__name__} cannot be indexed, so records cannot be drawn independently: "
            "hand in a map-style data set (with __len__ and __getitem__)"
        )
    if not len(dataset):
        raise DataError(f"{type(dataset).__name__} holds no records: hand in at least one")
    return len(dataset)


def use_batches(
    dataset: Dataset[Any] | None,
    drawn: Sequence[int],
    physical_batch: int,
    unit: Unit,
    collate: Collate | None,
    use: Callable[[Batch], Made],
    unusable: Unusable,
) -> Iterator[Made]:
    """What `use` makes of the drawn units in order, in physical batches. A data set of None has none.

    Units that cannot be read, or whose batch `use` cannot take, are left out and counted in `unusable`. `use` must
    leave nothing behind where it raises.

    >>> data, unusable = [(torch.zeros(2), 0.0), (torch.zeros(2), 1.0), None], Unusable()
    >>> list(use_batches(data, [0, 1, 2], 3, "record", None, lambda batch: batch.units, unusable)), unusable.counts()
    ([(0,), (1,)], {'unreadable': 1})
    """
    if dataset is None:
        return
    if unit == "patient":
        for patients in _grouped(_readable(dataset, drawn, unusable), physical_batch):
            yield from unusable.in_halves(patients, _joined, use)
        return
    for start in range(0, len(drawn), physical_batch):
        group = drawn[start : start + physical_batch]
        yield from unusable.in_halves(group, partial(_records, dataset, collate=collate), use)


def _readable(dataset: Dataset[Any], drawn: Sequence[int], unusable: Unusable) -> Iterator["_Patient"]:
    for index in drawn:
        try:
            patient = _patient(dataset, index)
        except Exception as error:  # noqa: BLE001 - whatever the data set raises
            unusable.note(error, "unreadable")
            continue
        yield patient


def _records(dataset: Dataset[Any], group: Sequence[int], collate: Collate | None) -> Batch:
    found = _sliced(dataset, group) if collate in (None, default_collate) else None
    x, y = found or (collate or default_collate)(_items(dataset, group))
    check_rows(x, y, len(group))
    return Batch(x, y, tuple(group))


def _sliced(dataset: Dataset[Any], group: Sequence[int]) -> tuple[Tensor, ...] | None:
    """What default_collate makes of items that lie in tensors, many times faster; None for other data sets."""
    if type(dataset) is Subset:
        return _sliced(dataset.dataset, [dataset.indices[index] for index in group])
    if type(dataset) is not TensorDataset:
        return None
    rows = torch.from_numpy(np.array(group, dtype=np.int64))  # ten times faster than torch.tensor
    return tuple(tensor[rows] for tensor in dataset.tensors)


def _items(dataset: Dataset[Any], group: Sequence[int]) -> Any:
    many = getattr(dataset, "__getitems__", None)  # as torch's DataLoader asks
    return many(list(group)) if many is not None else [dataset[index] for index in group]


def check_rows(x: Any, y: Any, records: int) -> None:
    """Raises DataError where a batch of records is not a tensor of features and one of labels, a row for each record.

    >>> check_rows(torch.zeros(2, 3), torch.zeros(2), records=2)
    """
    for what, rows in (("features", x), ("labels", y)):
        if not isinstance(rows, Tensor):
            raise DataError(
                f"{what} of several records make a {type(rows).__name__}, not a tensor: let each record be (x, y), two "
                "tensors or numbers, or make tensors in a collate function"
            )
        found = len(rows) if rows.dim() else 1
        if found != records:
            raise DataError(
                f"the collate function made {found} rows of {records} records, but the clip bounds one row each: "
                "give one row per record"
            )


_Patient = tuple[int, Tensor, Tensor]


def patient_batches(dataset: Dataset[Any], drawn: Sequence[int], physical_batch: int) -> Iterator[Batch]:
    """The drawn patients in order, as many whole ones as fit into `physical_batch` records.

    A patient with more records than that is a batch alone. Raises DataError for a patient without records.
    """
    return map(_joined, _grouped((_patient(dataset, index) for index in drawn), physical_batch))


def _patient(dataset: Dataset[Any], index: int) -> _Patient:
    x, y = dataset[index]
    _check_patient(index, x, y)
    return index, x, y


def _grouped(patients: Iterator[_Patient], physical_batch: int) -> Iterator[list[_Patient]]:
    waiting: list[_Patient] = []
    records = 0
    for patient in patients:
        count = len(patient[1])
        if waiting and records + count > physical_batch:
            yield waiting
            waiting, records = [], 0
        waiting.append(patient)
        records += count
    if waiting:
        yield waiting


def _joined(patients: Sequence[_Patient]) -> Batch:
    units, xs, ys = zip(*patients, strict=True)
    return Batch(torch.cat(xs), torch.cat(ys), units, tuple(len(x) for x in xs))


def _check_patient(index: int, x: Any, y: Any) -> None:
    if not (isinstance(x, Tensor) and isinstance(y, Tensor) and x.dim() and y.dim() and len(x) == len(y)):
        raise DataError(
            f"patient {index} is not a pair of tensors with one row per record: "
            "make the data set with securepfl.group_records"
        )
    if not len(x):
        raise DataError(f"patient {index} has no records: leave it out of the data set")
