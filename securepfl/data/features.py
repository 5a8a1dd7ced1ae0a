"""Columns as features: scaled by what is declared, and nothing fitted."""

import numpy as np
from numpy.typing import NDArray

from securepfl.data.schema import DataSpec, Range
from securepfl.data.source import Source
from securepfl.errors import DataError

_MARKS = 'declare [data] decimal = "," or ".", and take out separators of thousands'


def complete_rows(source: Source, spec: DataSpec, labelled: bool) -> Source:
    """The rows without a missing feature or label. Raises DataError where none is left."""
    needed = [*spec.ranges, *spec.categories]
    if labelled:
        needed += spec.label_columns
    gaps = np.any([_missing(source, column, spec) for column in needed], axis=0)
    if gaps.all():
        mend = 'mend the file, or set missing = "indicator" in [data]'
        raise DataError(f"{source.where}: no row is complete; {mend}")
    return source.select(~gaps)


def features_of(source: Source, spec: DataSpec) -> NDArray[np.float32]:
    """Features [rows, d] in the order of `spec.feature_names`. Raises DataError for a cell that is not as declared."""
    made: dict[str, NDArray[np.float64]] = {}
    for column in (*spec.ranges, *spec.categories):
        missing = _missing(source, column, spec)
        if column in spec.ranges:
            made[column] = _scaled(source, column, spec.ranges[column], missing)
        else:
            made |= _levels(source, column, spec, missing)
        made[f"{column} (missing)"] = missing.astype(np.float64)
    return np.stack([made[name] for name in spec.feature_names], axis=1).astype(np.float32)


def _scaled(source: Source, column: str, declared: Range, missing: NDArray[np.bool_]) -> NDArray[np.float64]:
    cells = source.columns[column]
    values = cells.numbers
    bad = np.isnan(values) & ~missing
    marks = f"a number with other marks than a decimal `{cells.decimal}` and a hyphen as minus; {_MARKS}"
    source.refuse(bad & cells.other_marks, column, marks)
    source.refuse(bad, column, "holds text, not a number; mend the cell, or list its text in [data] missing_values")
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.clip((values - declared.centre) / declared.spread, -declared.limit, declared.limit)
    return np.where(missing, 0.0, scaled)


def _levels(source: Source, column: str, spec: DataSpec, missing: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
    """A feature for each level but the first: 1 or -1, as 0/1 with centre and spread 0.5; 0 where missing."""
    cells, levels = source.columns[column], spec.categories[column]
    problem = "its level is not declared; add it to [data.categories], or mend the cell"
    source.refuse(~cells.matches(levels) & ~missing, column, problem)
    signs = {level: np.where(cells.matches([level]), 1.0, -1.0) for level in levels[1:]}
    return {f"{column}={level}": np.where(missing, 0.0, sign) for level, sign in signs.items()}


def _missing(source: Source, column: str, spec: DataSpec) -> NDArray[np.bool_]:
    own = spec.ranges[column].missing_values if column in spec.ranges else ()
    return source.columns[column].missing((*spec.missing_values, *own))
