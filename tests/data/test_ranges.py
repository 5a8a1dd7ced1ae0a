"""`securepfl data ranges` lists columns and units and shows nothing of the rows."""

import tomllib
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from securepfl.cli.main import cli
from securepfl.data.ranges import describe_columns, unit_of
from securepfl.data.schema import DataSpec
from securepfl.errors import DataError
from securepfl.settings.federation import Federation

ROWS = "age (years),height_cm,smoker,ward,sick\n4711,186,yes,Xanadu,1\n?,173,no,Utopia,0\n4712,,yes,Utopia,1\n"


def columns_of(tmp_path: Path) -> str:
    (tmp_path / "basel.csv").write_text(ROWS, encoding="utf-8")
    return describe_columns(tmp_path, "basel")


def test_columns_are_listed_with_kind_and_unit(tmp_path: Path):
    text = columns_of(tmp_path)
    assert '# "age (years)" = { centre = ..., spread = ..., unit = "years" }' in text
    assert '# height_cm = { centre = ..., spread = ..., unit = "cm" }' in text
    assert "# smoker = [...]  # yes or no" in text
    assert "# ward = [...]  # text" in text
    assert "`classes`, `label_range`" in text
    assert "in doubt, declare the larger round number" in text


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ("f f m f", "female or male"),
        ("F F M F", "female or male"),
        ("female male female female", "female or male"),
        ("m f m m", "female or male"),
        ("t f f f", "yes or no"),
        ("Yes No No No", "yes or no"),
        ("f f f f", "text"),
        ("high low low low", "text"),
    ],
)
def test_two_words_are_called_what_they_are(tmp_path: Path, cells: str, kind: str):
    """A column of women and men was called boolean where most are "f", which is a word of both."""
    rows = "".join(f"{number + 50},{cell}\n" for number, cell in enumerate(cells.split() * 5))
    (tmp_path / "basel.csv").write_text(f"age,of\n{rows}", encoding="utf-8")
    assert f"# of = [...]  # {kind}\n" in describe_columns(tmp_path, "basel", header=True)


def test_a_column_that_a_hospital_never_fills_is_a_number_by_its_unit(tmp_path: Path):
    """The unit is in the name; that no cell is filled isn't told."""
    (tmp_path / "basel.csv").write_text("age,chol (mg/dl),note\n51,,x\n60,,y\n", encoding="utf-8")
    text = describe_columns(tmp_path, "basel", header=True)
    assert '# "chol (mg/dl)" = [...]  # text; a number, by its unit? then it stands in [data.ranges]\n' in text
    assert "# note = [...]  # text\n" in text


def test_a_column_that_is_called_an_id_is_no_feature(tmp_path: Path):
    (tmp_path / "basel.csv").write_text("patient_id,ward,age\nP1,Xanadu,51\nP2,Utopia,60\n", encoding="utf-8")
    text = describe_columns(tmp_path, "basel", header=True)
    assert "# patient_id = [...]  # text; an id? then it is [data] patient, or one to drop" in text
    assert "# ward = [...]  # text\n" in text


def test_no_cell_and_no_statistic_is_shown(tmp_path: Path):
    text = columns_of(tmp_path)
    for private in ("4711", "4712", "186", "173", "179", "Xanadu", "Utopia", "0.67"):
        assert private not in text
    more = ROWS + "4711,186,yes,Xanadu,1\n"
    (tmp_path / "basel.csv").write_text(more, encoding="utf-8")
    assert describe_columns(tmp_path, "basel") == text


def test_the_skeleton_is_toml_and_becomes_a_declaration_once_filled_in(tmp_path: Path):
    text = columns_of(tmp_path)
    assert tomllib.loads(text) == {"data": {"ranges": {}, "categories": {}}, "sites": {"basel": {}}}
    filled = text.replace('# label = "..."', 'label = "sick"').replace("# height_cm", "height_cm")
    filled = filled.replace("centre = ..., spread = ...", "centre = 170, spread = 10")
    assert DataSpec.from_mapping(tomllib.loads(filled)["data"]).ranges["height_cm"].unit == "cm"


