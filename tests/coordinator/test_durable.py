"""A coordinator with a folder goes on where it was, whatever ended it; folders that are not its own are refused."""

import os
import shutil
import stat

import pytest
from forging import opened_by_coordinator, opened_by_hospital, to_coordinator
from mortal_coordinator import MASKED, table, trial
from parties import NAMES, Carried, close_all, federation_of, parties
from views import bytes_of, pieces

from securepfl.coordinator.coordinator import Coordinator
from securepfl.crypto.keys.keys import Identity
from securepfl.errors import MessageError, StorageError
from securepfl.protocol.messages import Decline, encode
from securepfl.protocol.rounds import drive
from securepfl.randomness import fresh_key
from securepfl.storage.journal import Journal

KILLS = 14


@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
def test_killed_at_every_step_it_goes_on_and_nothing_is_lost_or_spent_twice(tmp_path, masked):
    print(f"\n{table(trial(tmp_path, masked, KILLS))}")


class Durable:
    """A coordinator on a folder, with its hospitals; `again` makes it anew, as after a kill."""

    def __init__(self, folder, **tables):
        self.federation = federation_of(**tables)
        self._first, self.clients = parties(self.federation, folder)
        key = self.clients["alder"].session.key
        self.commitment, self.folder, self.hub = key.commitment, folder / "coordinator", None
        self.again()

    def made(self, **changes):
        settings = {
            "federation": self.federation,
            "identity": self._first.identity,
            "hospitals": self._first.hospitals,
            "key_commitment": self.commitment,
            "folder": self.folder,
        }
        return Coordinator(**(settings | changes))

    def again(self):
        if self.hub is not None:
            self.hub.stop()
        self.hub = self.made()
        return self.hub

    def take(self, messages, verb):
        for name, message in messages.items():
            self.hub.receive(getattr(self.clients[name], verb)(message))

    def round(self):
        assert drive(self.hub, Carried(self.clients)) == ()


@pytest.fixture
def durable(tmp_path, request):
    made = Durable(tmp_path, **getattr(request, "param", {}))
    yield made
    made.hub.stop()
    close_all(made.clients)


def files(durable):
    """Those of rounds: hospitals' keys to multiply sketches stay for good."""
    return sorted(path.name for path in durable.folder.iterdir() if not path.name.startswith("evaluation-"))


masked = pytest.mark.parametrize("durable", [MASKED], indirect=True)


def bodies(durable, messages):
    """What hospitals read in messages."""
    found = {}
    for name, message in messages.items():
        body = opened_by_hospital(durable.clients[name], message)[1]
        found[name] = encode(body)
    return found


@masked
def test_every_step_gives_the_same_again_after_a_restart_and_messages_stay_taken(durable):
    run = durable.hub.rules.run
    invited = bodies(durable, durable.hub.invite())
    assert bodies(durable, durable.again().invite()) == invited
    durable.take(durable.hub.invite(), "contribute")
    assert durable.again().survivors == tuple(sorted(NAMES))
    lists = bodies(durable, durable.hub.fix_survivors())
    assert durable.again().invite() == {}
    assert bodies(durable, durable.hub.fix_survivors()) == lists
    durable.take(durable.hub.fix_survivors(), "sign_survivors")
    requests = bodies(durable, durable.again().unmask())
    assert bodies(durable, durable.again().unmask()) == requests and durable.hub.fix_survivors() == {}
    durable.take(durable.hub.unmask(), "reveal")
    durable.again()
    answers = dict(durable.hub.close())
    assert durable.again().answers() == durable.hub.owed() == answers
    for name in NAMES[:3]:
        durable.hub.receive(durable.clients[name].handle(answers[name]))
    assert durable.again().owed() == {"damson": answers["damson"]}
    assert set(durable.hub.statements) == set(NAMES[:3]) and durable.hub.rules.run == run
    assert durable.hub.parts["masks"] > 0
    durable.round()
    assert {client.round for client in durable.clients.values()} == {2}


