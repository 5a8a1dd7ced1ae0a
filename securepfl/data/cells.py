"""Cells of CSV and Parquet files as numpy columns, and how a cell is compared with a declared value.

A cell is private: no message from here holds one.
"""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from securepfl.data.values import Value
from securepfl.errors import DataError

Cells = NDArray[Any]
"""One column, shape [rows]: float64, integers, or stripped texts (dtype object, "" where missing)."""

Columns = dict[str, Cells]
"""The columns of one file by name, all of one length, in the file's order."""


def read_columns(path: Path, layouts: Sequence[Sequence[str]] | None = None) -> Columns:
    """Read one file: Parquet by its suffix `.parquet`, anything else as CSV in UTF-8.

    `layouts`: None where a CSV's first line is its header; else the lists of column names it may follow,
    told apart by length (none given: columns are named by their number). Raises DataError for a file that
    cannot be read or has no rows.
    """
    try:
        columns = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path, layouts)
    except OSError as error:
        reason = error.strerror or "damaged"
        raise DataError(f"{path}: cannot be read ({reason}); name an existing CSV or Parquet file") from None
    if not columns or len(next(iter(columns.values()))) == 0:
        raise DataError(f"{path}: has no rows; give a file with at least one row of data")
    return columns


def numbers(cells: Cells) -> NDArray[np.float64]:
    """The cells as float64, shape [rows]; NaN where a cell is no number."""
    if cells.dtype != object:
        return cells.astype(np.float64)
    return np.fromiter(map(_number, cells), np.float64, len(cells))


def texts(cells: Cells) -> Cells:
    """The cells as texts, shape [rows], dtype object; "" where missing. 1.0 reads as "1"."""
    if cells.dtype == object:
        return cells
    if cells.dtype.kind == "f":
        plain = ["" if np.isnan(cell) else np.format_float_positional(cell, trim="-") for cell in cells]
        return _objects(plain)
    return _objects(map(str, cells))


def matches(cells: Cells, values: Iterable[Value]) -> NDArray[np.bool_]:
    """Which cells equal one of `values`, shape [rows]: numbers by value ("1.0" is 1), texts exactly."""
    values = list(values)
    words = [value for value in values if isinstance(value, str)]
    amounts = [value for value in values if not isinstance(value, str)]
    found = np.isin(numbers(cells), amounts) if amounts else np.zeros(len(cells), dtype=np.bool_)
    return found | np.isin(texts(cells), _objects(words)) if words else found


def is_missing(cells: Cells, values: Iterable[Value]) -> NDArray[np.bool_]:
    """Which cells are empty, NaN or one of the declared `values`, shape [rows]."""
    if cells.dtype == object:
        empty = np.fromiter((cell == "" or cell.lower() == "nan" for cell in cells), np.bool_, len(cells))
    else:
        empty = np.isnan(cells.astype(np.float64))
    return empty | matches(cells, values)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _objects(cells: Iterable[str]) -> Cells:
    """Texts as an object array; numpy's own text arrays pad every cell to the longest."""
    return np.array(list(cells), dtype=object)


def _read_csv(path: Path, layouts: Sequence[Sequence[str]] | None) -> Columns:
    lines = _csv_lines(path)
    if not lines:
        return {}
    width = len(lines[0])
    if width == 1 and ";" in lines[0][0]:
        raise DataError(f"{path}: fields are separated by `;`; save it with commas between fields")
    if layouts is None:
        names, body = _header(path, lines[0]), lines[1:]
    else:
        names, body = _layout(path, width, layouts), lines
    for row, line in enumerate(body, start=1):
        if len(line) != width:
            raise DataError(f"{path}: row {row} has {len(line)} fields, the first line {width}; mend it")
    return {name: _objects(line[index].strip() for line in body) for index, name in enumerate(names)}


def _csv_lines(path: Path) -> list[list[str]]:
    """All lines that are not blank, as fields."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return [line for line in csv.reader(file) if line]
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not text in UTF-8; save it as CSV in UTF-8, or as .parquet") from None
    except csv.Error:
        raise DataError(f"{path}: is not a CSV file; save it as CSV in UTF-8, or as .parquet") from None


def _layout(path: Path, width: int, layouts: Sequence[Sequence[str]]) -> list[str]:
    if not layouts:
        return [f"column_{index}" for index in range(1, width + 1)]
    names = next((names for names in layouts if len(names) == width), None)
    if names is None:
        wanted = " or ".join(str(len(names)) for names in layouts)
        raise DataError(f"{path}: has {width} columns, but [data] columns names {wanted}; list all of them")
    return list(names)


def _header(path: Path, line: list[str]) -> list[str]:
    # A patient's row taken for a header would end up in messages as column names.
    numeric = sum(not np.isnan(_number(name)) for name in line)
    if 2 * numeric >= len(line):
        raise DataError(f"{path}: its first line holds numbers: name its columns in [data] columns (or --no-header)")
    return _distinct(path, (name.strip() or f"column_{index}" for index, name in enumerate(line, start=1)))


def _distinct(path: Path, names: Iterable[str]) -> list[str]:
    seen: list[str] = []
    for name in names:
        if name in seen:
            raise DataError(f"{path}: has two columns `{name}`; rename or remove one")
        seen.append(name)
    return seen


def _read_parquet(path: Path) -> Columns:
    try:
        with path.open("rb") as file:
            table = pq.read_table(file)
    except pa.ArrowException:
        raise DataError(f"{path}: is not a readable Parquet file; write it anew, or as CSV") from None
    names = _distinct(path, table.column_names)
    return {name: _arrow_cells(column) for name, column in zip(names, table.columns, strict=True)}


def _arrow_cells(column: Any) -> Cells:
    kind = column.type
    if pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        values = (np.nan if cell is None else float(cell) for cell in column.to_pylist())
        return np.fromiter(values, np.float64, len(column))
    if pa.types.is_integer(kind) and column.null_count == 0:
        integers: Cells = column.to_numpy()
        return integers
    # Integers with gaps stay texts: as float64, patient numbers past 2^53 would merge.
    return _objects("" if cell is None else str(cell).strip() for cell in column.to_pylist())
