"""A split that a column of the table declares."""

from pathlib import Path
from typing import Any

import pytest

from securepfl.data.declared_split import Split
from securepfl.data.schema import DataSpec
from securepfl.data.tables import load_sites, load_unlabelled, split_table
from securepfl.errors import ConfigError, DataError


def declare(split: dict[str, Any], **entries: Any) -> DataSpec:
    ranges = {"a": {"centre": 0, "spread": 1}}
    return DataSpec.from_mapping({"label": "y", "ranges": ranges, "split": {"method": "column", **split}, **entries})


def split_of(folder: Path, spec: DataSpec, *folds: str) -> list[int]:
    rows = [f"{row},{row % 2},{fold}" for row, fold in enumerate(folds)]
    (folder / "north.csv").write_text("\n".join(["a,y,fold", *rows]) + "\n", encoding="utf-8")
    train, test = split_table(load_sites(folder, spec)["north"], spec.split)
    assert sorted([*train.rows, *test.rows]) == list(range(1, len(folds) + 1))
    return test.rows.tolist()


@pytest.mark.parametrize(
    ("split", "folds", "test"),
    [
        ({"test_values": "test"}, ("train", "test", "valid", "test"), [2, 4]),
        ({"test_values": [5, 6]}, ("1", "5.0", "6", "2"), [2, 3]),
        ({"test_values": "> 2018"}, ("2017", "2018", "2019", "2020"), [3, 4]),
        ({"test_values": ["test"], "train_values": ["train"]}, ("train", "test"), [2]),
        ({"test_values": "test"}, ("train", "train"), []),
    ],
)
def test_the_column_decides(tmp_path: Path, split: dict[str, Any], folds: tuple[str, ...], test: list[int]):
    spec = declare({"column": "fold", **split})
    assert spec.feature_names == ("a", "a (missing)")
    assert spec.split_note == "split by the column `fold`"
    assert split_of(tmp_path, spec, *folds) == test
    assert DataSpec.from_mapping(spec.to_mapping()) == spec


@pytest.mark.parametrize(
    ("split", "cell", "words"),
    [
        ({"test_values": "test"}, "", "says neither train nor test"),
        ({"test_values": "test"}, "Test", "looks like one of test_values"),
        ({"test_values": ["test"], "train_values": ["train"]}, "tset", "is neither of train nor of test"),
        ({"test_values": "> 2018", "train_values": [2019, 1]}, "2019", "is both train and test"),
    ],
)
def test_a_cell_that_leaves_it_open_is_refused_with_its_row(
    tmp_path: Path, split: dict[str, Any], cell: str, words: str
):
    first = "1" if split["test_values"] == "> 2018" else "train"
    with pytest.raises(DataError, match=rf"north\.csv: column `fold`, row 2: {words}"):
        split_of(tmp_path, declare({"column": "fold", **split}), first, cell)


def test_where_all_rows_test_the_hospital_cannot_train(tmp_path: Path):
    with pytest.raises(DataError, match="north: all of its 2 row"):
        split_of(tmp_path, declare({"column": "fold", "test_values": "test"}), "test", "test")


def test_a_patient_in_both_parts_is_refused_by_rows(tmp_path: Path):
    (tmp_path / "north.csv").write_text("a,y,fold,id\n1,0,x,7\n2,1,x,8\n3,1,test,7.0\n", encoding="utf-8")
    spec = declare({"column": "fold", "test_values": "test"}, patient="id")
    with pytest.raises(DataError, match="have training and test rows, as rows 1 and 3"):
        load_sites(tmp_path, spec)


def test_rows_to_predict_need_no_split(tmp_path: Path):
    spec = declare({"column": "fold", "test_values": "test"}, columns=["a", "y", "fold"])
    for text in ("1\n", "1,0,test\n"):
        path = tmp_path / "rows.csv"
        path.write_text(text, encoding="utf-8")
        assert load_unlabelled(path, spec).features.tolist() == [[1, 0]]


def test_the_column_that_lacks_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"has no column `set` \(the split\)"):
        split_of(tmp_path, declare({"column": "set", "test_values": "test"}, drop=["fold"]), "test")


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ({"column": "fold"}, 'declare column = "..." and test_values'),
        ({"test_values": "x"}, 'declare column = "..." and test_values'),
        ({"column": "a", "test_values": "x"}, "column `a` has two roles"),
        ({"column": "fold", "test_values": []}, "an empty list"),
        ({"column": "fold", "test_values": ["x"], "train_values": ["x"]}, "both name 'x'"),
        ({"method": "hash", "column": "fold"}, 'need method = "column"'),
        ({"method": "random"}, "known are hash, stratified and column"),
    ],
)
def test_what_contradicts_itself_is_refused(split: dict[str, Any], words: str):
    with pytest.raises(ConfigError) as caught:
        declare(split)
    assert words in str(caught.value)


def test_a_table_read_without_the_column_cannot_be_split_by_it(tmp_path: Path):
    (tmp_path / "north.csv").write_text("a,y\n1,0\n", encoding="utf-8")
    spec = DataSpec.from_mapping({"label": "y", "ranges": {"a": {"centre": 0, "spread": 1}}})
    with pytest.raises(ValueError, match="read with it"):
        split_table(load_sites(tmp_path, spec)["north"], Split(method="column", column="fold", test_values="test"))
