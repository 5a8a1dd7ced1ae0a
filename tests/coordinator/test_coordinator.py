"""What the coordinator's memory holds, and what it refuses."""

import tracemalloc

import msgspec
import pytest
from forging import opened_by_coordinator, opened_by_hospital, to_coordinator
from parties import NAMES, channels_of, close_all, exchange, federation_of, parties, support_of
from views import bytes_of, pieces

from securepfl.coordinator.coordinator import MOST_EVIDENCE
from securepfl.crypto.messages.envelope import Header, Kind, seal_message
from securepfl.crypto.sums.packing import pack, quantise
from securepfl.crypto.sums.ring import stamp
from securepfl.crypto.sums.scheme import find_scheme
from securepfl.crypto.sums.versions import STAMP_BYTES, make_stamp
from securepfl.errors import ConfigError, MessageError
from securepfl.protocol.channels import Layouts
from securepfl.protocol.messages import NONCE_BYTES, Contribution, Invitation, MaskShares, Receipt, decode, encode
from securepfl.protocol.statements import make_statement
from securepfl.randomness import RandomStream


def test_the_coordinators_state_holds_no_secret_key_and_no_plaintext_update(tmp_path):
    """Looked for in all bytes that it reaches, in the middle of a round in which sketches are due."""
    coordinator, clients = parties(federation_of(), tmp_path)
    exchange(coordinator, clients)
    for name, invitation in coordinator.invite().items():
        coordinator.receive(clients[name].contribute(invitation))
    held = bytes_of(coordinator)
    assert len(held) > 4 * 3 * 4 * 4096, "the walk must reach the stored sketches"
    for client in clients.values():
        key = client.session.keyring.federation_key
        for secret in (key.root_key, key.tag_key, key.support_key, key.similarity_key, key.snapshot_key, key.he_key):
            assert not any(piece in held for piece in pieces(secret)), "a piece of a secret key"
        state = client.state
        channel, support = channels_of(client)["update"], support_of(client, 2)
        levels = quantise(state.pending.sent[support], channel.layout.bits, channel.limit, RandomStream(bytes(32)))
        plain = [
            state.pending.sent[support].tobytes(),
            state.shared.tobytes(),
            state.personal.tobytes(),
            state.compared.tobytes(),
            levels.levels.tobytes(),
            pack(levels.levels, channel.layout).tobytes(),
        ]
        for vector in plain:
            assert not any(piece in held for piece in pieces(vector) if piece.strip(b"\0")), "a piece of an update"
    close_all(clients)


def test_the_same_walk_finds_the_update_when_it_travels_in_clear(tmp_path):
    """The walk itself can fail: under --plaintext the packed slots are there."""
    coordinator, clients = parties(federation_of(encryption={"scheme": "none"}), tmp_path)
    for name, invitation in coordinator.invite().items():
        coordinator.receive(clients[name].contribute(invitation))
        if name == NAMES[0]:
            client = clients[name]
            channel, support = channels_of(client)["update"], support_of(client, 1)
            sent = client.state.pending.sent[support]
            levels = quantise(sent, channel.layout.bits, channel.limit, RandomStream(bytes(32))).levels
            slots = pack(levels, channel.layout)
            assert slots.tobytes() in bytes_of(coordinator)
    close_all(clients)


EMPTY = {
    "update": b"",
    "personal": None,
    "sketch": None,
    "neighbours": {},
    "head": "0" * 64,
    "nonce": bytes(NONCE_BYTES),
    "state": "0" * 64,
    "masks": None,
    "stands": b"",
}
LENGTH = find_scheme("tenseal").wire(Layouts.of(federation_of()).update).contribution_bytes
OLD = make_stamp((3, 6), (0, 3, 4)) + bytes(LENGTH - STAMP_BYTES)
"""A contribution of the right length, stamped by another SEAL."""

GOOD = stamp() + bytes(LENGTH - STAMP_BYTES)