@pytest.mark.parametrize("scheme", ["tenseal", "none"])
def test_similarities_and_neighbourhoods_come_out_of_a_round_taken_from_disk(tmp_path, scheme):
    tables = {"rounds": 3, "encryption": {"scheme": scheme}, "privacy": {"epsilon": 1e4}}
    calm, durable = Durable(tmp_path / "calm", **tables), Durable(tmp_path / "restarted", **tables)
    for _ in range(3):
        calm.round()
        durable.take(durable.hub.invite(), "contribute")
        for name, answer in durable.again().close().items():
            durable.hub.receive(durable.clients[name].handle(answer))
        durable.again()
    assert durable.hub.parts == calm.hub.parts and durable.hub.parts["similarity"] > 0
    for made in (calm, durable):
        made.hub.stop()
        assert all(set(client.state.similarity) == set(NAMES) - {name} for name, client in made.clients.items())
        close_all(made.clients)


@pytest.mark.parametrize("durable", [{"rounds": 4}], indirect=True)
def test_answers_of_earlier_rounds_stay_for_those_who_missed_them_and_no_longer(durable):
    kept = {}
    for number in (1, 2):
        for name, invitation in durable.hub.invite().items():
            if name != "damson":
                durable.hub.receive(durable.clients[name].contribute(invitation))
        kept[number] = dict(durable.hub.close())
        for name in NAMES[:3]:
            durable.hub.receive(durable.clients[name].handle(kept[number][name]))
        durable.again()
    durable.hub.invite()
    for number in (1, 2):
        assert durable.again().answers(number) == {"damson": kept[number]["damson"]}
        durable.clients["damson"].apply(durable.hub.answers(number)["damson"])
    durable.round()
    assert {client.round for client in durable.clients.values()} == {3}
    assert set(durable.hub.answers(3)) == set(NAMES) and durable.hub.answers(4) == {}
    durable.hub.invite()
    assert [durable.again().answers(number) for number in (1, 2, 3, 4)] == [{}] * 4
    assert files(durable) == ["lock", "round-00004.journal"]


def test_a_contradiction_is_evidence_after_a_restart_too(durable):
    invitation = durable.hub.invite()["alder"]
    durable.hub.receive(durable.clients["alder"].contribute(invitation))
    other = to_coordinator(durable.clients["alder"], Decline())
    for _ in range(2):
        with pytest.raises(MessageError, match="refused and kept"):
            durable.again().receive(other)
        assert durable.again().evidence == {(1, "alder"): other}
    assert durable.hub.survivors == ("alder",)


def test_what_a_hospital_contributed_can_be_read_again(durable):
    message = durable.clients["birch"].contribute(durable.hub.invite()["birch"])
    durable.hub.receive(message)
    sent = opened_by_coordinator(durable.hub, message)
    assert durable.hub.contribution("birch") == sent == durable.again().contribution("birch")
    durable.hub.close()
    assert durable.again().contribution("birch") == sent and durable.hub.contribution("alder") is None


def test_a_kill_while_the_next_round_begins_leaves_one_round(durable, tmp_path):
    """The next round's file appears before the last one goes."""
    durable.round()
    before = durable.folder / "round-00001.journal"
    shutil.copy(before, tmp_path / "kept")
    salt = opened_by_hospital(durable.clients["alder"], durable.hub.invite()["alder"])[1].salt
    shutil.copy(tmp_path / "kept", before)
    (durable.folder / ".round-00003.journal.partial").write_bytes(b"half")
    assert durable.again().open_round.salt == salt
    assert files(durable) == ["lock", "round-00002.journal"]


def test_a_torn_tail_is_no_error_and_its_message_is_taken_again(durable):
    messages = {name: durable.clients[name].contribute(m) for name, m in durable.hub.invite().items()}
    durable.hub.receive(messages["alder"])
    journal = durable.folder / "round-00001.journal"
    whole = journal.read_bytes()
    durable.hub.receive(messages["birch"])
    durable.hub.stop()
    journal.write_bytes(journal.read_bytes()[:-9])
    durable.hub = durable.made()
    assert durable.hub.survivors == ("alder",) and journal.read_bytes() == whole
    for message in messages.values():
        durable.hub.receive(message)
    assert durable.hub.survivors == tuple(sorted(NAMES))


