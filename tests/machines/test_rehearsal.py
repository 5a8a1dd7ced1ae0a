"""`rehearse.sh` of `securepfl init`: all parties on this machine, from no key to the last round, over HTTPS."""

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE, STDOUT

import pytest
from ports import free_port

from securepfl.runtime.scaffold.wanted import Wanted
from securepfl.runtime.scaffold.writing import write_scaffold

pytestmark = [pytest.mark.machines, pytest.mark.long]
NAMES = ("north", "Klinikum Süd", "St. Anna's", "東京 $x")


def test_a_new_federation_is_rehearsed_as_it_stands(tmp_path):
    write_scaffold(Wanted("rehearsed", "table", NAMES, "ill"), folder := tmp_path / "new")
    env = os.environ | {"HUB": f"https://localhost:{free_port()}"}
    with subprocess.Popen([folder / "rehearse.sh"], env=env, stdout=PIPE, stderr=STDOUT, text=True) as whole:
        while not (line := whole.stdout.readline()).startswith("   after a kill it goes on by: "):
            assert line, "it ended before the rounds"
        goes_on = line.partition("by: ")[2] + whole.stdout.readline()
        os.kill(_hospital(folder, "north"), signal.SIGKILL)
        assert any("north stopped" in whole.stdout.readline() for _ in range(2))  # the shell may say "Killed" first
        again = goes_on.replace("NAME", "north")
        subprocess.run(["sh", "-c", again], cwd=folder, env=env, timeout=600, check=True, capture_output=True)
        assert "all rounds are over" in whole.communicate(timeout=600)[0] and whole.returncode == 0
    for name in NAMES:
        assert json.loads((folder / "rehearsal" / "private" / name / "run" / "result.json").read_text())
    again = subprocess.run([folder / "rehearse.sh"], capture_output=True, text=True, check=False)
    assert again.returncode == 2 and "there already" in again.stderr


def _hospital(folder, name):
    """The process of its client, as soon as it runs."""
    for _ in range(600):
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                words = (process / "cmdline").read_bytes().split(b"\0")
                its = b"join" in words and f"rehearsal/private/{name}".encode() in words
                if its and (process / "cwd").readlink() == folder:
                    return int(process.name)
        time.sleep(0.1)
    raise AssertionError(f"{name} never began")
