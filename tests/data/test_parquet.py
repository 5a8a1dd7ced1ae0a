"""Parquet: CSV and Parquet of one table load alike, and a column that nobody uses is not converted."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securepfl.data.schema import DataSpec
from securepfl.data.tables import Table, load_sites
from securepfl.errors import DataError

BIG = 2**53


def declare(**entries: Any) -> DataSpec:
    ranges = {"ranges": {"a": {"centre": 0, "spread": 1, "limit": 1000}}}
    return DataSpec.from_mapping({"label": "y", **ranges, **entries})


def stored(folder: Path, spec: DataSpec, **columns: Any) -> Table:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), folder / "north.parquet")
    return load_sites(folder, spec)["north"]


def written(folder: Path, spec: DataSpec, **columns: Any) -> Table:
    folder.mkdir(exist_ok=True)
    pa_csv.write_csv(pa.table(columns), folder / "north.csv")
    return load_sites(folder, spec)["north"]


def assert_equal(one: Table, other: Table) -> None:
    np.testing.assert_array_equal(one.features, other.features)
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_array_equal(one.patients, other.patients)


VALUES = [-99.9, 0.1, 0.0, 27.5, -99.9]
TYPES = {
    "double": pa.array(VALUES),
    "float": pa.array(VALUES, pa.float32()),
    "half": pa.array(np.array(VALUES, np.float16)),
    "decimal128": pa.array([Decimal(str(value)) for value in VALUES], pa.decimal128(6, 1)),
    "decimal256": pa.array([Decimal(str(value)) for value in VALUES], pa.decimal256(40, 1)),
    "string": pa.array(map(str, VALUES)),
    "large string": pa.array(map(str, VALUES), pa.large_string()),
    "string view": pa.array(map(str, VALUES), pa.string_view()),
    "dictionary": pa.array(VALUES, pa.float32()).dictionary_encode(),
}


@pytest.mark.parametrize("kind", TYPES)
def test_a_number_is_the_same_whatever_stored_it(tmp_path: Path, kind: str):
    spec = declare(missing_values=[-99.9])
    found = stored(tmp_path, spec, a=TYPES[kind], y=[0, 1, 0, 1, 0])
    np.testing.assert_array_equal(found.features, np.float32([[0, 1], [0.1, 0], [0, 0], [27.5, 0], [0, 1]]))


@pytest.mark.parametrize("kind", [pa.decimal128(18, 8), pa.decimal256(40, 12)])
def test_decimals_of_many_places_match_texts_as_they_do_in_a_csv(tmp_path: Path, kind: Any):
    ranges = {"a": {"centre": 0, "spread": 1, "missing_values": ["0"]}}
    spec = declare(patient="id", ranges=ranges)
    values = [Decimal(value) for value in ("0", "0.00000001", "2", "0")]
    columns = {"a": pa.array(values, kind), "id": pa.array([*values[:3], Decimal(5)], kind), "y": [0, 1, 0, 1]}
    found = stored(tmp_path / "p", spec, **columns)
    assert found.features[:, 1].tolist() == [1, 0, 0, 1]
    assert found.patients.tolist()[::2] == ["0", "2"]


LABELS = {
    "int8": pa.array([0, 1, 1, 0], pa.int8()),
    "uint64": pa.array([0, 1, 1, 0], pa.uint64()),
    "float": pa.array([0, 1, 1, 0], pa.float32()),
    "decimal": pa.array([Decimal(value) for value in ("0.0", "1.0", "1.0", "0.0")]),
    "string": pa.array(["0", "1", "1.0", "0"]),
    "bool": pa.array([False, True, True, False]),
}


@pytest.mark.parametrize("positive", [{}, {"positive": 1}, {"positive": "1"}])
@pytest.mark.parametrize("kind", LABELS)
def test_labels_are_the_same_whatever_stored_them(tmp_path: Path, kind: str, positive: dict[str, Any]):
    if kind == "bool" and positive == {"positive": "1"}:
        positive = {"positive": "True"}  # true is the number 1, and not the text 1
    found = stored(tmp_path, declare(**positive), a=[1.0, 2, 3, 4], y=LABELS[kind])
    np.testing.assert_array_equal(found.labels, [0, 1, 1, 0])


tables = st.integers(2, 12).flatmap(
    lambda size: st.fixed_dictionaries(
        {
            "a": st.lists(
                st.one_of(
                    st.none(),
                    st.floats(-900, 900, width=32),
                    st.just(np.float32(-99.9).item()),
                    st.integers(-5, 5).map(float),
                ),
                min_size=size,
                max_size=size,
            ),
            "code": st.lists(st.sampled_from([1, 2, BIG, BIG + 1, None]), min_size=size, max_size=size),
            "flag": st.lists(st.sampled_from([True, False, None]), min_size=size, max_size=size),
            "id": st.lists(st.integers(0, 3) | st.just(BIG + 1), min_size=size, max_size=size),
            "y": st.lists(st.sampled_from(["yes", "no"]), min_size=size, max_size=size),
        }
    )
)


@settings(max_examples=60, deadline=None)
@given(tables, st.sampled_from([pa.float32(), pa.float64()]))
def test_csv_and_parquet_of_the_same_table_load_alike(tmp_path_factory, columns: dict[str, list[Any]], kind: Any):
    spec = declare(
        positive="yes",
        patient="id",
        missing_values=[-99.9, "9"],
        categories={"code": [1, 2, BIG, BIG + 1], "flag": ["true", "false"]},
    )
    typed = {**columns, "a": pa.array(columns["a"], kind), "code": pa.array(columns["code"], pa.int64())}
    folder = tmp_path_factory.mktemp("tables")
    one, other = stored(folder / "p", spec, **typed), written(folder / "c", spec, **typed)
    assert_equal(one, other)


UNUSED = {
    "timestamp ns": pa.array([1_700_000_000_123_456_789] * 2, pa.timestamp("ns")),
    "zone": pa.array([1_700_000_000_123_456] * 2, pa.timestamp("us", "Europe/Berlin")),
    "duration": pa.array([1_000_000_001] * 2, pa.duration("ns")),
    "date beyond 9999": pa.array([3_000_000] * 2, pa.date32()),
    "time": pa.array([3_600_000_000_123] * 2, pa.time64("ns")),
    "list": pa.array([[1], [2, 3]]),
    "struct": pa.array([{"a": 1}, {"a": 2}]),
    "map": pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64())),
    "binary": pa.array([b"\xff", b"\x00"]),
}


@pytest.mark.parametrize("kind", UNUSED)
def test_a_dropped_column_may_hold_anything_and_a_used_one_is_refused_by_its_type(tmp_path: Path, kind: str):
    assert len(stored(tmp_path, declare(drop=["t"]), a=[1, 2], t=UNUSED[kind], y=[0, 1])) == 2
    for spec in (declare(categories={"t": ["u", "v"]}), declare(patient="t")):
        with pytest.raises(DataError, match=r"north\.parquet: column `t` holds (dates|lists|a type)"):
            stored(tmp_path, spec, a=[1, 2], t=UNUSED[kind], y=[0, 1])


def test_a_column_beside_another_of_a_longer_name_is_read_alone(tmp_path: Path):
    columns = {"a": [1, 2], "a.b": [3, 4], "s": [{"a": 7}, {"a": 8}], "y": [0, 1]}
    found = stored(tmp_path, declare(drop=["a.b", "s"]), **columns)
    np.testing.assert_array_equal(found.features[:, 0], [1, 2])


def test_large_patient_numbers_stay_distinct_with_gaps_elsewhere(tmp_path: Path):
    found = stored(tmp_path, declare(patient="id"), a=[1, None], id=[BIG, BIG + 1], y=[0, 1])
    assert found.patients.tolist() == ["9007199254740992", "9007199254740993"]


def test_patient_numbers_that_a_float_merges_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="row 2: a patient's id in a float type"):
        stored(tmp_path, declare(patient="id"), a=[1, 2], id=[1.0, 2.0**53], y=[0, 1])
