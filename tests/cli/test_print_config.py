"""`--print-config` of run, plan and join: what it prints is a CONFIG, and nothing is read, made or asked besides."""

import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from securepfl.cli.main import cli
from securepfl.settings.federation import Federation

HEART = Path(__file__).parents[2] / "examples" / "heart_disease" / "federation.toml"


def printed(*words):
    done = CliRunner().invoke(cli, [*map(str, words), "--print-config"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_each_command_prints_the_same_and_reads_no_row(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()  # empty: whoever read it would fail
    texts = {printed("run", HEART, "--data", "data"), printed("plan", HEART), printed("join", HEART)}
    assert len(texts) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    (tmp_path / "again.toml").write_text(texts.pop(), encoding="utf-8")
    assert Federation.read(Path("again.toml")).digest == Federation.read(HEART).ceremony_digest


def test_a_joining_hospital_needs_nothing_but_the_file_wherever_the_option_stands():
    done = CliRunner().invoke(cli, ["join", "--print-config", str(HEART)])
    assert done.exit_code == 0 and done.stdout == printed("join", HEART)
    assert "Missing option '--data'" in CliRunner().invoke(cli, ["join", str(HEART)]).output


def test_the_demo_prints_its_declaration_and_the_command_lines_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = tomllib.loads(text := printed("run", "--rounds", "3", "--plaintext"))
    assert (found["rounds"], found["encryption"]["scheme"], len(found["sites"])) == (3, "none", 9)
    assert found["data"]["label"] == "malignant" and len(found["data"]["ranges"]) == 10
    assert {line.split("# ")[1] for line in text.splitlines() if line.startswith(("rounds", "scheme"))} == {
        "--rounds",
        "--plaintext",
    }


@pytest.mark.parametrize("command", ["run", "plan", "join"])
def test_what_no_run_could_have_is_refused(command, tmp_path):
    path = tmp_path / "federation.toml"
    path.write_text(HEART.read_text().replace("units = 30, ", ""))
    data = ["--data", str(tmp_path)] if command == "run" else []
    done = CliRunner().invoke(cli, [command, str(path), *data, "--print-config"])
    assert done.exit_code != 0 and "[sites.switzerland] units: must be declared" in str(done.exception)
