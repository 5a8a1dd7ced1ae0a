"""Text from outside as Markdown that shows it and nothing else: no link, image, HTML or row of a table of its own."""

import re
from collections.abc import Iterable, Sequence
from types import MappingProxyType
from typing import Final

_PLAIN: Final = MappingProxyType(
    str.maketrans({"&": "&amp;", "<": "&lt;", **{mark: f"\\{mark}" for mark in "\\|`[]*!"}})
)
_STEERS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def plain(text: object) -> str:
    """`text` in one line, as it reads.

    >>> plain("a|b <i>c")
    'a\\\\|b &lt;i>c'
    """
    return _STEERS.sub(" ", str(text)).translate(_PLAIN)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown; cells are Markdown already.

    >>> print(table(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    lines = [headings, ["---"] * len(headings), *rows]
    made = ["| " + " | ".join(cells) + " |" for cells in lines]
    return "\n".join([made[0], "|" + "---|" * len(headings), *made[2:]])
