"""Keys change at a round boundary: who stays goes on, who comes catches up, who left reads nothing that follows."""

from dataclasses import replace

import numpy as np
import pytest
from parties import MODEL, NAMES, channels_of, close_all, exchange, federation_of, parties, rows_of

from securepfl.client.client import Client
from securepfl.client.rotation import move_to
from securepfl.client.run_kind import Simulation
from securepfl.client.snapshot import Snapshot
from securepfl.coordinator.coordinator import Coordinator
from securepfl.crypto.keys.keys import FederationKey, Identity, Keyring
from securepfl.crypto.messages.envelope import Kind, open_message
from securepfl.crypto.sums.scheme import find_scheme
from securepfl.errors import AggregateError, ConfigError, MessageError, StorageError
from securepfl.protocol.messages import Answer, decode
from securepfl.randomness import fresh_key

FIVE = (*NAMES, "elm")
TABLES = {
    "rounds": 6,
    "privacy": {"epsilon": 1e4, "budget": 1e5},
    "encryption": {"masking": "pairwise"},
    "similarity": {"every": 0},
    "coupling": {"strength": 0.0},
}


def rotated(coordinator, clients, federation, folder, removed=(), joining=()):
    """The parties of the next epoch: new keys, the same identities, folders moved on."""
    epoch = next(iter(clients.values())).session.keyring.federation_key.epoch + 1
    before, closed = next(iter(clients.values())).federation, next(iter(clients.values())).round
    close_all(clients)
    identities = {n: c.session.keyring.identity for n, c in clients.items() if n not in removed}
    identities |= {name: Identity.generate(name) for name in joining}
    public = {name: identity.public for name, identity in identities.items()}
    key = FederationKey.generate(encrypted=True, epoch=epoch)
    pairs = {frozenset((one, other)): fresh_key() for one in identities for other in identities}
    server = coordinator.identity
    after = {}
    for name, identity in identities.items():
        if name in clients and before.digest != federation.digest:
            move_to(folder / name, before, federation)
        secrets = {other: pairs[frozenset((name, other))] for other in identities}
        keyring = Keyring(identity, key, server.public, public, secrets, ceremony=federation.ceremony_digest)
        after[name] = client_of(federation, name, keyring, folder / name)
    return Coordinator(
        federation, server, public, key_commitment=key.commitment, run=coordinator.rules.run, closed=closed
    ), after


def client_of(federation, name, keyring, folder):
    options = {"device": "cpu", "simulation": Simulation(), "ledgers": folder.parent / "ledgers"}
    return Client(federation, name, MODEL, rows_of(name), keyring, folder, **options)


def shared(client):
    return client.state.shared


def test_a_run_goes_on_under_new_keys_and_all_agree(tmp_path):
    federation = federation_of(names=FIVE, **TABLES)
    coordinator, clients = parties(federation, tmp_path)
    exchange(coordinator, clients)
    start = shared(clients["alder"]).copy()
    coordinator, clients = rotated(coordinator, clients, federation, tmp_path)
    assert all(np.array_equal(shared(client), start) for client in clients.values())
    for _ in range(2):
        exchange(coordinator, clients)
    assert {client.round for client in clients.values()} == {3}
    assert all(np.array_equal(shared(client), shared(clients["alder"])) for client in clients.values())
    assert not np.array_equal(shared(clients["alder"]), start)
    close_all(clients)


def test_a_removed_hospital_reads_nothing_that_follows(tmp_path):
    before, after = (federation_of(names=names, **TABLES) for names in (FIVE, NAMES))
    coordinator, clients = parties(before, tmp_path)
    exchange(coordinator, clients)
    gone = clients["elm"]
    coordinator, clients = rotated(coordinator, clients, after, tmp_path, removed=("elm",))
    _, answers = exchange(coordinator, clients)
    snapshot = clients["alder"].snapshot()
    with pytest.raises(MessageError):
        gone.apply(answers["alder"])
    # Even with an answer in clear: the old key decrypts no sum and opens no snapshot.
    stayer = clients["alder"]
    rules, keyring = coordinator.rules, stayer.session.keyring
    _, data = open_message(
        answers["alder"],
        keyring.identity,
        [keyring.coordinator],
        kinds=(Kind.ANSWER,),
        federation_digest=rules.base,
        run=rules.run,
        round=2,
        max_bytes=10**7,
    )
    body = decode(data, Answer)
    channel = channels_of(stayer)["update"]
    theirs = find_scheme("tenseal").cipher(gone.session.keyring.federation_key.he_key, channel.layout)
    foreign = replace(channel, cipher=theirs)
    context = rules.session + b"update/2/0"
    with pytest.raises(AggregateError):
        foreign.mean(body.aggregate, dict.fromkeys(body.survivors, 1), context, 10)
    assert channel.mean(body.aggregate, dict.fromkeys(body.survivors, 1), context, 10).size == 10
    with pytest.raises(MessageError):
        Snapshot.open(snapshot, gone.session.key.snapshot_key, rules.session, shared(gone).size)
    close_all(clients)


