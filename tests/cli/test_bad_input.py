"""Every mistake gets one line (what, where, how to mend), exit code 2, and leaves nothing half-written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from securepfl.cli.main import main

CONFIG = """
name = "tiny"
rounds = 2
[model]
kind = "logistic"
personal = ["linear.bias"]
[privacy]
epsilon = 4.0
[sites]
"alder" = { units = 20 }
"birch" = { units = 20 }
"cedar" = { units = 20 }
[data]
label = "sick"
site = "hospital"
[data.ranges]
age = { centre = 50, spread = 15 }
bp = { centre = 120, spread = 20 }
"""
ROWS = [
    (site, 30 + (7 * i + start) % 50, 100 + 13 * i % 60, i % 2)
    for start, site in enumerate(("alder", "birch", "cedar"))
    for i in range(30)
]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("federation.toml").write_text(CONFIG)
    write_rows(ROWS)
    return tmp_path


def write_rows(rows, header="hospital,age,bp,sick"):
    Path("rows.csv").write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")


def securepfl(monkeypatch, capsys, *arguments):
    """(exit code, stdout, stderr) of the command line in this process."""
    monkeypatch.setattr(sys, "argv", ["securepfl", *map(str, arguments)])
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    return code, out, err


RUN = ("run", "federation.toml", "--data", "rows.csv", "--out", "out", "--seed", "1")


def live_ledger(site):
    """Where the hospital's ledger lies, in its registry."""
    return Path(os.environ["SECUREPFL_LEDGERS"], site, f"{site}.simulated.jsonl")


def refused(monkeypatch, capsys, arguments, *words):
    """The command must exit with 2 and one line holding `words`, and leave no file of its own behind."""
    before = sorted(Path().rglob("*"))
    code, out, err = securepfl(monkeypatch, capsys, *arguments)
    assert code == 2, (code, err)
    assert out == ""
    lines = [line for line in err.strip().splitlines() if line]
    assert len(lines) == 1, err
    assert all(word in lines[0] for word in words), lines[0]
    assert sorted(Path().rglob("*")) == before


def test_the_good_input_runs(workplace, monkeypatch, capsys):
    code, out, err = securepfl(monkeypatch, capsys, *RUN)
    assert code == 0, err
    assert "epsilon" in out
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "coordinator",
        "heads.json",
        "ledger",
        "report.html",
        "result.json",
        "sites",
    ]


def test_a_missing_label_column(workplace, monkeypatch, capsys):
    write_rows([row[:3] for row in ROWS], header="hospital,age,bp")
    refused(monkeypatch, capsys, RUN, "rows.csv", "sick")


def test_text_in_a_numeric_column(workplace, monkeypatch, capsys):
    rows = [*ROWS]
    rows[4] = ("alder", "secret-value", 120, 1)
    write_rows(rows)
    code, _, err = securepfl(monkeypatch, capsys, *RUN)
    assert "secret-value" not in err, "a private cell is quoted"
    assert code == 2
    refused(monkeypatch, capsys, RUN, "rows.csv", "age", "5")


def test_one_hospital(workplace, monkeypatch, capsys):
    write_rows([row for row in ROWS if row[0] == "alder"])
    refused(monkeypatch, capsys, RUN, "1 hospital", "a sum needs 3", "add")


def test_two_hospitals_need_an_explicit_yes(workplace, monkeypatch, capsys):
    write_rows([row for row in ROWS if row[0] != "alder"])
    refused(monkeypatch, capsys, RUN, "2 hospital(s)", "minimum = 2")


def test_an_unknown_key(workplace, monkeypatch, capsys):
    Path("federation.toml").write_text(CONFIG.replace("epsilon", "epsilom"))
    refused(monkeypatch, capsys, RUN, "federation.toml", "epsilom", "[privacy]")


def test_an_unknown_key_in_the_data_table(workplace, monkeypatch, capsys):
    Path("federation.toml").write_text(CONFIG.replace('site = "hospital"', 'sight = "hospital"'))
    refused(monkeypatch, capsys, RUN, "federation.toml", "sight")


@pytest.mark.parametrize("epsilon", ["0", "-1", "nan"])
def test_epsilon_not_positive(workplace, monkeypatch, capsys, epsilon):
    refused(monkeypatch, capsys, (*RUN, "--epsilon", epsilon), "epsilon")
    Path("federation.toml").write_text(CONFIG.replace("4.0", epsilon))
    refused(monkeypatch, capsys, RUN, "federation.toml", "epsilon")


