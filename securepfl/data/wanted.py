"""What is asked of a file, and what was found in it. A reader knows this and nothing else of a declaration."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from securepfl.errors import DataError
from securepfl.spelling import composed

if TYPE_CHECKING:
    from securepfl.data.cells import Columns


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which columns to read, and what tells how a text file is written.

    `columns`: the names to read, None for all; no other column is converted. `needed`: the names that a header must
    hold, which tells the separator. `layouts`: None where a text file's first line is its header; else the lists of
    names that it may follow, told apart by length (none given: columns are named by their number). `separator` and
    `decimal` are declared, or None and "."; `numbers`: the columns whose texts show a file's own decimal mark, none
    where it is declared. `known`: rows are to be known again by all their cells. `lenient`: columns
    of a type that is neither number nor text are left out.
    """

    columns: frozenset[str] | None = None
    needed: tuple[str, ...] = ()
    layouts: tuple[tuple[str, ...], ...] | None = None
    separator: str | None = None
    decimal: str = "."
    numbers: tuple[str, ...] = ()
    lenient: bool = False
    known: bool = False

    def reads(self, name: str) -> bool:
        """Whether the column is asked for."""
        return self.columns is None or name in self.columns


@dataclass(frozen=True, eq=False)
class Contents:
    """The names of all columns in the file's order, the cells of those asked for, how many rows there are, and what
    each row is known by (see known.py), [rows], where that was asked for.
    """

    names: tuple[str, ...]
    columns: "Columns" = field(repr=False)
    rows: int
    known: NDArray[Any] | None = field(default=None, repr=False)


def distinct(path: Path, names: Iterable[str]) -> tuple[str, ...]:
    """The columns' names in composed form, trimmed. Raises DataError where two columns have one name."""
    seen: list[str] = []
    for index, given in enumerate(names, start=1):
        name = composed(given) or f"column_{index}"
        if name in seen:
            # By number: where the first line is no header after all, it would be a patient's cell.
            raise DataError(f"{path}: columns {seen.index(name) + 1} and {index} have one name; rename or remove one")
        seen.append(name)
    return tuple(seen)
