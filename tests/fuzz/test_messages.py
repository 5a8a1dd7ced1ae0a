"""Ten thousand mutated messages: each is refused by a typed error and leaves no trace, or is none of a change.

What "no accepted change" means for bytes that a dishonest party signed itself is written at the inner tests.
"""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from forging import BODIES, falsify_answers, opened_by_coordinator
from fuzz.mutator import Mutator, fingerprint
from fuzz.stage import FIVE, UNREAD, Stage, Tally, federation, replayed
from parties import close_all, exchange, federation_of, parties

from securepfl.client.snapshot import Snapshot
from securepfl.crypto.keys.identity import PublicIdentity
from securepfl.crypto.masks.edges import ABSENT, pieces
from securepfl.crypto.messages.envelope import Kind
from securepfl.crypto.sums.packing import unpack
from securepfl.errors import MessageError, SecurePFLError
from securepfl.protocol import channels
from securepfl.protocol.bounds import SumBound
from securepfl.protocol.channels import Layouts
from securepfl.protocol.messages import (
    Answer,
    Contribution,
    Survivors,
    decode,
    encode,
)

SEED = 20240607
OUTER, INNER, SNAPSHOTS = 1075, 210, 300
"""Mutated messages of each kind, as they travel and as a dishonest party signs them; and mutated snapshots."""

PLAYED = 4
"""For how many accepted messages with the same fields altered the round is played to its end."""

KINDS = {kind for kind in Kind if kind < Kind.RECEIPT}
"""Of a round that nobody disputes; those of disputes are in tests/rounds/test_disputes.py."""

DOWN = {
    Kind.INVITATION: "MessageError",
    Kind.SURVIVORS: "MessageError",
    Kind.UNMASK: "MessageError",
    Kind.ANSWER: UNREAD,
}
"""What becomes of messages to hospitals of rounds before; the coordinator calls those to it late."""

NAMES = [*FIVE, "gean", "coordinator"]


class Accepted(Exception):  # noqa: N818 (a signal, no error)
    """A hospital was about to reserve budget, so it had taken an invitation."""


@pytest.fixture
def stage(tmp_path):
    stage = Stage.open(tmp_path)
    yield stage
    stage.close()


@pytest.fixture
def young_stage(tmp_path):
    """Before any round: where the history does not matter."""
    stage = Stage.open(tmp_path, rounds=0)
    yield stage
    stage.close()


def said(capsys, record_property, what, tallies):
    """One line for people, and a property for each kind for reports."""
    total = Tally(sum((tally.outcomes for tally in tallies.values()), Counter()))
    line = f"{what}: {total.count} messages: {total.line()}"
    for kind, tally in tallies.items():
        record_property(f"{what}, {kind}", tally.line())
    with capsys.disabled():
        print(f"\n{line}")


def test_at_least_ten_thousand_messages_are_mutated():
    from fuzz.test_ceremony_files import EACH, FILES

    assert len(KINDS) * (OUTER + INNER) + SNAPSHOTS + EACH * len(FILES) >= 10_000


def altered(target, count, mutator):
    """Deliver altered bytes of a genuine message."""
    tally, before = Tally(), target.state()
    material = [*target.foreign, *target.genuine]
    for index in range(count):
        if index % 10 == 0:
            operation, message = "forged signature", target.forged(mutator)
        elif index % 25 == 1:
            operation, message = "another message", mutator.random.choice(target.foreign)
        else:
            operation, message = mutator.message(target.message, material, target.genuine)
        accepted = len(tally.accepted)
        tally.try_one(target, before, operation, message)
        if len(tally.accepted) > accepted:
            tally.faults.append(f"{target.kind.name}: {operation} was accepted")
            target.rewind()
    return tally


def test_altered_messages_of_every_kind_are_refused_and_the_round_goes_through(stage, capsys, record_property):
    tallies = {}
    for target in stage.round():
        tallies[target.kind] = altered(target, OUTER, Mutator(SEED + target.kind))
    assert set(tallies) == KINDS
    assert [fault for tally in tallies.values() for fault in tally.faults] == []
    assert all(tally.count == OUTER for tally in tallies.values())
    for kind, tally in tallies.items():
        assert "MessageError" in tally.outcomes
        assert set(tally.outcomes) <= {"MessageError", DOWN.get(kind, "LateError")}
    shared = [client.state.shared for client in stage.clients.values()]
    assert {client.round for client in stage.clients.values()} == {3}
    assert all(np.array_equal(shared[0], other) for other in shared)
    said(capsys, record_property, "altered on the way", tallies)


