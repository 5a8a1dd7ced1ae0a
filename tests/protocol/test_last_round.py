"""The end of a run: whoever has not stated its last round is asked again; and what asking for work costs."""

import pytest
from loops import FIVE, World

from securepfl.coordinator.coordinator import Coordinator
from securepfl.crypto.messages.envelope import Kind
from securepfl.protocol.hospital import exchange
from securepfl.protocol.rounds import Messages


def lost_receipts(world, names):
    """The last round is over; these hospitals apply its answer, and what they reply is lost with the hub."""
    world.closes(world.hub.rounds - 1)
    world.until(lambda: world.hub.closed == world.hub.rounds, FIVE)
    for name in FIVE:
        if name not in names:
            world.visit(name)
            continue
        told = world.loop.next(name)
        assert exchange(world.clients[name], [message for _, message in told]).replies
    world.hub_again()


@pytest.mark.parametrize("masking", ["none", "pairwise"])
def test_who_has_not_stated_the_last_round_is_asked_again_by_a_hub_made_again(tmp_path, masking):
    world = World.of(tmp_path, rounds=2, masking=masking)
    lost_receipts(world, ("birch", "elm"))
    assert [name for name in FIVE if world.hub.latest(name) < 2] == ["birch", "elm"]
    for name in FIVE:
        world.loop.here(name, 2)
    assert not world.loop.finished
    assert [name for name in FIVE if world.loop.has_work(name)] == ["birch", "elm"]
    world.visit("birch")
    assert not world.loop.has_work("birch") and not world.loop.finished
    world.visit("elm")
    assert world.loop.finished and {world.hub.latest(name) for name in FIVE} == {2}
    world.close()


def test_who_never_states_the_last_round_is_asked_once_a_stay(tmp_path):
    world = World.of(tmp_path, rounds=1)
    lost_receipts(world, ("birch",))
    for _ in range(2):
        world.loop.here("birch", 1)
        told = world.loop.next("birch")
        assert [kind for kind, _ in told] == [Kind.ANSWER] and not world.loop.finished
        world.loop.took("birch", 1, [], told=told)
        assert world.loop.next("birch") == [] and world.loop.finished
        world.loop.gone("birch")
    world.close()


@pytest.mark.parametrize("masking", ["none", "pairwise"])
def test_whether_there_is_work_costs_no_message_and_is_what_next_says(tmp_path, masking):
    world, asked, made = World.of(tmp_path, rounds=3, masking=masking), [], []
    visit = world.visit

    def watched(name):
        for other in FIVE:
            was = len(made)
            has = world.loop.has_work(other)
            assert len(made) == was
            asked.append(has)
            assert has == bool(world.loop.next(other))
        return visit(name)

    seal = Coordinator._seal
    plain = Messages.__getitem__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Messages, "__getitem__", lambda its, name: made.append(name) or plain(its, name))
        patch.setattr(Coordinator, "_seal", lambda its, *a, **k: made.append(a) or seal(its, *a, **k))
        world.visit = watched
        world.closes(1)
        world.loop.gone("elm")
        others = FIVE[:4]
        world.until(lambda: world.hub.closed == 2 and world.settled(2, others), others)
        world.finish()
    assert made and any(asked) and not all(asked)
    world.close()
