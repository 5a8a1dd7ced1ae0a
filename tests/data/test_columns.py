"""What a column declares of its own: how its missing cells are read, what empty ones mean, and texts for numbers."""

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from securepfl.data.columns import Category
from securepfl.data.schema import DataSpec
from securepfl.data.tables import load_sites
from securepfl.errors import ConfigError, DataError

PRIVATE = "4711.5"


def declare(text: str, **entries: Any) -> DataSpec:
    return DataSpec.from_mapping({"label": "y", **tomllib.loads(text), **entries})


def features_of(folder: Path, spec: DataSpec, *rows: str, header: str = "a,y") -> list[list[float]]:
    (folder / "north.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return load_sites(folder, spec)["north"].features.tolist()


def test_a_column_may_treat_its_missing_cells_in_its_own_way(tmp_path: Path):
    spec = declare("""
    missing_values = ["?"]
    [ranges]
    a = { centre = 0, spread = 1 }
    b = { centre = 0, spread = 1, missing = "centre" }
    c = { centre = 0, spread = 1, missing = "drop-rows" }
    [categories]
    d = { levels = ["u", "v"], missing = "centre" }
    """)
    assert spec.feature_names == ("a", "b", "c", "d=v", "a (missing)")
    rows = ("?,1,1,v,0", "1,?,1,?,1", "1,1,?,u,1", ",,1,,0")
    found = features_of(tmp_path, spec, *rows, header="a,b,c,d,y")
    assert found == [[0, 1, 1, 1, 1], [1, 0, 1, 0, 0], [0, 0, 1, 0, 1]]


def test_under_drop_rows_a_column_may_keep_its_rows(tmp_path: Path):
    spec = declare("""
    missing = "drop-rows"
    [ranges]
    a = { centre = 0, spread = 1, missing = "indicator" }
    b = { centre = 0, spread = 1 }
    """)
    assert features_of(tmp_path, spec, ",1,0", "1,,1", "1,1,", header="a,b,y") == [[0, 1, 1]]


def test_empty_cells_may_mean_a_number_or_a_level_and_codes_stay_missing(tmp_path: Path):
    spec = declare("""
    [ranges]
    a = { centre = 1, spread = 1, empty = 0, missing_values = ["?"] }
    b = { centre = 1, spread = 1, empty = 0 }
    [categories]
    c = { levels = ["none", "some"], empty = "none" }
    d = { levels = ["none", "some"], empty = "some", missing_values = ["?"] }
    """)
    assert spec.feature_names == ("a", "b", "c=some", "d=some", "a (missing)", "d (missing)")
    found = features_of(tmp_path, spec, ",,,,0", "?,2,some,?,1", "2,0,none,none,1", header="a,b,c,d,y")
    assert found == [[-1, -1, -1, 1, 0, 0], [0, 1, 1, 0, 1, 1], [1, -1, -1, -1, 0, 0]]


def test_typed_columns_take_empty_alike(tmp_path: Path):
    spec = declare("[ranges]\na = { centre = 1, spread = 1, empty = 0 }")
    table = pa.table({"a": pa.array([None, float("nan"), 3.0], pa.float32()), "y": [0, 1, 1]})
    pq.write_table(table, tmp_path / "north.parquet")
    assert load_sites(tmp_path, spec)["north"].features.tolist() == [[-1], [-1], [2]]


def test_texts_are_read_as_declared_numbers(tmp_path: Path):
    spec = declare("""
    decimal = ","
    [ranges]
    a = { centre = 0, spread = 100, read_as = { "> 89" = 92, "<0,01" = 0.005, "neg" = 0 } }
    """)
    found = features_of(
        tmp_path, spec, ">89;0", "> 89;1", " >  89 ;1", ">\u00a089;1", '"<0,01";0', "neg;0", "50;0", header="a;y"
    )
    np.testing.assert_allclose([row[0] for row in found], [0.92] * 4 + [5e-5, 0, 0.5], rtol=1e-6)


@pytest.mark.parametrize("cell", [">90", "> 8 9 x", "89", "Neg", f"<{PRIVATE}"])
def test_no_other_text_is_read_so(tmp_path: Path, cell: str):
    spec = declare('[ranges]\na = { centre = 0, spread = 100, read_as = { "> 89" = 92, "neg" = 0 } }')
    if cell == "89":
        assert features_of(tmp_path, spec, "89,1") == [[np.float32(0.89), 0]]
        return
    with pytest.raises(DataError, match=r"column `a`, row 2: holds text, .* read_as") as caught:
        features_of(tmp_path, spec, "1,0", f"{cell},1")
    assert PRIVATE not in str(caught.value)


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ('a = { centre = 0, spread = 1, missing = "mean" }', "known are indicator, centre and drop-rows"),
        ('a = { centre = 0, spread = 1, empty = "none" }', "empty"),
        ("a = { centre = 0, spread = 1, empty = nan }", "finite"),
        ("a = { centre = 0, spread = 1, empty = 0, missing_values = [0.0] }", "is in missing_values too"),
        ('a = { centre = 0, spread = 1, read_as = { "5" = 6 } }', "a number already"),
        ('a = { centre = 0, spread = 1, read_as = { " " = 6 } }', "an empty text"),
        ('a = { centre = 0, spread = 1, read_as = { ">5" = 6, "> 5" = 7 } }', "differ in blanks only"),
        ('a = { centre = 0, spread = 1, read_as = { ">5" = inf } }', "not finite"),
        ('a = { centre = 0, spread = 1, read_as = { ">5" = 6 }, missing_values = [">5"] }', "in missing_values too"),
        ('a = { centre = 0, spread = 1, read_as = { "?" = 6 } }', "'?' has a meaning in column `a`"),
        ("a = { centre = 0, spread = 1, empty = 99 }", "99.0 has a meaning in column `a`"),
        ('[categories]\nb = { levels = ["u", "v"], empty = "w" }', "none of the levels"),
        ('[categories]\nb = { levels = ["u", "v"], missing_values = ["u"] }', "is a level too"),
        ('[categories]\nb = { levels = ["u", "v"], missing = "zero" }', "known are indicator"),
        ('[categories]\nb = { missing = "centre" }', "lacks `levels`"),
        ('[categories]\nb = { levels = ["u", "v"], colour = "red" }', "unknown key `colour`"),
    ],
)
def test_what_contradicts_itself_is_refused_with_its_place(declared: str, words: str):
    text = declared if declared.startswith("[") else f"[ranges]\n{declared}"
    with pytest.raises(ConfigError, match=r"\[data(\.ranges\.a|\.categories\.b)?\]") as caught:
        declare(text, missing_values=["?", 99])
    assert words in str(caught.value)


def test_a_declaration_survives_json_and_levels_alone_stay_a_list():
    spec = declare("""
    [ranges]
    a = { centre = 1, spread = 1, empty = 0, missing = "centre", read_as = { ">5" = 6 } }
    b = { centre = 1, spread = 1 }
    [categories]
    c = ["u", "v"]
    d = { levels = [1, 2], missing_values = [9] }
    """)
    mapping = json.loads(json.dumps(spec.to_mapping()))
    assert DataSpec.from_mapping(mapping) == spec
    assert mapping["categories"]["c"] == ["u", "v"]
    assert spec.categories["c"] == Category(levels=("u", "v"))
    assert not {"empty", "missing", "read_as"} & set(mapping["ranges"]["b"])
