"""Whether a file's first line holds the columns' names, or is a patient's row: only names may ever be shown.

A row taken for a header would print a patient's cells as column names. So a line counts as names only where nothing
in it could be a cell and several columns speak for it; of all others a person decides.
"""

import re
from collections.abc import Sequence

import numpy as np
import pyarrow.compute as pc

from securepfl.data.cells import Cells
from securepfl.spelling import unsaid

_TRUTHS = ("true", "false", "yes", "no", "y", "n", "t", "f")
_SEXES = ("f", "m", "w", "male", "female")
_ANSWERS = (*_TRUTHS, *_SEXES)
_TRUTH, _SEX = "yes or no", "female or male"
_APART = 0.05
"""Of the recorded cells, by how many more must be words of one kind: "f" is a word of both."""
_NO_NAMES = ("true", "false", "yes")
"""No column is called so: a "no" may be a number, "male" a yes or no."""
_DATE = (
    r"^[0-9]{1,4}[./-][0-9]{1,2}[./-][0-9]{1,4}([ T].*)?$|^[0-9]{1,2}[ .-]*\p{L}{3,9}[ .,-]*[0-9]{2,4}$"
    r"|^[0-9]{1,2}:[0-9]{2}(:[0-9]{2})?$"
)
_WORD = re.compile(r"[^\W\d]")
_LEAST = 2
"""Columns that must speak for names: one alone may be a row's only number, written as a word."""


def holds_names(fields: Sequence[str], columns: Sequence[Cells | None]) -> bool:
    """Whether `fields` are plainly names of `columns`, whose cells don't include them; None: of no readable type.

    A field that is empty, twice there, starts with no letter, says that nothing is recorded, answers as its column
    does, or has the look of its cells could be a cell. A word above numbers, dates or yes and no speaks for names.

    >>> ages, places = Cells.of(["61", "58"]), Cells.of(["Oslo", "Bergen"])
    >>> holds_names(["age", "ill"], [ages, ages]), holds_names(["71", "ill"], [ages, ages])
    (True, False)
    >>> holds_names(["SMITH MARY", "Oslo"], [places, places])
    False
    """
    if len(set(fields)) < len(fields) or any(map(_may_be_cell, fields, columns)):
        return False
    return sum(cells is None or kind_of(cells) != "text" for cells in columns) >= _LEAST


def kind_of(cells: Cells) -> str:
    """What a column holds, in words, by most of the recorded cells: no single row decides.

    >>> kind_of(Cells.of(["12.03.1955", "1.1.60", "?"])), kind_of(Cells.of(["yes", "no"]))
    ('date', 'yes or no')
    >>> kind_of(Cells.of(["f", "f", "m"])), kind_of(Cells.of(["f", "f", "t"])), kind_of(Cells.of(["f", "f"]))
    ('female or male', 'yes or no', 'text')
    """
    recorded = cells[~cells.missing(("?",))]
    dates = np.zeros(len(recorded), dtype=np.bool_)
    if recorded.textual:
        dates = pc.match_substring_regex(recorded.texts, _DATE).to_numpy(zero_copy_only=False)
    numbers = (~np.isnan(recorded.numbers) | recorded.other_marks) & ~dates
    truths, sexes = (recorded.matches(_spelled(words)) for words in (_TRUTHS, _SEXES))
    more = int(truths.sum()) - int(sexes.sum())
    apart = _APART * len(recorded)
    kinds = {"numeric": numbers, "date": dates, _TRUTH: truths & (more > apart), _SEX: sexes & (-more > apart)}
    return next((kind for kind, of_it in kinds.items() if 2 * int(of_it.sum()) > len(recorded)), "text")


def _spelled(words: Sequence[str]) -> list[str]:
    """As files have them: yes, Yes, YES."""
    return [spelled for word in words for spelled in (word, word.capitalize(), word.upper())]


def _may_be_cell(field: str, cells: Cells | None) -> bool:
    if _WORD.match(field) is None or unsaid(field) or field.lower() in _NO_NAMES:
        return True
    if cells is None:
        return False
    if pc.any(pc.equal(pc.utf8_lower(cells.texts), field.lower())).as_py():
        return True
    return kind_of(cells) in ("text", _TRUTH, _SEX) and (field.lower() in _ANSWERS or _shaped_alike(field, cells))


def _shaped_alike(field: str, cells: Cells) -> bool:
    """Whether a field with digits in it has a cell's shape: "P0012" beside "P0013"."""
    shape, texts = _shape(field), cells.texts.unique().to_pylist()
    return any(map(str.isdigit, field)) and any(text is not None and _shape(text) == shape for text in texts)


def _shape(text: str) -> str:
    return "".join("9" if mark.isdigit() else "a" if mark.isalpha() else mark for mark in text)
