"""`securepfl status` beside real processes: one that runs, one that was killed, and folders that hold none."""

import json
import signal
import subprocess
import sys

import pytest
from enrolled import enrol_all
from served import Served

from securepfl.runtime.agent.asking import ask


def status(*words):
    done = subprocess.run(
        [sys.executable, "-m", "securepfl", "status", *map(str, words)], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def told(folder):
    code, out, err = status(folder, "--json")
    assert code == 0, err
    return json.loads(out)["result"]


def test_a_hospital_that_runs_that_was_killed_and_that_was_stopped(tmp_path):
    world = enrol_all(tmp_path)
    path = tmp_path / "s"
    words = ("agent", world.config, "--data", world.data("alder"), "--folder", world.folder("alder"))
    words += ("--socket", path, "--passphrase-file", world.secret, "--ledgers", tmp_path / "ledgers", "--device", "cpu")
    with Served(words).ready(path) as agent:
        ask(path, [b"garbage"])
        now = told(world.out("alder"))
        assert (now["role"], now["party"], now["state"], now["round"], now["rounds"]) == (
            "hospital",
            "alder",
            "running",
            0,
            2,
        )
        assert now["epsilon"] == 0 and now["epsilon_left"] == now["budget"] == 40.0
        assert "truncated" in now["error"]["line"]
        code, out, _ = status(world.folder("alder"))  # the party's own folder does too
        assert code == 0 and "hospital alder of 'enrolled': running" in out and "last error" in out
        assert max(map(len, out.splitlines())) <= 80
        agent.kill().end()
        assert told(world.out("alder"))["state"] == "killed"
        assert "nothing is lost: the same command goes on" in status(world.out("alder"))[1]
    path.unlink()
    with Served(words).ready(path) as agent:
        assert told(world.out("alder"))["state"] == "running"
        code, _, err = agent.kill(signal.SIGINT).end()
        assert code == 130 and err.splitlines()[-1] == "securepfl: interrupted; the same command goes on"
    assert told(world.out("alder"))["state"] == "stopped"


def test_a_folder_of_run_is_finished(tmp_path):
    sites = {"north": {"privacy": {"epsilon": 3.9, "budget": 4.0}, "test": 3}}
    (tmp_path / "result.json").write_text(json.dumps({"federation": {"rounds": 12}, "sites": sites}))
    code, out, _ = status(tmp_path)
    assert code == 0 and "finished" in out and "north" in out and "3.900" in out
    assert told(tmp_path)["sites"] == {"north": {"epsilon": 3.9, "budget": 4.0}}


@pytest.mark.parametrize("name", ["status.json", "result.json"])
@pytest.mark.parametrize("written", ["", "{", "[1]", '{"role": "hub"}', "\x00"])
def test_a_damaged_file_is_one_line(tmp_path, name, written):
    (tmp_path / name).write_text(written)
    code, out, err = status(tmp_path)
    assert (code, out) == (2, "") and "not a file that securepfl wrote whole" in err and len(err.splitlines()) == 1


def test_no_run_is_one_line(tmp_path):
    code, _, err = status(tmp_path)
    assert code == 2 and "holds no run" in err and len(err.splitlines()) == 1
    assert status(tmp_path / "nowhere")[0] == 2


def test_asking_never_holds_up_who_starts(tmp_path):
    """The lock is taken while others ask again and again whether it is held."""
    from securepfl.runtime.status import held
    from securepfl.storage.folder import lock_folder

    lock_folder(tmp_path).close()
    asking = subprocess.Popen(
        [sys.executable, "-c", "import sys, pathlib; from securepfl.runtime.status import held\n"
         "print('asks', flush=True)\nwhile True: held(pathlib.Path(sys.argv[1]))", str(tmp_path)],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        asking.stdout.readline()
        for _ in range(200):
            with lock_folder(tmp_path):
                assert held(tmp_path)
    finally:
        asking.kill()
        asking.communicate()
