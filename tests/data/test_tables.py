"""Tables by site: scaling, splits, and the one-line error for each way a file can be wrong."""

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from securepfl.data.declared_split import Split
from securepfl.data.reading import READERS
from securepfl.data.schema import DataSpec
from securepfl.data.tables import Table, load_sites, load_unlabelled, split_table, table_from_columns
from securepfl.errors import DataError

REPOSITORY = Path(__file__).resolve().parents[2]
HEART = REPOSITORY.parent / "shared" / "data" / "heart_disease"
EXAMPLE = REPOSITORY / "examples" / "heart_disease" / "federation.toml"
PRIVATE = "4711.5"


def declare(**entries: Any) -> DataSpec:
    base = {"label": "sick", "site": "hospital", "ranges": {"age": {"centre": 50, "spread": 10}}}
    return DataSpec.from_mapping({key: value for key, value in {**base, **entries}.items() if value is not None})


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def refusal(path: Path, spec: DataSpec) -> str:
    """The message of the DataError, checked to be one line without the private cell."""
    with pytest.raises(DataError) as caught:
        load_sites(path, spec)
    message = str(caught.value)
    assert "\n" not in message
    assert PRIVATE not in message
    assert str(path.name) in message
    return message


def test_a_file_with_a_site_column_gives_a_table_for_each_site(tmp_path: Path):
    path = write(tmp_path / "all.csv", "hospital,age,sick", "b,40,0", "a,70,1", "b,100,1")
    tables = load_sites(path, declare())
    assert list(tables) == ["a", "b"]
    assert tables["b"].features.dtype == np.float32
    np.testing.assert_array_equal(tables["b"].features, [[-1, 0], [3, 0]])  # 5 spreads: clipped to 3
    np.testing.assert_array_equal(tables["b"].labels, [0, 1])
    np.testing.assert_array_equal(tables["b"].rows, [1, 3])


def test_a_folder_gives_a_site_for_each_file(tmp_path: Path):
    write(tmp_path / "a.csv", "age,sick", "50,0")
    pq.write_table(pa.table({"age": [60, None], "sick": [True, False]}), tmp_path / "b.parquet")
    write(tmp_path / "readme.txt", "no data")
    tables = load_sites(tmp_path, declare(site=None))
    assert list(tables) == ["a", "b"]
    np.testing.assert_array_equal(tables["b"].features, [[1, 0], [0, 1]])
    np.testing.assert_array_equal(tables["b"].labels, [1, 0])


def test_declared_files_without_header(tmp_path: Path):
    write(tmp_path / "processed.va.data", "50.0,1", "?,0")
    spec = declare(site=None, columns=["age", "sick"], files={"va": "processed.va.data"}, missing_values=["?"])
    np.testing.assert_array_equal(load_sites(tmp_path, spec)["va"].features, [[0, 0], [0, 1]])


def test_levels_become_signs_and_a_missing_level_zero(tmp_path: Path):
    path = write(tmp_path / "x.csv", "hospital,cp,sick", "a,1.0,0", "a,3,0", "a,,1")
    spec = declare(ranges=None, categories={"cp": [1, 2, 3]})
    assert spec.feature_names == ("cp=2", "cp=3", "cp (missing)")
    np.testing.assert_array_equal(load_sites(path, spec)["a"].features, [[-1, -1, 0], [-1, 1, 0], [0, 0, 1]])


def test_text_levels_and_codes_for_missing_values(tmp_path: Path):
    path = write(tmp_path / "x.csv", "hospital,sex,chol,sick", "a, f ,0,0", "a,m,260,1", "a,NA,NaN,1")
    ranges = {"chol": {"centre": 200, "spread": 60, "missing_values": [0]}}
    spec = declare(ranges=ranges, categories={"sex": ["f", "m"]}, missing_values=["NA"])
    features = load_sites(path, spec)["a"].features
    np.testing.assert_array_equal(features, [[0, -1, 1, 0], [1, 1, 0, 0], [0, 0, 1, 1]])


def test_rows_with_a_missing_value_are_dropped_when_declared(tmp_path: Path):
    path = write(tmp_path / "x.csv", "hospital,age,sick", "a,,0", "a,60,1", "a,50,")
    table = load_sites(path, declare(missing="drop-rows"))["a"]
    np.testing.assert_array_equal(table.features, [[1]])
    np.testing.assert_array_equal(table.rows, [2])


