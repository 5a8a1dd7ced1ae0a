"""What a section of the page is made of: text, tables, figures. The template says how each looks."""

import base64
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final

from markupsafe import Markup

_MOST_ROWS: Final = 200
_DIGITS: Final = 6
_SENTENCE: Final = 60
"""Letters of a cell, from which on it is one."""
_FORMULA: Final = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a spreadsheet takes for the beginning of a formula, the wide forms of Asian fonts among them."""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str
    small: bool = False


@dataclass(frozen=True)
class Points:
    """A list of sentences."""

    kind: ClassVar[str] = "points"
    items: tuple[str, ...]


@dataclass(frozen=True)
class Terms:
    """Terms, each with sentences."""

    kind: ClassVar[str] = "terms"
    items: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Figure:
    """A drawing with a caption."""

    kind: ClassVar[str] = "figure"
    svg: Markup
    caption: str


@dataclass(frozen=True)
class Figures:
    """Drawings beside each other, where there is room."""

    kind: ClassVar[str] = "figures"
    items: tuple[Figure, ...]


@dataclass(frozen=True)
class Picture:
    """A picture as data, with what it shows in words."""

    kind: ClassVar[str] = "picture"
    source: str
    shows: str
    caption: str


@dataclass(frozen=True)
class Table:
    """Rows under headings; the first cell of a row names it. `words`: columns of text, aligned to the left.

    `name` is that of the CSV file that the page offers; "" for none. It holds `exact`, its headings first, where cells
    are rounded.
    """

    kind: ClassVar[str] = "table"
    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    name: str = ""
    exact: tuple[tuple[object, ...], ...] = ()
    words: bool = False
    key: str = ""

    @property
    def shown(self) -> tuple[tuple[str, ...], ...]:
        """The rows that the page shows; the file has all."""
        return self.rows[:_MOST_ROWS] if self.name else self.rows

    @property
    def long(self) -> bool:
        """Whether cells are sentences, which need wide columns."""
        return any(len(cell) > _SENTENCE for row in self.shown for cell in row)

    @property
    def csv(self) -> str:
        """The file as a link that holds it; its mark of UTF-8 tells spreadsheets how to read names."""
        headings, *rows = self.exact or (self.headings, *self.rows)
        text = csv_text(headings, rows)
        return "data:text/csv;charset=utf-8;base64," + base64.b64encode(text.encode("utf-8-sig")).decode()


@dataclass(frozen=True)
class Fold:
    """Blocks that are shown when asked for."""

    kind: ClassVar[str] = "fold"
    summary: str
    blocks: tuple["Block", ...]


Block = Text | Points | Terms | Figure | Figures | Picture | Table | Fold


@dataclass(frozen=True)
class Section:
    """A heading and blocks. `id` is that of its place in the page."""

    id: str
    title: str
    blocks: tuple[Block, ...] = field(default_factory=tuple)


def csv_text(headings: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """CSV that opens in a spreadsheet as it stands: what would be taken for a formula is marked as text, and every cell
    is quoted, as a spreadsheet may split at semicolons too. Numbers have six digits.

    >>> print(csv_text(["hospital", "gain"], [["=north", -0.25], ["south;=A1", None]]).replace("\\r", ""), end="")
    "hospital","gain"
    "'=north","-0.25"
    "south;=A1",""
    """
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    for row in (headings, *rows):
        writer.writerow([_cell(cell) for cell in row])
    return text.getvalue()


def _cell(cell: object) -> object:
    if cell is None:
        return ""
    if isinstance(cell, float):
        return f"{cell:.{_DIGITS}g}"
    return f"'{cell}" if isinstance(cell, str) and cell.lstrip().startswith(_FORMULA) and not _is_number(cell) else cell


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
