"""docs/keys.md: what parties do, in the page's order; what is printed is what it shows."""

import re
import shutil

import pytest
from page_machines import Machines, cheap_keys, shows
from pages import DOCS, blocks_of

HERE = "tests/docs/test_ceremony.py"
SETTINGS = 'name = "three"\nrounds = 5\n[sites]\nnorth.units = 200\nsouth.units = 100\n{}.units = 100\n'


def blocks():
    return [block for block in blocks_of(DOCS / "keys.md") if block.elsewhere == HERE]


def run(machines, block):
    """What its lines print; it is what the page shows."""
    printed = machines.block(block)
    shows(printed, block.said())
    return printed


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory):
    """A folder with all parties' folders after the ceremony of docs/keys.md, before the rotation."""
    machines = Machines(tmp_path_factory.mktemp("ceremony"), shared=True)
    (machines.root / "federation.toml").write_text(SETTINGS.format("west"))
    create, steward, others, show, *_ = blocks()
    with pytest.MonkeyPatch.context() as patch:
        cheap_keys(patch)
        run(machines, create)
        for name in ("south", "west"):
            machines.run(name, f"securepfl keys create {name} --folder {name} --exchange exchange")
        run(machines, steward)
        run(machines, others)
        again = "securepfl keys enrol federation.toml --folder {0} --exchange exchange --steward south"
        for name in ("south", "west", "hub"):
            heard = "" if name == "south" else f" --fingerprint south={machines.heard['south']}"
            assert "complete" in machines.run(name, again.format(name) + heard)
        printed = run(machines, show)
    assert len(re.findall(r"^  (?:hub|north|south|west) ", printed, re.MULTILINE)) == 4
    return machines


def copied(machines, folder):
    shutil.copytree(machines.root, folder)
    made = Machines(folder, shared=True)
    made.heard = dict(machines.heard)
    return made


def test_keys_are_made_rotated_and_certified_as_the_page_says(enrolled, tmp_path, monkeypatch):
    cheap_keys(monkeypatch)
    machines = copied(enrolled, tmp_path / "rotated")
    *_, rotate, certificates = blocks()
    machines.run("east", "securepfl keys create east --folder east --exchange exchange")
    (machines.root / "federation.toml").write_text(SETTINGS.format("east"))
    run(machines, rotate)
    printed = run(copied(enrolled, tmp_path / "certified"), certificates)
    assert len(set(re.findall("^root: (.*)$", printed, re.MULTILINE))) == 1
