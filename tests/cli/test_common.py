"""What all commands share: examples in their help, one shape of JSON, how much they say, options by the environment."""

import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from commands import command_of, every_command
from loopback.world import PROGRAM
from small_run import prepare

from securepfl.cli.command import Command, voice_options
from securepfl.cli.consoles import ReadableConsole
from securepfl.cli.main import cli
from securepfl.report.console import closing_output

PAGE = Path(__file__).parents[2] / "docs" / "command_line.md"
SITES = {"Köln": "north", "北京大学": "east", "مستشفى": "south", "Mainz": "west", "sitz": "site", "größe": "ill"}
EVERY = ("", *every_command())
SHAPE = {"schema", "command", "error", "result"}
ELSEWHERE = (
    "agent",
    "audit attack",
    "audit withdraw",
    "join",
    "keys certificate",
    "keys enrol",
    "keys rotate",
    "machines",
    "serve",
)
"""Commands whose examples need other parties or minutes; tests/runtime and tests/machines run them."""
MADE = ("securepfl run", "securepfl start", "securepfl bench", "securepfl suggest", "securepfl doctor")
"""Examples that take long, or that the fixture has run."""


def examples():
    found = [(name, example) for name in EVERY for example in command_of(name).examples]
    return [pytest.param(name, example, id=example[10:60]) for name, example in found]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Everything that an example names, from one run."""
    folder = prepare(tmp_path_factory.mktemp("examples"))
    for name in ("federation.toml", "rows.csv"):
        text = (folder / name).read_text(encoding="utf-8")
        for old, new in SITES.items():
            text = text.replace(old, new)
        (folder / name).write_text(text)
    head, *rows = (folder / "rows.csv").read_text().splitlines()
    known = [f"patient,{head}", *(f"QX{number:04d}Z,{row}" for number, row in enumerate(rows))]
    (folder / "rows.csv").write_text("\n".join(known))
    (folder / "unseen.csv").write_text("\n".join(known[:61]))
    settings = (folder / "federation.toml").read_text().replace("[data]", '[data]\npatient = "patient"')
    (folder / "federation.toml").write_text(settings)
    (folder / "passphrase").write_text("correct horse battery staple\n")
    (folder / "passphrase").chmod(0o600)
    (folder / "exchange").mkdir()
    shutil.copy(folder / "rows.csv", folder / "withdrawn.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SECUREPFL_LEDGERS", str(folder / "ledgers"))
        words = ["run", "federation.toml", "--data", "rows.csv", "--out", "run", "--ledgers", "ledgers", "--json"]
        done = CliRunner().invoke(cli, [*words, "--quiet"])
    assert done.exit_code == 0, done.exception
    assert json.loads(done.stdout)["result"] == json.loads((folder / "run" / "result.json").read_text())
    assert done.stderr == ""
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SECUREPFL_LEDGERS", str(folder / "ledgers"))
    for command in ("CREATE", "SHOW"):
        monkeypatch.setenv(f"SECUREPFL_KEYS_{command}_PASSPHRASE_FILE", "passphrase")
    return folder


def test_every_command_has_an_example():
    assert [name for name in EVERY if not command_of(name).examples] == []


@pytest.mark.parametrize(("name", "example"), examples())
def test_every_example_is_a_command_that_the_command_line_takes(name, example, here, monkeypatch):
    """Options, values and files: all but the command's own work."""
    program, *words = shlex.split(example)
    assert program == "securepfl" and " ".join(words).startswith(name)
    monkeypatch.setattr(Command, "invoke", lambda self, context: 0)
    done = CliRunner().invoke(cli, [word.replace("COMMAND", "run") for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output


def short(name, example):
    return not name.startswith(ELSEWHERE) and not example.startswith(MADE) and "--help" not in example


@pytest.mark.parametrize(("name", "example"), [its for its in examples() if short(*its.values)])
def test_examples_run_and_with_json_stdout_is_one_object_of_one_shape(name, example, here):
    """Among them every command that one machine alone can run in seconds."""
    words = shlex.split(example)[1:]
    if words[:2] == ["keys", "show"] and not (here / "north").exists():
        CliRunner().invoke(cli, ["keys", "create", "x", "--folder", "north", "--exchange", "exchange"])
    if words[:3] == ["keys", "create", "north"]:
        shutil.rmtree(here / "north", ignore_errors=True)
    as_text = CliRunner().invoke(cli, words) if name == "data ranges" else None
    done = CliRunner().invoke(cli, [*words, *(() if "--json" in words else ("--json",)), "--quiet"])
    assert done.exit_code == 0, (done.output, done.exception)
    found = json.loads(done.stdout)
    assert found.keys() == SHAPE and found["schema"] == 1 and found["error"] is None
    assert words[: len(found["command"].split())] == found["command"].split() and found["result"] is not None
    assert done.stderr == ""
    assert as_text is None or as_text.stdout == found["result"]["text"] + "\n"


@pytest.mark.parametrize("command", [name for name in EVERY if name])
def test_every_command_takes_the_same_three(command):
    found = command_of(command)
    if not hasattr(found, "list_commands"):
        assert isinstance(found, Command), f"make {command} by @click.command(cls=Command, examples=...)"
        wanted = {option for its in voice_options() for option in its.opts}
        assert wanted <= {option for its in found.params for option in its.opts}


def process(*words, **environment):
    return subprocess.run(
        [*PROGRAM, *words], capture_output=True, text=True, check=False, env={"PATH": "", **environment}
    )


def test_what_goes_wrong_is_the_same_object_and_still_a_line_on_stderr(tmp_path):
    (tmp_path / "bad.toml").write_text("rounds = -1\n")
    cases = (
        (("plan", "bad.toml", "--json"), "plan", "must be at least 1", 2),
        (("plan", "bad.toml", "--nosuch", "--json"), "", "No such option", 2),
    )
    for words, command, line, code in cases:
        done = process(*(str(tmp_path / its) if its == "bad.toml" else its for its in words))
        found = json.loads(done.stdout)
        assert found.keys() == SHAPE and found["result"] is None and found["command"] == command
        assert done.returncode == code and line in found["error"] and found["error"] in done.stderr
        assert "Traceback" not in done.stderr


def test_verbose_shows_where_an_error_arose_and_not_with_quiet(tmp_path):
    (tmp_path / "bad.toml").write_text("rounds = -1\n")
    done = process("plan", str(tmp_path / "bad.toml"), "-v")
    assert "Traceback" in done.stderr and done.stderr.splitlines()[-1].startswith("securepfl: ")
    both = process("plan", str(tmp_path / "bad.toml"), "-v", "-q")
    assert both.returncode == 2 and "leave one out" in both.stderr


# How much is said, and how wide


def test_verbose_in_a_pipe_is_a_line_a_round(here):
    words = ["run", "federation.toml", "--data", "rows.csv", "--seed", "1"]
    told = CliRunner().invoke(cli, [*words, "--out", "told", "-v"])
    assert re.search(r"^round 2/2: 4 of 4 hospitals trained, epsilon at most \S+, [\d,]+ bytes", told.stderr, re.M)
    assert "hospitals take the model" not in told.stderr and told.stderr.splitlines()[-1] == "wrote told"
    shown = [told.stdout, told.stderr, *(path.read_text() for path in (here / "told").rglob("*.html"))]
    shown += [path.read_text() for place in ("told", "ledgers") for path in (here / place).rglob("*.json*")]
    assert len(shown) > 8 and all("QX0" not in text for text in shown), "a patient's identifier"


@pytest.mark.parametrize("columns", [50, 80])
def test_a_pipe_is_as_wide_as_columns_says(columns, here, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    words = ["audit", "budget", "run/ledger/north.snapshot.jsonl"]
    lines = CliRunner().invoke(cli, words).stdout.splitlines()
    caveats = [line for line in lines if len(line) > columns]
    assert len(lines) > 10 and all(line.startswith(("a simulation's", "a snapshot")) for line in caveats)
    for name in EVERY:
        command = command_of(name)
        shown = command.get_help(command.context_class(command, info_name=f"securepfl {name}", terminal_width=columns))
        wide = [line for line in shown.splitlines() if len(line) > columns]
        assert [line for line in wide if len(line.split()) > 1] == [], "only a word by itself may be wider"


def test_no_word_of_any_table_is_broken_however_narrow_the_screen(here):
    """The closing tables, at the width of a phone and of two windows side by side."""
    result = json.loads((here / "run" / "result.json").read_text())
    for columns in (40, 50, 80):
        text = io.StringIO()
        console = ReadableConsole(file=text, width=columns, color_system=None)
        closing_output(console, result | {"notes": [], "verdict": []})
        said = text.getvalue()
        assert max(map(len, said.splitlines())) <= columns
        words = set(re.findall(r"[a-z]+", said))
        assert {"personalised", "accuracy", "specificity", "epsilon", "majority", "calibration"} <= words
        assert words <= set(re.findall(r"[a-z]+", wide_output(result))), "a piece of a word"


def wide_output(result):
    text = io.StringIO()
    for columns in (100, 300):
        closing_output(ReadableConsole(file=text, width=columns, color_system=None), result)
    return text.getvalue()


# Options by the environment


def test_an_option_may_come_from_the_environment_and_the_command_line_has_the_last_word(here, monkeypatch):
    monkeypatch.setenv("SECUREPFL_PLAN_EPSILON", "3.5")
    spent = [
        json.loads(CliRunner().invoke(cli, ["plan", "federation.toml", "--json", *more]).stdout)["result"]["epsilon"]
        for more in ((), ("--epsilon", "2.5"))
    ]
    assert spent == [3.5, 2.5]
    monkeypatch.setenv("SECUREPFL_PLAN_JSON", "1")
    assert json.loads(CliRunner().invoke(cli, ["plan", "federation.toml"]).stdout)["command"] == "plan"


def test_a_wrong_value_from_the_environment_is_named_as_what_it_is(here, monkeypatch):
    monkeypatch.setenv("SECUREPFL_RUN_ROUNDS", "many")
    done = CliRunner().invoke(cli, ["run"])
    assert done.exit_code == 2 and "--rounds" in done.output


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("RUN_SEED", ["run"]),
        ("RUN_EPSILON", ["run"]),
        ("RUN_PLAINTEXT", ["run"]),
        ("RUN_TRACK_PRIVATE", ["run", "--track", "tensorboard:curves"]),
        ("JOIN_SEED", ["join", "federation.toml", "--data", "d", "--folder", "f", "--hub", "https://h"]),
        ("AUDIT_WITHDRAW_YES", ["audit", "withdraw", "federation.toml", "--data", "rows.csv", "--site", "Mainz"]),
    ],
)
def test_the_environment_takes_no_protection_away_and_spends_nothing(here, monkeypatch, variable, words):
    monkeypatch.setenv(f"SECUREPFL_{variable}", "1")
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 2 and f"SECUREPFL_{variable}: --" in done.output, done.output
    assert not Path("runs").exists() and "--seed" in CliRunner().invoke(cli, ["join", "--help"]).output


def test_what_the_environment_decided_is_told(here, monkeypatch):
    monkeypatch.setenv("SECUREPFL_PLAN_EPSILON", "3.5")
    assert (
        "note: as the environment says: SECUREPFL_PLAN_EPSILON"
        in CliRunner().invoke(cli, ["plan", "federation.toml"]).stderr
    )


def test_the_version_of_an_image_does_not_make_every_command_tell_its_own(monkeypatch):
    monkeypatch.setenv("SECUREPFL_VERSION", "0.1.0")
    assert "Usage: " in CliRunner().invoke(cli, ["run", "--help"]).output


def test_no_option_takes_a_secret():
    """Environment, help and errors show values: a secret comes from a file or is asked for."""
    for name in EVERY:
        for its in command_of(name).params:
            shows = not getattr(its, "is_flag", False) and not its.name.endswith("_file")
            assert not (shows and re.search("pass|secret|token|private", its.name)), name


def test_completion_is_answered_at_once():
    words = {"COMP_WORDS": "securepfl audit b", "COMP_CWORD": "2", "_SECUREPFL_COMPLETE": "bash_complete"}
    code = "import sys; sys.argv = ['securepfl']; from securepfl.cli.main import main; main()"
    before = time.process_time()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=words, check=False)
    assert done.stdout == "plain,budget\n", done.stderr
    assert time.process_time() - before < 5


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_as_the_page_says(tmp_path):
    """The page's line in a real bash, and what the tab key calls there."""
    (line,) = re.findall(r"bash [^|]*\|[^|]*\| `(eval .*?)` \|", PAGE.read_text())
    program = tmp_path / "securepfl"
    program.write_text(f"#!{sys.executable}\nfrom securepfl.cli.main import main\nmain()\n")
    program.chmod(0o755)
    script = f'''PATH="{tmp_path}:$PATH"; {line}
        complete -p securepfl; COMP_WORDS=(securepfl init x --kind ""); COMP_CWORD=4
        _securepfl_completion securepfl; echo "${{COMPREPLY[@]}}"'''
    done = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[0].endswith("-F _securepfl_completion securepfl"), done.stderr
    assert done.stdout.splitlines()[1] == "table images segmentation"