def test_a_row_is_never_taken_for_a_header(tmp_path: Path):
    path = tmp_path / "processed.va.data"
    path.write_text("63,4711\n67,1\n", encoding="utf-8")
    for text in (describe_columns(tmp_path, "va"), describe_columns(path, "va", header=False)):
        assert tomllib.loads(text)["data"]["columns"] == ["column_1", "column_2"]
        assert "4711" not in text
    with pytest.raises(DataError, match="--no-header") as caught:
        describe_columns(tmp_path, "va", header=True)
    assert "4711" not in str(caught.value)


ROWS_WITHOUT_NAMES = [
    "SMITH MARY,Amyloidosis,F,Oslo,71,1\nDOE JOHN,HIV,M,Bergen,44,0\n",
    "SMITH MARY,Amyloidosis,F,Oslo\nDOE JOHN,HIV,M,Bergen\n",
    "SMITH MARY,nicht erhoben,F\nDOE JOHN,71,M\nROE ANN,60,F\n",
    "SMITH MARY,pending,unsure\nDOE JOHN,71,1\nROE ANN,pending,0\nSMITH JOHN,61,1\n",
    "SMITH MARY,pending,pending\nDOE JOHN,71,1\nROE ANN,60,0\n",
    "SMITH MARY,?,NA\nDOE JOHN,71,1\nROE ANN,60,0\n",
    "SMITH-0012,Oslo,aa,bb\nDOEJO-0013,Oslo,1,2\nROEAN-0014,Oslo,1,2\n",
    "SMITH,12.03.2020,none\nDOE,14.03.2021,3\nROE,1.4.2021,4\n",
    "SMITH;Oslo;71,5;1\nDOE;Bergen;60,1;0\n",
    "SMITH\tOslo\t71.5\tyes\nDOE\tBergen\t60.1\tno\n",
    '"SMITH, MARY","Oslo",1,2\n"DOE, JOHN","Bergen",3,4\n',
    "SMITH,,aa,bb\nDOE,Oslo,1,2\n",
    "SMITH\n",
    "SMITH,Oslo\n",
]


@pytest.mark.parametrize("text", ROWS_WITHOUT_NAMES)
def test_of_a_file_without_names_only_the_number_of_columns_is_shown(tmp_path: Path, text: str):
    path = tmp_path / "north.csv"
    path.write_text(text, encoding="utf-8")
    shown = describe_columns(path, "north")
    declared = tomllib.loads(shown)
    width = len(declared["data"]["columns"])
    assert declared["data"]["columns"] == [f"column_{index}" for index in range(1, width + 1)]
    assert f"write the {width} names" in shown and "--header" in shown
    cells = "SMITH DOE ROE Amyloidosis HIV Oslo Bergen pending unsure 71 2020 nicht"
    assert not [cell for cell in cells.split() if cell in shown]


def test_a_row_that_somebody_took_for_a_parquet_files_names_is_not_shown(tmp_path: Path):
    path = tmp_path / "north.parquet"
    texts = [["DOE", "ROE"], ["a", "b"], [1, 2]]
    numbers = [[1.5, 2.5], [3, 4], [5, 6]]
    rows = [(["SMITH", "63.0", "1.0"], texts), (["SMITH", "Oslo", "F"], texts)]
    for names, columns in [*rows, (["SMITH", "", "Oslo"], numbers), (["SMITH", "yes", "Oslo"], numbers)]:
        pq.write_table(pa.table(columns, names=names), path)
        with pytest.raises(DataError, match="run this again with --header") as caught:
            describe_columns(path, "north")
        assert not any(name in str(caught.value) for name in ("SMITH", "63.0", "Oslo"))
    assert "# Oslo = { centre" in describe_columns(path, "north", header=True)


