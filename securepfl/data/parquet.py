"""A Parquet file as columns: only those asked for are read, and each type becomes what its cells mean."""

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from securepfl.data.cells import Cells
from securepfl.data.known import digests_of
from securepfl.data.marks import decimal_of
from securepfl.data.wanted import Contents, Wanted, distinct
from securepfl.errors import DataError

_READABLE: tuple[Callable[[Any], bool], ...] = (
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_decimal,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_boolean,
    pa.types.is_null,
)
_KINDS: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (pa.types.is_temporal, "dates or times; make them numbers (days, years), or list the column in [data] drop"),
    (pa.types.is_nested, "lists, maps or records; make it one value a row, or list it in [data] drop"),
    (lambda kind: True, "a type that is neither number nor text; write it anew, or list it in [data] drop"),
)


def read_parquet(path: Path, wanted: Wanted) -> Contents:
    """The columns asked for. Raises DataError for a file or a type that cannot be read, and OSError."""
    try:
        with path.open("rb") as file, pq.ParquetFile(file) as parquet:
            stored = parquet.schema_arrow.names
            names = distinct(path, stored)
            _check_named(path, stored)
            asked = {name: old for name, old in zip(names, stored, strict=True) if wanted.reads(name)}
            kinds = {name: parquet.schema_arrow.field(old).type for name, old in asked.items()}
            if wanted.lenient:
                asked = {name: old for name, old in asked.items() if _readable(kinds[name])}
            for name in asked:
                _check_type(path, name, kinds[name])
            rows = parquet.metadata.num_rows
            table = parquet.read(columns=list(asked.values()))
            columns = {name: _cells(table.column(old), wanted.decimal) for name, old in asked.items()}
            if wanted.numbers:
                texts = [cells.texts for name, cells in columns.items() if name in wanted.numbers and cells.textual]
                wanted = replace(wanted, decimal=decimal_of(texts))
                columns = {name: _cells(table.column(old), wanted.decimal) for name, old in asked.items()}
            known = _known(parquet, names, wanted) if wanted.known else None
    except (pa.ArrowException, UnicodeDecodeError):
        raise DataError(f"{path}: is not a readable Parquet file; write it anew, or as CSV") from None
    return Contents(names, columns, rows, known)


def _known(parquet: pq.ParquetFile, names: tuple[str, ...], wanted: Wanted) -> NDArray[Any]:
    """What each row is known by: all cells of the columns that are numbers or texts."""
    schema = parquet.schema_arrow
    whole = parquet.read(columns=[stored for stored in schema.names if _readable(schema.field(stored).type)])
    stored = dict(zip(schema.names, names, strict=True))
    return digests_of({stored[old]: _cells(whole.column(old), wanted.decimal) for old in whole.column_names})


def _check_named(path: Path, stored: list[str]) -> None:
    """Raise DataError for two columns without a name: cells are read by it."""
    bare = [index for index, name in enumerate(stored, start=1) if not name]
    if len(bare) > 1:
        raise DataError(f"{path}: columns {bare[0]} and {bare[1]} have no name; name them, or leave them out")


def _check_type(path: Path, name: str, kind: Any) -> None:
    if not _readable(kind):
        stored = kind.value_type if pa.types.is_dictionary(kind) else kind
        problem = next(words for holds, words in _KINDS if holds(stored))
        raise DataError(f"{path}: column `{name}` holds {problem}")


def _readable(kind: Any) -> bool:
    stored = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(holds(stored) for holds in _READABLE)


def _cells(column: Any, decimal: str) -> Cells:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    array = column.combine_chunks()
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    kind = array.type
    if pa.types.is_float16(kind):
        return replace(Cells.of(_decimals(array.to_numpy(zero_copy_only=False))), exact=2.0**11)
    if pa.types.is_float32(kind):
        # The number that was stored is the shortest that float32 rounds so: -99.9, and not -99.9000015.
        return replace(Cells.of(array.cast(pa.string()).cast(pa.float64())), exact=2.0**24)
    if pa.types.is_decimal(kind):
        return Cells.of(_pointed(array.cast(pa.string())))
    if pa.types.is_string_view(kind):
        array = array.cast(pa.string())
    return Cells.of(array, decimal if pa.types.is_string(array.type) or pa.types.is_large_string(array.type) else ".")


def _pointed(texts: Any) -> Any:
    """Texts of decimals without exponents: a zero of seven places is "0.0000000", and not "0E-7"."""
    encoded = texts.dictionary_encode()
    plain = [text and format(Decimal(text), "f") for text in encoded.dictionary.to_pylist()]
    return pa.array(plain, pa.string()).take(encoded.indices)


def _decimals(values: Any) -> list[float]:
    """Half floats by their shortest decimals."""
    found, places = np.unique(values.astype(np.float16), return_inverse=True)
    shortest = np.array([float(np.format_float_positional(value)) for value in found])
    numbers: list[float] = shortest[places].tolist()
    return numbers
