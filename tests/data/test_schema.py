"""What `[data]` may declare, and the one-line error for what it may not."""

import subprocess
import sys
from typing import Any

import msgspec
import pytest

from securepfl.data.columns import Range
from securepfl.data.declared_split import Split
from securepfl.data.schema import DataSpec
from securepfl.errors import ConfigError

AGE = {"age": {"centre": 55, "spread": 10}}


def declare(**entries: Any) -> DataSpec:
    return DataSpec.from_mapping({"label": "num", "ranges": AGE, **entries}, where="federation.toml")


def test_features_follow_from_the_declaration_in_an_order_free_of_the_mapping():
    one = declare(ranges={"b": AGE["age"], "a": AGE["age"]}, categories={"cp": [3, 1, 2]})
    other = declare(ranges={"a": AGE["age"], "b": AGE["age"]}, categories={"cp": [3, 1, 2]})
    assert one.feature_names == other.feature_names
    assert one.feature_names == ("a", "b", "cp=1", "cp=2", "a (missing)", "b (missing)", "cp (missing)")


def test_dropping_rows_makes_no_indicators():
    assert declare(missing="drop-rows").feature_names == ("age",)


def test_a_mapping_survives_json_and_reads_back_as_equal():
    spec = declare(
        positive=["yes", 2],
        negative="no",
        site="hospital",
        drop=["note"],
        missing_values=["?", -9],
        categories={"cp": [1, 2], "sex": ["f", "m"]},
        split={"test": 0.2},
    )
    plain = msgspec.json.decode(msgspec.json.encode(spec.to_mapping()))
    assert plain == spec.to_mapping()
    assert DataSpec.from_mapping(plain) == spec


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"lable": "x"}, "unknown key `lable` in [data]; remove it or mend its spelling (`label`?)"),
        (
            {"ranges": {"age": {"centre": 1, "spread": 1, "scale": 2}}},
            "unknown key `scale` in [data.ranges.age]",
        ),
        ({"split": {"seed": 1}}, "unknown key `seed` in [data.split]"),
        ({"ranges": {"age": {"centre": 1}}}, "[data.ranges.age] lacks `spread`"),
        ({"ranges": {"age": {"centre": 1, "spread": 0}}}, "spread = 0.0: must be positive"),
        ({"ranges": {"age": {"centre": 1, "spread": 1, "limit": -3}}}, "limit = -3.0: must be positive"),
        ({"ranges": {"age": {"centre": "old", "spread": 1}}}, "[data.ranges.age] centre"),
        ({"ranges": {"age": 55}}, "[data.ranges.age]"),
        ({"ranges": {}}, "no feature is declared"),
        ({"categories": {"cp": [1]}}, "fewer than two levels"),
        ({"categories": {"cp": [1, 1.0]}}, "a value stands twice"),
        ({"categories": {"cp": [1, "2"]}}, "mixes texts and numbers"),
        ({"categories": {"cp": ["1", "1.0"]}}, "could be '1.0' and another level"),
        ({"categories": {"cp": ["true", "True"]}}, "and another level"),
        ({"separator": "ab"}, "separator = 'ab'"),
        ({"separator": '"'}, "must be one mark"),
        ({"separator": "x"}, "must be one mark"),
        ({"decimal": ";"}, "[data] decimal"),
        ({"drop": ["age"]}, "column `age` has two roles"),
        ({"site": "num"}, "column `num` has two roles"),
        ({"columns": ["num", "sex"]}, "columns: lacks `age`"),
        ({"columns": ["num", "age", "age"]}, "a name stands twice"),
        ({"missing": "mean"}, "[data] missing"),
        ({"missing_values": [float("nan")]}, "nan and inf"),
        ({"positive": []}, "empty list"),
        ({"positive": ">50K"}, "compare with a number"),
        ({"positive": "> nan"}, "compare with a number"),
        ({"positive": "sick"}, "which labels are negative"),
        ({"positive": 2}, "which labels are negative"),
        ({"positive": ["yes", "probably"]}, "which labels are negative"),
        ({"negative": "no"}, "negative is declared without positive"),
        ({"split": {"test": 1.0}}, "test = 1.0: must be between 0 and 1"),
        ({"split": {"method": "random"}}, "[data.split] method"),
        ({"patient": "id", "split": {"method": "stratified"}}, 'use method = "hash"'),
        ({"files": {"va": "../va.csv"}}, "plain name"),
        ({"files": {"va": ".."}}, "plain name"),
        ({"files": {"va": "v\0a.csv"}}, "plain name"),
        ({"files": {"va": "a.csv", "basel": "a.csv"}}, "share a file"),
        ({"files": {"va": "a.csv"}, "site": "hospital"}, "files and site"),
    ],
)
def test_a_bad_declaration_is_one_line_naming_file_and_key(entries: dict[str, Any], words: str):
    with pytest.raises(ConfigError) as caught:
        declare(**entries)
    message = str(caught.value)
    assert message.startswith("federation.toml: ")
    assert words in message
    assert "\n" not in message


def test_a_missing_label_key_is_named():
    with pytest.raises(ConfigError, match=r"\[data\] lacks `label`"):
        DataSpec.from_mapping({"ranges": AGE})


def test_a_wrong_value_in_code_is_a_value_error():
    with pytest.raises(ValueError, match=r"spread = -1"):
        Range(centre=0.0, spread=-1.0)
    with pytest.raises(ValueError, match=r'method = "no"'):
        Split(method="no")  # type: ignore[arg-type]


def test_only_a_stratified_split_says_benchmarks_only():
    ranges = {"age": Range(centre=50, spread=10)}
    notes = [
        DataSpec(label="sick", ranges=ranges, split=Split(method="stratified")).split_note,
        DataSpec(label="sick", ranges=ranges, patient="id").split_note,
        DataSpec(label="sick", ranges=ranges).split_note,
    ]
    assert [word in note for word, note in zip(("benchmarks only", "no patient", "declare"), notes, strict=True)]
    assert "benchmarks" not in notes[1] + notes[2]


def test_a_declaration_is_read_without_what_reads_tables():
    # The coordinator reads the federation's file, and never a table.
    code = "import sys, securepfl.data.schema; sys.exit(any(name in sys.modules for name in ('pyarrow', 'sklearn')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
