"""Where tables and the live display are drawn."""

import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from securepfl.cli.output import readable


class ReadableConsole(Console):
    """A console whose cells are made readable before their width is taken, so that columns stay straight."""

    def render_str(self, text: str, **options: Any) -> Text:
        """See Console. Nothing is cut off: two names may differ at the end alone."""
        shown = super().render_str(readable(text, self.encoding), **options)
        shown.overflow = "fold"
        return shown


def tables(width: int = 140) -> Console:
    """For stdout. Tables keep their width where the output is no terminal."""
    return ReadableConsole(markup=False, emoji=False, width=None if sys.stdout.isatty() else width)


def progress() -> Console:
    """For stderr."""
    return ReadableConsole(stderr=True, markup=False, emoji=False)