@pytest.mark.parametrize("kind", [Kind.INVITATION, Kind.CONTRIBUTION])
@pytest.mark.parametrize(
    ("broken", "seen"),
    [(lambda *_: None, "was accepted"), (lambda *_: 1 / 0, "ZeroDivisionError")],
    ids=["no check", "crash"],
)
def test_the_fuzzer_finds_a_party_that_checks_no_signature_or_crashes(young_stage, monkeypatch, kind, broken, seen):
    target = kept_until(young_stage, kind)
    if kind == Kind.INVITATION:
        monkeypatch.setattr(young_stage.clients["alder"].ledger, "has_reserved", reservation)
        target = replace(target, deliver=stops_at_the_reservation(target.deliver))
    monkeypatch.setattr(PublicIdentity, "verify", broken)
    assert any(seen in fault for fault in altered(target, 200, Mutator(SEED)).faults)


# Below: bytes that an enrolled but dishonest party made, signed and sealed. Such a party may say what it likes about
# itself, and the coordinator may withhold; so what is accepted is compared by what it means.


def dishonest(target, count, mutator, judge, material=()):
    """Deliver bodies and headers that the genuine sender altered; `judge(message, result)` returns what is wrong with
    an accepted one, or None.
    """
    tally, before, body = Tally(), target.state(), target.body
    for index in range(count):
        if index % 12 == 0:
            operation, message = "header", target.sealed(body, **other_place(mutator, target))
        else:
            operation, altered_body = mutator.body(body, NAMES, [body, *material])
            message = target.sealed(altered_body)
        accepted = len(tally.accepted)
        result = tally.try_one(target, before, operation, message)
        if len(tally.accepted) > accepted:
            fault = judge(message, result)
            if fault is not None:
                tally.faults.append(f"{target.kind.name} {operation}: accepted, {fault}")
            target.rewind()
            assert target.state() == before
    return tally


def other_place(mutator, target):
    header = target.header
    return mutator.random.choice(
        (
            {"round": header.round - 1},
            {"round": header.round + 1},
            {"round": 2**32 - 1},
            {"kind": mutator.random.choice([kind for kind in Kind if kind != target.kind])},
            {"federation_digest": mutator.random.randbytes(32)},
            {"run": mutator.random.randbytes(16)},
            {"attempt": mutator.random.choice((1, 2**32 - 1))},
        )
    )


def changed_fields(target, message):
    """Names of fields that differ from the genuine body's; "attempt" where the header does."""
    kind = BODIES[target.kind]
    other_header, other = target.opener(message)
    one, two = decode(target.body, kind), decode(other, kind)
    changed = {
        name for name in kind.__struct_fields__ if fingerprint(getattr(one, name)) != fingerprint(getattr(two, name))
    }
    return changed | ({"attempt"} if target.header != other_header else set())


def test_bodies_that_a_dishonest_coordinator_signs_are_refused_or_mean_nothing_else(
    stage, monkeypatch, capsys, record_property
):
    judges = {
        Kind.INVITATION: judge_invitation,
        Kind.SURVIVORS: judge_survivors,
        Kind.UNMASK: judge_unmask,
        Kind.ANSWER: judge_answer,
    }
    tallies = {}
    for target in stage.round():
        if target.kind not in judges:
            continue
        judge, mutator = judges[target.kind](stage, target), Mutator(SEED + 100 + target.kind)
        with monkeypatch.context() as patch:
            if target.kind == Kind.INVITATION:
                patch.setattr(stage.clients["alder"].ledger, "has_reserved", reservation)
                target = replace(target, deliver=stops_at_the_reservation(target.deliver))  # noqa: PLW2901
            if target.kind == Kind.ANSWER:
                target = replace(target, state=past_the_pin(stage, target.rewind))  # noqa: PLW2901
            tallies[target.kind] = dishonest(target, INNER, mutator, judge)
    assert [fault for tally in tallies.values() for fault in tally.faults] == []
    assert all(tally.count == INNER for tally in tallies.values())
    assert tallies[Kind.ANSWER].outcomes["AggregateError"] > 10, "no answer came as far as its sum's check"
    said(capsys, record_property, "signed by a dishonest coordinator", tallies)


def reservation(**_):
    raise Accepted


