"""The demo's federation among processes: its states are those of the same run in one process, bit for bit."""

import json

import pytest
from loopback.comparing import differences, rounds_of, wrong_budgets
from loopback.https import Https
from loopback.killing import Killing, https_victims, seeded, shuffled
from loopback.nvflare import Nvflare

pytestmark = pytest.mark.machines

ROUNDS = 12
KILLS = {"hub": 2, "hospital": 4}


def test_over_https_every_array_is_that_of_the_run_in_one_process(world, unharmed, started):
    engine = Https(world, started)
    engine.start_all()
    engine.finish(240)
    assert differences(world, unharmed) == []
    assert rounds_of(world) == dict.fromkeys(world.hospitals, ROUNDS) and wrong_budgets(world, ROUNDS) == []
    for name in world.parties:
        log = world.run(name) / "log.jsonl"
        assert all(json.loads(line)["party"] == name for line in log.read_text().splitlines())


def test_over_nvflare_every_array_is_that_of_the_run_in_one_process(world, unharmed, started):
    pytest.importorskip("nvflare")
    engine = Nvflare(world, started)
    engine.start_all()
    engine.finish(240)
    assert differences(world, unharmed) == []
    assert rounds_of(world) == dict.fromkeys(world.hospitals, ROUNDS) and wrong_budgets(world, ROUNDS) == []


def test_killed_at_random_moments_over_https_no_round_and_no_budget_is_lost(world, unharmed, started):
    engine = Https(world, started)
    started.hurry()
    engine.start_all()
    killing = Killing(https_victims(engine), engine.closed, seeded(11), 0.3)
    killing.kill(shuffled(killing.draw, KILLS))
    engine.finish(240)
    assert killing.counted.total() == sum(KILLS.values())
    assert differences(world, unharmed) == [] and wrong_budgets(world, ROUNDS) == []
