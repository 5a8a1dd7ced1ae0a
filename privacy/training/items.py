"""Items of a data set as batches in any order, for looking at how records depend on one another."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from securepfl.errors import DataError, first_line
from securepfl.privacy.accounting.events import Unit
from securepfl.privacy.training.units import Batch, Collate, check_rows, patient_batches

# Labels of at most so many numbers are told apart.
_LABEL_VALUES = 16
# Items of which a collate function is asked twice whether it makes the same.
_LOOKED_AT = 4


@dataclass(frozen=True)
class Items:
    """Units that were fetched once, by their number in the data set: a data set may draw at random.

    `rows` are those of single items where the collate function draws at random: it must not draw anew for each order.
    `double` tells whether batches are turned into double precision.

    >>> data = torch.utils.data.TensorDataset(torch.eye(3), torch.ones(3))
    >>> Items.fetch(data, [2, 0], "record", None).batch([0, 2]).x.tolist()
    [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """

    held: Mapping[int, Any]
    unit: Unit
    collate: Collate | None
    rows: Mapping[int, Batch] | None = None
    double: bool = False

    @classmethod
    def fetch(cls, dataset: Dataset[Any], units: Sequence[int], unit: Unit, collate: Collate | None) -> "Items":
        """Raises DataError, naming the unit, where one cannot be read."""
        return cls.of({index: fetched(dataset, index, unit) for index in units}, unit, collate)

    @classmethod
    def of(cls, held: Mapping[int, Any], unit: Unit, collate: Collate | None) -> "Items":
        """Of items that were read. Raises what the collate function does where one of them makes no batch."""
        items, units = cls(held, unit, collate), list(held)
        if unit == "patient" or collate in (None, default_collate) or items._repeats(units[:_LOOKED_AT]):
            return items
        return replace(items, rows={index: items._joined([index]) for index in units})

    def only(self, units: Sequence[int]) -> "Items":
        """Some of them."""
        rows = None if self.rows is None else {index: self.rows[index] for index in units}
        return replace(self, held={index: self.held[index] for index in units}, rows=rows)

    def doubled(self) -> "Items":
        """The same in double precision."""
        return replace(self, double=True)

    def batch(self, order: Sequence[int]) -> Batch:
        """All of `order` together."""
        if self.unit == "patient":
            return next(self.batches(order, 2**62))
        joined = self._joined(order) if self.rows is None else _stacked([self.rows[index] for index in order])
        return _doubled(joined) if self.double else joined

    def batches(self, order: Sequence[int], most: int) -> Iterator[Batch]:
        """`order` in batches as training makes them, of at most `most` records."""
        if self.unit == "patient":
            for batch in patient_batches(self.held, list(order), most):  # type: ignore[arg-type]
                yield _doubled(batch) if self.double else batch
            return
        for start in range(0, len(order), most):
            yield self.batch(order[start : start + most])

    def shape(self, index: int) -> tuple[int, ...]:
        """Of what the model would see of this unit's records alone, each."""
        if self.unit == "record" and self.collate not in (None, default_collate):
            return tuple(self.batch([index]).x.shape[1:])
        item = self.held[index]
        first = item[0] if isinstance(item, tuple | list) and item else item
        shape = tuple(first.shape) if isinstance(first, Tensor) else ()
        return shape[1:] if self.unit == "patient" else shape

    def _joined(self, order: Sequence[int]) -> Batch:
        x, y = (self.collate or default_collate)([self.held[index] for index in order])
        check_rows(x, y, len(order))
        return Batch(x, y, tuple(order))

    def _repeats(self, order: Sequence[int]) -> bool:
        one, other = self._joined(order), self._joined(order)
        return alike((one.x, one.y), (other.x, other.y))


def fetched(dataset: Dataset[Any], index: int, unit: Unit) -> Any:
    """One item. Raises DataError, naming it, where it cannot be read."""
    try:
        return dataset[index]
    except Exception as error:  # noqa: BLE001 - whatever the pipeline's own code raises
        raise DataError(
            f"{unit} {index} of the data set cannot be read ({first_line(error)}): mend it, or leave it out"
        ) from None


def alike(one: Any, other: Any) -> bool:
    """Whether two items, of any kind that a collate function takes, or parts of them, hold the same."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(alike(a, b) for a, b in zip(one, other, strict=True))
    try:
        one, other = torch.as_tensor(one), torch.as_tensor(other)
    except (TypeError, ValueError, RuntimeError):
        return (one == other) is True
    return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())


def label_of(item: Any) -> Any:
    """The part of an item that is its label."""
    return item[-1] if isinstance(item, tuple | list) else item


def label_key(item: Any) -> str:
    """Equal for small labels that are equal; one for all large ones."""
    label = label_of(item)
    if isinstance(label, Tensor):
        return repr(label.tolist()) if label.numel() <= _LABEL_VALUES else ""
    return repr(label) if isinstance(label, bool | int | float | str) else ""


def _stacked(rows: list[Batch]) -> Batch:
    units = tuple(index for row in rows for index in row.units)
    return Batch(torch.cat([row.x for row in rows]), torch.cat([row.y for row in rows]), units)


def _doubled(batch: Batch) -> Batch:
    x, y = (value.double() if value.is_floating_point() else value for value in (batch.x, batch.y))
    return replace(batch, x=x, y=y)
