"""`rehearse.sh` of `securepfl init`: all parties on this machine, from no key to the last round, over HTTPS."""

import json
import os
import subprocess

import pytest
from ports import free_port

from securepfl.runtime.scaffold.wanted import Wanted
from securepfl.runtime.scaffold.writing import write_scaffold

pytestmark = [pytest.mark.machines, pytest.mark.long]
NAMES = ("north", "Klinikum Süd", "St. Anna's", "東京 $x")


def test_a_new_federation_is_rehearsed_as_it_stands(tmp_path):
    write_scaffold(Wanted("rehearsed", "table", NAMES, "ill"), folder := tmp_path / "new")
    env = os.environ | {"HUB": f"https://localhost:{free_port()}"}
    done = subprocess.run([folder / "rehearse.sh"], env=env, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0 and "all rounds are over" in done.stdout, done.stderr
    for name in NAMES:
        assert json.loads((folder / "rehearsal" / "private" / name / "run" / "result.json").read_text())
    again = subprocess.run([folder / "rehearse.sh"], capture_output=True, text=True, check=False)
    assert again.returncode == 2 and "there already" in again.stderr