@pytest.mark.parametrize(
    "changes",
    [
        {"update": b""},
        {"update": bytes(LENGTH)},
        {"update": bytes(10_000_000)},
        {"sketch": b"short"},
        {"personal": b"short"},
        {"update": OLD},
        {"personal": OLD},
        {"neighbours": ("birch", "cedar")},
        {"neighbours": ("alder", "birch", "cedar")},
        {"neighbours": ("birch", "birch", "cedar", "damson")},
        {"neighbours": ("damson", "cedar", "birch")},
        {"neighbours": ("birch", "cedar", "nobody")},
        {"update": GOOD, "nonce": b"short"},
        {"update": GOOD, "state": "short"},
        {"update": GOOD, "masks": MaskShares(blobs=(), commitments=b"")},
    ],
)
def test_a_signed_but_malformed_contribution_is_refused_and_leaves_no_trace(tmp_path, changes):
    coordinator, clients = parties(federation_of(), tmp_path)
    coordinator.invite()
    before = coordinator.survivors
    with pytest.raises(MessageError):
        coordinator.receive(
            to_coordinator(clients["alder"], Contribution(**EMPTY | changes), run=coordinator.rules.run)
        )
    assert coordinator.survivors == before == ()
    assert coordinator.open_round.total.contributions == 0
    coordinator.close()
    assert set(coordinator.invite()) == set(NAMES), "the federation goes on"
    close_all(clients)


def test_a_malformed_sketch_in_clear_is_refused_on_arrival(tmp_path):
    """Not when the row is formed: close() must not fail on what receive() took."""
    coordinator, clients = parties(federation_of(encryption={"scheme": "none"}), tmp_path)
    exchange(coordinator, clients)
    coordinator.invite()
    with pytest.raises(MessageError, match="sketch of 8 bytes"):
        coordinator.receive(
            to_coordinator(clients["alder"], Contribution(**EMPTY | {"sketch": bytes(8)}), run=coordinator.rules.run)
        )
    close_all(clients)


@pytest.mark.parametrize("data", [b"\x81\xa1\xff\x00", b"\x81\xa6schema\xa2\xff\xfe", b"\x91" * 5000, b"", b"\xc0"])
def test_hostile_bodies_raise_nothing_but_a_message_error(data):
    with pytest.raises(MessageError):
        decode(data, Contribution)


def test_two_hospitals_with_one_identity_are_refused(tmp_path):
    from securepfl.coordinator.coordinator import Coordinator

    coordinator, clients = parties(federation_of(), tmp_path)
    one = clients["alder"].session.keyring
    hospitals = dict.fromkeys(NAMES, one.identity.public)
    with pytest.raises(ConfigError, match="same identity"):
        Coordinator(federation_of(), coordinator.identity, hospitals, key_commitment=bytes(32))
    close_all(clients)


def test_no_sum_of_any_kind_leaves_below_the_minimum(tmp_path):
    """Five hospitals, all needed; four contribute: no aggregate, no neighbourhood, no similarity."""
    names = (*NAMES, "elm")
    federation = federation_of(names=names, minimum=5, rounds=4, privacy={"epsilon": 1e4})
    coordinator, clients = parties(federation, tmp_path)
    exchange(coordinator, clients)
    exchange(coordinator, clients)
    assert clients["alder"].state.neighbours
    invitations = coordinator.invite()
    for name in NAMES:
        coordinator.receive(clients[name].contribute(invitations[name]))
    answer = coordinator.close()["alder"]
    _, body = opened_by_hospital(clients["alder"], answer)
    assert (body.aggregate, body.neighbourhood, body.products, body.consensus) == (None, None, {}, None)
    clients["alder"].apply(answer)
    close_all(clients)


def test_a_personal_component_comes_where_it_is_due_and_nowhere_else(tmp_path):
    """One hospital that leaves it out would take the shared model from all."""
    federation = federation_of(coupling={"strength": 0.0}, rounds=2)
    coordinator, clients = parties(federation, tmp_path)
    for round_ in (1, 2):
        invitations = coordinator.invite()
        contributed = clients["alder"].contribute(invitations["alder"])
        body = opened_by_coordinator(coordinator, contributed)
        assert (body.personal is not None) == (round_ == 2)
        other = b"x" if body.personal is None else None
        with pytest.raises(MessageError, match="personal component in round"):
            coordinator.open_round.add("alder", msgspec.structs.replace(body, personal=other))
        with pytest.raises(MessageError, match="neighbourhood"):
            coordinator.open_round.add("alder", msgspec.structs.replace(body, neighbours=dict.fromkeys(NAMES[1:], 1)))
        assert coordinator.survivors == ()
        for name, invitation in invitations.items():
            coordinator.receive(clients[name].contribute(invitation))
        for name, answer in coordinator.close().items():
            clients[name].apply(answer)
    close_all(clients)


def test_bodies_of_another_shape_or_version_are_refused():
    with pytest.raises(MessageError, match="malformed"):
        decode(b"\xc1", Invitation)
    with pytest.raises(MessageError, match="malformed"):
        decode(msgspec.msgpack.encode({"round": 1}), Invitation)
    other = msgspec.structs.replace(Invitation(round=1, nonces={}, salt=bytes(16)), schema=1)
    with pytest.raises(MessageError, match="schema 1"):
        decode(encode(other), Invitation)


