"""The demo's federation among processes: its states are those of the same run in one process, bit for bit.

Over NVFlare it is started by the commands of docs/nvflare.md.
"""

import json
import re

import pytest
from loopback.comparing import differences, rounds_of, wrong_budgets
from loopback.https import Https
from loopback.killing import Killing, https_victims, seeded, shuffled
from loopback.nvflare import Nvflare
from loopback.world import HUB
from page_machines import shows
from pages import DOCS, blocks_of

pytestmark = pytest.mark.machines

ROUNDS = 12
KILLS = {"hub": 2, "hospital": 4}


def test_over_https_every_array_is_that_of_the_run_in_one_process(world, unharmed, started):
    engine = Https(world, started)
    engine.start(HUB)
    engine.start(world.hospitals[0])
    started.hurry()  # one of each kind starts as a user's does
    for name in world.hospitals[1:]:
        engine.start(name)
    engine.finish(240)
    assert differences(world, unharmed) == []
    assert rounds_of(world) == dict.fromkeys(world.hospitals, ROUNDS) and wrong_budgets(world, ROUNDS) == []
    for name in world.parties:
        log = world.run(name) / "log.jsonl"
        assert all(json.loads(line)["party"] == name for line in log.read_text().splitlines())


def test_over_nvflare_every_array_is_that_of_the_run_in_one_process(world, unharmed, started):
    pytest.importorskip("nvflare")
    engine = Nvflare(world, started)
    check_told(engine)
    started.hurry()
    engine.start_all()
    engine.finish(240)
    said = [line[9:] for line in nvflare_blocks()[-1].said()]
    shows(re.sub(r"hospitals .*?\)", "hospitals north south west)", started.said("supervisor")), said)
    assert differences(world, unharmed) == []
    assert rounds_of(world) == dict.fromkeys(world.hospitals, ROUNDS) and wrong_budgets(world, ROUNDS) == []


def nvflare_blocks():
    return [block for block in blocks_of(DOCS / "nvflare.md") if block.elsewhere == "tests/machines/test_engines.py"]


def check_told(engine):
    """What the page shows of the steps of the kits; this hub listens elsewhere, and nobody is waited for."""
    last, root = engine.world.hospitals[-1], f"{engine.world.root}/"
    for step, block in zip(("init", "request", "approve", "install"), nvflare_blocks(), strict=False):
        told = engine.told[step].replace(root, "").replace(last, "north")
        told = told.replace("tcp://localhost", "grpc://hub.example.org")
        shows(told, [line for line in block.said() if not line.startswith("waiting")])


def test_killed_at_random_moments_over_https_no_round_and_no_budget_is_lost(world, unharmed, started):
    engine = Https(world, started)
    started.hurry()
    engine.start_all()
    killing = Killing(https_victims(engine), engine.closed, seeded(11), 0.3)
    killing.kill(shuffled(killing.draw, KILLS))
    engine.finish(240)
    assert killing.counted.total() == sum(KILLS.values())
    assert differences(world, unharmed) == [] and wrong_budgets(world, ROUNDS) == []
