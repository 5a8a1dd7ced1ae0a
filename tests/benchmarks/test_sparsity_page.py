"""The sparsity benchmark's file of results and its tables, on figures that are made up."""

import json
import math
from dataclasses import asdict, replace

import click
import pytest
from methods.table import replaced
from sparsity import AT, BEGIN, DENSITIES, END, EPSILONS, KINDS, STRENGTHS, Fit, Lab, Study, known_in, section


class Invented(Lab):
    """Scores that are known: best at lr 1, strength 1, and for soft; .01 less without feedback; bytes by density."""

    def _run(self, fit):
        value = 0.8 - 0.1 * abs(math.log2(fit.lr)) - 0.1 * abs(fit.strength - 1.0) + 0.002 * fit.seed
        value += 0.05 * (fit.kind == "soft") - 0.01 * (not fit.feedback)
        size = round(1_000_000 * fit.density)
        return {"balanced_accuracy": value, "auroc": value, "upload_bytes": size, "download_bytes": size, "seconds": 1}


class Weighed(Study):
    """Without data, for which updates alone are measured."""

    def update_bytes(self, density):
        return round(500_000 * density)


def study_in(folder, **options):
    return Weighed(Invented(folder, folder, **options), rounds=20, seeds=2)


def test_settings_are_chosen_on_validation_rows_and_differences_are_paired(tmp_path):
    study = study_in(tmp_path)
    assert all(fit.lr == 1.0 and fit.kind == "support" and fit.density == 1.0 for fit in study.base.values())
    assert {study.kinds[epsilon, "soft"].strength for epsilon in EPSILONS} == {max(STRENGTHS)}
    assert study.below(4.0, "soft", feedback=False) == pytest.approx((0.04, 0.0), abs=1e-9)
    assert study.fit(4.0, "select", 1.0, feedback=True).kind == "support"
    tuned = [fit for fit in study.lab.known if fit.validated]
    assert tuned and all(fit.seed >= 1000 for fit in tuned)
    assert all(fit.seed < 2 for fit in study.lab.known if not fit.validated)


def test_the_section_shows_every_cell_and_names_the_best(tmp_path):
    page = replaced(f"a\n{BEGIN}\nold\n{END}\nb\n", section(study_in(tmp_path), "pictures/x.png"), BEGIN, END)
    lines = page.splitlines()
    grids = [line for line in lines if line.split(" | ")[0].strip("| ") in {f"{d:g}" for d in DENSITIES}]
    assert len(grids) == 2 * len(DENSITIES) * len(EPSILONS) and "old" not in page
    assert "| 0.1 | 200 kB | 50 kB | yes | .801 / .801 | .801 / .801 | **.851** / **.851** | .801 / .801 |" in page
    assert "epsilon 4 soft with feedback" in page and "| soft | no | +.040 +- .000 | +.040 +- .000 |" in page
    assert page.endswith("![accuracy against bytes](pictures/x.png)\n" + END + "\nb\n")


def test_nothing_known_is_run_again_and_a_table_runs_nothing(tmp_path):
    fit = Fit(4.0, 1.0, 0.5, 20, kind=KINDS[1], density=AT)
    first = Invented(tmp_path, tmp_path).of(fit)
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"fit": {"eps')
    lab = Lab.open(tmp_path, tmp_path, table=True)
    assert lab.of(fit) == first
    with pytest.raises(click.UsageError, match="run without --table first"):
        lab.of(replace(fit, seed=1))


def test_lines_keep_an_infinite_epsilon():
    fit = Fit(math.inf, 1.0, 0.5, 20)
    assert known_in("\n" + json.dumps({"fit": asdict(fit), "auroc": 0.9}) + "\n{") == {fit: {"auroc": 0.9}}