def stops_at_the_reservation(deliver):
    def delivered(message):
        try:
            deliver(message)
        except Accepted:
            return
        raise AssertionError("an invitation was answered without a reservation")

    return delivered


def judge_invitation(stage, target):
    # `round` in the body is not read: the header's counts. Nonces are the coordinator's to tell; a hospital that is
    # told another than its own sends no sketch, and rows under others' fail their check (test_pads.py). So is the
    # salt: hospitals that are told different ones mask differently, and no sum of theirs comes free of masks. Whose
    # public keys are held decides only whether a hospital sends its own again. What is said of hospitals in `named` is
    # the coordinator's word alone, and shown as that.
    allowed = {"nonces", "salt", "round", "attempt", "held", "named"}

    def judge(message, _):
        changed = changed_fields(target, message)
        return None if changed <= allowed else f"though {changed - allowed} changed"

    return judge


def judge_survivors(stage, target):
    """Another list than the genuine is the coordinator's to choose: once."""
    client = stage.clients["alder"]

    def judge(message, _):
        listed = decode(target.opener(message)[1], Survivors).survivors
        if client.state.pending.agreed != listed or listed != tuple(sorted(set(listed) & set(FIVE))):
            return f"signed {client.state.pending.agreed} for {listed}"
        if listed == decode(target.body, Survivors).survivors:
            return None
        with pytest.raises(MessageError, match="another survivor list"):
            target.deliver(target.message)
        return None

    return judge


def judge_unmask(stage, target):
    """Too many or other unneeded parts in a request are ignored: the shares are those of the signed list, without those
    of senders whose blobs don't open.
    """
    honest = pieces(opened_by_coordinator(stage.coordinator, target.deliver(target.message)).shares)
    target.rewind()

    def judge(_, reply):
        shares = pieces(opened_by_coordinator(stage.coordinator, reply).shares)
        fits = len(shares) == len(honest)
        fits = fits and all(one in (other, ABSENT) for one, other in zip(shares, honest, strict=True))
        return None if fits else "revealed other shares"

    return judge


def judge_answer(stage, target):
    """The coordinator may withhold a sum, a neighbourhood or a row, never give another."""
    client = stage.clients["alder"]
    before = client.state
    target.deliver(target.message)
    honest = client.state
    target.rewind()

    def judge(message, _):
        body, after = decode(target.opener(message)[1], Answer), client.state
        shared = before.shared if body.aggregate is None else honest.shared
        if not np.array_equal(after.shared, shared):
            return "the shared parameters moved otherwise"
        if not any(np.array_equal(after.personal, state.personal) for state in (before, honest)):
            return "the personal parameters moved otherwise"
        if not after.similarity.items() <= honest.similarity.items() | before.similarity.items():
            return "similarities differ"
        return None

    return judge


def past_the_pin(stage, rewind):
    """A hospital remembers which answer it began to decrypt, and what of it failed: everything else must stay."""
    client = stage.clients["alder"]
    before = fingerprint(client.state)

    def state():
        now = client.state
        if now.pending is not None and now.pending.answer:
            now.pending = msgspec.structs.replace(now.pending, answer="", refused=(), survivors=())
            if fingerprint(now) == before:
                rewind()
        return stage.client_state("alder")

    return state


def test_bodies_that_a_dishonest_hospital_signs_are_refused_or_never_applied(stage, capsys, record_property):
    """The coordinator cannot see into ciphertexts; whatever it takes, honest hospitals apply the right sum or none."""
    tallies, played = {}, Counter()
    for target in stage.round():
        if target.kind not in (Kind.CONTRIBUTION, Kind.DECLINE, Kind.AGREEMENT, Kind.REVEAL):
            continue
        judge = judge_upload(target) if target.kind == Kind.CONTRIBUTION else lambda *_: None
        tallies[target.kind] = tally = dishonest(
            target, INNER, Mutator(SEED + 200 + target.kind), judge, stage.seen[-1:]
        )
        if target.kind in (Kind.CONTRIBUTION, Kind.AGREEMENT, Kind.REVEAL):
            played += play_out(stage, target, tally)
    assert [fault for tally in tallies.values() for fault in tally.faults] == []
    assert all(tally.count == INNER for tally in tallies.values())
    assert played["refused: AggregateError"] > 10 and played["applied"] > 10
    assert {client.round for client in stage.clients.values()} == {3}
    said(capsys, record_property, "signed by a dishonest hospital", tallies)
    with capsys.disabled():
        print(f"what honest hospitals made of rounds with what was taken: {dict(played)}")
    record_property("rounds played out, honest hospitals", dict(played))