def test_a_newcomer_takes_the_snapshot_that_all_agree_on_and_takes_part(tmp_path):
    before, after = (federation_of(names=names, **TABLES) for names in (NAMES, FIVE))
    coordinator, clients = parties(before, tmp_path)
    exchange(coordinator, clients)
    coordinator, clients = rotated(coordinator, clients, after, tmp_path, joining=("elm",))
    newcomer = clients["elm"]
    assert newcomer.round == 0
    # Digests come with contributions: the round goes on without the newcomer, who then catches up.
    invitations = coordinator.invite()
    for name in NAMES:
        coordinator.receive(clients[name].contribute(invitations[name]))
    snapshot = clients["alder"].snapshot()
    newcomer.join(snapshot, coordinator.states)
    assert newcomer.round == 1
    for name, survivors in coordinator.fix_survivors().items():
        coordinator.receive(clients[name].sign_survivors(survivors))
    for name, request in coordinator.unmask().items():
        coordinator.receive(clients[name].reveal(request))
    for name, answer in coordinator.close().items():
        clients[name].apply(answer)
    exchange(coordinator, clients)
    assert newcomer.round == 3
    assert all(np.array_equal(shared(client), shared(newcomer)) for client in clients.values())
    close_all(clients)


@pytest.mark.parametrize("fault", ["altered", "old key", "old round", "disagreement", "too few", "truncated"])
def test_a_snapshot_that_is_not_what_all_hold_is_refused(tmp_path, fault):
    federation = federation_of(names=FIVE, **TABLES)
    coordinator, clients = parties(federation, tmp_path)
    newcomer = clients.pop("elm")
    invitations = coordinator.invite()
    with pytest.raises(MessageError, match="no run"):
        clients["alder"].snapshot()
    for name in clients:
        coordinator.receive(clients[name].contribute(invitations[name]))
    stale = clients["alder"].snapshot()
    digests = dict(coordinator.states)
    if fault == "altered":
        data, wanted = bytearray(stale), "altered"
        data[-20] ^= 1
        stale = bytes(data)
    elif fault == "old key":
        other = FederationKey.generate(encrypted=True)
        stale = Snapshot.of(clients["alder"].state).seal(
            other.snapshot_key, clients["alder"].session.digest, clients["alder"].session.run
        )
        wanted = "altered or made under another key"
    elif fault == "old round":
        digests = dict.fromkeys(digests, "0" * 64)
        wanted = "not the state"
    elif fault == "disagreement":
        digests["birch"] = "f" * 64
        wanted = "not the state"
    elif fault == "too few":
        digests, wanted = {"alder": digests["alder"]}, "let them contribute"
    else:
        stale, wanted = stale[:30], "truncated"
    stored = newcomer.folder / "state.safetensors"
    before = stored.read_bytes()
    with pytest.raises(MessageError, match=wanted):
        newcomer.join(stale, digests)
    assert stored.read_bytes() == before
    close_all(clients | {"elm": newcomer})


def test_a_hospital_that_has_taken_part_does_not_join_again(tmp_path):
    coordinator, clients = parties(federation_of(), tmp_path)
    exchange(coordinator, clients)
    with pytest.raises(StorageError, match="already"):
        clients["alder"].join(clients["birch"].snapshot(), coordinator.states)
    close_all(clients)


def test_a_round_that_is_open_is_finished_under_its_own_keys(tmp_path):
    federation = federation_of(names=FIVE, **TABLES)
    coordinator, clients = parties(federation, tmp_path)
    clients["alder"].contribute(coordinator.invite()["alder"])
    with pytest.raises(StorageError, match="open under the keys of epoch 0"):
        rotated(coordinator, clients, federation, tmp_path)
    with pytest.raises(StorageError, match="is open"):
        move_to(tmp_path / "alder", federation, federation_of(names=NAMES, **TABLES))


def test_messages_of_the_old_epoch_are_refused_after_a_rotation(tmp_path):
    federation = federation_of(names=FIVE, **TABLES)
    coordinator, clients = parties(federation, tmp_path)
    exchange(coordinator, clients)
    old, stayed = coordinator, clients
    coordinator, clients = rotated(coordinator, clients, federation, tmp_path)
    for name, invitation in old.invite().items():
        with pytest.raises(MessageError, match="federation"):
            clients[name].contribute(invitation)
    assert stayed.keys() == clients.keys()
    close_all(clients)


def test_only_the_roster_may_change(tmp_path):
    before = federation_of(names=FIVE, **TABLES)
    with pytest.raises(ConfigError, match="more than their hospitals"):
        move_to(tmp_path, before, federation_of(names=NAMES, **(TABLES | {"rounds": 7})))


def test_moving_on_twice_changes_nothing(tmp_path):
    before, after = (federation_of(names=names, **TABLES) for names in (FIVE, NAMES))
    coordinator, clients = parties(before, tmp_path)
    exchange(coordinator, clients)
    close_all(clients)
    move_to(tmp_path / "alder", before, after)
    once = (tmp_path / "alder" / "state.safetensors").read_bytes()
    move_to(tmp_path / "alder", before, after)
    assert (tmp_path / "alder" / "state.safetensors").read_bytes() == once


def test_keys_made_for_other_settings_or_another_hospital_are_refused(tmp_path):
    from securepfl.runtime.local import local_parties

    federation = federation_of()
    keyrings, _ = local_parties(federation)
    other = replace(keyrings["alder"], ceremony=b"o" * 32)
    with pytest.raises(ConfigError, match="other settings"):
        client_of(federation, "alder", other, tmp_path / "one")
    with pytest.raises(ConfigError, match="another hospital's"):
        client_of(federation, "birch", keyrings["alder"], tmp_path / "two")


def test_older_keys_do_not_open_a_folder_that_has_gone_on(tmp_path):
    federation = federation_of(names=FIVE, **TABLES)
    coordinator, clients = parties(federation, tmp_path)
    exchange(coordinator, clients)
    old = clients["alder"].session.keyring
    coordinator, clients = rotated(coordinator, clients, federation, tmp_path)
    exchange(coordinator, clients)
    close_all(clients)
    with pytest.raises(StorageError, match="on to epoch 1"):
        client_of(federation, "alder", old, tmp_path / "alder")
