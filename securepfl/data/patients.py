"""Which rows are of one patient: an id has one spelling, whatever wrote it, or it is refused."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from securepfl.data.cells import Cells
from securepfl.data.source import Source
from securepfl.data.table import Table
from securepfl.data.values import Value
from securepfl.identifiers import LOSSY, MARKS, MERGED, alike_before, also, lossy, plain_identifier
from securepfl.spelling import unsaid

_NAMED = 5
_COMMA = r"^(-?[0-9]+),0*$"


def read_patients(source: Source, column: str, missing_values: Iterable[Value]) -> NDArray[Any]:
    """Each row's patient, [rows], texts (dtype object), each in its one spelling (identifiers.py).

    Raises DataError for a row without a patient, for a number that lost digits, and where two ids differ only in what
    an export may change: case, blanks, leading zeros.
    """
    cells = source.column(column, "the patient")
    found, rows = _encoded(cells)
    ids = np.array([plain_identifier(text) for text in found], dtype=object)
    absent = np.array([not name or unsaid(name) for name in ids], dtype=np.bool_)
    missing = cells.missing(missing_values)
    source.refuse(missing | _at(absent, rows), column, "no patient; fill it in or remove the row")
    merged = np.zeros(len(cells), dtype=np.bool_) if cells.textual else np.abs(cells.numbers) >= cells.exact
    source.refuse(merged, column, f"a patient's id {MERGED}")
    source.refuse(_at(np.array([lossy(name) for name in ids], dtype=np.bool_), rows), column, f"a patient's id {LOSSY}")
    _check_alike(source, column, ids, rows)
    patients: NDArray[Any] = ids[rows]
    return patients


def of_several_sites(tables: Mapping[str, Table]) -> str | None:
    """In words, which patients' ids stand at several hospitals, by their first row at each; None where none does.

    Where that is one person, all of them would spend on it, and no ledger would say so. Only whoever holds all tables
    can see it.
    """
    found = [(site, name) for site, table in tables.items() for name in dict.fromkeys(_ids(table))]
    shared: dict[int, list[int]] = {}
    for place, other in alike_before(name for _, name in found).items():
        shared.setdefault(other, [other]).append(place)
    named = [", ".join(_row(tables, *found[place]) for place in places) for places in list(shared.values())[:_NAMED]]
    more = f"; and {len(shared) - _NAMED} more" if len(shared) > _NAMED else ""
    return f"{len(shared)} patient id(s) stand at several sites ({'; '.join(named)}{more})" if shared else None


def trained_and_tested(train: Mapping[str, Table], test: Mapping[str, Table]) -> int:
    """How many patients' ids among the test rows of some hospital stand among the training rows of another, in
    whatever spelling: each hospital splits its own rows.
    """
    trained = [name for table in train.values() for name in dict.fromkeys(_ids(table))]
    tested = [name for table in test.values() for name in dict.fromkeys(_ids(table))]
    alike = alike_before([*trained, *tested])
    return len({other for place, other in alike.items() if place >= len(trained) > other})


def _ids(table: Table) -> list[str]:
    return [] if table.patients is None else table.patients.tolist()


def _row(tables: Mapping[str, Table], site: str, name: str) -> str:
    table = tables[site]
    kind = "row" if table.sizes is None else "image"
    return f"{site} {kind} {table.rows[_ids(table).index(name)]}"


def _encoded(cells: Cells) -> tuple[list[str], NDArray[np.int64]]:
    """The different ids as written, and for each row which of them it has (0 where missing)."""
    texts = cells.texts
    if cells.decimal == ",":
        texts = pc.replace_substring_regex(texts, _COMMA, r"\1")
    encoded = texts.dictionary_encode()
    rows: NDArray[np.int64] = pc.fill_null(encoded.indices, 0).to_numpy(zero_copy_only=False)
    return encoded.dictionary.to_pylist(), rows


def _at(flags: NDArray[np.bool_], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The flag of each row's id; false where no row has an id."""
    return flags[rows] if len(flags) else np.zeros(len(rows), dtype=np.bool_)


def _check_alike(source: Source, column: str, ids: NDArray[Any], rows: NDArray[np.int64]) -> None:
    different = list(dict.fromkeys(ids))
    alike = alike_before(different)
    if alike:
        place, other = next(iter(alike.items()))
        row = source.rows[(ids == different[other])[rows].argmax()]
        problem = f"a patient whose id differs from row {row}'s only in {MARKS}{also(len(alike) - 1)}"
        mend = "write each patient's one way, or number patients anew"
        source.refuse((ids == different[place])[rows], column, f"{problem}; {mend}")
