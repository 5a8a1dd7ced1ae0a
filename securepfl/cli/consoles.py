"""Where tables and the live display are drawn."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any, Final

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

from securepfl.cli.output import columns_wanted, readable, tell, voice_of

_LINE_EVERY: Final = 50
_ENDLESS: Final = 10_000
"""Columns of a screen that breaks nothing."""
_MOST_LINES: Final = 5
"""Of a cell: more are easier to read row by row."""


class ReadableConsole(Console):
    """A console whose cells are made readable before their width is taken, so that columns stay straight."""

    def render_str(self, text: str, **options: Any) -> Text:
        """See Console. Nothing is cut off: two names may differ at the end alone."""
        shown = super().render_str(readable(text, self.encoding), **options)
        shown.overflow = "fold"
        return shown

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """See Console. No word of a table is broken: where there is no room for that, it is shown row by row."""
        if isinstance(renderable, Table):
            renderable = fitted(self, renderable, (options or self.options).max_width)
        return super().render(renderable, options)


def fitted(console: Console, table: Table, width: int) -> Table | Group:
    """`table` in `width` columns: the widest of its own give way, down to their longest word. Where that is not enough,
    row by row.
    """
    endless = console.options.update(width=_ENDLESS)
    whole = Measurement.get(console, endless, table)
    if whole.maximum <= width:
        return table
    extents = [_extent(console, endless, column, table.show_header) for column in table.columns]
    widths = [extent.maximum for extent in extents]
    for _ in range(whole.maximum - width):
        places = [place for place, extent in enumerate(extents) if widths[place] > extent.minimum]
        if not places:
            return rows_below_each_other(console, table)
        widths[max(places, key=widths.__getitem__)] -= 1
    if any(its * _MOST_LINES < extent.maximum for its, extent in zip(widths, extents, strict=True)):
        return rows_below_each_other(console, table)
    narrow = copy(table)
    narrow.columns = [replace(column, width=its) for column, its in zip(table.columns, widths, strict=True)]
    return narrow


def _extent(console: Console, options: ConsoleOptions, column: Column, headed: bool) -> Measurement:
    """Columns that the longest word needs, and that all words side by side do."""
    shown = [*([column.header] if headed else []), *column.cells]
    found = [Measurement.get(console, options, cell) for cell in shown]
    most = max((its.maximum for its in found), default=0)
    return Measurement(most if column.no_wrap else max((its.minimum for its in found), default=0), most)


def rows_below_each_other(console: Console, table: Table) -> Group:
    """A table for a narrow screen: each row's first cell, and below it the others under their headings."""
    told: list[RenderableType] = [] if table.title is None else [Text(), _text(console, table.title, "bold")]
    headings = [" ".join(_text(console, column.header).plain.split()) for column in table.columns]
    for first, *rest in zip(*(column.cells for column in table.columns), strict=True):
        told.append(_under(console, headings[0], " ".join(_text(console, first).plain.split())))
        cells = (
            _under(console, heading, cell)
            for heading, cell in zip(headings[1:], rest, strict=True)
            if _text(console, cell).plain
        )
        told.extend(Padding(cell, (0, 0, 0, 2)) for cell in cells)
    return Group(*told, *([] if table.caption is None else [_text(console, table.caption)]))


def _under(console: Console, heading: str, cell: RenderableType) -> Text:
    """A cell behind its heading, where that has a word in it: a scale's marks would stand beside nothing."""
    named = any(letter.isalpha() for letter in heading)
    return Text(f"{heading}: " if named else "") + _text(console, cell)


def _text(console: Console, cell: Any, style: str = "") -> Text:
    return cell if isinstance(cell, Text) else console.render_str(str(cell), style=style)


def tables(width: int = 140) -> Console:
    """For stdout. Where that is no terminal, tables are as wide as COLUMNS says, or else `width`."""
    return ReadableConsole(markup=False, emoji=False, width=None if sys.stdout.isatty() else columns_wanted() or width)


def progress() -> Console:
    """For stderr."""
    return ReadableConsole(stderr=True, markup=False, emoji=False)


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yields what is told how many of how many are done: a bar with the time left on a terminal; into a file or a pipe
    a line now and then under --verbose, else nothing.
    """
    voice, console = voice_of(), progress()
    if not console.is_terminal or voice.quiet:
        yield partial(_count, what) if voice.verbose else lambda done, of: None
        return
    columns = (MofNCompleteColumn(), TextColumn(what), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task(what, total=None)
        yield lambda done, of: shown.update(task, completed=done, total=of)


def _count(what: str, done: int, of: int) -> None:
    if done % _LINE_EVERY == 0 or done == of:
        tell(f"{done} of {of} {what}")