def test_columns_without_a_name_are_told_by_their_places(tmp_path: Path):
    path = tmp_path / "north.parquet"
    pq.write_table(pa.table([["DOE"], [1], [2]], names=["ward", "", ""]), path)
    with pytest.raises(DataError, match="columns 2 and 3 have no name"):
        describe_columns(path, "north")


@pytest.mark.parametrize(
    "text",
    [
        "age;sex;ill\n71,5;F;1\n60;M;0\n",
        "\ufeffage,sex,ill\n71,F,1\n",
        "age,y\n1,0\n",
        "PATIENT NAME,age (years),x1,ill\nSMITH,71,2,1\n",
        "date,hba1c,ill\n2020-01-01,3,1\n",
    ],
)
def test_plain_names_are_shown(tmp_path: Path, text: str):
    path = tmp_path / "north.csv"
    path.write_text(text, encoding="utf-8")
    shown = describe_columns(path, "north")
    assert "columns" not in tomllib.loads(shown)["data"]
    assert "age" in shown or "hba1c" in shown


def test_who_knows_that_the_first_line_holds_names_can_say_so(tmp_path: Path):
    path = tmp_path / "north.csv"
    path.write_text("ward,town\nsurgery,Oslo\n", encoding="utf-8")
    assert "# ward = [...]  # text" in describe_columns(path, "north", header=True)
    shown = CliRunner().invoke(cli, ["data", "ranges", str(path), "--site", "north", "--header"]).output
    assert "# town = [...]  # text" in shown and "Oslo" not in shown


def test_dates_and_other_types_are_dropped_and_not_shown(tmp_path: Path):
    path = tmp_path / "north.csv"
    path.write_text("visit,age,ill\n12.03.2020,71,1\n1.4.2021,60,0\n", encoding="utf-8")
    shown = describe_columns(path, "north")
    assert tomllib.loads(shown)["data"]["drop"] == ["visit"]
    assert "2020" not in shown and "# visit" not in shown
    day = date(2020, 3, 12)
    pq.write_table(pa.table({"visit": [day], "scan": [[1]], "age": [1], "ill": [0]}), tmp_path / "north.parquet")
    shown = describe_columns(tmp_path / "north.parquet", "north")
    assert tomllib.loads(shown)["data"]["drop"] == ["visit", "scan"]


def test_two_columns_of_one_name_are_told_by_their_places(tmp_path: Path):
    path = tmp_path / "north.csv"
    path.write_text("SMITH,Oslo,Oslo\nDOE,Bergen,Oslo\n", encoding="utf-8")
    with pytest.raises(DataError, match="columns 2 and 3 have one name") as caught:
        describe_columns(path, "north", header=True)
    assert "Oslo" not in str(caught.value)


def test_the_skeleton_asks_for_public_units_and_prevalence(tmp_path: Path):
    text = columns_of(tmp_path)
    filled = text.replace("# units = ...", "units = 40").replace("# prevalence = ...", "prevalence = 0.2")
    filled = filled.replace('# label = "..."', 'label = "sick"').replace("# height_cm", "height_cm")
    filled = filled.replace("centre = ..., spread = ...", "centre = 170, spread = 10")
    federation = Federation.from_mapping(tomllib.loads(filled))
    assert federation.sites["basel"].units == 40
    assert federation.data_spec is not None and federation.data_spec.prevalence == 0.2
    assert "don't count these rows" in text and "published cohorts, not in these rows" in text


def test_a_site_without_a_file_is_named(tmp_path: Path):
    with pytest.raises(DataError, match="no files are named after site va"):
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
    path.write_text("hospital,age,ill\neast,47,1\nwest,48,0\n", encoding="utf-8")
    text = describe_columns(path, "east")
    assert tomllib.loads(text)["data"]["site"] == "hospital"
    assert "# hospital" not in text
    with pytest.raises(DataError, match="0 columns hold the site north"):
        describe_columns(path, "north")
