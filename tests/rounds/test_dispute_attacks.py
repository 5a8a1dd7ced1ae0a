"""Replies in a dispute that are false, too large or lost: they get no honest hospital named, stopped or left behind."""

import msgspec
import pytest
from forging import BODIES
from hostile import BAD, Hostile, wrong_tag
from parties import close_all, federation_of, parties

from securepfl.client.round import Round
from securepfl.crypto.messages.envelope import Header, Kind
from securepfl.protocol.messages import Opened
from securepfl.protocol.rounds import MOST_ATTEMPTS, drive
from securepfl.protocol.standing import sign_verdict

FIVE = ("alder", "birch", "cedar", "damson", "elm")
CLEAR = {"encryption": {"scheme": "tenseal"}}
MASKED = {
    "encryption": {"scheme": "lean", "masking": "pairwise"},
    "similarity": {"every": 1, "beside_masks": True},
}


def setting(folder, tables):
    federation = federation_of(names=FIVE, rounds=4, privacy={"epsilon": 1e4, "budget": 1e5}, **tables)
    return parties(federation, folder, root_key=bytes(32), noise_key=bytes(32))


def check_only_the_bad_one_is_excluded(hub, clients, number=1):
    assert set(hub.excluded) == {BAD} and not hub.ended
    assert {client.round for client in clients.values()} == {number}
    assert not any(client.ended for client in clients.values())
    assert len({client.state.shared.tobytes() for client in clients.values()}) == 1
    close_all(clients)


def convicts_often(scene):
    """A verdict against anybody, its one part many times over."""
    place, session = Header.from_bytes(scene.message), scene.client.session
    _, body = Round.open(session, scene.message, BODIES[place.kind], scene.client.state, range(MOST_ATTEMPTS))
    made = sign_verdict(session.keyring.identity, session.digest, place.round, body, ("update",))
    return session.message(place.round, msgspec.structs.replace(made, broken=("update",) * 50), place.attempt)


def opens_far_too_much(scene):
    """As much as its message may hold: with its update more than a message to others may."""
    place, session = Header.from_bytes(scene.message), scene.client.session
    return session.message(place.round, Opened(secrets=bytes(session.most_bytes - 200)), place.attempt)


def test_a_verdict_counts_once_however_often_it_names_a_part(tmp_path):
    hub, clients = setting(tmp_path, CLEAR)
    drive(hub, Hostile(clients, hub=hub, tricks={Kind.INVITATION: wrong_tag, Kind.EVIDENCE: convicts_often}))
    check_only_the_bad_one_is_excluded(hub, clients)


def test_masks_larger_than_what_was_committed_to_are_shown_to_nobody(tmp_path):
    hub, clients = setting(tmp_path, MASKED)
    drive(hub, Hostile(clients, hub=hub, tricks={Kind.INVITATION: wrong_tag, Kind.OPENING: opens_far_too_much}))
    assert "did not open the masks" in hub.named[1, BAD]
    check_only_the_bad_one_is_excluded(hub, clients)


class Lost(Hostile):
    """What goes to one honest hospital is lost, of some kinds; or, `late`, its replies to these."""

    lost = ()
    late = False

    def ask(self, name, message):
        lost = name == "elm" and Header.from_bytes(message).kind in self.lost
        if lost and not self.late:
            return b""
        reply = super().ask(name, message)
        return b"" if lost else reply


@pytest.mark.parametrize("tables", [CLEAR, MASKED], ids=["clear", "masked"])
@pytest.mark.parametrize("late", [False, True], ids=["message", "reply"])
@pytest.mark.parametrize(
    "lost", [(Kind.ANSWER, Kind.OPENING, Kind.EVIDENCE), (Kind.EVIDENCE,)], ids=["all", "evidence"]
)
def test_an_honest_hospital_that_was_away_in_a_dispute_catches_up_and_is_not_excluded(tmp_path, tables, late, lost):
    hub, clients = setting(tmp_path, tables)
    carrier = Lost(clients, hub=hub, tricks={Kind.INVITATION: wrong_tag})
    carrier.lost, carrier.late = lost, late
    drive(hub, carrier)
    assert clients["elm"].round == 0 and clients["alder"].round == 1
    carrier.tricks, carrier.lost = {}, ()
    spent = {name: client.ledger.spent() for name, client in clients.items()}
    drive(hub, carrier)
    assert carrier.errors == []
    assert spent["elm"] == spent["alder"] and clients["elm"].ledger.spent() == clients["alder"].ledger.spent()
    named = {name for _, name in hub.named}
    assert named == ({BAD, "elm"} if tables is MASKED and Kind.ANSWER in lost else {BAD})
    check_only_the_bad_one_is_excluded(hub, clients, 2)


def test_who_is_away_twice_when_masks_are_to_be_opened_is_excluded(tmp_path):
    hub, clients = setting(tmp_path, MASKED)
    carrier = Lost(clients, hub=hub, tricks={Kind.INVITATION: wrong_tag})
    carrier.lost = (Kind.ANSWER, Kind.OPENING, Kind.EVIDENCE)
    drive(hub, carrier)
    hub.readmit(BAD)
    carrier.lost = ()
    for name, message in hub.owed().items():
        hub.receive(carrier.ask(name, message))
    while further := hub.settle():
        for name, message in further.items():
            hub.receive(carrier.ask(name, message))
    assert clients["elm"].round == 1 and set(hub.excluded) == set()
    carrier.lost = (Kind.ANSWER, Kind.OPENING, Kind.EVIDENCE)
    drive(hub, carrier)
    assert set(hub.excluded) == {BAD, "elm"} and not hub.ended
    close_all(clients)
