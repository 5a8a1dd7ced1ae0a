"""What is printed where the stream lacks the character, the disk is full, or the reader has gone."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from forked import python
from small_run import NAMES, call, prepare

from securepfl.cli.consoles import ReadableConsole
from securepfl.cli.main import cli
from securepfl.cli.output import readable
from securepfl.crypto.keys.signing import ledger_verifier
from securepfl.privacy.ledger.summary import verify_ledger

RUN = ("run", "federation.toml", "--data", "rows.csv", "--out")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(folder, process) of a run whose stdout was full and whose stderr had no reader."""
    folder = prepare(tmp_path_factory.mktemp("finished"))
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        read, write = os.pipe()
        os.close(read)
        done = call(folder, *RUN, "out", stdout=full, stderr=write)
        os.close(write)
    return folder, done


def without_traceback(done):
    assert b"Traceback" not in done.stderr and b"defect" not in done.stderr and b"ignored" not in done.stderr
    return done


# Encodings


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_what_an_encoding_lacks_is_shown_as_an_escape(encoding):
    shown = readable("Köln 北京", encoding)
    assert shown.encode(encoding) and shown.endswith(" \\u5317\\u4eac")
    assert shown.startswith("K\\u00f6ln" if encoding == "ascii" else "Köln")


def test_what_steers_a_terminal_is_escaped_and_what_scripts_need_is_not():
    assert readable("\x1b[2J\u202eevil\x07", "utf-8") == "\\u001b[2J\\u202eevil\\u0007"
    assert readable("می\u200cخواهم\n👩\u200d⚕", "utf-8") == "می\u200cخواهم\n👩\u200d⚕"
    assert readable("\udcff", "utf-8") == "\\udcff"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_columns_stay_straight_and_names_are_neither_cut_nor_read_as_codes(encoding, tmp_path):
    from rich.cells import cell_len
    from rich.table import Table

    with (tmp_path / "out").open("w", encoding=encoding, errors="strict") as file:
        table = Table("hospital", "n")
        for name in (*NAMES, "ward :smile: [red]", "a" * 60 + "1", "a" * 60 + "2"):
            table.add_row(name, "1")
        ReadableConsole(file=file, width=90, markup=False, emoji=False).print(table)
        straight = file.tell()
        ReadableConsole(file=file, width=40, markup=False, emoji=False).print(table)
    whole = (tmp_path / "out").read_bytes()
    assert len({cell_len(line) for line in whole[:straight].decode(encoding).splitlines()}) == 1
    text = whole[straight:].decode(encoding)
    assert max(map(cell_len, text.splitlines())) <= 40
    assert ":smile: [red]" in text and "…" not in text and "2026" not in text
    assert text.replace(" ", "").count("a") - text.count("hospital") - text.count("ward") >= 120


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_run_prints_names_that_the_terminal_lacks_and_its_files_are_utf8(encoding, tmp_path):
    done = without_traceback(call(prepare(tmp_path), *RUN, "out", encoding=encoding))
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode(encoding)
    assert ("K\\u00f6ln" if encoding == "ascii" else "Köln") in text and "\\u5317\\u4eac" in text
    done.stderr.decode(encoding)
    result = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
    assert sorted(result["sites"]) == sorted(NAMES)
    assert all(name in (tmp_path / "out" / "report.html").read_text(encoding="utf-8") for name in NAMES)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("route", "out", "--data", "rows.csv"), "K\\u00f6ln"),
        (("audit", "budget", "out/ledger/Köln.snapshot.jsonl"), "K\\u00f6ln"),
        (("audit", "verify", "out/ledger/北京大学.snapshot.jsonl"), "\\u5317"),
        (("data", "ranges", "rows.csv", "--site", "Köln"), "gr\\u00f6\\u00dfe"),
        (("data", "ranges", "rows.csv", "--site", "北"), "\\u5317"),
        (("run", "öä.toml", "--data", "rows.csv"), "\\u00f6\\u00e4.toml"),
        (("bench", "--öä"), "\\u00f6\\u00e4"),
        (("keys", "create", "Köln", "--folder", "k", "--exchange", "x"), "passphrase"),
    ],
)
def test_every_command_prints_in_ascii(words, shown, finished):
    done = without_traceback(call(finished[0], *words, encoding="ascii"))
    assert done.returncode in (0, 2), done.stderr
    assert shown in done.stdout.decode("ascii") + done.stderr.decode("ascii")


def test_json_is_ascii_and_reads_back(tmp_path):
    done = call(prepare(tmp_path), *RUN, "out", "--seed", 1, "--json", encoding="ascii")
    assert json.loads(done.stdout)["result"] == json.loads((tmp_path / "out" / "result.json").read_bytes())


def test_predictions_are_utf8_on_stdout_too(finished):
    done = call(finished[0], "route", "out", "--data", "rows.csv", encoding="utf-16")
    assert len(list(csv.DictReader(done.stdout.decode("utf-8").splitlines()))) == 60 * len(NAMES)


# A full disk, a reader that has gone, streams that were closed


