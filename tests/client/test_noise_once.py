"""A round's noise is drawn once: whoever asks again, from a thread, a fork, a copy or an older state, gets the same
bytes or nothing. `draws` are all that training's noise came to (also where a new Client tries out model and data, which
leaves nothing), and the ledger says what was charged.
"""

import os
import shutil
import threading
import time

import msgspec
import numpy as np
import pytest
from forging import opened_by_coordinator, opened_by_hospital, to_hospital
from parties import MODEL, close_all, exchange, federation_of, parties, reopened, rows_of

from securepfl.client.client import Client
from securepfl.client.draft import DRAFT, TRIES
from securepfl.client.run_kind import Simulation
from securepfl.errors import LedgerError, MessageError, ModelError, StorageError
from securepfl.privacy.ledger.lines import Reservation, decode_line, split_lines
from securepfl.privacy.training import dpsgd
from securepfl.protocol.messages import Contribution, Decline
from securepfl.randomness import RandomStream, fresh_key

NAME = "alder"


def federation():
    return federation_of(coupling={"strength": 0.0}, similarity={"every": 0})


@pytest.fixture
def two(tmp_path):
    """(coordinator, clients) after one whole round."""
    coordinator, clients = parties(federation(), tmp_path)
    exchange(coordinator, clients)
    yield coordinator, clients
    close_all(clients)


@pytest.fixture
def draws(monkeypatch):
    """Every draw of noise of a training from here on, as bytes."""
    found, add = [], dpsgd.add_noise

    def spied(total, entries, settings, noise):
        before = total.clone()
        add(total, entries, settings, noise)
        found.append((total - before).numpy().tobytes())

    monkeypatch.setattr(dpsgd, "add_noise", spied)
    return found


def reserved(client):
    """The rounds that the ledger holds as paid for."""
    lines, _ = split_lines(client.ledger.path.read_bytes())
    return [line.round for line in map(decode_line, lines) if isinstance(line, Reservation)]


def put_back(client, copy):
    """The client again, on an older copy of its state and the ledger as it is."""
    client.close()
    shutil.copy(copy, client.folder / "state.safetensors")
    return reopened(client)


def kept(client, place):
    """A copy of the client's state as it lies on disk."""
    return shutil.copy(client.folder / "state.safetensors", place)


def test_the_same_invitation_again_gives_the_same_bytes_and_draws_nothing(two, draws):
    coordinator, clients = two
    invitation = coordinator.invite()[NAME]
    first = clients[NAME].contribute(invitation)
    steps = len(draws)
    assert steps == clients[NAME].federation.training.steps
    assert clients[NAME].contribute(invitation) == first == clients[NAME].handle(invitation)
    clients[NAME] = reopened(clients[NAME])
    tried_out = len(draws)
    assert clients[NAME].contribute(invitation) == first
    assert len(draws) == tried_out and reserved(clients[NAME]) == [1, 2]


def test_threads_that_ask_at_once_get_one_contribution(two, draws, monkeypatch):
    """An engine that asks again before the first answer is there, from another thread."""
    coordinator, clients = two
    invitation, client, slow = coordinator.invite()[NAME], clients[NAME], dpsgd.draw

    def slowly(*arguments):
        time.sleep(0.05)
        return slow(*arguments)

    monkeypatch.setattr(dpsgd, "draw", slowly)
    replies, start = [], threading.Barrier(4)

    def ask():
        start.wait()
        replies.append(client.contribute(invitation))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(replies) == 4 and len(set(replies)) == 1
    assert isinstance(opened_by_coordinator(coordinator, replies[0]), Contribution)
    assert len(draws) == client.federation.training.steps and reserved(client) == [1, 2]


