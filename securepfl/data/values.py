"""Values that a declaration may name, and how they stand in a message."""

import math
import re
from collections.abc import Collection, Iterable
from decimal import Decimal

Value = str | int | float
"""A cell's value as TOML writes it. A number matches cells of equal value, a text those of equal text."""

PLAIN = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")
"""Texts that are plainly numbers, so that "1" and "1.0" are one; "01" is a code, and none."""


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


def require_told_apart(key: str, values: Collection[Value], each: str) -> None:
    """Raises ValueError where `values` mix texts and numbers, or a cell could be two of them; `each` is what one is."""
    require(len({isinstance(value, str) for value in values}) == 1, f"{key}: mixes texts and numbers; write all alike")
    require_values(key, values)
    same = ambiguous(values)
    require(same is None, f"{key}: a cell could be {same!r} and another {each} too; list each once")


def ambiguous(values: Iterable[Value]) -> Value | None:
    """The first of `values` that a cell could equal beside another of them, or None.

    >>> ambiguous(["1", "1.0"]), ambiguous(["1", "01"])
    ('1.0', None)
    """
    seen: set[Decimal | str] = set()
    for value in values:
        meaning = _meaning(value)
        if meaning in seen:
            return value
        seen.add(meaning)
    return None


def in_both(values: Iterable[Value], others: Iterable[Value]) -> Value | None:
    """The first of `values` whose cells one of `others` names too, or None.

    >>> in_both([2, 0], ["0.0"]), in_both(["a"], ["A"])
    (0, None)
    """
    meanings = {_meaning(other) for other in others}
    return next((value for value in values if _meaning(value) in meanings), None)


def _meaning(value: Value) -> Decimal | str:
    """Equal for values that match the same cells."""
    text = str(value)
    if not isinstance(value, str) or PLAIN.fullmatch(text):
        return Decimal(text)
    return text.lower() if text.lower() in ("true", "false") else text


def closed_up(text: str) -> str:
    """A text without blanks: "> 89" is ">89".

    >>> closed_up("> 89")
    '>89'
    """
    return "".join(text.split())
