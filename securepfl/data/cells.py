"""One column in memory, and how its cells are compared with declared values.

A cell is private: no message from here holds one. The same cell means the same whatever stored it: a column from a
CSV is text, one from Parquet may be typed, and both give equal numbers and match equal values.
"""

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from securepfl.data.values import PLAIN, Value, closed_up

_EXACT = 2**53
"""From here on, float64 merges whole numbers."""

_MARKED = {
    mark: rf"^[+-]?([0-9]+{mark}?[0-9]*|{mark}[0-9]+)([eE][+-]?[0-9]+)?$|^(?i:[+-]?inf(inity)?)$"
    for mark in (r"\.", ",")
}
_OTHER_MARKS = (
    r"^[+\x{2212}-]?([0-9]+([.,][0-9]+)?|[0-9]{1,3}([.,'\x{2019} \x{a0}\x{2009}\x{202f}][0-9]{3})+([.,][0-9]+)?"
    r"|[0-9]{1,2}(,[0-9]{2})+,[0-9]{3}(\.[0-9]+)?)$"
)
"""Numbers as Excel shows them: a minus that is no hyphen; points, commas, apostrophes or blanks between thousands."""


@dataclass(frozen=True, eq=False)
class Cells:
    """One column, [rows]: an arrow array of texts, int64, uint64 or float64, null where nothing is recorded.

    Texts are trimmed and in Unicode's composed form (NFC), and an empty one or NaN is null. `decimal` is the mark that
    texts write numbers with. From `exact` on, the type that the cells were stored in merges whole numbers.

    >>> cells = Cells.of(["1.0", " 1", "-99,9", "true", ""])
    >>> cells.numbers.tolist()
    [1.0, 1.0, nan, 1.0, nan]
    >>> cells.matches([1]).tolist()
    [True, True, False, True, False]
    >>> Cells.of(["-99,9"], decimal=",").matches([-99.9]).tolist()
    [True]
    """

    values: Any
    decimal: str = "."
    exact: float = math.inf

    @classmethod
    def of(cls, values: Any, decimal: str = ".") -> Self:
        """From an arrow array of one of these types, or what becomes one: a list, a numpy array. NaN becomes null."""
        array = values if isinstance(values, pa.Array) else pa.array(values, from_pandas=True)
        if pa.types.is_boolean(array.type) or pa.types.is_null(array.type):
            array = array.cast(pa.string())
        if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
            return cls(_texts(array), decimal)
        if pa.types.is_floating(array.type):
            exact = 2 / float(np.finfo(array.type.to_pandas_dtype()).eps)
            array = array.cast(pa.float64())
            return cls(pc.if_else(pc.is_nan(array), None, array), decimal, exact)
        return cls(array.cast(pa.uint64() if array.type == pa.uint64() else pa.int64()), decimal)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: NDArray[np.bool_]) -> "Cells":
        """The cells where `index` [rows] is true."""
        return dataclasses.replace(self, values=self.values.filter(pa.array(index)))

    def behind(self, rows: int) -> "Cells":
        """The cells behind the first `rows`."""
        return dataclasses.replace(self, values=self.values.slice(rows))

    @cached_property
    def numbers(self) -> NDArray[np.float64]:
        """The cells as float64, [rows]; NaN where a cell is none. "true" is 1 and "false" 0."""
        values = _parsed(self.values, self.decimal) if self.textual else self.values
        found: NDArray[np.float64] = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        return found

    @cached_property
    def other_marks(self) -> NDArray[np.bool_]:
        """Which cells are numbers but for their marks: another decimal mark, or one between thousands; [rows]."""
        if not self.textual:
            return np.zeros(len(self), dtype=np.bool_)
        return np.isnan(self.numbers) & _flags(pc.match_substring_regex(self.values, _OTHER_MARKS))

    @property
    def textual(self) -> bool:
        """Whether the cells are texts, and not typed numbers."""
        return bool(pa.types.is_string(self.values.type) or pa.types.is_large_string(self.values.type))

    @cached_property
    def texts(self) -> Any:
        """The cells as an arrow array of texts, [rows], null where nothing is recorded. 1.0 reads as "1"."""
        return self.values if self.textual else self.values.cast(pa.string())

    def matches(self, values: Iterable[Value]) -> NDArray[np.bool_]:
        """Which cells equal one of `values`, [rows].

        A number equals cells of exactly its value ("1.0" is 1, "true" too). A text equals the same text; one that is
        plainly a number ("1", not "01") also its other plain spellings ("1.0"); "true" and "false" in any case.
        """
        found = np.zeros(len(self), dtype=np.bool_)
        for value in values:
            found |= self._equal_text(value) if isinstance(value, str) else self._equal_number(Decimal(str(value)))
        return found

    def missing(self, values: Iterable[Value] = ()) -> NDArray[np.bool_]:
        """Which cells are empty, NaN or one of the declared `values`, [rows]."""
        return _flags(self.values.is_null()) | self.matches(values)

    def closed_up(self, text: str) -> NDArray[np.bool_]:
        """Which cells are `text` but for blanks, [rows]: "> 89" is ">89". A typed number is none."""
        if not self.textual:
            return np.zeros(len(self), dtype=np.bool_)
        blanks = r"[\s\x{a0}\x{2009}\x{202f}]+"
        return _flags(pc.equal(pc.replace_substring_regex(self.values, blanks, ""), closed_up(text)))

    def _equal_number(self, number: Decimal) -> NDArray[np.bool_]:
        if pa.types.is_integer(self.values.type):
            return self._equal_integer(number)
        near: NDArray[np.bool_] = self.numbers == float(number)
        if abs(number) < _EXACT:
            return near
        return self._only(near, lambda text: _decimal(text, self.decimal) == number)

    def _equal_integer(self, number: Decimal) -> NDArray[np.bool_]:
        low, high = (0, 2**64) if self.values.type == pa.uint64() else (-(2**63), 2**63)
        if number != number.to_integral_value() or not low <= number < high:
            return np.zeros(len(self), dtype=np.bool_)
        return _flags(pc.equal(self.values, pa.scalar(int(number), self.values.type)))

    def _equal_text(self, text: str) -> NDArray[np.bool_]:
        found = np.zeros(len(self), dtype=np.bool_)
        if self.textual and text.lower() in ("true", "false"):
            found = _flags(pc.equal(pc.utf8_lower(self.values), text.lower()))
        elif self.textual:
            found = _flags(pc.equal(self.values, text))
        if not PLAIN.fullmatch(text):
            return found
        same = self._equal_number(Decimal(text))
        return found | self._only(same, _is_plain) if self.textual else same

    def _only(self, found: NDArray[np.bool_], holds: Any) -> NDArray[np.bool_]:
        """Of the cells in `found` those for whose text `holds`; it is asked once for each different text."""
        texts = self.texts.filter(pa.array(found))
        good = [text for text in texts.unique().to_pylist() if holds(text)]
        kept = found.copy()
        kept[found] = _flags(pc.is_in(texts, pa.array(good, texts.type)))
        return kept


