"""docs/evidence.md: its commands as they stand there, at a hospital of a real run whose name is another."""

import os
import shutil
import sys
from pathlib import Path

from evidence_kit import ledgers_of
from page_machines import Machines, cheap_keys
from pages import DOCS, blocks_of
from small_run import prepare

HERE = "tests/cli/test_evidence_page.py"


def test_evidence_is_made_checked_and_a_withdrawal_written_as_the_page_says(world, tmp_path, monkeypatch):
    make, check, withdraw = (block for block in blocks_of(DOCS / "evidence.md") if block.elsewhere == HERE)
    cheap_keys(monkeypatch)
    shutil.copytree(world.root, tmp_path / "here")
    key = world.holdings("alder").identity.public.fingerprint
    machines = Machines(tmp_path / "here", shared=True, changed={"north": "alder", "FOLDER": "alder", "KEY": key})
    monkeypatch.setenv("SECUREPFL_LEDGERS", str(tmp_path / "here" / ledgers_of(world, "alder").name))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    secret = ("--passphrase-file", str(world.secret))

    hospital, simulation = make.commands()
    machines.run("", hospital, *secret)
    elsewhere = Machines(prepare(tmp_path), shared=True)
    elsewhere.run("", "securepfl run federation.toml --data rows.csv --out run")
    elsewhere.run("", simulation)
    assert (tmp_path / "evidence-Mainz.zip").exists()

    told = machines.block(check)
    assert "Signed by alder" in told and "none is missing up to line" in told

    rows = world.data("alder").read_text().splitlines()
    (tmp_path / "here" / "withdrawn.csv").write_text("\n".join(rows[:9]) + "\n")
    assert "records withdrew consent" in machines.run("", withdraw.commands()[0], *secret)
