"""Classes, several labels and numbers as tables hold them: declared, or refused with row and column."""

import numpy as np
import pytest

from securepfl.data.schema import DataSpec
from securepfl.data.tables import load_unlabelled, split_table, table_from_columns
from securepfl.errors import ConfigError, DataError

RANGES = {"age": {"centre": 60, "spread": 10}}
GRADES = {"label": "grade", "classes": ["mild", "severe", "critical"]}
SIGNS = {"label": ["flu", "asthma"], "positive": "yes"}
PRESSURE = {"label": "mmhg", "label_range": {"centre": 120, "spread": 20, "limit": 5, "unit": "mmHg"}}


def spec(tables, **more):
    return DataSpec.from_mapping({"ranges": RANGES, "split": {"test": 0.5}} | tables | more)


def table(tables, **columns):
    first = next(iter(columns.values()))
    made = {name: np.array(cells, dtype=object) for name, cells in columns.items()}
    return table_from_columns("north", {"age": np.full(len(first), 60.0)} | made, spec(tables), "north.csv")


def test_a_class_is_its_place_in_the_declared_list():
    assert table(GRADES, grade=["critical", "mild", "severe"]).labels.tolist() == [2, 0, 1]
    numbered = {"label": "grade", "classes": [3, 1, 2]}
    assert table(numbered, grade=["1.0", "2", "3"]).labels.tolist() == [1, 2, 0]


def test_several_columns_are_several_labels():
    found = table(SIGNS, flu=["yes", "no"], asthma=["no", "no"])
    assert found.labels.tolist() == [[1, 0], [0, 0]] and found.labels.dtype == np.int64
    assert found.select(np.array([1])).labels.shape == (1, 2)


def test_a_number_stays_in_its_own_unit():
    found = table(PRESSURE, mmhg=["118", "131.5"])
    assert found.labels.tolist() == [118.0, 131.5] and found.labels.dtype == np.float64


@pytest.mark.parametrize(
    ("tables", "columns", "words"),
    [
        (GRADES, {"grade": ["mild", "Mild"]}, "column `grade`, row 2: label `Mild` is none of the classes"),
        (GRADES, {"grade": ["mild", "NA"]}, "row 2: label `NA` is none of the classes"),
        (GRADES, {"grade": ["", "mild"]}, "row 1: no label; fill it in or remove the row"),
        (SIGNS, {"flu": ["yes", "no"], "asthma": ["no", "?"]}, "column `asthma`, row 2: label `?` is neither"),
        (SIGNS, {"flu": ["yes", "no"]}, "has no column `asthma`"),
        (PRESSURE, {"mmhg": ["118", "999"]}, "column `mmhg`, row 2: label `999` is not from 20 to 220"),
        (PRESSURE, {"mmhg": ["high", "118"]}, "row 1: label `high` is not a number"),
        (PRESSURE, {"mmhg": ["118", "inf"]}, "row 2: label `inf` is not a number"),
    ],
)
def test_a_label_that_is_not_declared_is_refused(tables, columns, words):
    with pytest.raises(DataError) as caught:
        table(tables, **columns)
    assert "north.csv" in str(caught.value) and words in str(caught.value)


def test_rows_without_a_label_are_left_out_where_that_is_declared():
    made = {"age": np.full(3, 60.0), "grade": np.array(["mild", "NA", "severe"], dtype=object)}
    declared = spec(GRADES, missing="drop-rows", missing_values=["NA"])
    assert table_from_columns("north", made, declared, "north.csv").rows.tolist() == [1, 3]


@pytest.mark.parametrize("tables", [GRADES, SIGNS, PRESSURE])
def test_a_declaration_survives_its_mapping_and_rows_split_by_themselves(tables):
    assert spec(tables) == DataSpec.from_mapping(spec(tables).to_mapping())
    cells = {"grade": ["mild", "severe"], "flu": ["yes", "no"], "asthma": ["no", "yes"], "mmhg": ["118", "131"]}
    columns = {name: cells[name] * 30 for name in spec(tables).label_columns}
    made = table_from_columns(
        "north",
        {"age": np.arange(60.0)} | {name: np.array(column, dtype=object) for name, column in columns.items()},
        spec(tables),
        "north.csv",
    )
    train, test = split_table(made, spec(tables).split)
    again, _ = split_table(made.select(np.arange(60)[::-1]), spec(tables).split)
    assert len(train) and len(test) and sorted(again.rows) == sorted(train.rows)


def test_unlabelled_rows_need_no_label_column(tmp_path):
    path = tmp_path / "new.csv"
    path.write_text("age,ward\n60,1\n".replace(",ward", "").replace(",1", ""))
    assert load_unlabelled(path, spec(SIGNS)).labels is None


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"label": "grade", "classes": ["mild"]}, "classes: name at least two"),
        ({"label": "grade", "classes": ["mild", 2]}, "classes: mixes texts and numbers"),
        ({"label": "grade", "classes": ["mild", "mild"]}, "classes: a value stands twice"),
        (GRADES | {"positive": "mild"}, "positive and classes are both declared"),
        (GRADES | {"label_range": {"centre": 0, "spread": 1}}, "classes and label_range are both declared"),
        ({"label": ["flu"]}, "label: a list names at least two columns"),
        ({"label": ["flu", "flu"]}, "column `flu` has two roles"),
        ({"label": ["flu", "age"]}, "column `age` has two roles"),
        (SIGNS | {"positive": None, "classes": ["a", "b"]}, "classes: of several label columns each is a yes or no"),
        ({"label": "mmhg", "label_range": {"centre": 120, "spread": 0}}, "[data.label_range] spread = 0"),
        ({"label": "mmhg", "label_range": {"centre": 120, "spread": 1, "limt": 5}}, "unknown key `limt`"),
        ({"label": "mmhg", "label_range": {"spread": 1}}, "[data.label_range] lacks `centre`"),
        (PRESSURE | {"split": {"method": "stratified"}}, '"stratified" needs classes to count'),
    ],
)
def test_a_declaration_that_contradicts_itself_is_refused(tables, words):
    with pytest.raises(ConfigError) as caught:
        DataSpec.from_mapping({"ranges": RANGES} | {key: value for key, value in tables.items() if value is not None})
    assert words in str(caught.value)
