"""docs/methods.md: its commands on made-up rows of the form of the heart disease data."""

import csv
import shlex
import subprocess

import numpy as np
from click.testing import CliRunner
from heart_disease import main
from pages import DOCS, ROOT, blocks_of

HERE = "tests/docs/test_methods.py"
FILES = ("cleveland", "hungarian", "switzerland", "va")


def write_rows(folder):
    """Thirty made-up patients a hospital, of fourteen columns without a header."""
    draw = np.random.default_rng(1)
    folder.mkdir()
    for name in FILES:
        centres, spreads = (55, 130, 220, 140, 1), (9, 15, 40, 20, 1)
        age, rest, chol, rate, old = draw.normal(centres, spreads, (30, 5)).round().T
        sex, pain, sugar, cardiogram, angina = draw.integers((0, 1, 0, 0, 0), (2, 5, 2, 3, 2), (30, 5)).T
        ill = age + 5 * angina + draw.normal(0, 5, 30) > 57
        columns = [age, sex, pain, rest, chol, sugar, cardiogram, rate, angina, old, *[["?"] * 30] * 3, ill.astype(int)]
        with (folder / f"processed.{name}.data").open("w", newline="") as file:
            csv.writer(file).writerows(zip(*columns, strict=True))


def test_the_commands_on_adapters_run_as_the_page_has_them(tmp_path, monkeypatch):
    (block,) = (block for block in blocks_of(DOCS / "methods.md") if block.elsewhere == HERE)
    change, run = block.commands()
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    subprocess.run(["bash", "-c", change], check=True)
    program, script, data, *words = shlex.split(run)
    assert (program, script) == ("python", "benchmarks/heart_disease.py")
    settings = (tmp_path / "mlp.toml").read_text()
    assert settings.count('kind = "mlp"\nadapters = 2\n') == 1
    (tmp_path / "mlp.toml").write_text(f"rounds = 2\n{settings}")
    write_rows(tmp_path / data)
    done = CliRunner().invoke(main, [data, *words, "--seeds", "1"])
    assert done.exit_code == 0, (done.output, done.exception)
    assert "personalised" in done.output and "without switzerland; 1 seeds" in done.output