def test_a_pattern_that_matches_no_parameter(workplace, monkeypatch, capsys):
    Path("federation.toml").write_text(CONFIG.replace("linear.bias", "head.*"))
    refused(monkeypatch, capsys, RUN, "head.*", "linear.weight")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('[trajectory.layers]\n"neck.*" = 0.5', ("[trajectory] layers", "removed")),
        ("[sites.dogwood]\nweight = 2", ("[sites.dogwood]", "alder, birch, cedar")),
        ("[sparsity]\nstrength = 2.0", ("[sparsity] strength", "soft")),
        ("[coupling]\nstrength = 0.5\nweight_bits = 8", ("[coupling] weight_bits", "removed")),
    ],
)
def test_settings_that_fit_nothing_are_named_with_their_file(workplace, monkeypatch, capsys, table, words):
    with Path("federation.toml").open("a") as file:
        file.write(f"\n{table}\n")
    refused(monkeypatch, capsys, RUN, "federation.toml: ", *words)


@pytest.mark.parametrize(
    ("model", "table", "words"),
    [
        ("[]", "[similarity]\nevery = 1\n[coupling]\nstrength = 0.5", ("[coupling] strength", "[model] personal")),
        ('["*"]', "", ("[model] personal", "nothing is shared")),
    ],
)
def test_a_personal_part_that_does_not_fit_is_named_with_its_file(workplace, monkeypatch, capsys, model, table, words):
    Path("federation.toml").write_text(CONFIG.replace('["linear.bias"]', model) + f"\n{table}\n")
    refused(monkeypatch, capsys, RUN, "federation.toml: ", *words)


def test_an_output_folder_that_holds_a_run(workplace, monkeypatch, capsys):
    Path("out").mkdir()
    Path("out/result.json").write_text("{}")
    refused(monkeypatch, capsys, RUN, "out", "already holds")
    assert Path("out/result.json").read_text() == "{}"


def test_a_configuration_without_data_and_data_without_configuration(workplace, monkeypatch, capsys):
    for arguments in (("run", "federation.toml"), ("run", "--data", "rows.csv")):
        refused(monkeypatch, capsys, arguments, "go together")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("run", "nosuch.toml", "--data", "rows.csv"), "nosuch.toml"),
        ((*RUN, "--rounds", "0"), "--rounds"),
        ((*RUN, "--rounds", "2.5"), "--rounds"),
        (("route", "nosuch", "--data", "rows.csv"), "nosuch"),
        (("route", "."), "--data"),
        (("data", "ranges", "rows.csv"), "--site"),
        (("data", "ranges", "nosuch.csv", "--site", "alder"), "nosuch.csv"),
        (("nonsense",), "nonsense"),
        ((*RUN, "--ledgers", "there"), "--ledgers"),
    ],
)
def test_wrong_options_get_one_line_too(workplace, monkeypatch, capsys, arguments, word):
    refused(monkeypatch, capsys, arguments, word)


def test_a_wrong_label_name_is_not_mended_by_training_on_the_label(workplace, monkeypatch, capsys):
    Path("federation.toml").write_text(CONFIG.replace('label = "sick"', 'label = "outcome"'))
    refused(monkeypatch, capsys, RUN, "rows.csv", "outcome")


def test_an_unknown_model_kind_lists_the_known_ones(workplace, monkeypatch, capsys):
    Path("federation.toml").write_text(CONFIG.replace('"logistic"', '"transformer"'))
    refused(monkeypatch, capsys, RUN, "federation.toml", "[model] kind", "mlp", "logistic")


def test_predictions_are_never_overwritten(workplace, monkeypatch, capsys):
    Path("federation.toml").write_text(CONFIG + "[release]\nexperts = true\n")
    assert securepfl(monkeypatch, capsys, *RUN[:-2])[0] == 0
    route = ("route", "out", "--data", "rows.csv", "--out", "predictions.csv")
    code, _, err = securepfl(monkeypatch, capsys, *route)
    assert code == 0 and "wrote predictions.csv" in err
    refused(monkeypatch, capsys, route, "predictions.csv", "exists")


def test_a_budget_for_part_of_a_run_is_told_before_anything_is_spent(workplace, monkeypatch, capsys):
    """The last rounds would form no sum: said before the first one."""
    Path("federation.toml").write_text(CONFIG.replace("epsilon = 4.0", "epsilon = 4.0\nbudget = 5.0"))
    run = ("run", "federation.toml", "--data", "rows.csv", "--out")
    assert securepfl(monkeypatch, capsys, *run, "one")[0] == 0
    ledger = live_ledger("alder").read_text()
    code, _, err = securepfl(monkeypatch, capsys, *run, "two")
    assert code == 2 and "budget" in err and err.strip().count("\n") == 0, err
    assert live_ledger("alder").read_text().count('"reservation"') == ledger.count('"reservation"')


