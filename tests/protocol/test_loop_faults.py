"""What goes wrong between a loop and its hospitals: each is one line at whom it concerns, and the others go on."""

import resource
import signal
import struct
from contextlib import contextmanager

import numpy as np
import pytest
from forging import to_coordinator
from loops import FIVE, World

from securepfl.coordinator.coordinator import Coordinator
from securepfl.crypto.messages.envelope import Kind
from securepfl.errors import MessageError, SecurePFLError, StorageError
from securepfl.protocol.hospital import exchange
from securepfl.protocol.loop import RoundLoop
from securepfl.protocol.messages import Reveal

FOUR = FIVE[:4]
ROOT, NOISE = b"r" * 32, b"n" * 32


@pytest.fixture
def world(tmp_path):
    made = World.of(tmp_path)
    yield made
    made.close()


def start(world, names=FIVE):
    for name in names:
        world.loop.here(name, world.clients[name].round)
    world.loop.tick(world.now)


def one_line(error):
    assert isinstance(error, SecurePFLError) and "\n" not in str(error)
    return str(error)


REPLIES = {
    "torn": lambda world, reply: reply[: len(reply) // 2],
    "garbage": lambda world, reply: b"?" * 5000,
    "huge": lambda world, reply: reply + bytes(10_000_000),
    "of another kind": lambda world, reply: to_coordinator(world.clients["elm"], Reveal(shares=b"")),
    "another version": lambda world, reply: reply[:4] + bytes([reply[4] + 1]) + reply[5:],
}


@pytest.mark.parametrize("what", REPLIES)
def test_a_reply_that_is_no_contribution_costs_its_sender_the_round_alone(world, what):
    start(world)
    told = world.loop.next("elm")
    done = exchange(world.clients["elm"], [message for _, message in told])
    world.loop.took("elm", 0, [REPLIES[what](world, done.replies[0])], told=told)
    assert world.loop.next("elm") == [], "it is not asked again in this step"
    (refusal,) = world.loop.refused
    assert refusal.hospital == "elm" and one_line(refusal.reason)
    world.finish()
    assert world.clients["elm"].round == 3
    assert all(np.array_equal(world.clients[n].state.shared, world.clients["elm"].state.shared) for n in FOUR)


def test_more_replies_than_messages_are_not_read(world):
    start(world)
    told = world.loop.next("elm")
    done = exchange(world.clients["elm"], [message for _, message in told])
    world.loop.took("elm", 0, [*done.replies, *([b"?"] * 1000)], told=told)
    assert not world.loop.refused and "elm" in world.loop.replied


def test_swapped_replies_count_for_who_signed_them_and_replays_are_late(world):
    start(world)
    told = {name: world.loop.next(name) for name in ("alder", "birch")}
    replies = {name: world.clients[name].handle(work[0][1]) for name, work in told.items()}
    for name, other in (("alder", "birch"), ("birch", "alder")):
        world.loop.took(name, 0, [replies[other]], told=told[name])
    assert world.hub.contributed == {"alder", "birch"}
    world.closes(1)
    world.loop.took("cedar", 1, [replies["alder"]], told=[(Kind.INVITATION, b"")])
    assert world.loop.late == [("cedar", Kind.CONTRIBUTION)] and not world.loop.refused
    assert not world.hub.named and not world.hub.evidence


def test_an_upload_after_its_step_is_late_and_the_round_went_on_without_it(world):
    start(world)
    told = world.loop.next("elm")
    late = exchange(world.clients["elm"], [message for _, message in told])
    for name in FOUR:
        world.visit(name)
    assert world.loop.tick(10.0) and world.hub.closed == 1
    world.loop.took("elm", 0, late.replies, told=told)
    assert world.loop.late == [("elm", Kind.CONTRIBUTION)] and not world.loop.refused
    world.now = 11.0
    world.finish()
    assert world.clients["elm"].round == 3 and not any(name == "elm" for _, name in world.hub.named)


def test_a_coordinator_that_answers_out_of_order_twice_or_of_another_round_is_refused_or_unread(world):
    world.closes(1)
    elm = world.clients["elm"]
    world.loop.gone("elm")
    world.closes(3, FOUR)
    second, third = (world.hub.answers(number)["elm"] for number in (2, 3))
    with pytest.raises(MessageError, match="round 3 where 2 is expected"):
        elm.handle(third)
    assert elm.round == 1
    elm.handle(second)
    before = elm._path.read_bytes()
    elm.apply(second)
    with pytest.raises(MessageError, match="receiver"):
        elm.handle(world.hub.answers(3)["alder"])
    assert elm._path.read_bytes() == before and elm.round == 2
    elm.handle(third)
    assert np.array_equal(elm.state.shared, world.clients["alder"].state.shared)


def test_who_has_other_settings_is_refused_at_itself_and_the_others_go_on(world, tmp_path):
    other = World.of(tmp_path / "other", rounds=7)
    start(world)
    told = world.loop.next("elm")
    done = exchange(other.clients["elm"], [message for _, message in told])
    assert "federation" in one_line(done.failed) and not done.replies
    assert other.clients["elm"].ledger.spent() == 0
    world.loop.took("elm", 0, done.replies, told=told)
    assert world.loop.next("elm") == []
    world.until(lambda: world.hub.closed == 3, FOUR)
    other.close()


def test_who_is_ahead_of_an_old_copy_of_the_folder_is_named_and_told_nothing(world):
    world.closes(2)
    spent = {name: client.ledger.spent() for name, client in world.clients.items()}
    loop = RoundLoop(old := World.of(world.folder / "old").hub)
    for name in FIVE:
        loop.here(name, world.clients[name].round)
    assert not loop.tick(0.0) and old.closed == 0 and not any(loop.next(name) for name in FIVE)
    assert set(loop.ahead) == set(FIVE) and "old copy" in loop.ahead["elm"] and "\n" not in loop.ahead["elm"]
    assert {name: client.ledger.spent() for name, client in world.clients.items()} == spent
    old.stop()


def test_a_stranger_is_refused_in_a_line(world):
    with pytest.raises(MessageError, match="'yew' is no hospital"):
        world.loop.here("yew", 0)


def test_a_receipt_that_got_lost_is_asked_for_again(world):
    start(world)
    while world.loop.kind != Kind.ANSWER:
        for name in FIVE:
            world.visit(name)
        world.loop.tick(world.now)
    told = world.loop.next("elm")
    exchange(world.clients["elm"], [message for _, message in told])
    world.loop.gone("elm")
    for name in FOUR:
        world.visit(name)
    assert not world.loop.tick(world.now)
    assert world.visit("elm") == [Kind.ANSWER] and world.hub.latest("elm") == 1
    world.finish()
    assert not world.hub.named


def test_a_kill_in_the_last_answers_loses_none_of_them(world):
    world.until(lambda: world.hub.closed == 3, FIVE)
    world.hub_again()
    world.finish()
    assert {client.round for client in world.clients.values()} == {3}
    assert set(world.hub.statements) == set(FIVE) and {its.round for its in world.hub.statements.values()} == {3}


@contextmanager
def full_disk(limit):
    """No file may grow beyond so many bytes, as on a full disk."""
    old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_at_one_hospital_costs_it_the_round_and_nothing_is_lost(world):
    world.closes(1)
    elm = world.clients["elm"]
    world.loop.here("elm", 1)
    before, told = elm._path.read_bytes(), world.loop.next("elm")
    with full_disk(100):
        done = exchange(elm, [message for _, message in told])
    if told:
        assert isinstance(done.failed, StorageError) and "make room" in one_line(done.failed)
    world.loop.took("elm", done.at, done.replies, told=told)
    assert elm._path.read_bytes() == before
    world.hospital_again("elm")
    world.finish()
    assert world.clients["elm"].round == 3


def test_a_full_disk_at_the_hub_is_one_line_and_it_goes_on_from_there(world):
    start(world)
    told = world.loop.next("elm")
    reply = world.clients["elm"].handle(told[0][1])
    with full_disk(100), pytest.raises(StorageError, match="make room"):
        world.loop.took("elm", 0, [reply], told=told)
    world.hub_again()
    world.finish()
    assert {client.round for client in world.clients.values()} == {3}


def test_two_hubs_on_one_folder_are_refused(world):
    key = world.clients["elm"].session.key.commitment
    hub = world.hub
    with pytest.raises(StorageError, match="in use by another process"):
        Coordinator(hub.federation, hub.identity, hub.hospitals, key_commitment=key, folder=world.folder / "hub")


@pytest.mark.parametrize("masking", ["none", "pairwise"])
def test_kills_of_hub_and_hospitals_at_random_change_no_bit(tmp_path, masking):
    calm = World.of(tmp_path / "calm", masking=masking, root_key=ROOT, noise_key=NOISE)
    calm.finish()
    hurt = World.of(tmp_path / "hurt", masking=masking, root_key=ROOT, noise_key=NOISE)
    draw, kills = np.random.default_rng(struct.unpack(">I", masking.encode()[:4])[0]), 0
    start(hurt)
    for _ in range(400):
        if hurt.loop.finished and hurt.hub.closed == 3:
            break
        name, moment = FIVE[draw.integers(5)], draw.random()
        hurt.loop.here(name, hurt.clients[name].round)
        told = hurt.loop.next(name)
        if moment < 0.1:  # killed before it took what it was told
            hurt.hospital_again(name)
        elif moment < 0.2:  # killed before its replies left
            exchange(hurt.clients[name], [message for _, message in told])
            hurt.hospital_again(name)
        elif moment < 0.3:  # the hub dies with the replies in hand
            exchange(hurt.clients[name], [message for _, message in told])
            hurt.hub_again()
        else:
            done = exchange(hurt.clients[name], [message for _, message in told])
            hurt.loop.took(name, done.at, done.replies, told=told)
            if moment < 0.4:  # the hub dies once it took them
                hurt.hub_again()
        kills += moment < 0.4
        hurt.loop.tick(0.0)
    for name in FIVE:
        hurt.loop.here(name, hurt.clients[name].round)
    hurt.finish()
    assert kills >= 10
    for name in FIVE:
        one, other = calm.clients[name].state, hurt.clients[name].state
        assert one.round == other.round == 3 and not other.sat_out
        assert np.array_equal(one.shared, other.shared) and np.array_equal(one.personal, other.personal)
        assert np.array_equal(one.residual, other.residual)
        assert calm.clients[name].ledger.spent() == hurt.clients[name].ledger.spent()
    calm.close()
    hurt.close()


def test_who_is_always_here_and_never_replies_costs_ever_fewer_deadlines(tmp_path):
    world = World.of(tmp_path, rounds=4)
    others = [name for name in FIVE if name != "alder"]
    while not (world.hub.closed >= 4 and all(world.clients[name].round >= 4 for name in others)):
        world.loop.here("alder", world.clients["birch"].round)
        world.loop.next("alder")
        for name in others:
            world.visit(name)
        world.now += 1.0
        world.loop.tick(world.now)
        assert world.now < 50.0, "it was waited for in more than two rounds of four"
    assert world.now > 20.0, "it is waited for again after a while"
    world.loop.gone("alder")
    world.close()


def test_who_ran_out_of_time_once_is_told_on_and_waited_for_again_once_it_replies(tmp_path):
    world = World.of(tmp_path, rounds=6)
    others = [name for name in FIVE if name != "alder"]
    world.loop.here("alder", 0)
    world.closes(1, others)
    world.closes(3)
    assert world.clients["alder"].round == 3
    for name in FIVE:
        world.loop.here(name, world.clients[name].round)
    world.loop.tick(world.now)
    for name in others:
        world.visit(name)
    world.loop.tick(world.now)
    assert world.loop.waiting == ("alder",)
    world.finish()
    world.close()
