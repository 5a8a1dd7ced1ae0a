"""The commands and people's files: other separators, and what lies in a data folder besides hospitals' tables."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from securepfl.cli.main import cli
from securepfl.errors import DataError

CONFIG = """
rounds = 1
[model]
kind = "logistic"
[privacy]
epsilon = 100.0
delta = 1e-3
[encryption]
scheme = "none"
[sites]
"K\u00f6ln" = {{ units = 40 }}
"mainz" = {{ units = 40 }}
"bonn" = {{ units = 40 }}
[data]
label = "ill"
{data}
[data.ranges]
age = {{ centre = 50, spread = 15 }}
"""
NFC, NFD = (unicodedata.normalize(form, "K\u00f6ln") for form in ("NFC", "NFD"))


def hospital(path: Path, seed: int, separator: str = ";", decimal: str = ",") -> None:
    rng = np.random.default_rng(seed)
    rows = [f"{age:.1f}".replace(".", decimal) + f"{separator}{int(age > 50)}" for age in rng.normal(50, 15, 60)]
    path.write_text("\n".join([f"age{separator}ill", *rows]) + "\n", encoding="utf-8")


def run(folder: Path, data: str = "") -> tuple[dict[str, object], BaseException | None]:
    config = folder.parent / "federation.toml"
    config.write_text(CONFIG.format(data=data), encoding="utf-8")
    arguments = [
        "run",
        str(config),
        "--data",
        str(folder),
        "--seed",
        "1",
        "--out",
        str(folder.parent / "out"),
        "--json",
    ]
    result = CliRunner().invoke(cli, arguments)
    return (json.loads(result.stdout)["result"] if result.exit_code == 0 else {}), result.exception


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "data"
    made.mkdir()
    for seed, (name, separator) in enumerate({NFD: ";", "mainz": "\t", "bonn": "|"}.items()):
        hospital(made / f"{name}.csv", seed, separator)
    return made


def test_hospitals_with_other_separators_and_decimal_commas_run(folder: Path):
    (folder / "README.md").write_text("Who measured what.")
    found, error = run(folder, 'decimal = ","')
    assert error is None
    assert sorted(found["sites"]) == sorted([NFC, "mainz", "bonn"])
    assert "data: no hospital's file, and not read: `README.md`" in found["notes"]


def test_nothing_runs_while_a_hospital_would_be_left_out(folder: Path):
    hospital(folder / "trier.tsv", 9, "\t")
    (folder / "worms.xlsx").write_bytes(b"PK\x03\x04")
    _, error = run(folder, 'decimal = ","')
    assert isinstance(error, DataError)
    assert "no reader takes `trier.tsv`, `worms.xlsx`" in str(error)


def test_the_columns_of_a_semicolon_file_are_listed(folder: Path):
    result = CliRunner().invoke(cli, ["data", "ranges", str(folder), "--site", NFC])
    assert result.exit_code == 0
    assert "# age = { centre = ..., spread = ... }" in result.stdout