def test_infinite_and_huge_values_are_clipped_not_missing(tmp_path: Path):
    path = write(tmp_path / "x.csv", "hospital,age,sick", "a,inf,0", "a,-1e300,1", "a,1e30,1")
    np.testing.assert_array_equal(load_sites(path, declare())["a"].features, [[3, 0], [-3, 0], [3, 0]])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(), min_size=1, max_size=20), st.floats(1e-6, 1e6), st.floats(-1e6, 1e6))
def test_features_are_finite_and_within_limits(values: list[float], spread: float, centre: float):
    spec = declare(site=None, ranges={"age": {"centre": centre, "spread": spread, "limit": 2}})
    columns = {"age": np.array(values), "sick": np.zeros(len(values))}
    features = table_from_columns("a", columns, spec, "memory").features
    assert np.isfinite(features).all()
    assert (np.abs(features) <= 2).all()


@pytest.mark.parametrize(
    ("lines", "entries", "words"),
    [
        (["hospital,age", f"a,{PRIVATE}"], {}, "has no column `sick` (the label)"),
        (["place,age,sick", f"a,{PRIVATE},1"], {"drop": ["place"]}, "has no column `hospital` (site)"),
        (["hospital,age,sick", "a,50,1", f"a,x{PRIVATE},1"], {}, "column `age`, row 2: holds text"),
        (
            ["hospital,age,sick", "a,50,1", f"b,{PRIVATE},2"],
            {},
            "column `sick`, row 2: label `2` is neither 1 nor 0",
        ),
        (["hospital,age,sick", "a,50,"], {}, "column `sick`, row 1: no label"),
        (
            ["hospital,age,sick", "a,50,x"],
            {"positive": "> 0"},
            "column `sick`, row 1: label `x` is neither positive nor negative",
        ),
        (["hospital,age,sick", "a,50,1", ",50,0"], {}, "column `hospital`, row 2: no site"),
        (["hospital,age,bmi,sick", f"a,50,{PRIVATE},1"], {}, "column `bmi` is not declared"),
        (["hospital,sick", "a,1"], {}, "has no column `age` (declared as a feature)"),
        (
            ["hospital,age,cp,sick", f"a,50,{PRIVATE},1"],
            {"categories": {"cp": [1, 2]}},
            "column `cp`, row 1: its level",
        ),
        (["hospital,age,sick"], {}, "has no rows"),
        ([], {}, "has no rows"),
        (["hospital,age,sick", "a,50,1", f"a,{PRIVATE}"], {}, "line 3 has 2 fields, the first line 3"),
        (["hospital,age,age,sick", "a,50,50,1"], {}, "columns 2 and 3 have one name"),
        (["hospital:age:sick", "a:50:1"], {}, "is not separated by commas or semicolons or tabs or pipes"),
        ([f"a,{PRIVATE},1", "a,50,1"], {}, "its first line holds numbers"),
        (["a,50,1,7"], {"columns": ["hospital", "age", "sick"]}, "has 4 columns, but [data] columns names 3"),
        (["hospital,age,sick", "a,50,1"], {"site": None, "drop": ["hospital"]}, "names no site column"),
        (["age,sick", "50,1"], {"site": None, "files": {"a": "a.csv"}}, "is no folder"),
        (["hospital,id,age,sick", "a,,50,1"], {"patient": "id"}, "column `id`, row 1: no patient"),
    ],
)
def test_a_file_that_breaks_its_declaration(tmp_path: Path, lines: list[str], entries: dict[str, Any], words: str):
    path = tmp_path / "hospitals.csv"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    assert words in refusal(path, declare(**entries))


def test_unreadable_files(tmp_path: Path):
    assert "cannot be read (No such file" in refusal(tmp_path / "absent.csv", declare())
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 but not really")
    assert "not a readable Parquet file" in refusal(broken, declare())
    binary = tmp_path / "latin.csv"
    binary.write_bytes(b"hospital,age,sick\n\xe4,50,1\n")
    assert "not text in UTF-8" in refusal(binary, declare())


def test_folders_that_name_no_sites(tmp_path: Path):
    assert "names a site column" in refusal(tmp_path, declare())
    refused = refusal(tmp_path, declare(site=None))
    assert "has no " in refused and all(suffix in refused for suffix in READERS)
    write(tmp_path / "a.csv", "age,sick", "50,1")
    with pytest.raises(DataError, match=r"b\.csv: cannot be read"):
        load_sites(tmp_path, declare(site=None, files={"b": "b.csv"}))
    pq.write_table(pa.table({"age": [1], "sick": [1]}), tmp_path / "a.parquet")
    assert "two files for site a" in refusal(tmp_path, declare(site=None))


