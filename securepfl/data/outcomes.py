"""Labels that are not one yes or no: a class of several, or a number in a declared range. Any other is refused."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from securepfl.data.source import Source
from securepfl.data.values import Value, require, require_told_apart
from securepfl.spelling import shown

if TYPE_CHECKING:
    from securepfl.data.cells import Cells


@dataclass(frozen=True)
class ClassLabels:
    """`[data] classes`: a label's class is its place in the list. Raises ValueError for fewer than two."""

    classes: tuple[Value, ...]

    def __post_init__(self) -> None:
        require(len(self.classes) >= 2, "classes: name at least two; list every label that may occur")
        require_told_apart("classes", self.classes, "class")

    @property
    def listed(self) -> tuple[Value, ...]:
        """The labels that the declaration names one by one."""
        return self.classes

    @property
    def names(self) -> tuple[str, ...]:
        """The classes as texts, in order.

        >>> ClassLabels((1, 2.5)).names
        ('1', '2.5')
        """
        return tuple(value if isinstance(value, str) else f"{value:g}" for value in self.classes)

    def read(self, source: Source, column: str, missing_values: Iterable[Value]) -> NDArray[np.int64]:
        """Each row's class, int64 [rows]. Raises DataError for a label that is missing or not in the list."""
        cells = _labels(source, column, missing_values)
        found = np.stack([cells.matches([value]) for value in self.classes])
        mend = "mend it, declare it in [data] classes, or list it in missing_values"
        _refuse(source, column, np.all(~found, axis=0), f"is none of the classes; {mend}")
        classes: NDArray[np.int64] = found.argmax(axis=0).astype(np.int64)
        return classes


@dataclass(frozen=True, kw_only=True)
class LabelRange:
    """`[data.label_range]`: a label that is a number, trained on as (label - centre) / spread.

    `centre` and `spread` are in the label's own unit and from public knowledge. A label more than `limit` spreads from
    the centre is refused, not clipped: a typing error, or a code for "unknown". Raises ValueError.
    """

    centre: float
    spread: float
    limit: float = 10.0
    unit: str = ""

    @property
    def listed(self) -> tuple[Value, ...]:
        """The labels that the declaration names one by one: none."""
        return ()

    def __post_init__(self) -> None:
        require(math.isfinite(self.centre), f"centre = {self.centre}: must be a finite number")
        require(0 < self.spread < math.inf, f"spread = {self.spread}: must be positive and finite")
        require(0 < self.limit < math.inf, f"limit = {self.limit}: must be positive and finite (try 10)")

    def read(self, source: Source, column: str, missing_values: Iterable[Value]) -> NDArray[np.float64]:
        """The labels in their own unit, float64 [rows]. Raises DataError for one missing, no number or out of range."""
        values = _labels(source, column, missing_values).numbers
        mend = "mend it, or list it in missing_values"
        _refuse(source, column, ~np.isfinite(values), f"is not a number; {mend}")
        low, high = self.centre - self.limit * self.spread, self.centre + self.limit * self.spread
        mend = f"{mend}, or raise [data.label_range] limit"
        _refuse(source, column, (values < low) | (values > high), f"is not from {low:g} to {high:g}; {mend}")
        return values


def _labels(source: Source, column: str, missing_values: Iterable[Value]) -> "Cells":
    cells = source.column(column, "the label")
    source.refuse(cells.missing(missing_values), column, "no label; fill it in or remove the row")
    return cells


def _refuse(source: Source, column: str, bad: NDArray[np.bool_], problem: str) -> None:
    if bad.any():
        label = source.columns[column].texts[int(bad.argmax())].as_py()
        source.refuse(bad, column, f"label {shown(label)} {problem}")
