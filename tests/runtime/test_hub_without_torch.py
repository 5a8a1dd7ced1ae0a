"""A hub adds numbers: it has no use for torch, which takes three times the memory of all else."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module",
    ["securepfl.runtime.hub", "securepfl.runtime.https.serving", "securepfl.runtime.nvflare.controller"],
)
def test_what_a_hub_runs_loads_no_torch(module):
    told = f"import sys, {module}; print(sorted({{'torch', 'opacus', 'sklearn'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
