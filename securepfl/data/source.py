"""Columns as read, and the one line that refuses a row of them: file, column and row, never a cell."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from securepfl.data.wanted import Contents
from securepfl.errors import DataError
from securepfl.spelling import look, near, spelled_out

if TYPE_CHECKING:
    from securepfl.data.cells import Cells, Columns


@dataclass(frozen=True, eq=False)
class Source:
    """Columns as read, with the rows' numbers and the place that messages name."""

    where: str
    columns: "Columns" = field(repr=False)
    rows: NDArray[np.int64] = field(repr=False)
    unread: tuple[str, ...] = ()
    """Names of columns that were not asked for."""
    known: NDArray[Any] | None = field(default=None, repr=False)
    """What each row is known by, [rows], where that was asked for: a digest of all its cells."""

    @classmethod
    def of(cls, where: Path | str, contents: Contents) -> Self:
        """All rows of a file, numbered from 1."""
        unread = tuple(name for name in contents.names if name not in contents.columns)
        return cls(
            str(where), contents.columns, np.arange(1, contents.rows + 1, dtype=np.int64), unread, contents.known
        )

    def select(self, index: NDArray[np.bool_], where: str | None = None) -> "Source":
        """The rows where `index` [rows] is true, with the numbers they have in the file; `where` renames the place."""
        kept = {name: cells[index] for name, cells in self.columns.items()}
        known = None if self.known is None else self.known[index]
        return Source(where or self.where, kept, self.rows[index], self.unread, known)

    def column(self, name: str, role: str) -> "Cells":
        """The cells of one column. Raises DataError where the file has none of this name."""
        if name not in self.columns:
            like = next((other for other in (*self.columns, *self.unread) if look(other) == look(name)), None)
            slip = near(name, self.unread)
            mend = "add it or mend [data]" if slip is None else f"add it or mend [data] ({spelled_out(slip)}?)"
            mend = mend if like is None else f"{spelled_out(like)} looks like it; rename one"
            raise DataError(f"{self.where}: has no column `{name}` ({role}); {mend}")
        return self.columns[name]

    def refuse(self, bad: NDArray[np.bool_], column: str, problem: str) -> None:
        """Raise DataError for the first row in `bad` [rows]."""
        if bad.any():
            raise DataError(f"{self.where}: column `{column}`, row {self.rows[bad.argmax()]}: {problem}")
