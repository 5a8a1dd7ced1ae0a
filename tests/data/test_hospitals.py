"""Which hospitals there are: one spelling a name, nothing in a folder passed over in silence, and none twice."""

import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from securepfl.data import reading
from securepfl.data.folder import hospital_files, left_out
from securepfl.data.reading import READERS
from securepfl.data.schema import DataSpec
from securepfl.data.tables import load_sites
from securepfl.errors import ConfigError, DataError
from securepfl.settings.federation import Federation
from securepfl.settings.roster import check_roster
from securepfl.spelling import alike, look

NFC, NFD = (unicodedata.normalize(form, "K\u00f6ln") for form in ("NFC", "NFD"))
LIKES = [
    ("north", "North"),
    ("north", "nor th"),
    ("north", "nor\u00a0th"),
    ("north", "north\u200b"),
    ("north", "n\u043erth"),
    ("\u0391thens", "athens"),
    ("north-1", "north\u20131"),
    ("Gie\u00dfen", "GIESSEN"),
    ("\ufb01eld", "field"),
    ("north", "north."),
    ("St. Anna", "St Anna"),
    ("ward1", "ward\u0661"),
    ("north", "north\ufe0f"),
    ("\u0130zmir", "izmir"),
    ("Or\u00ebl", "Or\u0451l"),
    ("1", "1.0"),
    ("1", "01"),
]
UNLIKE = [
    "Z\u00fcrich",
    "Zurich",
    "north-1",
    "north-2",
    "ward 1.1",
    "ward 11",
    "north 2024",
    "H1",
    "H01",
    "10",
    "1",
    "Ost",
    "0st",
]


def declare(**entries: Any) -> DataSpec:
    return DataSpec.from_mapping({"label": "y", "ranges": {"a": {"centre": 0, "spread": 1}}, **entries})


def write(path: Path, *rows: str) -> None:
    path.write_text("\n".join(["a,y", *rows]) + "\n", encoding="utf-8")


def refusal(path: Path, spec: DataSpec) -> str:
    with pytest.raises(DataError) as caught:
        load_sites(path, spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("one", "other"), LIKES)
def test_names_that_look_alike_are_refused_everywhere(tmp_path: Path, one: str, other: str):
    assert look(one) == look(other)
    write(tmp_path / f"{one}.csv", "1,0")
    write(tmp_path / f"{other}.csv", "2,1")
    assert "look alike" in refusal(tmp_path, declare())
    table = tmp_path / "all.csv"
    table.write_text(f"s,a,y\n{one},1,0\nx,2,1\n{other},3,1\n", encoding="utf-8")
    assert "looks like" in refusal(table, declare(site="s"))
    with pytest.raises(ConfigError, match=r"alike|file name"):
        check_roster([one, "x", other], 1)
    with pytest.raises(ConfigError, match="look alike"):
        declare(files={one: "a.csv", other: "b.csv"})


def test_a_look_alike_letter_stands_by_its_number():
    with pytest.raises(ConfigError, match=r"`n\\u043erth`"):
        check_roster(["north", "n\u043erth"], 1)
    assert alike(["north", "south", *UNLIKE]) is None


def test_one_hospital_in_two_unicode_forms_is_one(tmp_path: Path):
    table = tmp_path / "all.csv"
    table.write_text(f"s,a,y\n{NFC},1,0\nx,2,1\n {NFD} ,3,1\n", encoding="utf-8")
    tables = load_sites(table, declare(site="s"))
    assert {name: len(rows) for name, rows in tables.items()} == {NFC: 2, "x": 1}
    with pytest.raises(ConfigError, match="composed form"):
        check_roster([NFD], 1)


def test_settings_of_a_hospital_are_found_by_either_form_of_its_name():
    assert list(Federation.from_mapping({"sites": {NFD: {"weight": 2}}}).sites) == [NFC]
    with pytest.raises(ConfigError, match="look alike; keep one"):
        Federation.from_mapping({"sites": {"north": {}, "North": {}}})


