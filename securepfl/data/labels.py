"""Which labels are 1, which are 0, and that every other one is refused.

The two sets follow from the declaration alone, never from the labels that occur: an unknown outcome ("NA", "Yes"
beside "yes", 9 beside 1 and 2) must not become a negative one.
"""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from securepfl.data.source import Source
from securepfl.data.values import Value, in_both, require, require_values
from securepfl.spelling import shown

if TYPE_CHECKING:
    from securepfl.data.cells import Cells

Declared = str | int | float | tuple[Value, ...] | None
"""As TOML declares labels: a comparison ("> 0"), a value, or several."""

_COMPARISON = re.compile(r"(>=|<=|>|<)\s*(\S+)")
_COMPARE: dict[str, Callable[..., Any]] = {
    ">": np.greater,
    ">=": np.greater_equal,
    "<": np.less,
    "<=": np.less_equal,
}
_COMPLEMENT = {">": "<=", ">=": "<", "<": ">=", "<=": ">"}
_OPPOSITES = (("yes", "no"), ("y", "n"), ("true", "false"), ("t", "f"), ("positive", "negative"), ("pos", "neg"))


@dataclass(frozen=True)
class Comparison:
    """Labels that compare so with `threshold`, as numbers."""

    sign: str
    threshold: float

    @property
    def listed(self) -> tuple[Value, ...]:
        """The labels by name: none."""
        return ()

    def holds(self, cells: "Cells") -> NDArray[np.bool_]:
        """For which cells, [rows]; never for one that is no number."""
        values = cells.numbers
        found: NDArray[np.bool_] = _COMPARE[self.sign](values, self.threshold) & ~np.isnan(values)
        return found

    def complement(self) -> "Comparison":
        """The comparison that holds for all other numbers."""
        return Comparison(_COMPLEMENT[self.sign], self.threshold)


@dataclass(frozen=True)
class Listed:
    """Labels that equal one of `values`."""

    values: tuple[Value, ...]

    @property
    def listed(self) -> tuple[Value, ...]:
        """The labels by name; of a comparison there are none."""
        return self.values

    def holds(self, cells: "Cells") -> NDArray[np.bool_]:
        """For which cells, [rows]."""
        return cells.matches(self.values)


@dataclass(frozen=True)
class BinaryLabels:
    """What `[data] positive` and `negative` stand for. Together they need not be everything: the rest is refused.

    >>> BinaryLabels.of("yes", None).negative
    Listed(values=('no',))
    >>> BinaryLabels.of("> 0", None).negative
    Comparison(sign='<=', threshold=0.0)
    """

    positive: Comparison | Listed
    negative: Comparison | Listed

    @classmethod
    def of(cls, positive: Declared, negative: Declared) -> "BinaryLabels":
        """From the declaration. Raises ValueError where it leaves open which labels are negative."""
        if positive is None:
            require(negative is None, "negative is declared without positive; declare both")
            return cls(Listed((1,)), Listed((0,)))
        yes = rule_of("positive", positive)
        no = _opposite(yes) if negative is None else rule_of("negative", negative)
        both = in_both(yes.listed, no.listed)
        require(both is None, f"positive and negative both name {both!r}; keep it in one")
        return cls(yes, no)

    @property
    def listed(self) -> tuple[Value, ...]:
        """The labels that the declaration names one by one."""
        return (*self.positive.listed, *self.negative.listed)

    def read(self, source: Source, column: str, missing_values: Iterable[Value]) -> NDArray[np.int64]:
        """The column's labels as 0 and 1, [rows]. Raises DataError for the first that is neither, or missing."""
        cells = source.column(column, "the label")
        source.refuse(cells.missing(missing_values), column, "no label; fill it in or remove the row")
        positive, negative = self.positive.holds(cells), self.negative.holds(cells)
        _refuse(source, column, positive & negative, "is both positive and negative; mend [data]")
        mend = "mend it, declare it in [data] positive or negative, or list it in missing_values"
        _refuse(source, column, ~(positive | negative), f"is neither {self}; {mend}")
        return positive.astype(np.int64)

    def __str__(self) -> str:
        if self == BinaryLabels.of(None, None):
            return "1 nor 0"
        return "positive nor negative"


def _refuse(source: Source, column: str, bad: NDArray[np.bool_], problem: str) -> None:
    """Labels are a declared set, so the message may name the one that is not in it."""
    if bad.any():
        label = source.columns[column].texts[int(bad.argmax())].as_py()
        source.refuse(bad, column, f"label {shown(label)} {problem}")


def rule_of(key: str, declared: str | int | float | tuple[Value, ...]) -> Comparison | Listed:
    """What a declared comparison, value or list of values under `key` holds for. Raises ValueError.

    >>> rule_of("test_values", "> 2018")
    Comparison(sign='>', threshold=2018.0)
    """
    if isinstance(declared, str) and (compared := _comparison(key, declared)) is not None:
        return compared
    values = declared if isinstance(declared, tuple) else (declared,)
    require(bool(values), f"{key}: an empty list names no label; name at least one value")
    require_values(key, values)
    return Listed(values)


def _comparison(key: str, text: str) -> Comparison | None:
    """("> 0"), or None where `text` is no comparison. Raises ValueError for a bad threshold."""
    found = _COMPARISON.fullmatch(text.strip())
    if found is None:
        return None
    try:
        threshold = float(found[2])
    except ValueError:
        threshold = math.nan
    mend = 'compare with a number, as in "> 0", or put a text that starts so in a list'
    require(math.isfinite(threshold), f'{key} = "{text}": {mend}')
    return Comparison(found[1], threshold)


def _opposite(positive: Comparison | Listed) -> Comparison | Listed:
    """What is negative where only `positive` is declared: by its meaning, not by what the rows hold."""
    if isinstance(positive, Comparison):
        return positive.complement()
    opposites = tuple(_opposite_of(value) for value in positive.values)
    return Listed(tuple(dict.fromkeys(opposites)))


def _opposite_of(value: Value) -> Value:
    if not isinstance(value, str):
        require(value in (0, 1), f"positive = {value}: declare too which labels are negative, as in negative = [0]")
        return int(1 - value)
    word = value.lower()
    pairs = dict(_OPPOSITES) | {no: yes for yes, no in _OPPOSITES} | {"1": "0", "0": "1"}
    require(word in pairs, f'positive = "{value}": declare too which labels are negative, as in negative = "no"')
    return pairs[word].upper() if value.isupper() else pairs[word].capitalize() if value.istitle() else pairs[word]
