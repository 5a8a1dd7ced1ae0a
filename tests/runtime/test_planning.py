"""From a user's tables to a plan: which hospitals take part, and which are left out and why."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from securepfl.data.ranges import describe_columns
from securepfl.errors import ConfigError, DataError
from securepfl.runtime.planning import Plan, plan_tables
from securepfl.settings.federation import Federation

SETTINGS: dict[str, Any] = {
    "rounds": 2,
    "model": {"kind": "logistic"},
    "data": {
        "label": "y",
        "missing": "drop-rows",
        "ranges": {"a": {"centre": 0, "spread": 1}},
        "split": {"method": "column", "column": "fold", "test_values": "test"},
    },
}
ROWS = {"ash": "1,0,train\n2,1,test", "beech": "1,1,train", "cedar": "2,0,train\n2,1,train"}
NOTHING = {"elm": "1,1,test\n2,0,test", "fir": ",1,train\n,0,test"}


def plan(folder: Path, tables: dict[str, str], **changes: Any) -> Plan:
    for site, rows in tables.items():
        (folder / f"{site}.csv").write_text(f"a,y,fold\n{rows}\n", encoding="utf-8")
    sites = {site: {"units": 2} for site in tables}
    federation = Federation.from_mapping({**SETTINGS, "sites": sites, **changes})
    return plan_tables(federation, folder, seed=1, ledgers=None)


def test_hospitals_with_nothing_to_train_on_are_left_out_all_at_once_and_by_name(tmp_path: Path):
    planned = plan(tmp_path, ROWS | NOTHING)
    assert planned.federation.roster == ("ash", "beech", "cedar") == tuple(planned.hospitals)
    elm, fir = (note for note in planned.notes if note.startswith("left out of this run"))
    assert "elm: all of its 2 row(s) test and none trains" in elm
    assert "fir: no row is complete" in fir


def test_one_row_is_enough_to_train(tmp_path: Path):
    hospital = plan(tmp_path, ROWS).hospitals["beech"]
    assert (len(hospital.train), len(hospital.test)) == (1, 0)


def test_too_few_hospitals_are_told_with_those_left_out(tmp_path: Path):
    tables = {site: ROWS[site] for site in ("ash", "beech")} | NOTHING
    with pytest.raises(ConfigError, match=r"2 hospital\(s\) found, .*left out .*elm: all .*left out .*fir: no row"):
        plan(tmp_path, tables)


@pytest.mark.parametrize("other", ["p1", "P-1"])
def test_a_patient_of_two_hospitals_is_named_to_both_by_rows(tmp_path: Path, other: str):
    for site, names in {"ash": ("p1", "a2"), "beech": ("b1", other), "cedar": ("c1", "c2")}.items():
        rows = "\n".join(f"{row},{row},train,{name}" for row, name in enumerate(names))
        (tmp_path / f"{site}.csv").write_text(f"a,y,fold,id\n{rows}\n", encoding="utf-8")
    settings = {
        **SETTINGS,
        "sites": {site: {"units": 2} for site in ROWS},
        "data": {**SETTINGS["data"], "patient": "id"},
    }
    planned = plan_tables(Federation.from_mapping(settings), tmp_path, seed=1, ledgers=None)
    told = "1 patient id(s) stand at several sites (ash row 1, beech row 2)"
    assert any(note.startswith(f"{told}: each spends on them") for note in planned.notes)
    by_patient = Federation.from_mapping({**settings, "privacy": {"unit": "patient"}})
    with pytest.raises(DataError, match="keep a patient's rows at one site") as caught:
        plan_tables(by_patient, tmp_path, seed=1, ledgers=None)
    assert told in str(caught.value)
    own = {**settings, "data": {**settings["data"], "patient_scope": "hospital"}, "privacy": {"unit": "patient"}}
    numbered = plan_tables(Federation.from_mapping(own), tmp_path, seed=1, ledgers=None)
    (said,) = [note for note in numbered.notes if "patient id" in note]
    assert said.startswith("1 patient id(s) stand at several sites, and are different people there"), "as was declared"
    assert numbered.federation.digest != planned.federation.changed("privacy", unit="patient").digest


@pytest.mark.parametrize("unit", ["record", "patient"])
@pytest.mark.parametrize(("scope", "counted"), [({}, 1), ({"patient_scope": "hospital"}, 0)])
def test_a_patient_who_trains_at_one_hospital_and_tests_at_others_is_counted(tmp_path, unit, scope, counted):
    for site, names in {"ash": ("p1", "a2"), "beech": ("b1", "p1"), "cedar": ("c1", "P-1")}.items():
        rows = "\n".join(f"{row},{row},{'test' if row and site != 'ash' else 'train'},{names[row]}" for row in (0, 1))
        (tmp_path / f"{site}.csv").write_text(f"a,y,fold,id\n{rows}\n", encoding="utf-8")
    data = {**SETTINGS["data"], "patient": "id", **scope}
    settings = {**SETTINGS, "sites": {site: {"units": 2} for site in ROWS}, "data": data, "privacy": {"unit": unit}}
    notes = plan_tables(Federation.from_mapping(settings), tmp_path, seed=1, ledgers=None).notes
    told = [note for note in notes if "stand in training rows of another site: metrics count them as unseen" in note]
    assert len(told) == counted and all(note.startswith("the ids of 1 patient") for note in told)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"patient": "id", "patient_scope": "site"}, r"\[data\] patient_scope: .*write \"hospital\", or leave"),
        ({"patient_scope": "hospital"}, "patient_scope: there is no patient .*declare patient"),
    ],
)
def test_a_scope_is_a_known_one_of_declared_ids(data: dict[str, str], said: str):
    images = {"kind": "images", "size": [8, 8], **data}
    for declared in ({**SETTINGS["data"], **data}, images):
        model = {"kind": "unet", "task": "segmentation"} if declared is images else SETTINGS["model"]
        with pytest.raises(ConfigError, match=said):
            Federation.from_mapping({**SETTINGS, "model": model, "data": declared})


def test_a_completed_skeleton_is_a_file_that_can_be_planned_with(tmp_path: Path):
    for site, age in {"ash": 50, "beech": 60, "cedar": 70}.items():
        rows = [f"{age + row},a,{row + 1}.1.2020,{row % 2}" for row in range(9)]
        text = "\n".join(["age (years),ward,visit,ill", *rows])
        (tmp_path / f"{site}.csv").write_text(text, encoding="utf-8")
    shown = describe_columns(tmp_path, "ash")
    answers = {
        '# label = "..."': 'label = "ill"',
        "# prevalence = ...": "prevalence = 0.3",
        "# units = ...": "units = 5",
        '# "age (years)"': '"age (years)"',
        "centre = ..., spread = ...": "centre = 60, spread = 10",
        "# ward = [...]": 'ward = ["a", "b"]',
    }
    for question, answer in answers.items():
        assert question in shown
        shown = shown.replace(question, answer)
    shown = "\n".join(line for line in shown.splitlines() if not line.startswith("# ill"))
    shown += "\n[sites.beech]\nunits = 5\n[sites.cedar]\nunits = 5\n"
    federation = Federation.from_mapping(tomllib.loads(shown))
    planned = plan_tables(federation, tmp_path, seed=1, ledgers=None)
    assert planned.federation.roster == ("ash", "beech", "cedar")


def test_a_misspelt_hospital_stays_an_error(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"\[sites\.aspen\]: no such hospital"):
        plan(tmp_path, ROWS, sites={name: {"units": 2} for name in (*ROWS, "aspen")})
