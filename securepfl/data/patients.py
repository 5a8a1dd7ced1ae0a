"""Which rows are of one patient: an id has one spelling, whatever wrote it, or it is refused."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from securepfl.data.cells import Cells
from securepfl.data.names import look, unsaid
from securepfl.data.source import Source
from securepfl.data.values import Value

_EXACT = 2.0**53
_WHOLE = r"^(-?[0-9]+)\.0+$"


def read_patients(source: Source, column: str, missing_values: Iterable[Value]) -> NDArray[Any]:
    """Each row's patient, [rows], texts (dtype object). A number has one spelling: 7.0 is 7.

    Raises DataError for a row without a patient, and where two ids differ only in what a reader doesn't see: case,
    spaces, leading zeros.
    """
    cells = source.column(column, "the patient")
    texts = pc.replace_substring_regex(cells.texts, _WHOLE, r"\1")
    ids, rows = _encoded(texts)
    absent = np.array([unsaid(name) for name in ids], dtype=np.bool_)
    missing = cells.missing(missing_values) | absent[rows] if len(ids) else cells.missing(missing_values)
    source.refuse(missing, column, "no patient; fill it in or remove the row")
    source.refuse(_merged(cells), column, "a number that its type (a float) cannot hold exactly; store ids as text")
    _check_alike(source, column, ids, rows)
    found: NDArray[Any] = texts.to_numpy(zero_copy_only=False)
    return found


def patient_key(name: str) -> str:
    """Equal for ids that differ only in case, spaces, look-alike letters, or leading zeros of a number.

    >>> patient_key("007"), patient_key("P 1"), patient_key("p1")
    ('7', 'p1', 'p1')
    """
    return look(name)


def _encoded(texts: Any) -> tuple[list[str], NDArray[np.int64]]:
    """The different ids, and for each row which of them it has (0 where missing)."""
    encoded = texts.dictionary_encode()
    rows: NDArray[np.int64] = pc.fill_null(encoded.indices, 0).to_numpy(zero_copy_only=False)
    return encoded.dictionary.to_pylist(), rows


def _merged(cells: Cells) -> NDArray[np.bool_]:
    if not pa.types.is_floating(cells.values.type):
        return np.zeros(len(cells), dtype=np.bool_)
    return np.abs(cells.numbers) >= _EXACT


def _check_alike(source: Source, column: str, ids: list[str], rows: NDArray[np.int64]) -> None:
    first: dict[str, int] = {}
    for place, name in enumerate(ids):
        other = first.setdefault(patient_key(name), place)
        if other != place:
            seen = source.rows[(rows == other).argmax()]
            marks = "case, spaces, dots, leading zeros or look-alike letters"
            problem = f"a patient whose id differs from row {seen}'s only in {marks}; write each patient's one way"
            source.refuse(rows == place, column, problem)
