"""Values that a declaration may name, and how they stand in a message."""

import math
from collections.abc import Iterable

Value = str | int | float
"""A cell's value as TOML writes it. A number matches cells of equal value, a text those of equal text."""

_SHOWN = 40


def require(condition: bool, message: str) -> None:
    """Raise ValueError with `message` unless `condition`."""
    if not condition:
        raise ValueError(message)


def require_values(key: str, values: Iterable[Value]) -> None:
    """Raise ValueError for a value that no cell equals, or one that stands twice."""
    values = list(values)
    finite = all(isinstance(value, str) or math.isfinite(value) for value in values)
    require(finite, f"{key}: nan and inf cannot be declared; leave them out")
    require(len(set(values)) == len(values), f"{key}: a value stands twice; list each once")


def shown(name: str) -> str:
    """A label or a name for a one-line message: cut, and with what a terminal would not show written out.

    >>> shown("yes")
    '`yes`'
    """
    cut = name if len(name) <= _SHOWN else f"{name[: _SHOWN - 3]}..."
    return f"`{''.join(mark if mark.isprintable() else _escaped(mark) for mark in cut)}`"


def _escaped(mark: str) -> str:
    return mark.encode("unicode_escape").decode("ascii")
