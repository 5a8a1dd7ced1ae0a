"""Hospitals that are behind: by their answers where those are kept, else by the shared state on the others' word."""

import json
import shutil

import msgspec
import numpy as np
import pytest
from forging import to_hospital
from loops import FIVE, World
from parties import MODEL, reopened, rows_of

from securepfl.client.client import Client
from securepfl.client.snapshot import Snapshot
from securepfl.coordinator import store
from securepfl.crypto.messages.envelope import Kind
from securepfl.errors import MessageError
from securepfl.protocol.messages import Rejoin, SnapshotSent, SnapshotWanted

FOUR = FIVE[:4]


@pytest.fixture
def few_kept(monkeypatch):
    monkeypatch.setattr(store, "KEPT_ROUNDS", 2)


def world_of(folder, **options):
    return World.of(folder, **options)


def same_shared(world, *names):
    first = world.clients[names[0]].state.shared
    return all(np.array_equal(world.clients[name].state.shared, first) for name in names)


@pytest.mark.parametrize("masking", ["none", "pairwise"])
def test_who_was_away_for_longer_than_answers_are_kept_goes_on_from_the_shared_state(tmp_path, few_kept, masking):
    world = world_of(tmp_path, rounds=8, masking=masking)
    world.closes(1)
    elm = world.clients["elm"]
    before, spent = elm.state, elm.ledger.spent()
    world.loop.gone("elm")
    world.closes(6, FOUR)
    assert not world.hub.can_catch_up("elm", 1, anew=False)
    assert sorted(path.name for path in world.hub.store.folder.glob("answers-*"))[0] >= "answers-00004.journal"
    world.finish()
    after = elm.state
    assert elm.round == 8 and same_shared(world, *FIVE) and not elm.sat_out
    assert elm.ledger.spent() > spent and set(before.trajectory) == set(after.trajectory)
    assert world.hub.answered.survivors == sorted(FIVE), "it contributes again"
    world.close()


def test_what_is_its_own_stays_and_what_was_under_way_goes(tmp_path, few_kept):
    world = world_of(tmp_path, rounds=8)
    world.closes(1)
    world.visit("elm")  # it contributes to round 2, and never hears of it
    elm = world.clients["elm"]
    before, lines = elm.state, elm.ledger.path.read_bytes()
    assert before.pending is not None and np.any(before.residual)
    world.loop.gone("elm")
    world.closes(6, FOUR)
    world.loop.here("elm", elm.round)
    world.visit("alder")
    while elm.round == 1:
        for name in (*FOUR, "elm"):
            world.visit(name)
            if Kind.REJOIN in world.told.get("elm", ()):
                break
        world.loop.tick(0.0)
    lines_after = elm.ledger.path.read_bytes()
    assert lines_after.startswith(lines)
    after = elm.state
    assert np.array_equal(before.personal, after.personal) or after.pending is not None
    for name, part in before.trajectory.items():
        assert np.array_equal(part, after.trajectory[name])
    world.finish()
    assert same_shared(world, *FIVE)
    world.close()


def test_a_hospital_that_first_appears_at_round_ten_takes_part(tmp_path, few_kept):
    world = world_of(tmp_path, rounds=12)
    world.closes(9, FOUR)
    world.finish()
    assert world.clients["elm"].round == 12 and same_shared(world, *FIVE)
    assert world.hub.answered.survivors == sorted(FIVE)
    world.close()


def test_a_restarted_coordinator_still_has_the_state_that_one_hospital_gave(tmp_path, few_kept):
    world = world_of(tmp_path, rounds=8)
    world.closes(6, FOUR)
    world.loop.here("elm", 0)
    while world.hub.snapshots.held is None:
        for name in FOUR:
            world.visit(name)
        world.loop.tick(0.0)
    held = world.hub.snapshots.held
    sealed = [path.read_bytes() for path in (tmp_path / "hub").glob("snapshot-*")]
    shared = world.clients["alder"].state.shared.tobytes()
    assert len(sealed) == 1 and shared[:40] not in sealed[0]
    world.hub_again()
    assert world.hub.snapshots.held == held
    world.finish()
    assert same_shared(world, *FIVE)
    world.close()


def test_who_cannot_take_an_answer_goes_on_from_the_shared_state(tmp_path, monkeypatch):
    """As one that was damaged in the coordinator's folder, or of a round that was disputed while it was away."""
    world = world_of(tmp_path, rounds=5)
    world.closes(1)
    world.loop.gone("elm")
    world.closes(3, FOUR)
    honest, told = world.hub.answers, []

    def altered(number=None):
        found = honest(number)
        return found if number != 2 else dict(found) | {"elm": found["elm"][:-1] + bytes([found["elm"][-1] ^ 1])}

    monkeypatch.setattr(world.hub, "answers", altered)

    def over():
        told.append(world.told.get("elm"))
        return world.loop.finished

    world.until(over, FIVE)
    assert world.clients["elm"].round == 5 and same_shared(world, *FIVE)
    damaged = [kinds for kinds in told if kinds and kinds[:2] == [Kind.ANSWER, Kind.ANSWER]]
    assert len(damaged) <= 2, "the answer that fails is not told over and over"
    world.close()