Columns = dict[str, Cells]
"""The columns of one file by name, all of one length, in the file's order."""


def normal(texts: Any) -> Any:
    """An arrow array of texts, trimmed and in Unicode's composed form, so that one name has one spelling."""
    trimmed = pc.utf8_trim_whitespace(texts)
    return trimmed if _flags(pc.string_is_ascii(trimmed)).all() else pc.utf8_normalize(trimmed, "NFC")


def _texts(array: Any) -> Any:
    plain = normal(array)
    return pc.if_else(pc.is_in(pc.utf8_lower(plain), pa.array(["", "nan"], plain.type)), None, plain)


def _parsed(texts: Any, mark: str) -> Any:
    """Texts as float64, null where a text is no number."""
    if mark == ".":
        try:
            return texts.cast(pa.float64())
        except pa.ArrowInvalid:
            pass
    lowered = pc.utf8_lower(texts)
    spelled = pc.if_else(pc.equal(lowered, "true"), "1", pc.if_else(pc.equal(lowered, "false"), "0", texts))
    good = pc.match_substring_regex(spelled, _MARKED["," if mark == "," else r"\."])
    pointed = pc.replace_substring(pc.if_else(good, spelled, None), mark, ".")
    return pc.utf8_ltrim(pointed, "+").cast(pa.float64())


def _decimal(text: str, mark: str) -> Decimal | None:
    try:
        return Decimal(text.replace(mark, "."))
    except ArithmeticError:
        return None


def _is_plain(text: str) -> bool:
    return PLAIN.fullmatch(text.replace(",", ".")) is not None


def _flags(array: Any) -> NDArray[np.bool_]:
    """An arrow array of booleans as numpy's; null is false."""
    flags: NDArray[np.bool_] = pc.fill_null(array, False).to_numpy(zero_copy_only=False)
    return flags
