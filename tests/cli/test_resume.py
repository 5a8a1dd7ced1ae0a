"""A run that was killed, stopped or failed goes on from its folder, and ends as if nothing had been.

Lives are processes of their own, killed (SIGKILL) before a chosen fsync or rename, or at random moments. What must
hold is compared with a run that nothing happened to: seeded runs end with the same result in all but seconds.
`SECUREPFL_KILLS` (default 2) says how many kills a test takes.
"""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from forked import python
from small_run import NAMES, prepare

from securepfl.cli.main import cli
from securepfl.crypto.keys.signing import ledger_verifier
from securepfl.privacy.ledger.summary import verify_ledger
from securepfl.storage.folder import lock_folder
from securepfl.storage.unfinished import UNFINISHED

KILLS = int(os.environ.get("SECUREPFL_KILLS", "2"))
MOST_LIVES = 6
ROUNDS = 3
RUN = ("run", "federation.toml", "--data", "rows.csv")
MASKED = {'scheme = "none"': 'scheme = "lean"\nmasking = "pairwise"'}
ALONE = "[coupling]\nstrength = 0.0\n[similarity]\nevery = 0\n"


class Lives:
    """Calls of `securepfl` in `folder`, each a process that may be killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        script = Path(__file__).parents[1] / "killed_run.py"
        self._process = subprocess.Popen(
            [*python(), script, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "SECUREPFL_LEDGERS": str(folder / "ledgers")},
        )

    def call(self, *arguments: object, **end: object) -> tuple[int, int, str]:
        """(exit status, fsyncs and renames, stderr); `end` says when it is killed."""
        self._process.stdin.write(json.dumps({"arguments": list(map(str, arguments)), **end}) + "\n")
        self._process.stdin.flush()
        return tuple(json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()

    def unfinished(self, name: str) -> bool:
        return (self.folder / name / UNFINISHED / "asked.json").exists()

    def result(self, name: str) -> dict:
        found = json.loads((self.folder / name / "result.json").read_text())
        found.pop("seconds"), found.pop("written")
        return found


@pytest.fixture(params=["plain", "masked"])
def lives(request, tmp_path):
    prepare(tmp_path, rounds=ROUNDS)
    if request.param == "masked":
        text = (tmp_path / "federation.toml").read_text()
        for old, new in MASKED.items():
            text = text.replace(old, new)
        (tmp_path / "federation.toml").write_text(text.replace("[privacy]", ALONE + "[privacy]"))
    made = Lives(tmp_path)
    yield made
    made.close()


@pytest.fixture
def plain(tmp_path):
    made = Lives(prepare(tmp_path, rounds=ROUNDS))
    yield made
    made.close()


def lived_through(lives, name, draw, writes, seconds, *options):
    """A run that is killed at random, and gone on with until it has ended: how often it was killed."""
    for killed in range(MOST_LIVES + 1):
        words = ("run", "--resume", name) if (lives.folder / name).exists() else (*RUN, "--out", name, *options)
        end = (
            {"write": int(draw.integers(1, writes + 1))}
            if draw.random() < 0.7
            else {"seconds": draw.uniform(0, seconds)}
        )
        code, _, said = lives.call(*words, **({} if killed == MOST_LIVES else end))
        if code == 0:
            return killed
        assert code == -signal.SIGKILL or "has ended" in said, said
        if code != -signal.SIGKILL:
            return killed
    raise AssertionError("never ended")


def test_a_seeded_run_that_is_killed_at_random_ends_as_one_that_is_not(lives):
    began = time.monotonic()
    code, writes, said = lives.call(*RUN, "--out", "whole", "--seed", 5)
    assert code == 0, said
    seconds, draw, kills, number = time.monotonic() - began, np.random.default_rng(), 0, 0
    while kills < KILLS:
        number += 1
        name = f"killed{number}"
        kills += lived_through(lives, name, draw, writes, seconds, "--seed", 5)
        assert lives.result(name) == lives.result("whole")
        assert not [path for path in (lives.folder / name).iterdir() if UNFINISHED in path.name]
        for path in (lives.folder / name / "ledger").glob("*/*.jsonl"):
            assert verify_ledger(path, ledger_verifier(None)).releases.__len__() == ROUNDS


def test_an_unseeded_run_that_is_killed_spends_each_round_once_and_draws_no_second_noise(plain):
    code, writes, said = plain.call(*RUN, "--out", "whole", "--ledgers", "first")
    assert code == 0, said
    spent = {name: site["privacy"]["epsilon"] for name, site in plain.result("whole")["sites"].items()}
    draw, kills, number = np.random.default_rng(), 0, 0
    while kills < KILLS:
        number += 1
        kills += lived_through(plain, f"killed{number}", draw, writes, 5.0, "--ledgers", f"ledgers{number}")
        result = plain.result(f"killed{number}")
        for name in NAMES:
            site, (ledger,) = result["sites"][name], (plain.folder / f"ledgers{number}" / name).glob("*.jsonl")
            lines = [json.loads(line) for line in ledger.read_text().splitlines()]
            reserved = [line["round"] for line in lines if line["kind"] == "reservation"]
            assert sorted(reserved) == list(range(1, ROUNDS + 1)), "each round once, none forgotten"
            assert site["privacy"]["epsilon"] == pytest.approx(spent[name], rel=1e-9)
            lost = [line["round"] for line in lines if line["kind"] == "reservation"] if site["sat_out"] else []
            assert set(site["sat_out"]) <= set(lost), "who sat a round out had reserved it before it was killed"


def test_a_stopped_run_goes_on_where_it_was_and_shows_so(plain):
    code, writes, _ = plain.call(*RUN, "--out", "whole", "--seed", 5)
    assert code == 0
    assert plain.call(*RUN, "--out", "out", "--seed", 5, write=4 * writes // 5)[0] == -signal.SIGKILL
    code, _, said = plain.call("run", "-v", "--resume", "out")
    assert code == 0 and f"round 1/{ROUNDS}" not in said and f"round {ROUNDS}/{ROUNDS}" in said, said
    assert plain.result("out") == plain.result("whole")


def test_what_does_not_fit_is_refused_in_a_line(plain):
    folder = plain.folder
    _, writes, _ = plain.call(*RUN, "--out", "whole", "--seed", 5)
    assert plain.call(*RUN, "--out", "out", "--seed", 5, write=writes // 2)[0] == -signal.SIGKILL

    def refused(*words):
        code, _, said = plain.call(*words)
        assert code == 2 and len(said.strip().splitlines()) == 1, said
        return said

    assert "this run has ended" in refused("run", "--resume", "whole")
    assert "these wait to go on: out" in refused("run", "--resume", ".")
    assert "no such folder" in refused("run", "--resume", "nowhere")
    assert "leave out --seed" in refused("run", "--resume", "out", "--seed", 5)
    assert "leave out --out, and name its folder: --resume DIR" in refused("run", "--resume", "--out", "out")
    assert "leave out CONFIG" in refused("run", "federation.toml", "--resume", "out")
    assert "go on with `securepfl run --resume out`" in refused(*RUN, "--out", "out")
    config, rows = (folder / "federation.toml").read_text(), (folder / "rows.csv").read_text()
    (folder / "federation.toml").write_text(config.replace("budget = 100.0", "budget = 90.0"))
    assert "federation.toml: [privacy] budget changed" in refused("run", "--resume", "out")
    (folder / "federation.toml").write_text(config)
    (folder / "rows.csv").write_text(rows.rsplit("\n", 2)[0] + "\n")
    assert "the rows of Mainz changed" in refused("run", "--resume", "out")
    (folder / "rows.csv").write_text(rows)
    (folder / "out" / UNFINISHED / "keys").chmod(0o640)
    assert "chmod 600" in refused("run", "--resume", "out")
    (folder / "out" / UNFINISHED / "keys").chmod(0o600)
    assert plain.call("run", "--resume", "out")[0] == 0 and plain.result("out") == plain.result("whole")


def test_two_at_once_are_refused_and_the_only_one_needs_no_name(plain):
    _, writes, _ = plain.call(*RUN, "--out", "whole", "--seed", 5)
    assert plain.call(*RUN, "--out", "runs/out", "--seed", 5, write=writes // 2)[0] == -signal.SIGKILL
    out = plain.folder / "runs" / "out"

    def standing():
        done = CliRunner().invoke(cli, ["status", str(out)])
        assert done.exit_code == 0, done.output
        return done.output

    assert re.search(r": stopped in round \d\ngo on with: securepfl run --resume ", standing())
    with lock_folder(out / UNFINISHED):
        assert re.search(r": running in round \d\n$", standing())
        code, _, said = plain.call("run", "--resume", "runs/out")
        assert code == 2 and "in use by another process" in said
    assert plain.call("run", "--resume")[0] == 0, "the one in runs that waits"
    assert "finished" in standing()
    code, _, said = plain.call("run", "--resume")
    assert code == 2 and "runs: no run that was stopped lies there" in said