def test_a_false_snapshot_costs_its_maker_nothing_more_and_another_gives_one(tmp_path, few_kept, monkeypatch):
    world = world_of(tmp_path, rounds=8)
    world.closes(6, FOUR)
    alder, honest = world.clients["alder"], Client.snapshot

    def false(client):
        made = honest(client)
        return made[:-1] + bytes((made[-1] ^ 1,)) if client is alder else made

    monkeypatch.setattr(Client, "snapshot", false)
    world.finish()
    assert world.clients["elm"].round == 8 and same_shared(world, *FIVE)
    assert {name for name, _ in world.hub.snapshots.doubted} == {"alder"}
    world.close()


def test_a_hospital_that_gives_no_snapshot_is_not_asked_again_and_another_is(tmp_path, few_kept, monkeypatch):
    world = world_of(tmp_path, rounds=8)
    world.closes(6, FOUR)
    alder, asked = world.clients["alder"], []
    honest = Client.send_snapshot

    def mute(client, message):
        asked.append(client.name)
        if client is alder:
            raise RuntimeError("no disk")
        return honest(client, message)

    monkeypatch.setattr(Client, "send_snapshot", mute)
    world.finish()
    assert world.clients["elm"].round == 8 and asked[:2] == ["alder", "birch"]
    world.close()


def test_a_lost_folder_is_not_made_up_for_and_nothing_is_spent(tmp_path, few_kept):
    world = world_of(tmp_path, rounds=8)
    world.closes(2)
    elm = world.clients["elm"]
    spent, keyring = elm.ledger.spent(), elm.session.keyring
    elm.close()
    world.loop.gone("elm")
    shutil.rmtree(elm.folder)
    made = Client(
        world.hub.federation,
        "elm",
        MODEL,
        rows_of("elm"),
        keyring,
        elm.folder,
        ledgers=elm.ledger.path.parent.parent,
        device="cpu",
        simulation=elm._simulation,
    )
    world.clients["elm"] = made
    world.closes(6, FOUR)
    world.finish()
    assert made.round == 0 and made.ledger.spent() == spent
    assert "took part from another folder" in str(world.failed["elm"])
    assert world.hub.closed == 8 and same_shared(world, *FOUR)
    world.close()


def test_an_old_copy_of_a_folder_goes_on_and_draws_no_second_noise(tmp_path):
    world = world_of(tmp_path, rounds=5)
    world.closes(1)
    shutil.copytree(tmp_path / "elm", tmp_path / "copy")
    world.closes(3)
    elm = world.clients["elm"]
    while elm.state.pending is None:  # it contributes to round 4
        world.visit("elm")
        world.loop.tick(0.0)
    elm.close()
    shutil.rmtree(tmp_path / "elm")
    shutil.move(tmp_path / "copy", tmp_path / "elm")
    world.loop.gone("elm")
    world.clients["elm"] = again = reopened(elm)
    assert again.round == 1
    world.finish()
    lines = [json.loads(line) for line in again.ledger.path.read_text().splitlines()]
    assert sorted(line["round"] for line in lines if line["kind"] == "reservation") == [1, 2, 3, 4, 5]
    assert again.round == 5 and same_shared(world, *FIVE)
    world.close()


@pytest.fixture
def behind(tmp_path):
    """A world in which elm is four rounds behind, and what it may be told."""
    world = world_of(tmp_path, rounds=6)
    world.closes(1)
    world.loop.gone("elm")
    world.closes(4, FOUR)
    statements = {name: its for name, its in world.hub.statements.items() if its.round == 4}
    yield world, Rejoin(snapshot=world.clients["alder"].snapshot(), statements=statements)
    world.close()


def told(world, body, number=4):
    return to_hospital(world.hub, "elm", body, number=number)


def changed(body, name, **fields):
    stated = {**body.statements, name: msgspec.structs.replace(body.statements[name], **fields)}
    return msgspec.structs.replace(body, statements=stated)