def in_a_fork(do):
    """What `do` comes to in a forked process: its text, or the class and words of what it raised."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = str(do())
        except BaseException as error:  # noqa: BLE001 - told to the parent
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as told:
        said = told.read().decode()
    os.waitpid(child, 0)
    return said


def test_a_forked_process_is_refused_before_it_spends_or_draws(two):
    coordinator, clients = two
    invitation, client = coordinator.invite()[NAME], clients[NAME]
    size = client.ledger.path.stat().st_size
    assert in_a_fork(lambda: client.contribute(invitation)).startswith("StorageError: alder: this client was opened by")
    assert "StorageError" in in_a_fork(lambda: client.ledger.record("audit", {}))
    assert client.ledger.path.stat().st_size == size
    assert isinstance(opened_by_coordinator(coordinator, client.contribute(invitation)), Contribution)


def test_a_stream_is_not_read_on_in_a_fork():
    stream = RandomStream(fresh_key())
    stream.bytes(8)
    assert in_a_fork(lambda: stream.gaussian(3)).startswith("RuntimeError")
    assert len(stream.bytes(8)) == 8
    made = in_a_fork(lambda: RandomStream(fresh_key()).bytes(8).hex())
    assert len(made) == 16


def test_a_state_put_back_from_a_backup_sits_the_round_out(two, draws, tmp_path):
    coordinator, clients = two
    copy = kept(clients[NAME], tmp_path / "backup")
    invitation = coordinator.invite()[NAME]
    assert isinstance(opened_by_coordinator(coordinator, clients[NAME].contribute(invitation)), Contribution)
    clients[NAME] = put_back(clients[NAME], copy)
    tried_out = len(draws)
    reply = clients[NAME].contribute(invitation)
    assert opened_by_coordinator(coordinator, reply) == Decline()
    assert clients[NAME].sat_out == (2,) and len(draws) == tried_out and reserved(clients[NAME]) == [1, 2]


def test_the_state_of_before_the_first_round_put_back_joins_the_same_run_and_sits_out(tmp_path, draws):
    coordinator, clients = parties(federation(), tmp_path / "run")
    copy = kept(clients[NAME], tmp_path / "backup")
    invitation = coordinator.invite()[NAME]
    clients[NAME].contribute(invitation)
    clients[NAME] = put_back(clients[NAME], copy)
    tried_out = len(draws)
    assert opened_by_coordinator(coordinator, clients[NAME].contribute(invitation)) == Decline()
    assert len(draws) == tried_out and reserved(clients[NAME]) == [1]
    close_all(clients)


def failing(times):
    """A step that fails so many times, once its noise is drawn."""
    whole, left = dpsgd.descend, [times]

    def descend(*arguments):
        if left[0]:
            left[0] -= 1
            raise ModelError("out of memory")
        whole(*arguments)

    return descend


def test_a_training_that_failed_after_its_noise_leaves_noise_that_was_drawn_anew(two, draws, monkeypatch):
    """The first draw is thrown away with the training. What is sent then holds no other, and stays what it is."""
    coordinator, clients = two
    invitation, client = coordinator.invite()[NAME], clients[NAME]
    before = client.state.personal
    monkeypatch.setattr(dpsgd, "descend", failing(1))
    reply = client.contribute(invitation)
    thrown_away, sent = (np.frombuffer(drawn) for drawn in draws)
    moved = before - client.state.personal
    settings, size = client.federation.training, len(moved)
    assert np.allclose(moved, settings.learning_rate * sent[-size:] / client.units, rtol=1e-4, atol=1e-6)
    assert not np.allclose(sent, thrown_away)
    assert client.contribute(invitation) == reply and len(draws) == 2 and reserved(client) == [1, 2]


def stopping(times):
    """A step during which the process ends so many times, once its noise is drawn."""
    whole, left = dpsgd.descend, [times]

    def descend(*arguments):
        if left[0]:
            left[0] -= 1
            raise KeyboardInterrupt
        whole(*arguments)

    return descend


def stopped(client, invitation):
    """The client after its process ended over the invitation, and another opened its folder."""
    with pytest.raises(KeyboardInterrupt):
        client.contribute(invitation)
    return reopened(client)


def test_a_process_that_ended_before_it_stored_its_message_draws_the_same_noise_again(two, draws, monkeypatch):
    coordinator, clients = two
    invitation = coordinator.invite()[NAME]
    with monkeypatch.context() as patch:
        patch.setattr(dpsgd, "descend", stopping(1))
        clients[NAME] = stopped(clients[NAME], invitation)
        first = draws[0]
    seen = len(draws)
    reply = clients[NAME].contribute(invitation)
    assert isinstance(opened_by_coordinator(coordinator, reply), Contribution)
    assert draws[seen] == first and reserved(clients[NAME]) == [1, 2] and clients[NAME].sat_out == ()
    assert not (clients[NAME].folder / DRAFT).exists(), "no key of noise that left may stay"


def test_a_round_over_which_processes_always_end_is_sat_out(two, draws, monkeypatch):
    coordinator, clients = two
    invitation = coordinator.invite()[NAME]
    with monkeypatch.context() as patch:
        patch.setattr(dpsgd, "descend", stopping(TRIES))
        for _ in range(TRIES):
            clients[NAME] = stopped(clients[NAME], invitation)
    seen = len(draws)
    assert opened_by_coordinator(coordinator, clients[NAME].contribute(invitation)) == Decline()
    assert len(draws) == seen and reserved(clients[NAME]) == [1, 2]


@pytest.mark.parametrize("change", ["none", "altered", "of another hospital"])
def test_without_the_draft_of_this_very_round_it_is_sat_out(two, draws, monkeypatch, change):
    coordinator, clients = two
    invitations = coordinator.invite()
    with monkeypatch.context() as patch:
        patch.setattr(dpsgd, "descend", stopping(2))
        clients[NAME] = stopped(clients[NAME], invitations[NAME])
        clients["birch"] = stopped(clients["birch"], invitations["birch"])
    path = clients[NAME].folder / DRAFT
    if change == "none":
        path.unlink()
    else:
        own, other = path.read_bytes(), (clients["birch"].folder / DRAFT).read_bytes()
        path.write_bytes(other if change == "of another hospital" else own[:-1] + bytes((own[-1] ^ 1,)))
    seen = len(draws)
    assert opened_by_coordinator(coordinator, clients[NAME].contribute(invitations[NAME])) == Decline()
    assert len(draws) == seen and reserved(clients[NAME]) == [1, 2]


def test_state_and_draft_put_back_from_a_backup_draw_nothing_once_the_message_left(two, draws, monkeypatch, tmp_path):
    coordinator, clients = two
    invitation = coordinator.invite()[NAME]
    with monkeypatch.context() as patch:
        patch.setattr(dpsgd, "descend", stopping(1))
        clients[NAME] = stopped(clients[NAME], invitation)
    copy, draft = kept(clients[NAME], tmp_path / "backup"), (clients[NAME].folder / DRAFT).read_bytes()
    clients[NAME].contribute(invitation)
    (clients[NAME].folder / DRAFT).write_bytes(draft)
    clients[NAME] = put_back(clients[NAME], copy)
    seen = len(draws)
    assert opened_by_coordinator(coordinator, clients[NAME].contribute(invitation)) == Decline()
    assert len(draws) == seen and reserved(clients[NAME]) == [1, 2]


def test_a_training_that_failed_to_the_end_is_not_repeated(two, draws, monkeypatch):
    coordinator, clients = two
    invitation, client = coordinator.invite()[NAME], clients[NAME]
    monkeypatch.setattr(dpsgd, "descend", failing(2))
    with pytest.raises(ModelError):
        client.contribute(invitation)
    seen = len(draws)
    assert opened_by_coordinator(coordinator, client.contribute(invitation)) == Decline()
    assert len(draws) == seen and reserved(client) == [1, 2]


def test_a_message_that_could_not_be_stored_never_leaves_and_is_not_made_again(two, draws, monkeypatch):
    coordinator, clients = two
    invitation, client = coordinator.invite()[NAME], clients[NAME]
    with monkeypatch.context() as patch:
        patch.setattr(
            "securepfl.client.state.write_arrays", lambda *_, **__: (_ for _ in ()).throw(StorageError("full"))
        )
        with pytest.raises(StorageError):
            client.contribute(invitation)
    seen = len(draws)
    assert opened_by_coordinator(coordinator, client.contribute(invitation)) == Decline()
    assert len(draws) == seen


def test_a_coordinator_that_starts_a_round_anew_gets_the_same_bytes_or_none(two, draws):
    """Under another salt, in another attempt, or for a round that is over."""
    coordinator, clients = two
    invitation, client = coordinator.invite()[NAME], clients[NAME]
    first, steps = client.contribute(invitation), len(draws)
    body = opened_by_coordinator(coordinator, first)
    assert isinstance(body, Contribution)
    _, asked = opened_by_hospital(client, invitation)
    other = msgspec.structs.replace(asked, salt=bytes(len(asked.salt)))
    assert client.contribute(to_hospital(coordinator, NAME, other)) == first
    for place in ({"attempt": 1}, {"number": 1}, {"number": 3}):
        with pytest.raises(MessageError):
            client.contribute(to_hospital(coordinator, NAME, asked, **place))
    assert len(draws) == steps and reserved(client) == [1, 2]


def test_a_second_folder_of_a_hospital_draws_nothing_in_one_run(draws, tmp_path):
    """Neither while the first is open nor after it: wherever its folder lies, its rows have one ledger."""
    coordinator, clients = parties(federation(), tmp_path / "run")
    invitation, client = coordinator.invite()[NAME], clients[NAME]
    client.contribute(invitation)

    def second():
        return Client(
            client.federation,
            NAME,
            MODEL,
            rows_of(NAME),
            client.session.keyring,
            tmp_path / "second",
            ledgers=client.ledger.path.parent.parent,
            device="cpu",
            simulation=Simulation(),
        )

    with pytest.raises(LedgerError, match="close it"):
        second()
    client.close()
    clients[NAME] = other = second()
    tried_out = len(draws)
    with pytest.raises(MessageError, match="took part from another folder"):
        other.contribute(invitation)
    assert len(draws) == tried_out and reserved(other) == [1]
    close_all(clients)


@pytest.mark.parametrize("changed", [False, True])
def test_one_noise_never_meets_other_records_where_a_whole_machine_is_put_back(
    two, draws, monkeypatch, tmp_path, changed
):
    """State, draft, ledger and registry alike: then no settled line says that the message left."""
    coordinator, clients = two
    invitation, client = coordinator.invite()[NAME], clients[NAME]
    ledgers = client.ledger.path.parent.parent
    with monkeypatch.context() as patch:
        patch.setattr(dpsgd, "descend", stopping(1))
        clients[NAME] = stopped(client, invitation)
    clients[NAME].close()
    for place in (client.folder, ledgers):
        shutil.copytree(place, tmp_path / "image" / place.name)
    clients[NAME] = reopened(clients[NAME])
    seen = len(draws)
    first = opened_by_coordinator(coordinator, clients[NAME].contribute(invitation))
    left = draws[seen]
    clients[NAME].close()
    for place in (client.folder, ledgers):
        shutil.rmtree(place)
        shutil.copytree(tmp_path / "image" / place.name, place)
    rows = rows_of(NAME)
    if changed:
        rows.tensors[0][0] += 1.0
    clients[NAME] = reopened(clients[NAME], rows)
    seen = len(draws)
    again = opened_by_coordinator(coordinator, clients[NAME].contribute(invitation))
    if changed:
        assert again == Decline() and len(draws) == seen
    else:
        assert draws[seen] == left and again.update is not None and again.head == first.head
    assert reserved(clients[NAME]) == [1, 2]


def test_a_draft_of_a_round_that_went_on_without_it_does_not_stay(two, monkeypatch):
    coordinator, clients = two
    invitations = coordinator.invite()
    with monkeypatch.context() as patch:
        patch.setattr(dpsgd, "descend", stopping(1))
        clients[NAME] = stopped(clients[NAME], invitations[NAME])
    assert (clients[NAME].folder / DRAFT).exists()
    for name in clients.keys() - {NAME}:
        coordinator.receive(clients[name].contribute(invitations[name]))
    clients[NAME].apply(coordinator.close()[NAME])
    assert clients[NAME].round == 2 and not (clients[NAME].folder / DRAFT).exists()