def test_a_files_name_and_its_declaration_are_of_one_spelling(tmp_path: Path):
    write(tmp_path / f"{NFD}.csv", "1,0")
    assert list(load_sites(tmp_path, declare())) == [NFC]
    assert list(load_sites(tmp_path, declare(files={NFD: f"{NFC}.csv"}))) == [NFC]


@pytest.mark.parametrize("absent", ["", "NA", "null", "?", "N/A"])
def test_a_row_without_a_site_is_refused(tmp_path: Path, absent: str):
    table = tmp_path / "all.csv"
    table.write_text(f"s,a,y\nx,1,0\n{absent},2,1\n", encoding="utf-8")
    assert "column `s`, row 2: no site" in refusal(table, declare(site="s"))


@pytest.mark.parametrize(
    "name",
    [
        "b.csv.gpg",
        "b.xlsx",
        "b.csv.gz",
        "b.tsv",
        "b.parquet.gz",
        "b.json",
        "b.txt",
        "b",
        "b.csv.bak",
        "north (copy).dat",
    ],
)
def test_a_file_that_no_reader_takes_is_named(tmp_path: Path, name: str):
    write(tmp_path / "a.csv", "1,0")
    write(tmp_path / name, "2,1")
    assert f"no reader takes `{name}`" in refusal(tmp_path, declare())


def test_all_of_them_are_named_at_once(tmp_path: Path):
    for name in ("a.csv", "east.xlsx", "hill.tsv"):
        write(tmp_path / name, "1,0")
    (tmp_path / "old").mkdir()
    write(tmp_path / "old" / "c.csv", "2,1")
    (tmp_path / "spark.parquet").mkdir()
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    message = refusal(tmp_path, declare())
    assert all(f"`{name}`" in message for name in ("east.xlsx", "hill.tsv", "old", "spark.parquet", "gone"))


def test_a_broken_link_and_an_unreadable_name_are_no_missing_hospital(tmp_path: Path):
    write(tmp_path / "a.csv", "1,0")
    (tmp_path / "b.csv").symlink_to(tmp_path / "nowhere.csv")
    assert "b.csv: cannot be read" in refusal(tmp_path, declare())


def test_suffixes_are_of_any_case(tmp_path: Path):
    write(tmp_path / "a.CSV", "1,0")
    pq.write_table(pa.table({"a": [2], "y": [1]}), tmp_path / "b.Parquet")
    assert list(load_sites(tmp_path, declare())) == ["a", "b"]


def test_what_plainly_is_no_table_is_a_note(tmp_path: Path):
    write(tmp_path / "a.csv", "1,0")
    others = (
        "README",
        "LICENSE.txt",
        "notes.md",
        ".hidden.csv",
        "~$b.xlsx",
        "SOURCE.txt",
        "federation.toml",
    )
    for name in others:
        write(tmp_path / name, "2,1")
    (tmp_path / "figures").mkdir()
    assert list(load_sites(tmp_path, declare())) == ["a"]
    (note,) = left_out(tmp_path, {})
    assert "\n" not in note
    assert all(f"`{name}`" in note for name in (*others, "figures"))
    assert left_out(tmp_path / "a.csv", {}) == []


@pytest.mark.parametrize("name", ["Thumbs.db", "_SUCCESS", "a.csv.crc", "a.csv.sha512"])
def test_what_systems_leave_beside_tables_is_a_note(tmp_path: Path, name: str):
    write(tmp_path / "a.csv", "1,0")
    write(tmp_path / name, "2,1")
    assert list(load_sites(tmp_path, declare())) == ["a"]
    assert f"`{name}`" in left_out(tmp_path, {})[0]


def test_with_declared_files_the_others_are_a_note(tmp_path: Path):
    for name in ("a.dat", "b.xlsx", "c.csv"):
        write(tmp_path / name, "1,0")
    files = {"north": "a.dat"}
    assert list(load_sites(tmp_path, declare(files=files))) == ["north"]
    assert left_out(tmp_path, files) == [f"{tmp_path.name}: no hospital's file, and not read: `b.xlsx`, `c.csv`"]


