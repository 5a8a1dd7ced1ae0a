"""What a round is for every hospital alike, what is a hospital's own, and what none of it may show."""

import base64
from dataclasses import replace

import numpy as np
import pytest
from forging import opened_by_coordinator, opened_by_hospital, to_hospital
from parties import MODEL, NAMES, close_all, exchange, federation_of, parties, rows_of, support_of

from securepfl.client.labels import task_and_loss
from securepfl.client.parts import Parts
from securepfl.crypto.messages.envelope import Kind
from securepfl.errors import MessageError
from securepfl.protocol.messages import Decline
from securepfl.randomness import fresh_key

ROOT, NOISE = bytes(range(32)), bytes(range(32, 64))
SPARSE = {"density": 0.5, "block": 1}
"""Of so many ways to choose that two alike are no chance."""


def rounds_of(coordinator, clients):
    """The round that every hospital is invited to, by name; the round is then taken by all."""
    messages = coordinator.invite()
    found = {name: opened_by_hospital(client, messages[name])[0] for name, client in clients.items()}
    for name, client in clients.items():
        coordinator.receive(client.contribute(messages[name]))
    for name, answer in coordinator.close().items():
        clients[name].apply(answer)
    return found


@pytest.fixture
def three_rounds(tmp_path):
    coordinator, clients = parties(federation_of(sparsity=SPARSE), tmp_path)
    yield [rounds_of(coordinator, clients) for _ in range(3)]
    close_all(clients)


def test_the_same_coordinates_travel_at_all_hospitals_and_others_in_other_rounds(tmp_path):
    coordinator, clients = parties(federation_of(sparsity=SPARSE), tmp_path)
    supports = []
    for _ in range(3):
        expected = {name: support_of(client, client.round + 1) for name, client in clients.items()}
        found = {name: round_.support for name, round_ in rounds_of(coordinator, clients).items()}
        assert all(np.array_equal(found[name], expected[name]) for name in NAMES)
        assert all(np.array_equal(found[name], found["alder"]) for name in NAMES)
        assert found["alder"].dtype == bool and 0 < found["alder"].sum() < found["alder"].size
        supports.append(found["alder"].tobytes())
    assert len(set(supports)) == 3
    close_all(clients)


def test_the_last_sum_and_the_hospitals_key_decide_which_coordinates_travel(three_rounds):
    first, second = three_rounds[0]["alder"], three_rounds[1]["alder"]
    assert first.aggregate is None and second.aggregate is not None
    assert not np.array_equal(replace(second, aggregate=second.aggregate[::-1].copy()).support, second.support)
    others = replace(second.session.keyring, federation_key=replace(second.session.key, root_key=NOISE))
    assert not np.array_equal(replace(second, session=replace(second.session, keyring=others)).support, second.support)


def test_no_two_sums_have_one_context(three_rounds, tmp_path):
    coordinator, clients = parties(federation_of(), tmp_path / "other keys")
    rounds = [found["alder"] for found in three_rounds]
    rounds.append(opened_by_hospital(clients["alder"], coordinator.invite()["alder"])[0])
    contexts = [context for round_ in rounds for context in (*round_.contexts.values(), round_.mask_context)]
    assert len(contexts) == 4 * 4 == len(set(contexts))
    again = replace(rounds[0], header=replace(rounds[0].header, attempt=1))
    assert again.contexts == rounds[0].contexts, "another answer is over what was sent once"
    assert set(rounds[0].contexts) == {"update", "personal", "similarity"}
    close_all(clients)


def test_hospitals_have_the_contexts_of_their_round_in_common(three_rounds):
    for found in three_rounds:
        assert len({tuple(sorted(round_.contexts.items())) for round_ in found.values()}) == 1
        assert len({round_.mask_context for round_ in found.values()}) == 1


def test_masks_are_bound_to_the_salt_and_tags_are_not(three_rounds):
    one = three_rounds[0]["alder"]
    other = replace(one, salt=bytes(16))
    assert other.mask_context != one.mask_context and other.contexts == one.contexts


def drawn(round_):
    """The first bytes of every stream."""
    return {use: stream.bytes(16) for use, stream in round_.streams.items()}


def reopened_round(round_):
    """The round as a restarted process has it: nothing of it is computed yet."""
    return replace(round_)


