"""What a federation declares of one feature column: a number and its scale, or the levels of a category.

Nothing here is fitted on rows: see schema.py.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from securepfl.data.declaring import build, convert
from securepfl.data.values import PLAIN, Value, closed_up, in_both, require, require_told_apart, require_values

Missing = Literal["indicator", "centre", "drop-rows"]
"""What a missing value becomes: the centre (0 once scaled) and a feature that says so, the centre alone, or no row."""


def require_missing(missing: str | None) -> None:
    """Raise ValueError for a word that is no way to treat missing values."""
    *words, last = get_args(Missing)
    known = missing is None or missing in get_args(Missing)
    require(known, f'missing = "{missing}": {", ".join(words)} or {last}')


@dataclass(frozen=True, kw_only=True)
class Range:
    """`[data.ranges]`: how a numeric column becomes clip((value - centre) / spread, -limit, limit).

    `centre` and `spread` are in the column's own unit, `limit` counts spreads. `missing_values` are codes by
    which this column alone says "not recorded" (a cholesterol of 0), `missing` how it treats them where that isn't as
    `[data] missing` says, and `empty` the number that its empty cells stand for, where they stand for one. `read_as`
    gives the number for texts that hold none: "> 89" as 92. Raises ValueError.

    >>> Range(centre=50, spread=15, read_as={">89": 92}).empty is None
    True
    """

    centre: float
    spread: float
    limit: float = 3.0
    unit: str = ""
    missing_values: tuple[Value, ...] = ()
    missing: Missing | None = None
    empty: float | None = None
    read_as: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(math.isfinite(self.centre), f"centre = {self.centre}: must be a finite number")
        require(0 < self.spread < math.inf, f"spread = {self.spread}: must be positive and finite")
        require(
            0 < self.limit < math.inf,
            f"limit = {self.limit}: must be positive and finite (try 3)",
        )
        require_values("missing_values", self.missing_values)
        require_missing(self.missing)
        _check_empty(self)
        self._check_read_as()

    def _check_read_as(self) -> None:
        finite = all(map(math.isfinite, self.read_as.values()))
        require(finite, "read_as: gives a number that is not finite; mend it")
        texts = [closed_up(text) for text in self.read_as]
        require(all(texts), "read_as: an empty text; say what empty cells are by `empty`")
        number = next((text for text in texts if PLAIN.fullmatch(text)), None)
        require(number is None, f"read_as: `{number}` is a number already; take it out")
        require(len(set(texts)) == len(texts), "read_as: two texts differ in blanks only; keep one")
        code = in_both(self.read_as, self.missing_values)
        require(code is None, f"read_as: {code!r} is in missing_values too; keep it in one")


@dataclass(frozen=True, kw_only=True)
class Category:
    """`[data.categories]`: every level of a column that may occur, and how it treats cells without one.

    `levels` are all texts or all numbers. `missing_values`, `missing` and `empty` are as a Range's; `empty` is one of
    the levels. Raises ValueError.

    >>> len(Category(levels=("none", "mild", "severe"), empty="none"))
    3
    """

    levels: tuple[Value, ...]
    missing_values: tuple[Value, ...] = ()
    missing: Missing | None = None
    empty: Value | None = None

    def __post_init__(self) -> None:
        require(len(self.levels) >= 2, "levels: fewer than two levels; declare all of them")
        require_told_apart("levels", self.levels, "level")
        require_values("missing_values", self.missing_values)
        code = in_both(self.levels, self.missing_values)
        require(code is None, f"missing_values: {code!r} is a level too; keep it in one")
        require_missing(self.missing)
        _check_empty(self)
        level = self.empty is None or self.empty in self.levels
        require(level, f"empty = {self.empty!r}: is none of the levels; add it to them, or mend it")

    def __len__(self) -> int:
        return len(self.levels)


def _check_empty(declared: Range | Category) -> None:
    empty = declared.empty
    if empty is None:
        return
    require(isinstance(empty, str) or math.isfinite(empty), f"empty = {empty}: must be a finite number")
    code = in_both([empty], declared.missing_values)
    require(code is None, f"empty = {code!r}: is in missing_values too; keep it in one")


def category(entry: object, place: str, where: str) -> Category:
    """A category from TOML: a list of levels, or a table. Raises ConfigError naming file and place."""
    if isinstance(entry, Mapping):
        return build(Category, entry, place, where)
    levels = convert(entry, tuple[Value, ...], f"[{place}]", where)
    return build(Category, {"levels": levels}, place, where, ready=frozenset(("levels",)))


def shortest(entry: dict[str, Any]) -> Any:
    """What `category` reads as equal: the levels alone where nothing else is declared."""
    told = {key: value for key, value in entry.items() if value not in (None, (), [])}
    return told["levels"] if set(told) == {"levels"} else told