def judge_upload(target):
    """Shapes that every contribution has."""
    genuine = decode(target.body, Contribution)

    def judge(message, _):
        body = decode(target.opener(message)[1], Contribution)
        sizes = [
            len(one.update) == len(other.update)
            and len(one.nonce) == len(other.nonce)
            and len(one.state) == len(other.state)
            and len(one.masks.blobs) == len(other.masks.blobs)
            for one, other in [(genuine, body)]
        ]
        return None if all(sizes) else "of another shape"

    return judge


def play_out(stage, target, tally):
    """Go on with the round from accepted messages in place of the genuine one; what honest hospitals did with it.

    Every honest hospital ends with the state that the honest round gives, or with its shared parameters as they were.
    """
    outcomes, honest = Counter(), ended(stage, target, target.message)
    starts = {name: stage.clients[name].state.shared.copy() for name in FIVE}
    for operation, message in various(target, tally):
        for name, (outcome, state) in ended(stage, target, message).items():
            outcomes[outcome] += 1
            right = honest[name][1].shared if outcome == "applied" else starts[name]
            if not any(np.array_equal(state.shared, shared) for shared in (right, starts[name])):
                tally.faults.append(f"{target.kind.name} {operation}: {name} {outcome} another sum")
            if "crash" in outcome:
                tally.faults.append(f"{target.kind.name} {operation}: {name} {outcome}")
    return outcomes


def various(target, tally):
    """Accepted messages that mean something else, a few for each part that was altered."""
    chosen = []
    for operation, message in tally.accepted:
        changed = changed_fields(target, message)
        if changed and sum(changed == other for other, *_ in chosen) < PLAYED:
            chosen.append((changed, operation, message))
    return [(operation, message) for _, operation, message in chosen]


def ended(stage, target, message):
    """(outcome, state) of each honest hospital after the rest of the round, which is then undone."""
    undo, coordinator = stage.hold(), stage.coordinator
    try:
        for one in [message, *sorted(target.genuine - {target.message})]:
            attempted(coordinator.receive, one)
        if target.kind == Kind.CONTRIBUTION:
            asked(stage, coordinator.fix_survivors)
        if target.kind in (Kind.CONTRIBUTION, Kind.AGREEMENT):
            asked(stage, coordinator.unmask)
        answers = coordinator.close()
        honest = [name for name in FIVE if name != target.name]
        outcomes = {name: attempted(stage.clients[name].apply, answers[name])[0] for name in honest}
        return {name: (outcome, stage.clients[name].state) for name, outcome in outcomes.items()}
    finally:
        undo()


def asked(stage, ask):
    _, messages = attempted(ask)
    for name, message in (messages or {}).items():
        _, reply = attempted(stage.clients[name].handle, message)
        if reply is not None:
            attempted(stage.coordinator.receive, reply)


def attempted(call, *arguments):
    try:
        return "applied", call(*arguments)
    except SecurePFLError as error:
        return f"refused: {type(error).__name__}", None
    except Exception as error:  # noqa: BLE001 (finding these is what a fuzzer is for)
        return f"crash {error!r}", None


def test_the_fuzzer_finds_hospitals_that_do_not_check_tags(stage, monkeypatch):
    for target in stage.round():
        if target.kind == Kind.CONTRIBUTION:
            break
    body = decode(target.body, Contribution)
    words = bytearray(body.update)
    words[60:64] = bytes(4)
    message = target.sealed(encode(msgspec.structs.replace(body, update=bytes(words))))
    tally = Tally(accepted=[("flip", message)])
    assert play_out(stage, target, tally) == {"refused: AggregateError": 4} and tally.faults == []
    unchecked = lambda slots, layout, *_: unpack(slots[: layout.value_slots], layout)  # noqa: E731
    monkeypatch.setattr(channels, "check_and_unpack", unchecked)
    monkeypatch.setattr(SumBound, "check", lambda *_: None)
    play_out(stage, target, tally)
    assert any("applied another sum" in fault for fault in tally.faults)