def test_seeded_streams_repeat_and_differ_by_use_round_and_hospital(tmp_path):
    coordinator, clients = parties(federation_of(), tmp_path, ROOT, NOISE)
    rounds = [round_ for _ in range(2) for round_ in rounds_of(coordinator, clients).values()]
    first = [drawn(round_) for round_ in rounds]
    assert [drawn(reopened_round(round_)) for round_ in rounds] == first
    all_bytes = [data for streams in first for data in streams.values()]
    assert len(all_bytes) == len(first[0]) * 8 == len(set(all_bytes)), "a use, a round and a hospital share a stream"
    close_all(clients)


def test_unseeded_streams_follow_from_the_rounds_fresh_key_alone(three_rounds):
    rounds = [replace(three_rounds[0]["alder"], fresh=fresh_key()) for _ in range(3)]
    runs = [drawn(round_) for round_ in rounds]
    assert [drawn(reopened_round(round_)) for round_ in rounds] == runs
    assert len({data for run in runs for data in run.values()}) == 3 * 5
    with pytest.raises(ValueError, match="no key to draw from"):
        drawn(replace(rounds[0], fresh=b""))


def test_a_reply_reaches_the_coordinator_in_the_rounds_own_place(tmp_path):
    coordinator, clients = parties(federation_of(), tmp_path)
    round_, _ = opened_by_hospital(clients["birch"], coordinator.invite()["birch"])
    reply = round_.reply(Decline())
    assert opened_by_coordinator(coordinator, reply) == Decline()
    assert coordinator.receive(reply) == "birch" and coordinator.survivors == ()
    close_all(clients)


@pytest.mark.parametrize("header", [{"attempt": 1}, {"number": 0}, {"number": 2}, {"kind": Kind.ANSWER}])
def test_a_message_of_another_place_opens_no_round(tmp_path, header):
    coordinator, clients = parties(federation_of(), tmp_path)
    _, body = opened_by_hospital(clients["alder"], coordinator.invite()["alder"])
    with pytest.raises(MessageError):
        opened_by_hospital(clients["alder"], to_hospital(coordinator, "alder", body, **header))
    close_all(clients)


def forms(secret):
    """How bytes could stand in a text."""
    for window in (secret[:12], secret[-12:]):
        yield from (window.hex(), window.hex().upper(), repr(window)[2:-1], str(list(window))[1:-1])
        yield np.array2string(np.frombuffer(window, dtype=np.uint8), separator=", ")[1:-1]
    yield base64.b64encode(secret).decode()[:16]


def secrets_of(session):
    key, identity = session.key, session.keyring.identity
    keys = [key.root_key, key.he_key, key.tag_key, key.support_key, key.similarity_key, key.snapshot_key]
    return [*keys, *session.keyring.pair_secrets.values(), bytes(identity.to_private_bytes()), session.noise_key]


def shown(thing, secrets):
    return [form for secret in secrets for form in forms(bytes(secret)) if form in repr(thing)]


def test_no_secret_shows_in_what_a_client_is_made_of(tmp_path):
    coordinator, clients = parties(
        federation_of(encryption={"masking": "pairwise"}, similarity={"every": 1, "beside_masks": True}),
        tmp_path,
        ROOT,
        NOISE,
    )
    exchange(coordinator, clients)
    client = clients["alder"]
    session, secrets = client.session, secrets_of(client.session)
    round_, _ = opened_by_hospital(client, coordinator.invite()["alder"])
    round_ = replace(round_, fresh=bytes(range(100, 132)))
    secrets.append(round_.fresh)
    assert round_.support.any() and round_.streams and round_.contexts, "computed, so a field would show it"
    task, loss = task_and_loss(client.federation, None, None)
    parts = Parts.of(
        session, "alder", MODEL, rows_of("alder"), None, task, loss, "cpu", 256, {"train": 0.0, "encrypt": 0.0}
    )
    for thing in (session, round_, parts, parts.contributor, parts.sender, parts.masks, parts.training):
        assert shown(thing, secrets) == [], type(thing).__name__
        assert type(thing).__name__ in repr(thing)
    assert str(round_.aggregate[0]) not in repr(round_)
    own = [bytes(coordinator.identity.to_private_bytes())]
    assert shown(vars(coordinator), own) == [] and "Identity('coordinator')" in repr(vars(coordinator))
    close_all(clients)


@pytest.mark.parametrize("as_text", [bytes, list, bytes.hex])
def test_a_secret_that_shows_is_found(tmp_path, as_text):
    _, clients = parties(federation_of(), tmp_path, ROOT, NOISE)
    secrets = secrets_of(clients["alder"].session)
    assert shown({"key": as_text(bytes(clients["alder"].session.key.tag_key))}, secrets)
    close_all(clients)
