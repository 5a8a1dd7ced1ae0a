"""docs/start.md, from an empty folder on: the run that it begins is stopped, and goes on where the page says so."""

import json
import os
import re
import signal
import stat
import subprocess

import pytest
from click.testing import CliRunner
from forked import python
from page_machines import Machines, cheap_keys
from pages import DOCS, blocks_of
from ports import free_port
from served import Served, until

from securepfl.cli.main import cli
from securepfl.storage.unfinished import UNFINISHED

HERE = "tests/docs/test_start.py"
LAY_OUT, TRY_IT, OWN, REAL, RESUMED = (block for block in blocks_of(DOCS / "start.md") if block.elsewhere == HERE)
PARTIES = ("coordinator", "north", "Klinikum Süd", "west")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the page's first command lays out; of its rounds two."""
    machines = Machines(tmp_path_factory.mktemp("start"), shared=True)
    machines.block(LAY_OUT)
    folder = machines.root / "heart"
    settings = folder / "federation.toml"
    settings.write_text(f"rounds = 2\n{settings.read_text()}")
    return folder


def test_what_is_laid_out_runs_is_stopped_and_goes_on(folder):
    change, run = TRY_IT.commands()
    assert change == f"cd {folder.name}"
    machines = Machines(folder, shared=True)
    with (folder / "stopped.log").open("w") as log:
        words = machines.words("", run)
        began = subprocess.Popen([*python(), "-m", "securepfl", *words], cwd=folder, stdout=log, stderr=log)
    until(lambda: list((folder / "runs").glob(f"*/{UNFINISHED}/asked.json")) or began.poll() is not None)
    began.send_signal(signal.SIGKILL)
    assert began.wait(30) == -signal.SIGKILL, (folder / "stopped.log").read_text()
    machines.block(RESUMED)
    (result,) = (folder / "runs").glob("*/result.json")
    told = json.loads(result.read_text())
    assert set(told["sites"]) == set(PARTIES[1:]) and told["federation"]["rounds"] == 2


def test_its_own_data_are_looked_at_and_planned(folder):
    columns, plan, settings = (Machines(folder, shared=True).run("", line) for line in OWN.commands())
    assert columns.startswith("# Columns of north.csv, hospital north") and "no row was read" in plan
    assert re.search(r"^# .*digest", settings, re.MULTILINE | re.IGNORECASE)


@pytest.fixture
def parties(folder, tmp_path, monkeypatch):
    """The scripts of the folder, of which each `securepfl` is written down, and then called here."""
    cheap_keys(monkeypatch)
    log = tmp_path / "log"
    (tmp_path / "securepfl").write_text(f"#!/bin/sh\nprintf '%s\\0' \"$@\" >> {log}\n")
    (tmp_path / "securepfl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("HUB", f"https://localhost:{free_port()}")
    monkeypatch.setenv("PRIVATE", str(tmp_path / "private"))
    monkeypatch.setenv("EXCHANGE", str(tmp_path / "exchange"))
    monkeypatch.chdir(folder)

    def words(line):
        log.unlink(missing_ok=True)
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return log.read_text().split("\0")[:-1]

    return words


def at(party, line):
    """A step of the page at another party than north."""
    script = "./coordinator.sh" if party == "coordinator" else f"./hospital.sh '{party}'"
    return line.replace("./hospital.sh north", script)


def test_each_step_of_the_real_thing_is_one_line_at_each_party(parties, folder, tmp_path):
    check, create, enrol, certificate, join = REAL.commands()
    secret = tmp_path / "passphrase"
    secret.write_text("five words drawn at random\n")
    secret.chmod(stat.S_IRUSR)

    def call(party, line, *more):
        words = [*parties(at(party, line)), *more]
        done = CliRunner().invoke(cli, words, input="y\n" * 9)
        assert done.exit_code == 0, (words, done.output, done.exception)
        return done.output

    call("north", check)
    file = ("--passphrase-file", str(secret))
    heard = {party: re.search(r"\w{4}(?:-\w{4}){7}", call(party, create, *file))[0] for party in PARTIES}
    told = {}
    for party in ("north", "coordinator", *PARTIES[2:], *PARTIES[1:]):  # north is the steward, by settings.sh
        phone = () if party == "north" else ("--fingerprint", f"north={heard['north']}")
        told[party] = call(party, enrol, *file, *phone)  # north's answers are typed
    assert all("complete" in text for text in told.values())
    for party in PARTIES * 2:
        told[party] = call(party, certificate, *file)
    assert all("valid until" in text for text in told.values())
    serve = [*parties(at("coordinator", join.replace("join", "serve"))), *file]
    started = [Served((*serve, "--host", "127.0.0.1"))]
    started += [Served((*parties(at(party, join)), *file, "--seed", "1", "--device", "cpu")) for party in PARTIES[1:]]
    try:
        assert [its.end(120)[0] for its in started] == [0] * 4
    finally:
        for its in started:
            its.__exit__()
    assert len(list((tmp_path / "private").glob("*/run/result.json"))) == 3
