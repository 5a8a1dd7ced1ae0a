"""`securepfl init`: what it lays out is whole, runs as it stands, and takes nobody's file."""

import os
import pty
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from securepfl.cli.main import cli
from securepfl.data.loading import load_sites
from securepfl.runtime.scaffold import pictures
from securepfl.runtime.scaffold.wanted import Wanted
from securepfl.runtime.scaffold.writing import write_scaffold
from securepfl.settings.federation import Federation

NAMES = ("north", "Klinikum Süd", "St. Anna's", "東京 $x")
FLAGS = ("--kind", "table", *(word for name in NAMES for word in ("--hospital", name)), "--outcome", "größe, cm")
FILES = {
    ".gitignore",
    "README.md",
    "coordinator.sh",
    "data",
    "federation.toml",
    "hospital.sh",
    "rehearse.sh",
    "settings.sh",
}


def invoke(*words):
    return CliRunner().invoke(cli, list(map(str, words)))


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place") / "été 'one'"
    done = invoke("init", folder, *FLAGS)
    assert done.exit_code == 0, done.output
    return folder


def test_it_names_the_next_commands_and_all_files_are_there(laid_out):
    assert {path.name for path in laid_out.iterdir()} == FILES
    assert {path.stem for path in (laid_out / "data").iterdir()} == set(NAMES)
    texts = {path.name: path.read_text() for path in laid_out.iterdir() if path.is_file()}
    assert not [name for name, text in texts.items() if "%%" in text]
    assert max(len(line) for line in texts["federation.toml"].splitlines()) <= 120


def test_a_plan_of_it_reads_no_row(laid_out, monkeypatch):
    monkeypatch.chdir(laid_out)
    assert invoke("plan", "federation.toml").exit_code == 0


