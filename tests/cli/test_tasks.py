"""Tables of every task through `run`, its files, and `route`, as a user calls them."""

import csv
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from securepfl.cli.main import main
from securepfl.tasks.registry import task_named

SETTINGS = """
rounds = 2
[model]
task = "{task}"
kind = "logistic"
[privacy]
epsilon = 100.0
[encryption]
scheme = "none"
[sites]
"east" = {{ units = 50 }}
"north" = {{ units = 50 }}
"west" = {{ units = 50 }}
[release]
experts = true
[data]
{label}
[data.ranges]
age = {{ centre = 60, spread = 10 }}
bmi = {{ centre = 27, spread = 4 }}
"""
LABELS = {
    "multiclass": 'label = "grade"\nclasses = ["mild", "severe", "critical"]',
    "multilabel": 'label = ["flu", "asthma"]\npositive = "yes"',
    "regression": 'label = "pressure"\nlabel_range = { centre = 120, spread = 20, unit = "mmHg" }',
}
DRAWN = {
    "multiclass": ("mild", "severe", "critical"),
    "multilabel": ("flu", "asthma"),
    "regression": (),
}
ROUTED = {
    "multiclass": ["row", "prediction", "probability mild", "probability severe", "probability critical", "certainty"],
    "multilabel": ["row", "probability flu", "prediction flu", "probability asthma", "prediction asthma", "certainty"],
    "regression": ["row", "prediction (mmHg)"],
}


def labels_of(task, age, bmi):
    if task == "multiclass":
        return {"grade": np.array(["mild", "severe", "critical"])[(age > 55).astype(int) + (age > 65)]}
    if task == "multilabel":
        return {"flu": np.where(age > 60, "yes", "no"), "asthma": np.where(bmi > 28, "yes", "no")}
    return {"pressure": np.round(120 + age - 60)}


def write(path, columns):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


@pytest.fixture
def federation(tmp_path):
    """Writes a task's settings and three hospitals' tables; gives the run's arguments."""

    def made(task):
        (tmp_path / "data").mkdir()
        (tmp_path / "f.toml").write_text(SETTINGS.format(task=task, label=LABELS[task]))
        for seed, site in enumerate(("east", "north", "west")):
            generator = np.random.default_rng(seed)
            age, bmi = generator.normal(60, 10, 80).round(1), generator.normal(27, 4, 80).round(1)
            write(tmp_path / "data" / f"{site}.csv", {"age": age, "bmi": bmi} | labels_of(task, age, bmi))
            write(tmp_path / "new.csv", {"age": age[:3], "bmi": bmi[:3]})
        return ["run", str(tmp_path / "f.toml"), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]

    return made


@pytest.fixture
def called(monkeypatch):
    """Runs the command line in this process; gives its exit code."""

    def run(arguments):
        monkeypatch.setattr(sys, "argv", ["securepfl", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        return left.value.code

    return run


@pytest.mark.parametrize("task", LABELS)
def test_a_table_of_each_task_is_trained_told_and_routed(federation, called, tmp_path, capsys, task):
    assert called(federation(task)) == 0
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    page = (tmp_path / "out" / "report.html").read_text()
    names = [metric.name for metric in task_named(task).metrics]
    assert result["task"] == task and result["metrics"]["decides"] in names
    for site in result["sites"].values():
        assert all(list(site["metrics"][model]) == names for model in ("personalised", "shared", "local", "majority"))
    for title in (result["metrics"]["titles"][name] for name in result["metrics"]["shown"]):
        assert title in printed and title in page
    first = next(iter(result["sites"].values()))
    assert tuple(result.get("curves_by_part", ())) == tuple(first.get("curves_by_part", ())) == DRAWN[task]
    for part in DRAWN[task]:
        assert f'<title id="-all-part{DRAWN[task].index(part)}-title">ROC and calibration: {part}' in page
        assert f"{part.capitalize()}: {result['curves_by_part'][part]['personalised']['yes']} of " in page
    assert ("Over all of them (macro) the model" in page) == (task != "regression")
    assert ("Predicted and observed: All hospitals together" in page) == (task == "regression")
    assert ("training mean" in printed) == (task == "regression")
    assert called(["route", str(tmp_path / "out"), "--data", str(tmp_path / "new.csv")]) == 0
    rows = list(csv.reader(capsys.readouterr().out.splitlines()))
    assert rows[0] == ROUTED[task] and len(rows) == 4


def test_a_label_out_of_the_declared_range_is_refused_with_file_and_row(federation, called, tmp_path, capsys):
    arguments, path = federation("regression"), tmp_path / "data" / "north.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:41], "60.0,27.0,-99", *lines[41:]]))
    assert called(arguments) == 2
    said = capsys.readouterr().err
    assert "north.csv: column `pressure`, row 41: label `-99` is not from -80 to 320; mend it" in said
    assert not (tmp_path / "out").exists() and not any(Path(os.environ["SECUREPFL_LEDGERS"]).iterdir())