FALSE = {
    "an altered snapshot": (
        lambda body: msgspec.structs.replace(body, snapshot=body.snapshot[:-1] + bytes((body.snapshot[-1] ^ 1,))),
        "altered",
    ),
    "none": (lambda body: msgspec.structs.replace(body, snapshot=b""), "truncated"),
    "one statement": (
        lambda body: msgspec.structs.replace(body, statements={"alder": body.statements["alder"]}),
        "1 of 1 others",
    ),
    "no statement": (lambda body: msgspec.structs.replace(body, statements={}), "0 of 0 others"),
    "a forged statement": (lambda body: changed(body, "alder", state="ab" * 32), "does not verify"),
    "one about another round": (lambda body: changed(body, "alder", round=3), "says nothing of round 4"),
    "one of nobody": (
        lambda body: msgspec.structs.replace(body, statements=body.statements | {"yew": body.statements["alder"]}),
        "'yew'",
    ),
}


@pytest.mark.parametrize("what", FALSE)
def test_a_state_that_the_others_did_not_state_is_refused_and_nothing_changes(behind, what):
    world, body = behind
    elm, (falsify, words) = world.clients["elm"], FALSE[what]
    before = elm._path.read_bytes()
    with pytest.raises(MessageError, match=words):
        elm.handle(told(world, falsify(body)))
    assert elm._path.read_bytes() == before and elm.round == 1
    elm.handle(told(world, body))
    assert elm.round == 4


def test_a_snapshot_of_another_state_than_most_stated_is_refused(behind):
    world, body = behind
    alder, elm = world.clients["alder"], world.clients["elm"]
    other = alder.state
    other.shared = other.shared + 1
    key, session = alder.session.key.snapshot_key, alder.session
    false = Snapshot.of(other).seal(key, session.digest, session.run)
    with pytest.raises(MessageError, match="0 of 4 others stated"):
        elm.handle(told(world, msgspec.structs.replace(body, snapshot=false)))
    older = told(world, body, number=3)
    with pytest.raises(MessageError, match="says nothing of round 3"):
        elm.handle(older)


def test_a_state_that_a_hospital_is_past_is_not_read(behind):
    world, body = behind
    elm = world.clients["elm"]
    elm.handle(told(world, body))
    before = elm._path.read_bytes()
    receipt = elm.handle(told(world, msgspec.structs.replace(body, snapshot=b"?")))
    assert receipt and elm._path.read_bytes() == before


def test_a_snapshot_is_given_to_the_coordinator_alone_and_of_the_last_round_alone(behind):
    world, _ = behind
    birch = world.clients["birch"]
    with pytest.raises(MessageError, match="round 3 where 4 is expected"):
        birch.handle(to_hospital(world.hub, "birch", SnapshotWanted(), number=3))
    with pytest.raises(MessageError, match="unknown sender"):
        signer = world.clients["alder"].session.keyring.identity
        birch.handle(to_hospital(world.hub, "birch", SnapshotWanted(), number=4, signer=signer))
    session = birch.session
    with pytest.raises(MessageError, match="nobody asked for"):
        world.hub.receive(session.message(4, SnapshotSent(snapshot=birch.snapshot())))
    assert world.hub.snapshots.held is None


@pytest.mark.parametrize("goes", [False, True])
def test_one_who_is_asked_for_the_state_and_says_nothing_keeps_nobody_behind(tmp_path, few_kept, goes):
    """It is here, and the first who holds it; also where it goes and comes back."""
    world = world_of(tmp_path, rounds=8)
    world.closes(1)
    world.loop.gone("elm")
    world.closes(5, FOUR)
    while world.clients["elm"].round < 5:
        if goes:
            world.loop.gone("alder")
        world.loop.here("alder", world.hub.closed)
        world.loop.next("alder")
        for name in ("birch", "cedar", "damson", "elm"):
            world.visit(name)
        world.now += 1.0
        world.loop.tick(world.now)
        assert world.now < 60.0
    world.close()


def test_one_liar_s_word_puts_aside_two_snapshots_a_round_and_no_more(tmp_path, few_kept):
    """It takes the state, says that it fell short, goes, and comes back."""
    world = world_of(tmp_path, rounds=8)
    world.closes(1)
    world.loop.gone("elm")
    world.closes(5, FOUR)
    given = 0
    for _ in range(20):
        world.loop.gone("elm")
        world.loop.here("elm", 0)
        for _ in range(4):
            world.loop.took("elm", 0, [], told=world.loop.next("elm"))
        for name in FOUR:
            world.loop.here(name, world.clients[name].round)
            wanted = [its for its in world.loop.next(name) if its[0] == Kind.SNAPSHOT_WANTED]
            given += len(wanted)
            world.loop.took(name, 5, [world.clients[name].handle(message) for _, message in wanted], told=wanted)
    assert given == 3 and len(world.hub.snapshots.doubted) == 2
    assert world.hub.can_catch_up("elm", 1, anew=True), "who is behind in truth still gets one"
    world.close()
