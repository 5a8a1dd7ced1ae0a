"""A hub adds numbers: it has no use for torch, which takes three times the memory of all else."""

import subprocess
import sys

import pytest
from enrolled import NAMES, enrol_all

from securepfl.runtime.enrolled import bind, bind_for_hub


@pytest.mark.parametrize(
    "module",
    ["securepfl.runtime.hub", "securepfl.runtime.https.serving", "securepfl.runtime.nvflare.controller"],
)
def test_what_a_hub_runs_loads_no_torch(module):
    told = f"import sys, {module}; print(sorted({{'torch', 'opacus', 'sklearn'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


BINDS = """
import sys
from pathlib import Path
from securepfl.errors import ConfigError
from securepfl.runtime.enrolled import bind_for_hub
config, *names = sys.argv[1:]
print(bind_for_hub(Path(config), names).digest.hex())
try:
    bind_for_hub(Path(config), names[:2])
except ConfigError as error:
    print(error)
print("torch" in sys.modules)
"""


def test_a_hub_binds_apart_what_a_hospital_binds_and_hears_what_is_wrong(tmp_path):
    config = enrol_all(tmp_path).config
    words = [sys.executable, "-c", BINDS, str(config), *NAMES]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    digest, wrong, loaded = done.stdout.splitlines()
    assert digest == bind(config, NAMES)[0].digest.hex() == bind_for_hub(config, NAMES).digest.hex()
    assert wrong.startswith(f"{config}: ") and loaded == "False"
