"""Rounds among hospitals that come and go, without a clock or a socket."""

import numpy as np
import pytest
from parties import close_all, federation_of, parties, reopened

from securepfl.crypto.messages.envelope import Kind
from securepfl.protocol.hospital import exchange
from securepfl.protocol.loop import Patience, RoundLoop

FIVE = ("alder", "birch", "cedar", "damson", "elm")


def five_hospitals(folder, masking="none", rounds=3):
    tables = {"encryption": {"masking": masking}, "similarity": {"every": 0}, "coupling": {"strength": 0.0}}
    return parties(federation_of(names=FIVE, rounds=rounds, **tables), folder)


@pytest.fixture(params=["none", "pairwise"])
def five(request, tmp_path):
    coordinator, clients = five_hospitals(tmp_path, request.param)
    yield coordinator, clients
    close_all(clients)


def visit(loop, clients, name):
    """One exchange of one hospital: the kinds that it was told."""
    loop.here(name, clients[name].round)
    told = loop.next(name)
    done = exchange(clients[name], [message for _, message in told])
    loop.took(name, done.at, done.replies, told=told)
    return [kind for kind, _ in told]


def everybody_visits(loop, clients, now, names=FIVE):
    kinds = [visit(loop, clients, name) for name in names if name in clients]
    loop.tick(now)
    return kinds


def run(loop, clients, now=0.0, names=FIVE, passes=60):
    for name in names:
        loop.here(name, clients[name].round)
    loop.tick(now)
    for _ in range(passes):
        if loop.finished:
            return
        everybody_visits(loop, clients, now, names)
    raise AssertionError(f"not finished: round {loop.hub.closed}, asked {loop.kind}, waits for {loop.waiting}")


def test_all_rounds_end_without_the_clock_moving(five):
    hub, clients = five
    loop = RoundLoop(hub)
    run(loop, clients)
    assert hub.closed == 3 and {client.round for client in clients.values()} == {3}
    assert not loop.refused and not loop.late
    first = clients["alder"].state.shared
    assert all(np.array_equal(client.state.shared, first) for client in clients.values())


def test_a_round_waits_for_its_deadline_and_no_longer_for_one_who_left(tmp_path):
    hub, clients = five_hospitals(tmp_path)
    loop = RoundLoop(hub, Patience(seconds=10.0))
    for name in FIVE:
        loop.here(name, 0)
    loop.tick(0.0)
    four = [name for name in FIVE if name != "elm"]
    loop.gone("elm")
    for name in four:
        visit(loop, clients, name)
    assert not loop.tick(9.9) and loop.waiting == ("elm",)
    assert loop.tick(10.0) and loop.kind == Kind.ANSWER
    run(loop, clients, now=11.0, names=four)
    assert hub.closed == 3
    # It comes back: all it missed in one exchange.
    assert visit(loop, clients, "elm") == [Kind.ANSWER] * 3
    assert clients["elm"].round == 3 and np.array_equal(clients["elm"].state.shared, clients["alder"].state.shared)
    close_all(clients)


def test_fewer_than_a_sum_needs_are_waited_for_beyond_the_deadline(tmp_path):
    hub, clients = five_hospitals(tmp_path)
    loop = RoundLoop(hub, Patience(seconds=10.0))
    for name in FIVE:
        loop.here(name, 0)
    loop.tick(0.0)
    for name in FIVE[:2]:
        visit(loop, clients, name)
    for name in FIVE[2:]:
        loop.gone(name)
    assert not loop.tick(1000.0) and hub.closed == 0
    visit(loop, clients, "cedar")
    assert loop.tick(1001.0) and hub.closed == 1 and hub.answered.survivors == ["alder", "birch", "cedar"]
    close_all(clients)


def test_a_restarted_hospital_is_asked_again_and_sends_the_same(tmp_path):
    hub, clients = five_hospitals(tmp_path)
    loop = RoundLoop(hub)
    for name in FIVE:
        loop.here(name, 0)
    loop.tick(0.0)
    (told,) = loop.next("alder")
    lost = clients["alder"].handle(told[1])
    loop.gone("alder")
    assert loop.next("alder") == []
    clients["alder"] = reopened(clients["alder"])
    loop.here("alder", 0)
    assert loop.next("alder") == [told]
    assert clients["alder"].handle(told[1]) == lost
    run(loop, clients)
    assert hub.closed == 3
    close_all(clients)


def test_who_hands_in_a_late_reply_is_still_asked_for_this_step(tmp_path):
    """As after the hub was killed: what a hospital replied to that process comes once the next round has begun."""
    hub, clients = five_hospitals(tmp_path)
    loop = RoundLoop(hub)
    for name in FIVE:
        loop.here(name, 0)
    loop.tick(0.0)
    everybody_visits(loop, clients, 0.0)
    assert loop.kind == Kind.ANSWER
    told = loop.next("elm")
    receipt = exchange(clients["elm"], [message for _, message in told]).replies
    for name in FIVE[:4]:
        visit(loop, clients, name)
    loop.tick(4000.0)  # the deadline; what is left of the answer is asked once more, then the next round begins
    loop.tick(8000.0)
    assert loop.kind == Kind.INVITATION and hub.number == 2
    loop.took("elm", 1, receipt, told=loop.next("elm"))
    assert "elm" not in loop.silent and not loop.refused
    assert visit(loop, clients, "elm") == [Kind.INVITATION]
    assert "elm" in loop.replied
    close_all(clients)