def test_a_run_that_nobody_can_read_is_whole_and_its_ledgers_are_settled(finished):
    folder, done = finished
    assert done.returncode == 2
    assert {path.name for path in (folder / "out").iterdir()} == {
        "coordinator", "experts", "heads.json", "ledger", "report.html", "result.json", "sites"
    }  # fmt: skip
    for name in NAMES:
        summary = verify_ledger(folder / "ledgers" / name / f"{name}.simulated.jsonl", ledger_verifier(None))
        assert summary.unsettled == 0 and [entry.round for entry in summary.rounds][:2] == [1, 2]


QUIET = {
    "--help": ("--help",),
    "--version": ("--version",),
    "ranges": ("data", "ranges", "rows.csv", "--site", "Köln"),
    "verify": ("audit", "verify", "out/ledger/Köln.snapshot.jsonl"),
    "budget": ("audit", "budget", "out/ledger/Köln.snapshot.jsonl"),
    "route": ("route", "out", "--data", "rows.csv"),
    "bench": ("bench", "--size", "500", "--hospitals", "2", "--json"),
}


@pytest.mark.parametrize("command", QUIET)
def test_a_full_disk_under_stdout_is_one_line(command, finished):
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        done = call(finished[0], *QUIET[command], stdout=full)
    last = done.stderr.decode().splitlines()[-1]
    assert done.returncode == 2 and last.startswith("securepfl: standard output cannot be written (No space left")
    assert command == "route" or done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("command", QUIET)
def test_a_reader_that_has_gone_is_no_failure(command, finished):
    read, write = os.pipe()
    os.close(read)
    done = call(finished[0], *QUIET[command], stdout=write)
    os.close(write)
    assert done.returncode == 0 and (done.stderr == b"" or command == "route"), done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_streams_closed_from_the_start_take_no_file_in(closed, finished):
    """What is opened next must not become stdout or stderr, where libraries print."""
    script = f'"$@" {closed}; echo rc $?'
    words = [*python(), "-m", "securepfl", "audit", "budget", "out/ledger/Köln.snapshot.jsonl", "--json"]
    done = subprocess.run(["sh", "-c", script, "sh", *words], cwd=finished[0], capture_output=True, check=False)
    assert done.stdout.endswith(b"rc 0\n") and done.stderr == b""
    code = (
        "import os\nfrom securepfl.cli.output import guarded\n"
        "with guarded(): found = os.open('probe', os.O_CREAT | os.O_WRONLY)\n"
        "open('found', 'w').write(str(found))"
    )
    subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", sys.executable, "-c", code], cwd=finished[0], check=True)
    assert int((finished[0] / "found").read_text()) > 2


def test_a_slow_reader_of_a_pipe_that_does_not_block_gets_everything():
    code = (
        "import os\nfrom securepfl.cli.output import guarded, say\nos.set_blocking(1, False)\n"
        "with guarded() as lost: say('x' * 1_000_000); assert lost() is None"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(0.5)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and len(out) == 1_000_001, err


def test_a_suggestion_that_cannot_be_printed_is_on_disk(finished):
    words = ("suggest", "federation.toml", "--data", "rows.csv", "--site", "Köln", "--run", "out", "--epsilon", "0.5")
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        done = call(finished[0], *words, stdout=full)
    assert done.returncode == 2 and b"No space left" in done.stderr, done.stderr
    (kept,) = (finished[0] / "ledgers" / "Köln").glob("suggestion-*.json")
    assert json.loads(kept.read_text())["epsilon"] <= 0.5


def test_a_suggestions_file_does_not_tell_when_the_answer_came(tmp_path, monkeypatch):
    """Beside the ledger's line that would tell how many candidates were tried (docs/privacy.md)."""
    asked = []

    def slow(*_):
        asked.append(time.time())
        time.sleep(1.1)
        return {"sentence": "none"}

    monkeypatch.setattr("securepfl.runtime.suggesting.suggest", slow)
    (tmp_path / "out").mkdir()
    files = [tmp_path / name for name in ("federation.toml", "rows.csv")]
    for file in files:
        file.touch()
    words = ["suggest", files[0], "--data", files[1], "--site", "A", "--run", tmp_path / "out", "--epsilon", "1"]
    assert CliRunner().invoke(cli, list(map(str, words)), catch_exceptions=False).exit_code == 0
    (kept,) = Path(os.environ["SECUREPFL_LEDGERS"], "A").glob("suggestion-*.json")
    named = datetime.strptime(kept.stem, "suggestion-%Y%m%d-%H%M%S").replace(tzinfo=UTC)
    assert named.timestamp() <= asked[0]


# Ctrl-C and SIGTERM


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_run_that_is_stopped_keeps_its_folder_and_says_how_to_go_on(number, code, tmp_path):
    prepare(tmp_path, rounds=400)
    process = subprocess.Popen(
        [*python(), "-m", "securepfl", *RUN, "out", "--ledgers", "ledgers"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    ledger, deadline = tmp_path / "ledgers" / "Köln" / "Köln.simulated.jsonl", time.monotonic() + 200
    while not (ledger.exists() and ledger.read_bytes().count(b"settlement") > 2):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code and out == b"", err
    last = err.decode().splitlines()[-1]
    assert last == "securepfl: interrupted; go on with `securepfl run --resume out`"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["federation.toml", "ledgers", "out", "rows.csv"]
    assert (tmp_path / "out" / "unfinished" / "asked.json").exists() and not (tmp_path / "out" / "result.json").exists()
    assert verify_ledger(ledger, ledger_verifier(None)).epsilon > 0
