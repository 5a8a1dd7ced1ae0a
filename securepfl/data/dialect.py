"""How a text file is written: its separator, and whether its first line names the columns.

Files of one federation differ: one hospital's Excel writes commas, another's semicolons. A separator that nobody
declared is taken only where one alone fits: where it cuts the first line into the declared columns.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from securepfl.data.records import FormatError, Records
from securepfl.data.wanted import Wanted, distinct
from securepfl.errors import DataError

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "pipes"}
_EXCEL = re.compile(rb"sep=(.)\r?\n?", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?[0-9]+([.,][0-9]+)*([eE][+-]?[0-9]+)?|nan|[+-]?inf", re.IGNORECASE)


@dataclass(frozen=True)
class Dialect:
    """The separator, the columns' names, and whether the first line holds them."""

    separator: str
    names: tuple[str, ...]
    header: bool


def excel_separator(line: bytes) -> str | None:
    """The separator that Excel's own first line names ("sep=;"), None where the line is no such line."""
    found = _EXCEL.fullmatch(line)
    return found[1].decode() if found else None


def dialect_of(path: Path, line: bytes, wanted: Wanted, separator: str | None) -> Dialect:
    """How the file is written whose first record is `line`; `separator` where it is known.

    Raises DataError where no separator fits or more than one, or where the first line is no header.
    """
    cuts = _cuts(path, line, [separator] if separator else list(SEPARATORS))
    chosen = _by_header(path, cuts, wanted.needed) if wanted.layouts is None else _by_width(path, cuts, wanted.layouts)
    fields = cuts[chosen]
    if wanted.layouts is None:
        _check_header(path, fields, wanted.needed)
        return Dialect(chosen, distinct(path, fields), True)
    if not wanted.layouts:
        return Dialect(chosen, tuple(f"column_{index}" for index in range(1, len(fields) + 1)), False)
    return Dialect(chosen, next(names for names in wanted.layouts if len(names) == len(fields)), False)


def _cuts(path: Path, line: bytes, separators: Sequence[str]) -> dict[str, list[str]]:
    """The first line's fields by separator, for those that cut it as the format allows."""
    cuts, problem = {}, ""
    for separator in separators:
        try:
            cuts[separator] = Records.of(line, separator).fields(0)
        except FormatError as error:
            problem = error.problem
    if not cuts:
        raise DataError(f"{path}: line 1 {problem}")
    return cuts


def _by_header(path: Path, cuts: dict[str, list[str]], needed: Sequence[str]) -> str:
    names = {separator: {field.strip() for field in fields} for separator, fields in cuts.items()}
    fitting = [separator for separator in cuts if names[separator].issuperset(needed)]
    if not needed or not fitting:
        found = max(cuts, key=lambda separator: (len(names[separator].intersection(needed)), len(cuts[separator])))
        if len(cuts[found]) == 1 and len(needed) > 1:
            raise _one_field(path, cuts)
        return found
    return _only(path, cuts, fitting)


def _by_width(path: Path, cuts: dict[str, list[str]], layouts: Sequence[Sequence[str]]) -> str:
    if not layouts:
        return max(cuts, key=lambda separator: (len(cuts[separator]) > 1, separator != ","))
    widths = {len(names) for names in layouts}
    widest = max(cuts.values(), key=len)
    # A line that some separator cuts is not one field, only because another does not.
    fitting = [s for s, fields in cuts.items() if len(fields) in widths and len(fields) >= min(2, len(widest))]
    if fitting:
        return _only(path, cuts, fitting)
    if len(widest) == 1:
        raise _one_field(path, cuts)
    numbers = " or ".join(str(len(names)) for names in layouts)
    raise DataError(f"{path}: has {len(widest)} columns, but [data] columns names {numbers}; list all of them")


def _only(path: Path, cuts: dict[str, list[str]], fitting: Sequence[str]) -> str:
    """The one separator that fits. A line without any of them is one field, however it is cut."""
    used = [separator for separator in fitting if len(cuts[separator]) > 1]
    if len(used) > 1:
        kinds = " or ".join(SEPARATORS[separator] for separator in used)
        raise DataError(f"{path}: could be separated by {kinds}; declare [data] separator")
    return used[0] if used else fitting[0]


def _one_field(path: Path, cuts: dict[str, list[str]]) -> DataError:
    tried = " or ".join(SEPARATORS.get(separator, f"`{separator}`") for separator in cuts)
    return DataError(f"{path}: its first line is not separated by {tried}; declare [data] separator, or save it anew")


def _check_header(path: Path, fields: Sequence[str], needed: Sequence[str]) -> None:
    # A patient's row taken for a header would end up in messages as column names.
    if {field.strip() for field in fields}.issuperset(needed) and any(map(str.isidentifier, needed)):
        return
    numeric = sum(_NUMBER.fullmatch(field.strip()) is not None for field in fields)
    if 2 * numeric >= len(fields):
        raise DataError(f"{path}: its first line holds numbers: name its columns in [data] columns (or --no-header)")