def test_a_spent_budget(workplace, monkeypatch, capsys):
    """A second unseeded run on the same data starts from what the first spent, and is refused before it trains."""
    run = ("run", "federation.toml", "--data", "rows.csv", "--out")
    assert securepfl(monkeypatch, capsys, *run, "one")[0] == 0
    ledger = live_ledger("alder").read_text()
    code, _, err = securepfl(monkeypatch, capsys, *run, "two")
    assert code == 2 and "budget" in err and not Path("two").exists()
    reserved = '"kind":"reservation"'
    assert live_ledger("alder").read_text().count(reserved) == ledger.count(reserved) == 2


def test_cuda_where_there_is_none(workplace, monkeypatch, capsys):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    refused(monkeypatch, capsys, (*RUN, "--device", "cuda"), "cuda", "--device")


def test_routing_a_run_without_experts(workplace, monkeypatch, capsys):
    assert securepfl(monkeypatch, capsys, *RUN)[0] == 0
    refused(monkeypatch, capsys, ("route", "out", "--data", "rows.csv"), "experts", "release")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk(workplace, monkeypatch, capsys):
    """On a file system of 24 kB: one line, and no partial folder stays."""
    disk = Path("disk")
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", disk], check=False).returncode:
        pytest.skip("this machine refuses to mount a tmpfs")
    try:
        code, out, err = securepfl(monkeypatch, capsys, *RUN[:-3], "disk/out", "--seed", "1")
        assert code == 2 and out == "", err
        assert "No space left" in err and "make room" in err and "Traceback" not in err
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_full_disk_by_a_failing_write(workplace, monkeypatch, capsys):
    """The same wherever mounting is not possible: every write to the run's folder fails."""
    write = os.fsync

    def full(descriptor):
        if "out" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(28, "No space left on device")
        write(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    refused(monkeypatch, capsys, RUN, "No space left", "make room")


def test_the_documented_data_folder_form(workplace, monkeypatch, capsys):
    """One file a site, CSV and Parquet mixed."""
    import pyarrow as pa
    from pyarrow import parquet

    folder = Path("sites")
    folder.mkdir()
    for name in ("alder", "birch", "cedar"):
        rows = [row[1:] for row in ROWS if row[0] == name]
        columns = dict(zip(("age", "bp", "sick"), zip(*rows, strict=True), strict=True))
        if name == "birch":
            parquet.write_table(pa.table(columns), folder / f"{name}.parquet")
        else:
            lines = ["age,bp,sick", *(",".join(map(str, row)) for row in rows)]
            (folder / f"{name}.csv").write_text("\n".join(lines))
    Path("federation.toml").write_text(CONFIG.replace('site = "hospital"\n', ""))
    code, _, err = securepfl(monkeypatch, capsys, *RUN[:3], "sites", *RUN[4:])
    assert code == 0, err
    assert sorted(path.name for path in Path("out/ledger").iterdir() if path.is_dir()) == ["alder", "birch", "cedar"]


def test_a_site_with_one_class_is_no_error(workplace, monkeypatch, capsys):
    import json

    write_rows([row if row[0] != "cedar" else (*row[:3], 1) for row in ROWS])
    code, out, err = securepfl(monkeypatch, capsys, *RUN)
    assert code == 0, err
    assert "cedar: its training rows hold one class" in out.replace("\n", " ")
    metrics = json.loads(Path("out/result.json").read_text())["sites"]["cedar"]["metrics"]["personalised"]
    assert metrics["auroc"] is None and metrics["balanced_accuracy"] is None and metrics["accuracy"] is not None


def test_help_is_quick_because_torch_is_not_imported():
    code = "import sys, securepfl.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_ranges_lists_columns_and_no_statistic(workplace, monkeypatch, capsys):
    frame = ["age (years),bp", *(f"{37 + i},{141 + i}" for i in range(20))]
    Path("alder.csv").write_text("\n".join(frame) + "\n")
    code, out, _ = securepfl(monkeypatch, capsys, "data", "ranges", "alder.csv", "--site", "alder")
    assert code == 0 and "years" in out and "[data.ranges]" in out
    digits = {word for word in out.replace(",", " ").split() if word.isdigit()}
    assert not digits & {str(37 + i) for i in range(20)} | digits & {str(141 + i) for i in range(20)}


def test_a_defect_exits_with_1_and_says_so(workplace, monkeypatch, capsys):
    monkeypatch.setattr("securepfl.settings.federation.Federation.read", lambda path: 1 / 0)
    code, _, err = securepfl(monkeypatch, capsys, *RUN)
    assert code == 1 and "defect in securepfl" in err