def test_unlabelled_rows_need_neither_label_nor_site(tmp_path: Path):
    spec = declare(patient="id", drop=["note"])
    bare = load_unlabelled(write(tmp_path / "outside.csv", "age", "60"), spec)
    full = load_unlabelled(write(tmp_path / "full.csv", "note,hospital,id,sick,age", "x,,p1,?,60"), spec)
    assert (bare.site, bare.labels, bare.patients) == ("outside", None, None)
    np.testing.assert_array_equal(bare.features, full.features)
    assert full.labels is None


def test_unlabelled_rows_without_header_hold_all_columns_or_all_but_label_and_site(tmp_path: Path):
    spec = declare(columns=["hospital", "age", "sick"])
    full = load_unlabelled(write(tmp_path / "a.csv", "x,60,1"), spec)
    bare = load_unlabelled(write(tmp_path / "b.csv", "60"), spec)
    np.testing.assert_array_equal(full.features, bare.features)
    with pytest.raises(DataError, match="has 2 columns"):
        load_unlabelled(write(tmp_path / "c.csv", "60,1"), spec)


def cohort(count: int, patients: bool = False) -> Table:
    features = np.arange(count, dtype=np.float32)[:, None]
    ids = np.array([f"p{index // 3}" for index in range(count)], dtype=object) if patients else None
    rows = np.arange(1, count + 1)
    return Table(site="a", features=features, labels=np.arange(count) % 2, patients=ids, rows=rows)


def test_a_hash_split_keeps_each_patient_on_one_side():
    train, test = split_table(cohort(600, patients=True), Split())
    assert not set(train.patients) & set(test.patients)  # type: ignore[arg-type]
    assert len(train) + len(test) == 600
    assert 0.24 < len(test) / 600 < 0.44


def test_a_hash_split_is_free_of_the_other_rows_and_their_order():
    table = cohort(300)
    _, test = split_table(table, Split())
    order = np.random.default_rng(0).permutation(300)[:150]
    _, again = split_table(table.select(order), Split())
    assert set(again.rows) == set(test.rows) & set(table.rows[order])


def test_another_random_state_gives_another_split():
    one, other = (split_table(cohort(300), Split(random_state=state))[1] for state in (1, 2))
    assert set(one.rows) != set(other.rows)


def test_what_is_wrong_at_several_hospitals_is_told_at_once(tmp_path: Path):
    path = write(tmp_path / "all.csv", "hospital,age,sick", "a,x,1", "b,50,1", "c,50,7")
    message = refusal(path, declare())
    assert "site a: column `age`, row 1: holds text" in message
    assert "site c: column `sick`, row 3: label `7` is neither" in message
    assert "site b" not in message


def test_what_is_wrong_with_several_files_is_told_at_once(tmp_path: Path):
    write(tmp_path / "a.csv", "age,sick")
    write(tmp_path / "b.csv", "age,sick", "50,1")
    write(tmp_path / "c.csv", "age", "50")
    write(tmp_path / "d.csv", "age,sick", "x,1")
    message = refusal(tmp_path, declare(site=None))
    assert "a.csv: has no rows" in message
    assert "c.csv" in message
    assert "d.csv: column `age`, row 1: holds text" in message
    assert "b.csv" not in message


def test_a_single_row_trains_or_tests():
    train, test = split_table(cohort(1), Split(method="stratified"))
    assert (len(train), len(test)) == (1, 0)
    with pytest.raises(DataError, match=r"a: all of its 1 row\(s\) test and none trains"):
        split_table(cohort(1), Split(test=0.999))


def test_a_hospital_without_a_complete_row_has_an_empty_table_that_cannot_be_split(tmp_path: Path):
    path = write(tmp_path / "x.csv", "hospital,age,sick", "a,50,1", "b,,1")
    spec = declare(missing="drop-rows")
    table = load_sites(path, spec)["b"]
    assert len(table) == 0
    with pytest.raises(DataError, match="b: no row is complete"):
        split_table(table, spec.split)
    with pytest.raises(DataError, match="no row is complete"):
        load_unlabelled(write(tmp_path / "new.csv", "age", "?"), declare(missing="drop-rows", missing_values=["?"]))


def test_a_table_shows_no_rows_and_refuses_unequal_lengths():
    table = cohort(5)
    assert repr(table) == "Table(site='a')"
    with pytest.raises(ValueError, match=r"rows must have shape \[5\]"):
        Table(site="a", features=table.features, labels=None, patients=None, rows=table.rows[:4])