def test_two_hospitals_with_equal_tables_are_refused(tmp_path: Path):
    write(tmp_path / "a.csv", "1,0", "2,1", "2,1")
    write(tmp_path / "b.csv", "1,0", "2,1")
    assert len(load_sites(tmp_path, declare())) == 2
    pq.write_table(pa.table({"y": [1, 0, 1], "a": [2.0, 1.0, 2.0]}), tmp_path / "c.parquet")
    assert "sites a and c have equal tables" in refusal(tmp_path, declare())
    table = tmp_path / "all.csv"
    table.write_text("s,a,y\nx,1,0\nz,1,0\nx,2,1\nz,2,1\n", encoding="utf-8")
    assert "sites x and z have equal tables" in refusal(table, declare(site="s"))


def test_two_hospitals_with_one_equal_row_are_a_coincidence(tmp_path: Path):
    table = tmp_path / "all.csv"
    table.write_text("s,a,y\nx,1,0\nz,1,0\n", encoding="utf-8")
    assert len(load_sites(table, declare(site="s"))) == 2


def test_equal_rows_of_other_patients_are_another_table(tmp_path: Path):
    table = tmp_path / "all.csv"
    table.write_text("s,a,y,p\nx,1,0,p1\nz,1,0,p2\nx,1,0,p1\nz,1,0,p2\n", encoding="utf-8")
    assert len(load_sites(table, declare(site="s", patient="p"))) == 2


def test_two_files_of_one_name_are_told_apart_in_the_message(tmp_path: Path):
    write(tmp_path / f"{NFC}.csv", "1,0")
    write(tmp_path / f"{NFD}.csv", "2,1")
    assert "(`Ko\\u0308ln.csv` and `K\u00f6ln.csv`)" in refusal(tmp_path, declare())


def test_a_path_where_nothing_is_is_named_so(tmp_path: Path):
    assert refusal(tmp_path / "nowhere", declare()).endswith(
        "nowhere: cannot be read (No such file or directory); name an existing file or folder"
    )


@pytest.mark.parametrize(
    ("name", "told"), [("A", "`A`"), ("\ufeffa", "`\\ufeffa`"), ("a\u200b", "`a\\u200b`"), ("\u0430", "`\\u0430`")]
)
def test_a_column_that_looks_like_the_one_that_lacks_is_named(tmp_path: Path, name: str, told: str):
    (tmp_path / "north.csv").write_text(f"z,{name},y\n0,1,0\n", encoding="utf-8")
    assert f"has no column `a` (declared as a feature); {told} looks like it; rename one" in refusal(
        tmp_path, declare()
    )


def test_a_slip_in_a_columns_name_is_told_once_for_all_files_with_the_name_that_is_meant(tmp_path: Path):
    for name in ("north", "south"):
        (tmp_path / f"{name}.csv").write_text("max heart rate,y\n1,0\n", encoding="utf-8")
    told = refusal(tmp_path, declare(ranges={"max hart rate": {"centre": 0, "spread": 1}}))
    assert told.count("has no column `max hart rate` (declared as a feature)") == 1
    assert "north.csv" in told and "south.csv" in told
    assert told.endswith("; add it or mend [data] (`max heart rate`?)")


def test_every_file_that_a_reader_takes_counts_as_a_table_inside_a_folder_too(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(reading, "READERS", {**READERS, ".rows": READERS[".csv"]})
    write(tmp_path / "north.csv", "1,0")
    write(tmp_path / "south.rows", "2,1")
    assert set(hospital_files(tmp_path, {})) == {"north", "south"}
    (tmp_path / "more").mkdir()
    write(tmp_path / "more" / "west.rows", "3,1")
    assert "no reader takes `more`" in refusal(tmp_path, declare())
