"""Whether a table has room on a terminal."""

from typing import Final

from rich.console import Console
from rich.table import Table

_ENDLESS: Final = 10_000
"""Columns of a terminal that breaks nothing."""


def fits(console: Console, table: Table) -> bool:
    """Whether no cell of `table` has to be broken on `console`.

    >>> row = Table("hospital", "epsilon")
    >>> [fits(Console(width=width), row) for width in (80, 10)]
    [True, False]
    """
    return console.measure(table, options=console.options.update(width=_ENDLESS)).maximum <= console.width
