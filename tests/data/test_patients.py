"""One patient has one id, however it was written; two that may be one are refused."""

import unicodedata
from pathlib import Path

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
    ("one", "other"), [(NFC, NFD), ("p1", " p1 "), ("p1", "\u00a0p1"), ("7", "7.0"), ("7.00", "7")]
)
def test_two_spellings_of_one_id_are_one_patient(tmp_path: Path, one: str, other: str):
    first, second, third = patients_of(tmp_path, one, other, "q")
    assert first == second != third


@pytest.mark.parametrize(
    ("one", "other"), [("p1", "P1"), ("p1", "p 1"), ("p1", "p1\u200b"), ("pa", "p\u0430"), ("7", "007")]
)
def test_ids_that_a_reader_would_take_for_one_are_refused_by_their_rows(tmp_path: Path, one: str, other: str):
    with pytest.raises(DataError, match=r"north\.csv: column `id`, row 3: .* differs from row 1's only in") as caught:
        patients_of(tmp_path, one, "q", other)
    assert not {one, other} & set(str(caught.value).replace("'", " ").split())


def test_other_ids_stay_apart(tmp_path: Path):
    ids = ["10", "1", "01-1", "1-1", "1.5", "-1", "a", "\u00e4"]
    assert patients_of(tmp_path, *ids) == ids


@pytest.mark.parametrize("absent", ["", "NA", "n/a", "None", "null", "nan", "?", "unknown"])
def test_rows_without_a_patient_are_not_one_patient(tmp_path: Path, absent: str):
    with pytest.raises(DataError, match="row 2: no patient"):
        patients_of(tmp_path, "p1", absent)
