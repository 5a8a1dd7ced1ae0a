"""Who is off is waited for a while; who never came, until the deadline."""

import pytest
from loops import FIVE, World

from securepfl.protocol.loop import Patience

FOUR = FIVE[:4]


@pytest.fixture
def world(tmp_path):
    made = World.of(tmp_path, rounds=2)
    made.loop.patience = Patience(3600.0, away=600.0)
    yield made
    made.close()


def begin(world, names):
    for name in names:
        world.loop.here(name, 0)
    world.loop.tick(world.now)
    for name in FOUR:
        world.visit(name)


def test_who_went_is_waited_for_its_time_away(world):
    begin(world, FIVE)
    assert world.loop.next("elm")
    world.now = 100.0
    world.loop.tick(world.now)
    world.loop.gone("elm")
    for now, closed in ((100.0, 0), (699.0, 0), (700.0, 1)):
        assert world.loop.waiting == ("elm",)
        world.loop.tick(now)
        assert world.hub.closed == closed
    assert "elm" not in world.hub.contributed


def test_who_comes_back_is_waited_for_again(world):
    begin(world, FIVE)
    world.loop.gone("elm")
    world.loop.tick(1.0)
    world.loop.here("elm", 0)
    world.loop.tick(3000.0)
    assert world.hub.closed == 0
    world.visit("elm")
    world.loop.tick(3001.0)
    assert world.hub.closed == 1 and "elm" in world.hub.contributed


def test_the_first_round_waits_for_who_never_came_until_its_deadline(world):
    begin(world, FOUR)
    world.loop.tick(3599.0)
    assert world.hub.closed == 0 and world.loop.waiting == ("elm",)
    world.loop.tick(3600.0)
    assert world.hub.closed == 1


def test_a_time_that_is_none_is_refused():
    with pytest.raises(ValueError, match="away must be 0 or more"):
        Patience(1.0, away=float("nan"))
