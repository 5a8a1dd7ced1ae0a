"""One patient has one id, however it was written; two that may be one are refused."""

import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from securepfl.data.schema import DataSpec
from securepfl.data.tables import load_sites
from securepfl.errors import DataError

NFC, NFD = (unicodedata.normalize(form, "K\u00f6hler") for form in ("NFC", "NFD"))
SPEC = DataSpec.from_mapping({"label": "y", "patient": "id", "ranges": {"a": {"centre": 0, "spread": 1}}})


def patients_of(tmp_path: Path, *ids: str) -> list[str]:
    rows = [f"{row},{row % 2},{name}" for row, name in enumerate(ids)]
    (tmp_path / "north.csv").write_text("\n".join(["a,y,id", *rows]) + "\n", encoding="utf-8")
    patients = load_sites(tmp_path, SPEC)["north"].patients
    assert patients is not None
    return patients.tolist()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *[(NFC, NFD), ("p1", " p1 "), ("p1", "\u00a0p1"), ("p 1", "p\u00a01"), ("p 1", "p  1"), ("p1", "p\u200b1")],
        *[("7", "7.0"), ("7.00", "7"), ("7", "\uff17"), ("7", "\u0667"), ("P1", "\uff301"), ("p-1", "p\u20111")],
    ],
)
def test_two_spellings_of_one_id_are_one_patient(tmp_path: Path, one: str, other: str):
    first, second, third = patients_of(tmp_path, one, other, "q")
    assert first == second != third


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *[
            ("p1", "P1"),
            ("p1", "p 1"),
            ("p1", "p-1"),
            ("p1", "p_1"),
            ("pa", "p\u0430"),
            ("7", "007"),
            ("ash7", "ash0007"),
        ],
        *[
            ("ash7", "ash0007"),
            ("7", "'7"),
            ("01-1", "1-1"),
            ("010170-1234", "0101701234"),
            ("943 476", "943476"),
            ("doe j", "Doe. J"),
            ("010170-1234", "010170/1234"),
            ("010170_1234", "010170-1234"),
            ("12.345.678-5", "12345678-5"),
            ("756.1234.5678.97", "7561234567897"),
            ("1.234", "1234"),
        ],
    ],
)
def test_ids_that_a_reader_would_take_for_one_are_refused_by_their_rows(tmp_path: Path, one: str, other: str):
    with pytest.raises(DataError, match=r"north\.csv: column `id`, row 3: .* differs from row 1's only in") as caught:
        patients_of(tmp_path, one, "q", other)
    assert not {one, other} & set(str(caught.value).replace("'", " ").split())


def test_a_decimal_comma_that_nobody_declared_is_no_patient_of_its_own(tmp_path: Path):
    (tmp_path / "north.csv").write_text("a;y;id\n1;0;7,0\n2;1;7\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"row 2: .* differs from row 1's only in"):
        load_sites(tmp_path, SPEC)


def test_other_ids_stay_apart(tmp_path: Path):
    ids = ["10", "1", "11-1", "1-11", "1.5", "15", "1.50", "-1", "a", "\u00e4", "12E5", "b10", "b1", "2.11", "21.1"]
    assert patients_of(tmp_path, *ids) == ids


def test_the_refusal_says_how_many_more_there_are(tmp_path: Path):
    with pytest.raises(DataError, match=r"row 4: .* row 1's only in .* \(and 2 more are spelled so\); write each"):
        patients_of(tmp_path, "1", "2", "3", "01", "02", "03")


def test_numbers_as_spreadsheets_round_them_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"row 2: .*export it as text"):
        patients_of(tmp_path, "P1", "1.23457E+11")


def test_a_decimal_comma_is_no_second_spelling(tmp_path: Path):
    (tmp_path / "north.csv").write_text("a;y;id\n1,5;0;7,0\n2;1;7\n", encoding="utf-8")
    spec = DataSpec.from_mapping({**SPEC.to_mapping(), "decimal": ","})
    assert load_sites(tmp_path, spec)["north"].patients.tolist() == ["7", "7"]


@pytest.mark.parametrize(
    ("column", "ids"),
    [
        (pa.array([7.0, 8.0, 7.0]), ["7", "8", "7"]),
        (pa.array([-0.0, 8.0, 0.0]), ["0", "8", "0"]),
        (pa.array([7, 8, 7], pa.uint64()), ["7", "8", "7"]),
        (pa.array(["7.0", " 8", "7"]).dictionary_encode(), ["7", "8", "7"]),
        (pa.array([7, 8, 7], pa.decimal128(9, 2)), ["7", "8", "7"]),
        (pa.array([2**53, 2**53 + 1, 1]), [str(2**53), str(2**53 + 1), "1"]),
    ],
)
def test_every_type_of_column_gives_the_same_ids(tmp_path: Path, column: pa.Array, ids: list[str]):
    pq.write_table(pa.table({"a": [1, 2, 3], "y": [0, 1, 1], "id": column}), tmp_path / "north.parquet")
    assert load_sites(tmp_path, SPEC)["north"].patients.tolist() == ids


@pytest.mark.parametrize(("kind", "large"), [(pa.float64(), 2.0**53), (pa.float32(), 2.0**24)])
def test_ids_that_a_float_type_merged_are_refused(tmp_path: Path, kind: pa.DataType, large: float):
    table = {"a": [1, 2], "y": [0, 1], "id": pa.array([large - 1, large], kind)}
    pq.write_table(pa.table(table), tmp_path / "north.parquet")
    with pytest.raises(DataError, match=r"row 2: .* cannot hold it exactly"):
        load_sites(tmp_path, SPEC)


@pytest.mark.parametrize("absent", ["", "NA", "n/a", "None", "null", "nan", "?", "unknown"])
def test_rows_without_a_patient_are_not_one_patient(tmp_path: Path, absent: str):
    with pytest.raises(DataError, match=r"row 2: no patient"):
        patients_of(tmp_path, "p1", absent)