@pytest.fixture(scope="module")
def heart() -> tuple[DataSpec, dict[str, Table]]:
    if not HEART.is_dir():
        pytest.skip(f"no heart-disease files at {HEART}")
    spec = DataSpec.from_mapping(tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))["data"], where=str(EXAMPLE))
    return spec, load_sites(HEART, spec)


def test_heart_disease_gives_the_published_rows(heart: tuple[DataSpec, dict[str, Table]]):
    spec, tables = heart
    splits = {site: split_table(table, spec.split) for site, table in tables.items()}
    assert {site: (len(train), len(test)) for site, (train, test) in splits.items()} == {
        "cleveland": (199, 104),
        "hungarian": (172, 89),
        "switzerland": (30, 16),
        "va": (85, 45),
    }
    train, test = splits["switzerland"]
    assert train.labels is not None
    assert test.labels is not None
    assert (train.labels.min(), int((test.labels == 0).sum())) == (1, 1)


def test_heart_disease_rows_are_those_of_the_published_recipe(heart: tuple[DataSpec, dict[str, Table]]):
    spec, tables = heart
    for site, table in tables.items():
        stratify = None if site == "switzerland" else table.labels
        _, expected = train_test_split(
            table.rows, test_size=1.0 - 0.66, train_size=0.66, random_state=43, stratify=stratify
        )
        assert set(split_table(table, spec.split)[1].rows) == set(expected)


def test_heart_disease_features_are_what_the_first_row_says(heart: tuple[DataSpec, dict[str, Table]]):
    spec, tables = heart
    first = dict(zip(spec.feature_names, tables["cleveland"].features[0].tolist(), strict=True))
    # 63, 1, 1, 145, 233, 1, 2, 150, 0, 2.3
    wanted = {"age": 0.8, "sex": 1, "cp=2": -1, "cp=4": -1, "trestbps": 0.75, "chol": 13 / 60, "fbs": 1}
    wanted |= {"restecg=1": -1, "restecg=2": 1, "thalach": 0.4, "exang": -1, "oldpeak": 1.3, "cp=3": -1}
    assert first == pytest.approx(wanted)


def test_one_mistake_at_several_hospitals_has_its_mend_once(tmp_path: Path):
    for site in ("north", "south"):
        (tmp_path / f"{site}.csv").write_text("age,sick\n> 89,1\n50,0\n", encoding="utf-8")
    spec = DataSpec.from_mapping({"label": "sick", "ranges": {"age": {"centre": 50, "spread": 10}}})
    with pytest.raises(DataError) as error:
        load_sites(tmp_path, spec)
    said = str(error.value)
    assert "north" in said and "south" in said and said.count("mend the cell") == 1


@pytest.mark.parametrize(("name", "marks"), [("a.csv", ";,"), ("a.parquet", ";,")])
def test_a_file_may_have_its_own_decimal_mark(tmp_path: Path, name: str, marks: str):
    """A German hospital beside others: nobody declares a mark, and the same patients are known by the same cells."""
    rows = [("52.5", "0"), ("47", "1"), ("50.25", "0")]
    spec, first, second = declare(site=None), tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    if name == "a.parquet":
        pq.write_table(pa.table({"age": [age.replace(".", ",") for age, _ in rows], "sick": [0, 1, 0]}), first / name)
    else:
        lines = [marks[0].join((age.replace(".", marks[1]), sick)) for age, sick in rows]
        write(first / name, f"age{marks[0]}sick", *lines)
    write(second / "a.csv", "age,sick", *map(",".join, rows))
    ours, plain = load_sites(first, spec)["a"], load_sites(second, spec)["a"]
    np.testing.assert_allclose(ours.features[:, 0], [0.25, -0.3, 0.025])
    np.testing.assert_array_equal(ours.features, plain.features)
    np.testing.assert_array_equal(ours.known["cells"], plain.known["cells"])
    np.testing.assert_array_equal(ours.known["row"], plain.known["row"])


@pytest.mark.parametrize("ages", [["1,234", "7"], ["1,234", "2,345", "10,5"], ["10,5", "9.5"]])
def test_a_comma_that_may_part_thousands_is_refused(tmp_path: Path, ages: list[str]):
    file = write(tmp_path / "a.csv", "age;sick", *(f"{age};0" for age in ages))
    assert "column `age`, row 1: a number with other marks" in refusal(file.parent, declare(site=None))
