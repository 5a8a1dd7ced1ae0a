"""`securepfl doctor`: each thing that stops work is found, with what to do about it; what is well says so."""

import json
import os
import shlex
import socket
import time

import pytest
import torch
from click.testing import CliRunner
from enrolled import NAMES, enrol_all
from pages import DOCS, blocks_of

from securepfl.cli.main import cli
from securepfl.runtime.doctor import encryption
from securepfl.runtime.doctor.finding import Finding
from securepfl.runtime.scaffold.wanted import Wanted
from securepfl.runtime.scaffold.writing import write_scaffold

MODELS = """
from torch import nn
def normed():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 1))
def fit():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(4, 1))
def bagged():
    return nn.EmbeddingBag(10, 3)
def text():
    return "no model"
def broken():
    return 1 / 0
"""


@pytest.fixture(autouse=True)
def in_short(monkeypatch):
    monkeypatch.setattr(encryption, "_SECONDS", 0.0)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return enrol_all(tmp_path_factory.mktemp("world"))


def examined(*words):
    """The exit code, and the findings by what they are about."""
    done = CliRunner().invoke(cli, ["doctor", "--json", *map(str, words)])
    assert done.exit_code in (0, 2), (done.output, done.exception)
    told = json.loads(done.stdout)["result"]
    assert told["ready"] == (done.exit_code == 0)
    found = {}
    for entry in told["findings"]:
        found.setdefault(entry["what"], []).append(Finding(**entry))
    return done.exit_code, found


def failed(found):
    return {what for what, entries in found.items() if any(entry.state == "failed" for entry in entries)}


def test_a_machine_that_is_ready_says_so(world):
    code, found = examined(world.config, "--device", "cpu")
    assert code == 0 and not failed(found)
    assert {"python", "torch", "opacus", "tenseal", "device", "encryption", "disk", "ledgers", "clock"} <= set(found)
    assert "exact" in found["encryption"][0].told and "Linear" in found["layers"][0].told
    assert "3 hospitals" in found["settings"][0].told and found["model"][0].state == "ok"


def test_the_command_of_the_page_runs_in_a_new_federation(tmp_path, monkeypatch):
    """docs/start.md."""
    (block,) = (block for block in blocks_of(DOCS / "start.md") if block.elsewhere == "tests/cli/test_doctor.py")
    write_scaffold(Wanted("heart", "table", ("a", "b", "c"), "death"), tmp_path / "heart")
    monkeypatch.chdir(tmp_path / "heart")
    (line,) = block.commands()
    done = CliRunner().invoke(cli, shlex.split(line)[1:])
    assert done.exit_code == 0 and done.stdout.splitlines()[-1] == "nothing that was looked at stops a run", done.stdout


def test_people_read_a_line_a_finding_with_the_remedy_below(tmp_path):
    done = CliRunner().invoke(cli, ["doctor", str(tmp_path / "none.toml")])
    lines = done.stdout.splitlines()
    (place,) = (number for number, line in enumerate(lines) if line.startswith("FAILED"))
    assert "none.toml: cannot be read" in lines[place] and lines[place + 1].strip().startswith("->")
    assert done.exit_code == 2 and lines[-1].startswith("1 of ")


@pytest.mark.parametrize(
    ("name", "what", "told", "remedy"),
    [
        ("normed", "layer 1", "BatchNorm2d makes records depend", "GroupNorm"),
        ("bagged", "layer the model itself", "EmbeddingBag has no per-record gradients", "use Embedding"),
        ("text", "model", "gives str and no torch module", "builds the model"),
        ("broken", "model", "ZeroDivisionError: division by zero", "mend it"),
        ("absent", "model", "no torch module", "builds the model"),
    ],
)
def test_a_model_that_does_not_train_privately_is_told_what_to_change(tmp_path, name, what, told, remedy):
    (tmp_path / "models.py").write_text(MODELS)
    code, found = examined("--model", f"{tmp_path}/models.py:{name}", "--device", "cpu")
    (entry,) = (entry for entry in found[what] if entry.state == "failed")
    assert code == 2 and failed(found) == {what} and told in entry.told and remedy in entry.remedy
    if name == "normed":
        assert "replace_unsupported(model) mends all" in found["model"][0].told
        assert "Conv2d, Linear" in found["layers"][0].told


def test_a_model_that_trains_privately_is_ready(tmp_path):
    (tmp_path / "models.py").write_text(MODELS)
    assert examined("--model", f"{tmp_path}/models.py:fit")[1]["model"][0].state == "ok"
    assert "no such place" in examined("--model", "models")[1]["model"][0].told


def test_settings_that_are_wrong_stop_no_other_check(world, tmp_path):
    path = tmp_path / "federation.toml"
    path.write_text(world.config.read_text().replace("rounds", "ronds", 1))
    _, found = examined(path)
    assert failed(found) == {"settings"} and "unknown key `ronds`" in found["settings"][0].told and "clock" in found


def test_keys_are_looked_at_with_and_without_their_passphrase(world):
    folder = world.folder(NAMES[0])
    code, found = examined(world.config, "--folder", folder)
    assert code == 0 and [entry.state for entry in found["keys"]] == ["ok", "note"]
    code, found = examined(world.config, "--folder", folder, "--passphrase-file", world.secret)
    assert "epoch 0 of 3 hospitals" in found["enrolment"][0].told
    assert failed(found) == {"certificate"} and "keys certificate" in found["certificate"][0].remedy
    private = folder / "keys" / "private"
    private.chmod(0o640)
    try:
        _, found = examined("--folder", folder)
        assert "mode 640" in found["keys"][0].told and found["keys"][0].remedy == f"chmod 600 '{private}'"
    finally:
        private.chmod(0o600)


def test_a_folder_without_keys_and_keys_of_other_hospitals(world, tmp_path):
    assert "no keys here" in examined("--folder", tmp_path)[1]["keys"][0].told
    other = tmp_path / "federation.toml"
    other.write_text(world.config.read_text().replace(NAMES[1], "elsewhere"))
    _, found = examined(other, "--folder", world.folder(NAMES[0]), "--passphrase-file", world.secret)
    assert "other hospitals" in found["enrolment"][0].told


def test_a_wrong_passphrase_is_a_finding_and_no_secret_is_shown(world, tmp_path):
    wrong = tmp_path / "wrong"
    wrong.write_text("another battery staple\n")
    wrong.chmod(0o600)
    _, found = examined("--folder", world.folder(NAMES[0]), "--passphrase-file", wrong)
    assert failed(found) == {"keys"} and "staple" not in str(found)


def test_a_hub_that_is_not_there(world):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        code, found = examined("--hub", f"https://127.0.0.1:{nobody.getsockname()[1]}")
    assert code == 2 and "cannot be reached" in found["hub"][0].told and "securepfl serve" in found["hub"][0].remedy
    assert "https://HOST:PORT" in str(examined("--hub", "http://hub")[1]["hub"][0])


def test_a_clock_that_is_behind_and_a_disk_that_takes_nothing(world, tmp_path):
    late = tmp_path / "federation.toml"
    late.write_text(world.config.read_text())
    os.utime(late, (time.time() + 10 * 86400,) * 2)
    _, found = examined(late, "--ledgers", "/proc/ledgers")
    assert failed(found) == {"clock", "ledgers"} and str(late) in found["clock"][0].told


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_that_is_asked_for_and_absent():
    code, found = examined("--device", "cuda")
    assert code == 2 and failed(found) == {"device"} and "finds no CUDA device" in found["device"][0].told