def called(folder, script, *words):
    """The words of each `securepfl` that a script calls, on a machine whose securepfl only writes them down."""
    tools, log = folder / "tools", folder / "log"
    tools.mkdir(exist_ok=True)
    (tools / "securepfl").write_text(
        f"#!/bin/sh\nprintf '%s\\0' \"$@\" >> {shlex.quote(str(log))}\necho >> {shlex.quote(str(log))}\n"
    )
    (tools / "securepfl").chmod(0o755)
    log.unlink(missing_ok=True)
    env = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"}
    done = subprocess.run([script, *words], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [line.split("\0")[:-1] for line in log.read_text().splitlines()]


@pytest.mark.parametrize(
    ("party", "step", "command"),
    [
        *(((name,), step, step) for name in NAMES for step in ("create", "enrol", "certificate", "join", "status")),
        *(((), step, step) for step in ("create", "enrol", "certificate", "serve", "status")),
        (("north",), "check", "doctor"),
        ((), "check", "doctor"),
    ],
)
def test_each_step_of_a_script_is_a_command_that_there_is(laid_out, tmp_path, party, step, command):
    script = laid_out / ("hospital.sh" if party else "coordinator.sh")
    (words,) = called(tmp_path, script, *party, step)
    found, context = cli, click.Context(cli)
    while isinstance(found, click.Group):
        name = words.pop(0)
        found = found.get_command(context, name)
        context = click.Context(found, parent=context)
    assert name == command
    with pytest.MonkeyPatch.context() as here:  # options and files that must exist are looked at, nothing is done
        here.chdir(laid_out)
        parsed = found.make_context(name, words).params
    if step == "create" and party:
        assert parsed["name"] == party[0]
    if step in ("serve", "join"):
        assert parsed.get("port", 8443) == 8443 and parsed.get("hub", "https://hub.example.org:8443")[-4:] == "8443"
    if party and step != "check":
        assert parsed["folder"].name == party[0]


@pytest.mark.parametrize("script", ["hospital.sh", "coordinator.sh"])
def test_a_script_without_a_step_says_what_there_is(laid_out, script):
    done = subprocess.run([laid_out / script, "north"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and f"./{script}" in done.stdout and not done.stderr


def test_made_up_images_are_whole(tmp_path):
    pytest.importorskip("PIL")
    write_scaffold(Wanted("images", "images", ("a", "b", "c"), 'found, "yes"'), tmp_path / "new")
    federation = Federation.read(tmp_path / "new" / "federation.toml")
    tables = load_sites(tmp_path / "new" / "data", federation.data_spec)
    assert [len(table) for table in tables.values()] == [160] * 3
    assert {float(table.labels.mean()) for table in tables.values()} == {0.5}


def test_made_up_masks_train_route_and_show(tmp_path, monkeypatch):
    """A real round on what is laid out, and an answer to the folder of a hospital that takes no part."""
    pytest.importorskip("PIL")
    monkeypatch.setattr(pictures, "OUTLINED", 12)
    monkeypatch.chdir(tmp_path)
    names = [word for name in NAMES[:3] for word in ("--hospital", name)]
    assert invoke("init", "new", "--kind", "segmentation", *names).exit_code == 0
    monkeypatch.chdir("new")
    settings = Path("federation.toml").read_text()
    assert (
        "%%" not in settings
        and max(map(len, settings.splitlines())) <= 120
        and "route runs/first" in Path("README.md").read_text()
    )
    tables = load_sites(Path("data"), Federation.read(Path("federation.toml")).data_spec)
    covered = [float(table.labels[:, 0].mean()) for table in tables.values()]
    assert all(0.05 < share < 0.2 for share in covered) and {len(table) for table in tables.values()} == {12}
    for large, small in (
        ("units = 80", "units = 8"),
        ("hidden = 4", "hidden = 1"),
        ("[32, 32]", "[16, 16]"),
        ("finetuning = 2", ""),
    ):
        settings = settings.replace(large, small)
    Path("federation.toml").write_text(settings)
    done = invoke("run", "--rounds", 1, "--plaintext", "--out", "runs/first", "--ledgers", "runs/ledgers")
    assert done.exit_code == 0, (done.output, done.exception)
    done = invoke("route", "runs/first", "--data", "unseen", "--out", "runs/unseen")
    assert done.exit_code == 0, (done.output, done.exception)
    assert "data:image/jpeg;base64" in Path("runs/unseen/report.html").read_text()
    assert len(list(Path("runs/unseen/masks").iterdir())) == 6


def test_a_column_of_outcomes_goes_with_no_masks(tmp_path):
    flags = ("--kind", "segmentation", "--hospital", "a", "--hospital", "b", "--hospital", "c")
    done = invoke("init", tmp_path / "new", *flags, "--outcome", "ill")
    assert "masks say what is learned" in str(done.exception) and not list(tmp_path.iterdir())


def test_nothing_is_ever_overwritten(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("folder", "file", "link"):
        done = invoke("init", tmp_path / name, *FLAGS)
        assert "is there already" in str(done.exception) and done.exit_code == 1
    assert (tmp_path / "file").read_text() == "mine" and not list((tmp_path / "folder").iterdir())
    done = invoke("init", tmp_path / "file" / "below", *FLAGS)
    assert "cannot be" in str(done.exception) and len(str(done.exception).splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "file", "link"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--hospital", "a", "--hospital", "b"], "a sum needs 3"),
        (["--hospital", "a", "--hospital", "b", "--hospital", "A"], "look alike"),
        (["--hospital", "a", "--hospital", "b", "--hospital", "Coordinator"], "is the coordinator's"),
        (["--hospital", "a", "--hospital", "b", "--hospital", "c/d"], "cannot be a file name"),
        (["--hospital", "a", "--hospital", "b", "--hospital", "-c"], "no . or - first"),
        (["--hospital", "a", "--hospital", "b", "--hospital", "c", "--outcome", "age"], "a column of its own"),
        (["--hospital", "a", "--hospital", "b", "--hospital", "c", "--outcome", " "], "a column of its own"),
        (["--hospital", "a", "--hospital", "b", "--hospital", "c", "--name", "two\nlines"], "printable letters"),
    ],
)
def test_names_that_will_not_do_are_refused_and_nothing_is_left(tmp_path, words, told):
    done = invoke("init", tmp_path / "new", "--kind", "table", "--outcome", "ill", *words)
    assert told in str(done.exception) and not list(tmp_path.iterdir())


def test_without_a_terminal_nothing_is_asked(tmp_path):
    done = invoke("init", tmp_path / "new", "--outcome", "ill")
    assert str(done.exception).startswith("no terminal to ask at: give --kind and --hospital, as in")
    assert "\n" not in str(done.exception) and not list(tmp_path.iterdir())


def at_terminal(folder, typed):
    """`securepfl init new` with somebody at a terminal who types this."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "securepfl", "init", "new"],
        cwd=folder,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(theirs)
    os.write(ours, typed)
    out, err = process.communicate(timeout=120)
    os.close(ours)
    return process.returncode, out, err


def test_at_a_terminal_three_questions_are_asked_and_a_wrong_answer_again(tmp_path):
    code, out, err = at_terminal(tmp_path, "tables\ntable\na, b, Köln\n\n".encode())
    assert code == 0 and err.count("hold?") == 2 and "cd new" in out, err
    federation = Federation.read(tmp_path / "new" / "federation.toml")
    assert set(federation.roster) == {"a", "b", "Köln"} and federation.data["label"] == "disease"


def test_whoever_ends_the_questions_gets_no_folder(tmp_path):
    code, _, err = at_terminal(tmp_path, b"table\n\x04")
    assert code == 130 and "interrupted" in err and not list(tmp_path.iterdir())