def test_a_damaged_journal_is_refused_by_name(durable):
    durable.take(durable.hub.invite(), "contribute")
    durable.hub.stop()
    journal = durable.folder / "round-00001.journal"
    whole = journal.read_bytes()
    for place in (3, 40, len(whole) // 2, len(whole) - 5):
        journal.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(StorageError, match=r"round-00001\.journal: damaged.*restore its folder from a copy"):
            durable.made()
    journal.write_bytes(whole)
    durable.hub = durable.made()


def test_nothing_leaves_where_the_disk_is_full(durable, monkeypatch):
    invitations = durable.hub.invite()
    durable.take(invitations, "contribute")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="No space left"):
            durable.hub.close()
    with pytest.raises(StorageError, match="an earlier write failed"):
        durable.hub.close()
    for name, answer in durable.again().close().items():
        durable.clients[name].apply(answer)


def full(*_, **__):
    raise OSError(28, "No space left on device")


def out_of_memory(*_):
    raise MemoryError


@pytest.mark.parametrize(
    ("place", "failing"),
    [("os.pwrite", full), ("securepfl.storage.journal._frame", out_of_memory)],
    ids=["disk", "memory"],
)
@masked
def test_what_memory_took_and_the_disk_did_not_is_in_no_list(durable, monkeypatch, place, failing):
    """A list that a restart would not know is a second one to hospitals: the round would be lost."""
    messages = {name: durable.clients[name].contribute(m) for name, m in durable.hub.invite().items()}
    for name in NAMES[:3]:
        durable.hub.receive(messages[name])
    with monkeypatch.context() as patch, pytest.raises((StorageError, MemoryError)):
        patch.setattr(place, failing)
        durable.hub.receive(messages["damson"])
    for step in (lambda: durable.hub.receive(messages["damson"]), durable.hub.fix_survivors, durable.hub.invite,
                 durable.hub.close):  # fmt: skip
        with pytest.raises(StorageError, match="coordinator: an earlier write failed; make room and start again"):
            step()
    assert durable.again().survivors == NAMES[:3]
    durable.round()
    assert {client.round for client in durable.clients.values()} == {1} and durable.hub.answered.survivors == [*NAMES]


def test_a_round_whose_beginning_fails_anywhere_begins_after_a_restart(durable, monkeypatch):
    durable.round()
    for place in ("os.open", "os.fsync", "pathlib.Path.replace", "pathlib.Path.unlink"):
        with monkeypatch.context() as patch, pytest.raises(StorageError, match="No space left"):
            patch.setattr(place, full)
            durable.hub.invite()
        with pytest.raises(StorageError, match="an earlier write failed"):
            durable.hub.invite()
        durable.again()
    durable.round()
    assert {client.round for client in durable.clients.values()} == {2}


def test_a_journal_cut_into_its_beginning_is_damaged_and_begins_no_other_run(durable):
    durable.hub.invite()
    durable.hub.stop()
    journal = durable.folder / "round-00001.journal"
    whole = journal.read_bytes()
    for cut in range(0, len(whole), 7):
        journal.write_bytes(whole[:cut])
        with pytest.raises(StorageError, match=r"round-00001\.journal: damaged"):
            durable.made()
    Journal.create(journal).close()
    with pytest.raises(StorageError, match=r"round-00001\.journal: not of a coordinator"):
        durable.made()
    journal.write_bytes(whole)
    durable.hub = durable.made()


def test_two_coordinators_on_one_folder_are_refused(durable):
    with pytest.raises(StorageError, match="in use by another process"):
        durable.made()


