"""`securepfl data ranges` lists columns and units and shows nothing of the rows."""

import tomllib
from pathlib import Path

import pytest

from securepfl.data.ranges import describe_columns, unit_of
from securepfl.data.schema import DataSpec
from securepfl.errors import DataError

ROWS = "age (years),height_cm,smoker,ward,sick\n4711,186,yes,Xanadu,1\n?,173,no,Utopia,0\n4712,,yes,Utopia,1\n"


def columns_of(tmp_path: Path) -> str:
    (tmp_path / "basel.csv").write_text(ROWS, encoding="utf-8")
    return describe_columns(tmp_path, "basel")


def test_columns_are_listed_with_kind_and_unit(tmp_path: Path):
    text = columns_of(tmp_path)
    assert '# "age (years)" = { centre = ..., spread = ..., unit = "years" }' in text
    assert '# height_cm = { centre = ..., spread = ..., unit = "cm" }' in text
    assert "# smoker = [...]  # boolean" in text
    assert "# ward = [...]  # text" in text
    assert "`classes`, `label_range`" in text


def test_no_cell_and_no_statistic_is_shown(tmp_path: Path):
    text = columns_of(tmp_path)
    for private in ("4711", "4712", "186", "173", "179", "Xanadu", "Utopia", "0.67"):
        assert private not in text
    more = ROWS + "4711,186,yes,Xanadu,1\n"
    (tmp_path / "basel.csv").write_text(more, encoding="utf-8")
    assert describe_columns(tmp_path, "basel") == text


def test_the_skeleton_is_toml_and_becomes_a_declaration_once_filled_in(tmp_path: Path):
    text = columns_of(tmp_path)
    assert tomllib.loads(text) == {"data": {"ranges": {}, "categories": {}}}
    filled = text.replace('# label = "..."', 'label = "sick"').replace("# height_cm", "height_cm")
    filled = filled.replace("centre = ..., spread = ...", "centre = 170, spread = 10")
    assert DataSpec.from_mapping(tomllib.loads(filled)["data"]).ranges["height_cm"].unit == "cm"


def test_a_row_is_never_taken_for_a_header(tmp_path: Path):
    path = tmp_path / "processed.va.data"
    path.write_text("63,4711\n67,1\n", encoding="utf-8")
    with pytest.raises(DataError, match="--no-header") as caught:
        describe_columns(tmp_path, "va")
    assert "4711" not in str(caught.value)
    text = describe_columns(path, "va", header=False)
    assert tomllib.loads(text)["data"]["columns"] == ["column_1", "column_2"]
    assert "4711" not in text


def test_a_site_without_a_file_is_named(tmp_path: Path):
    with pytest.raises(DataError, match="0 files are named after site va"):
        describe_columns(tmp_path, "va")


@pytest.mark.parametrize(
    ("column", "unit"),
    [
        ("bp[mmHg]", "mmHg"),
        ("chol_mg_dl", "mg_dl"),
        ("crp_mg_l", "mg_l"),
        ("weight (kg)", "kg"),
        ("HR_bpm", "bpm"),
        ("exam", ""),
        ("g", ""),
    ],
)
def test_units_come_from_the_name_alone(column: str, unit: str):
    assert unit_of(column) == unit


def test_in_one_file_for_all_the_site_column_is_found_by_the_site_asked_for(tmp_path: Path):
    path = tmp_path / "all.csv"
    path.write_text("hospital,age\neast,47\nwest,48\n", encoding="utf-8")
    text = describe_columns(path, "east")
    assert tomllib.loads(text)["data"]["site"] == "hospital"
    assert "# hospital" not in text
    with pytest.raises(DataError, match="0 columns hold the site north"):
        describe_columns(path, "north")