def test_altered_snapshots_and_digests_are_refused(stage, tmp_path, capsys, record_property):
    client = stage.clients["alder"]
    key, session = client.session.keyring.federation_key.snapshot_key, client.session.digest
    genuine, mutator, tally = client.snapshot(), Mutator(SEED + 300), Tally()
    target = SimpleNamespace(
        kind=Kind.ANSWER,
        deliver=lambda data: Snapshot.open(data, key, session, client.state.shared.size),
        state=lambda: stage.client_state("alder"),
        unread=lambda _: False,
    )
    before = target.state()
    for _ in range(SNAPSHOTS):
        tally.try_one(target, before, *mutator.file(genuine, [genuine, *stage.seen[:5]]))
    assert tally.faults == [] and tally.outcomes == {"MessageError": SNAPSHOTS}
    assert Snapshot.open(genuine, key, session, client.state.shared.size).round == 2
    said(capsys, record_property, "altered snapshots", {"SNAPSHOT": tally})


def test_a_bound_on_messages_holds_those_that_travel(stage):
    """So that what the bound refuses is never genuine."""
    most = Layouts.of(federation()).most_bytes(federation())
    assert max(map(len, stage.seen)) <= most


# Below: defects that the fuzzer or the reading for it found. Each turns into a failure when it is mended: then take
# the mark off.


def kept_until(stage, kind):
    return next(target for target in stage.round() if target.kind == kind)


def replace_in(target, **changes):
    return target.sealed(encode(msgspec.structs.replace(decode(target.body, BODIES[target.kind]), **changes)))


@pytest.mark.parametrize("altered_body", [True, False])
def test_a_refused_or_repeated_reply_counts_no_bytes(young_stage, altered_body):
    target = kept_until(young_stage, Kind.AGREEMENT)
    young_stage.coordinator.receive(target.message)
    before = dict(young_stage.coordinator.parts)
    replayed(young_stage.coordinator.receive, target.sealed(b"\xc1") if altered_body else target.message)
    assert young_stage.coordinator.parts == before


def test_a_state_digest_that_is_no_digest_cannot_crash_a_newcomer(young_stage):
    target = kept_until(young_stage, Kind.CONTRIBUTION)
    with pytest.raises(MessageError):
        young_stage.coordinator.receive(replace_in(target, state="é" * 64))


def test_a_newcomer_refuses_a_digest_that_is_no_digest(young_stage):
    client = young_stage.clients["alder"]
    key, session = client.session.keyring.federation_key.snapshot_key, client.session.digest
    with pytest.raises(MessageError):
        Snapshot.of(client.state).check_agreement(["é" * 64] * 3, 3, key, session)


def test_one_hospitals_overlong_signature_does_not_stop_the_others(young_stage):
    target = kept_until(young_stage, Kind.AGREEMENT)
    coordinator, most = young_stage.coordinator, young_stage.coordinator.rules.most_bytes
    replayed(coordinator.receive, replace_in(target, signature=bytes(most - 100)))
    for message in target.genuine - {target.message}:
        coordinator.receive(message)
    requests = coordinator.unmask()
    for name in FIVE[1:]:
        coordinator.receive(young_stage.clients[name].reveal(requests[name]))


def test_an_update_that_was_unmasked_is_not_sent_again_because_an_answer_names_other_survivors(young_stage):
    target = kept_until(young_stage, Kind.ANSWER)
    client = young_stage.clients["alder"]
    assert client.state.pending.revealed
    residual = client.state.residual.copy()
    replayed(
        target.deliver, replace_in(target, aggregate=None, survivors=(), products={}, neighbourhood=None, neighbours=())
    )
    assert np.array_equal(client.state.residual, residual)


def test_a_neighbourhood_in_a_federation_without_personal_parameters_is_refused(tmp_path, monkeypatch):
    coordinator, clients = parties(
        federation_of(
            model={"personal": []}, coupling={}, release={}, rounds=5, privacy={"epsilon": 1e4, "budget": 1e5}
        ),
        tmp_path,
    )
    try:
        for _ in range(2):
            exchange(coordinator, clients)
        for name, invitation in coordinator.invite().items():
            coordinator.receive(clients[name].contribute(invitation))
        falsify_answers(monkeypatch, neighbours=("birch", "cedar", "damson"), neighbourhood=b"x")
        with pytest.raises(MessageError, match="does not fit what was asked"):
            clients["alder"].apply(coordinator.close()["alder"])
    finally:
        close_all(clients)


def test_a_second_agreement_with_a_false_signature_is_refused(young_stage):
    target = kept_until(young_stage, Kind.AGREEMENT)
    young_stage.coordinator.receive(target.message)
    with pytest.raises(MessageError):
        young_stage.coordinator.receive(replace_in(target, signature=b"other"))