def test_a_folder_of_another_run_federation_or_coordinator_is_refused(durable):
    durable.round()
    durable.hub.stop()
    other = Identity.generate("other hub")
    for changes, match in [
        ({"run": bytes(16)}, f"holds run {durable.hub.rules.run.hex()}, not {bytes(16).hex()}; name that run's folder"),
        ({"federation": federation_of(rounds=9)}, "of a federation with other settings; name its own folder"),
        ({"identity": other}, f"of coordinator .*these keys are of {other.public.fingerprint}"),
        ({"key_commitment": bytes(32)}, f"under other keys or hospitals.*{durable.hub.rules.run.hex()}"),
        ({"closed": 2}, "1 rounds are closed there, not 2"),
    ]:
        with pytest.raises(StorageError, match=match) as error:
            durable.made(**changes)
        assert str(error.value).startswith(str(durable.folder)) and "\n" not in str(error.value)
    durable.hub = durable.made(closed=1)


def test_hospitals_whose_identities_changed_are_refused_while_a_round_is_open(durable):
    durable.take(durable.hub.invite(), "contribute")
    durable.hub.stop()
    hospitals = durable.hub.hospitals | {"birch": Identity.generate("birch").public}
    with pytest.raises(StorageError, match=r"unknown sender.*load the keys and hospitals it was used with"):
        durable.made(hospitals=hospitals)
    durable.hub = durable.made()


def test_after_a_rotation_the_folder_goes_on_at_the_next_round(durable):
    run, commitment = durable.hub.rules.run, fresh_key()
    durable.hub.invite()
    durable.hub.stop()
    with pytest.raises(StorageError, match="round 1 is open under other keys or hospitals; finish it with those first"):
        durable.made(key_commitment=commitment, run=run)
    durable.hub = durable.made()
    durable.round()
    heads, parts = durable.hub.heads, durable.hub.parts
    durable.hub.stop()
    rotated = durable.made(key_commitment=commitment, run=run)
    assert (rotated.closed, rotated.rules.run, rotated.heads, rotated.parts) == (1, run, heads, parts)
    assert rotated.statements == {} == rotated.states and rotated.owed() == {} == rotated.answers(1)
    rotated.stop()
    durable.hub = durable.made()
    assert len(durable.hub.answers()) == len(NAMES), "the old keys still serve, until the next round begins"
    durable.hub.stop()
    rotated = durable.made(key_commitment=commitment, run=run)
    rotated.invite()
    salt = rotated.open_round.salt
    rotated.stop()
    durable.hub = durable.made(key_commitment=commitment)
    assert durable.hub.open_round.number == 2 and durable.hub.open_round.salt == salt


@pytest.mark.parametrize("durable", [{"encryption": {"scheme": "none"}}], indirect=True)
def test_the_folder_is_its_owners_and_shows_no_update_and_no_key(durable):
    """Even where updates travel in clear: what lies there is sealed to the coordinator, or by it."""
    durable.take(durable.hub.invite(), "contribute")
    sent = bytes_of(durable.hub.contribution("alder").update)
    assert sent in bytes_of(durable.hub.contribution("alder"))
    for _ in range(2):
        held = b"".join(path.read_bytes() for path in durable.folder.iterdir())
        assert len(held) > 4 * len(sent)
        assert not any(piece in held for piece in pieces(sent) if piece.strip(b"\0"))
        assert not any(piece in held for piece in pieces(bytes(durable.hub.identity.to_private_bytes())))
        if durable.hub.open_round is not None:
            durable.hub.close()
    assert stat.S_IMODE(durable.folder.stat().st_mode) == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in durable.folder.iterdir() if path.name != "lock")


def test_memory_holds_no_message_where_there_is_a_folder(durable):
    messages = [durable.clients[name].contribute(m) for name, m in durable.hub.invite().items()]
    for message in messages:
        durable.hub.receive(message)
    held = bytes_of(durable.hub)
    assert not any(message in held for message in messages)
    answers = dict(durable.hub.close())
    held = bytes_of(durable.hub)
    assert not any(message in held for message in [*messages, *answers.values()])
