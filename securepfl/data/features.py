"""Columns as features: scaled by what is declared, and nothing fitted."""

import numpy as np
from numpy.typing import NDArray

from securepfl.data.columns import Range
from securepfl.data.schema import DataSpec
from securepfl.data.source import Source

_TEXT = (
    'mend the cell, list its text in [data] missing_values, or give the number it stands for: read_as = { "> 89" = 92 }'
)
_MARKS = 'declare [data] decimal = "," or ".", and take out separators of thousands'


def complete_rows(source: Source, spec: DataSpec, labelled: bool) -> Source:
    """The rows without a missing feature or label, of those whose column says "drop-rows" to it."""
    gaps = [_missing(source, name, spec) for name in spec.features if spec.treats_missing(name) == "drop-rows"]
    if labelled and spec.missing == "drop-rows":
        gaps += [source.columns[name].missing(spec.missing_values) for name in spec.label_columns]
    incomplete = np.any([np.zeros(len(source.rows), dtype=np.bool_), *gaps], axis=0)
    return source.select(~incomplete)


def features_of(source: Source, spec: DataSpec) -> NDArray[np.float32]:
    """Features [rows, d] in the order of `spec.feature_names`. Raises DataError for a cell that is not as declared."""
    made: dict[str, NDArray[np.float64]] = {}
    for column in spec.features:
        missing = _missing(source, column, spec)
        if column in spec.ranges:
            made[column] = _scaled(source, column, spec.ranges[column], missing)
        else:
            made |= _levels(source, column, spec, missing)
        made[f"{column} (missing)"] = missing.astype(np.float64)
    return np.stack([made[name] for name in spec.feature_names], axis=1).astype(np.float32)


def _scaled(source: Source, column: str, declared: Range, missing: NDArray[np.bool_]) -> NDArray[np.float64]:
    cells = source.columns[column]
    values = np.where(cells.missing() & (declared.empty is not None), declared.empty or 0.0, cells.numbers)
    for text, number in declared.read_as.items():
        values[cells.closed_up(text)] = number
    bad = np.isnan(values) & ~missing
    marks = f"a number with other marks than a decimal `{cells.decimal}` and a hyphen as minus; {_MARKS}"
    source.refuse(bad & cells.other_marks, column, marks)
    source.refuse(bad, column, f"holds text, not a number; {_TEXT}")
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.clip((values - declared.centre) / declared.spread, -declared.limit, declared.limit)
    return np.where(missing, 0.0, scaled)


def _levels(source: Source, column: str, spec: DataSpec, missing: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
    """A feature for each level but the first: 1 or -1, as 0/1 with centre and spread 0.5; 0 where missing."""
    cells, declared = source.columns[column], spec.categories[column]
    empty = cells.missing() & (declared.empty is not None)
    problem = (
        "its level is not declared; add it to [data.categories], or mend the cell; where it is another word for a "
        "declared one, declare [data.ranges] with read_as"
    )
    source.refuse(~cells.matches(declared.levels) & ~missing & ~empty, column, problem)
    signs = {
        level: np.where(cells.matches([level]) | (empty & (level == declared.empty)), 1.0, -1.0)
        for level in declared.levels[1:]
    }
    return {f"{column}={level}": np.where(missing, 0.0, sign) for level, sign in signs.items()}


def _missing(source: Source, column: str, spec: DataSpec) -> NDArray[np.bool_]:
    """Which cells of a feature are not recorded, [rows]. Where empty ones have a meaning, only declared codes are."""
    cells, codes = source.columns[column], spec.missing_codes(column)
    return cells.missing(codes) if spec.features[column].empty is None else cells.matches(codes)
