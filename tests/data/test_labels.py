"""Every label is declared, missing by declaration, or refused: none becomes negative by default."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from securepfl.data.cells import Cells
from securepfl.data.schema import DataSpec
from securepfl.data.tables import load_sites
from securepfl.errors import ConfigError, DataError


def declare(**entries: Any) -> DataSpec:
    return DataSpec.from_mapping({"label": "sick", "ranges": {"age": {"centre": 50, "spread": 10}}, **entries})


def labels_of(tmp_path: Path, labels: list[str], **entries: Any) -> list[int]:
    lines = ["age,sick", *(f"{50 + row},{label}" for row, label in enumerate(labels))]
    (tmp_path / "north.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    table = load_sites(tmp_path, declare(**entries))["north"]
    assert table.labels is not None
    return table.labels.tolist()


def refusal(tmp_path: Path, labels: list[str], **entries: Any) -> str:
    with pytest.raises(DataError) as caught:
        labels_of(tmp_path, labels, **entries)
    message = str(caught.value)
    assert "\n" not in message
    assert "north.csv: column `sick`, row " in message
    return message.split("row ", 1)[1]


@pytest.mark.parametrize(
    ("entries", "labels", "expected"),
    [
        ({}, ["0", "1", "1.0", "0.0"], [0, 1, 1, 0]),
        ({"positive": "> 1"}, ["0", "1", "2"], [0, 0, 1]),
        ({"positive": ">= 1"}, ["0", "1", "2"], [0, 1, 1]),
        ({"positive": "< 1"}, ["0", "1", "2"], [1, 0, 0]),
        ({"positive": 2, "negative": [0, 1]}, ["0", "1", "2"], [0, 0, 1]),
        ({"positive": [0, "2"], "negative": 1}, ["0", "1", "2"], [1, 0, 1]),
        ({"positive": ">= 3", "negative": "<= 1"}, ["0", "1", "3"], [0, 0, 1]),
        ({"positive": "yes"}, ["yes", "no", " yes"], [1, 0, 1]),
        ({"positive": "Yes"}, ["Yes", "No"], [1, 0]),
        ({"positive": "Y"}, ["Y", "N"], [1, 0]),
        ({"positive": "no"}, ["yes", "no"], [0, 1]),
        ({"positive": 1}, ["1", "0"], [1, 0]),
        ({"positive": 0}, ["1", "0"], [0, 1]),
        ({"positive": ["yes", 1]}, ["yes", "no", "0", "1"], [1, 0, 0, 1]),
        ({"positive": "sick", "negative": ["well", "cured"]}, ["sick", "well", "cured"], [1, 0, 0]),
    ],
)
def test_declared_labels_become_one_and_zero(
    tmp_path: Path, entries: dict[str, Any], labels: list[str], expected: list[int]
):
    assert labels_of(tmp_path, labels, **entries) == expected


@pytest.mark.parametrize(
    "unknown", ["NA", "<NA>", "None", "null", "N/A", "?", "unknown", "Yes", "YES", "y e s", "1", "9"]
)
def test_a_label_beside_the_declared_ones_is_refused_and_named(tmp_path: Path, unknown: str):
    assert refusal(tmp_path, ["yes", "no", unknown], positive="yes").startswith(f"3: label `{unknown}` is neither")


@pytest.mark.parametrize("unknown", ["2", "0.5", "-1", "NA", "yes", "inf"])
def test_without_a_declaration_labels_are_zero_and_one(tmp_path: Path, unknown: str):
    assert refusal(tmp_path, ["0", "1", unknown]).startswith(f"3: label `{unknown}` is neither 1 nor 0")


@pytest.mark.parametrize("empty", ["", " ", "nan", "NaN", '""'])
def test_an_empty_label_is_refused_or_its_row_dropped_by_declaration(tmp_path: Path, empty: str):
    assert refusal(tmp_path, ["yes", empty], positive="yes").startswith("2: no label")
    assert labels_of(tmp_path, ["yes", empty, "no"], positive="yes", missing="drop-rows") == [1, 0]


def test_a_declared_code_for_missing_drops_its_row_and_is_no_class(tmp_path: Path):
    codes = {"positive": "yes", "missing_values": ["NA", 9]}
    assert labels_of(tmp_path, ["yes", "NA", "no", "9"], missing="drop-rows", **codes) == [1, 0]
    assert refusal(tmp_path, ["yes", "NA"], **codes).startswith("2: no label")


def test_a_label_that_is_positive_and_negative_is_refused(tmp_path: Path):
    message = refusal(tmp_path, ["3", "1"], positive=">= 1", negative="<= 1")
    assert message.startswith("2: label `1` is both positive and negative")


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"positive": [1, 2], "negative": [0, 2]}, "positive and negative both name 2"),
        ({"positive": ["yes", "0"], "negative": ["no", 0]}, "positive and negative both name '0'"),
        ({"missing_values": [-9, 0]}, "missing_values: 0 is a declared label too"),
        ({"positive": "yes", "missing_values": ["no"]}, "missing_values: 'no' is a declared label too"),
        ({"positive": [1, 9], "negative": 0, "missing_values": ["9.0"]}, "missing_values: 9 is a declared label too"),
        ({"classes": ["a", "b", "unknown"], "missing_values": ["unknown"]}, "'unknown' is a declared label too"),
    ],
)
def test_a_declaration_that_contradicts_itself_is_refused_before_any_row(entries: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=re.escape(words)):
        declare(**entries)


def test_a_code_for_missing_that_a_comparison_would_take_in_is_missing(tmp_path: Path):
    codes = {"positive": "> 0", "missing_values": [-99], "missing": "drop-rows"}
    assert labels_of(tmp_path, ["1", "-99", "0"], **codes) == [1, 0]


def test_a_label_that_is_no_number_cannot_be_compared(tmp_path: Path):
    assert refusal(tmp_path, ["1", "x"], positive="> 0").startswith("2: label `x` is neither positive nor negative")


@given(st.lists(st.floats(allow_nan=False), min_size=1), st.sampled_from([">", ">=", "<", "<="]), st.floats(-5, 5))
def test_a_comparison_decides_every_number(values: list[float], sign: str, threshold: float):
    rules = declare(positive=f"{sign} {threshold!r}").label_rule
    cells = Cells.of(np.array(values))
    assert (rules.positive.holds(cells) ^ rules.negative.holds(cells)).all()


def test_a_long_label_is_cut_and_what_a_terminal_hides_is_written_out(tmp_path: Path):
    assert refusal(tmp_path, ["1", "x" * 200]).startswith("2: label `" + "x" * 37 + "...`")
    assert refusal(tmp_path, ["1", "a\u200bb"]).startswith("2: label `a\\u200bb`")
