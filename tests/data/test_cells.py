"""Cells as numbers and texts, and what counts as equal or missing."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from securepfl.data.cells import is_missing, matches, read_columns, texts


def test_whole_floats_read_like_integers_and_match_texts():
    cells = np.array([1.0, 2.5, np.nan])
    assert texts(cells).tolist() == ["1", "2.5", ""]
    assert matches(cells, ["1"]).tolist() == [True, False, False]


def test_numbers_match_by_value_and_texts_exactly():
    cells = np.array(["1.0", "1", "one"], dtype=object)
    assert matches(cells, [1]).tolist() == [True, True, False]
    assert matches(cells, ["1"]).tolist() == [False, True, False]
    assert matches(cells, ["one", 1.0]).tolist() == [True, True, True]


def test_empty_cells_and_nan_are_always_missing():
    assert is_missing(np.array(["", "NaN", "?", "0"], dtype=object), ["?"]).tolist() == [
        True,
        True,
        True,
        False,
    ]
    assert is_missing(np.array([np.nan, -9.0, 1.0]), [-9]).tolist() == [True, True, False]


def test_large_patient_numbers_in_parquet_stay_distinct(tmp_path: Path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": [2**53, 2**53 + 1], "gappy": [2**53 + 1, None]}), path)
    columns = read_columns(path)
    assert texts(columns["id"]).tolist() == ["9007199254740992", "9007199254740993"]
    assert texts(columns["gappy"]).tolist() == ["9007199254740993", ""]


def test_quotes_a_byte_order_mark_and_blank_lines_are_read(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_text('\ufeffname,age\n"Doe, J",5\n\n', encoding="utf-8")
    columns = read_columns(path)
    assert {name: cells.tolist() for name, cells in columns.items()} == {"name": ["Doe, J"], "age": ["5"]}