def test_an_unknown_hospital_is_refused(tmp_path):
    from securepfl.crypto.keys.keys import Identity

    coordinator, clients = parties(federation_of(), tmp_path)
    coordinator.invite()
    stranger = Identity.generate("alder")
    public = coordinator.identity.public
    names, rules = (stranger.public.fingerprint, public.fingerprint), coordinator.rules
    header = Header(Kind.DECLINE, rules.base, rules.run, 1, 0, *names)
    with pytest.raises(MessageError, match="unknown sender"):
        coordinator.receive(seal_message(header, b"", stranger, public))
    close_all(clients)


def test_rounds_are_opened_and_closed_in_turn(tmp_path):
    coordinator, clients = parties(federation_of(), tmp_path)
    with pytest.raises(MessageError, match="invite first"):
        coordinator.close()
    asked_twice = [coordinator.invite()["alder"] for _ in range(2)]
    assert len({encode(opened_by_hospital(clients["alder"], message)[1]) for message in asked_twice}) == 1
    coordinator.close()
    with pytest.raises(MessageError, match="invite first"):
        coordinator.close()
    close_all(clients)


def test_the_roster_must_match(tmp_path):
    from securepfl.coordinator.coordinator import Coordinator
    from securepfl.crypto.keys.keys import Identity

    with pytest.raises(ConfigError, match="roster"):
        Coordinator(federation_of(), Identity.generate("coordinator"), {}, key_commitment=bytes(32))


def test_ledger_heads_reach_the_coordinator(tmp_path):
    coordinator, clients = parties(federation_of(), tmp_path)
    exchange(coordinator, clients)
    assert set(coordinator.heads) == set(NAMES)
    assert all(len(bytes.fromhex(head)) == 32 for head in coordinator.heads.values())
    assert len(set(coordinator.heads.values())) == len(NAMES)
    close_all(clients)


def contradicting(client, hub):
    """Another contribution to the round that a hospital contributed to."""
    body = opened_by_coordinator(hub, client.state.pending.message)
    return client.session.message(client.round + 1, msgspec.structs.replace(body, head="ab" * 32))


def test_one_that_contradicts_itself_in_every_round_fills_no_folder(tmp_path):
    coordinator, clients = parties(
        federation_of(rounds=6, similarity={"every": 0}, coupling={"strength": 0.0}), tmp_path
    )
    for _ in range(6):
        invitations = coordinator.invite()
        for name, client in clients.items():
            coordinator.receive(client.contribute(invitations[name]))
        with pytest.raises(MessageError, match="sent other bytes for round"):
            coordinator.receive(contradicting(clients["alder"], coordinator))
        for name, answer in coordinator.close().items():
            clients[name].apply(answer)
    assert sorted(coordinator.evidence) == [(number, "alder") for number in range(1, MOST_EVIDENCE + 1)]
    assert {number for number, name in coordinator.named if name == "alder"} == {1, 2, 3, 4, 5, 6}
    close_all(clients)


def test_of_statements_about_one_round_the_first_counts_and_no_other_is_kept(tmp_path):
    coordinator, clients = parties(federation_of(similarity={"every": 0}, coupling={"strength": 0.0}), tmp_path)
    exchange(coordinator, clients)
    alder = clients["alder"]
    coordinator.receive(alder.receipt())
    first = coordinator.statements["alder"]
    for digit in "0123":
        made = make_statement(alder.session.keyring.identity, alder.session.digest, 1, digit * 64, first.head)
        with pytest.raises(MessageError, match="stated two things about round 1"):
            coordinator.receive(alder.session.message(1, Receipt(statement=made, refused=())))
    assert coordinator.statements["alder"] == first and "two things" in coordinator.named[1, "alder"]
    close_all(clients)


def test_a_map_of_more_names_than_any_roster_has_is_refused_before_it_takes_memory():
    many = {f"{number:x}": 1 for number in range((1 << 16) + 1)}
    fields = {"update": b"", "personal": None, "sketch": None, "neighbours": many, "head": "", "nonce": b""}
    body = Contribution(**fields, state="", masks=None, stands=b"")
    data = encode(body)
    tracemalloc.start()
    with pytest.raises(MessageError, match="malformed body"):
        decode(data, Contribution)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 100_000
    many.popitem()
    assert decode(encode(body), Contribution).neighbours == many
