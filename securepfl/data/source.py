"""Columns as read, and the one line that refuses a row of them: file, column and row, never a cell."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from securepfl.data.cells import Cells, Columns
from securepfl.errors import DataError


@dataclass(frozen=True, eq=False)
class Source:
    """Columns as read, with the rows' numbers and the place that messages name."""

    where: str
    columns: Columns = field(repr=False)
    rows: NDArray[np.int64] = field(repr=False)

    @classmethod
    def of(cls, where: Path | str, columns: Columns) -> Self:
        """All rows of a file, numbered from 1."""
        count = len(next(iter(columns.values())))
        return cls(str(where), columns, np.arange(1, count + 1, dtype=np.int64))

    def select(self, index: NDArray[np.bool_]) -> "Source":
        """The rows where `index` [rows] is true, with the numbers they have in the file."""
        kept = {name: cells[index] for name, cells in self.columns.items()}
        return Source(self.where, kept, self.rows[index])

    def column(self, name: str, role: str) -> Cells:
        """The cells of one column. Raises DataError where the file has none of this name."""
        if name not in self.columns:
            raise DataError(f"{self.where}: has no column `{name}` ({role}); add it or mend [data]")
        return self.columns[name]

    def refuse(self, bad: NDArray[np.bool_], column: str, problem: str) -> None:
        """Raise DataError for the first row in `bad` [rows]."""
        if bad.any():
            raise DataError(f"{self.where}: column `{column}`, row {self.rows[bad.argmax()]}: {problem}")

    def with_where(self, where: Any) -> "Source":
        """The same rows under another name in messages."""
        return Source(str(where), self.columns, self.rows)
