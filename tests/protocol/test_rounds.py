"""The order of a round, and that what one hospital does wrong costs the others nothing but its part."""

import msgspec
import numpy as np
import pytest
from forging import opened_by_coordinator, to_coordinator
from parties import Carried, close_all, federation_of, parties

from securepfl.crypto.masks.edges import SECRET_BYTES
from securepfl.crypto.messages.envelope import Header, Kind
from securepfl.errors import MessageError
from securepfl.protocol.messages import Agreement, Reveal
from securepfl.protocol.rounds import drive
from securepfl.runtime.local import SimulatedRun, Traffic
from securepfl.runtime.local import exchange as local_exchange

FIVE = ("alder", "birch", "cedar", "damson", "elm")


def five_hospitals(folder, masking):
    tables = {"encryption": {"masking": masking}, "similarity": {"every": 0}, "coupling": {"strength": 0.0}}
    return parties(federation_of(names=FIVE, **tables), folder)


@pytest.fixture(params=["none", "pairwise"])
def five(request, tmp_path):
    """Five hospitals that mask or don't."""
    coordinator, clients = five_hospitals(tmp_path, request.param)
    yield coordinator, clients
    close_all(clients)


@pytest.fixture
def masked(tmp_path):
    coordinator, clients = five_hospitals(tmp_path, "pairwise")
    yield coordinator, clients
    close_all(clients)


def kinds(messages):
    return [Header.from_bytes(message).kind for message in messages]


class Watched(Carried):
    """Notes what every hospital had sent when the first answer came."""

    def ask(self, name, message):
        if kinds([message]) == [Kind.ANSWER] and not hasattr(self, "sent"):
            self.sent = {name: client.state.pending for name, client in self.clients.items()}
        return super().ask(name, message)

    def mean(self, names):
        return np.mean([self.sent[name].sent for name in names], axis=0)


def check_sum(clients, carried, names):
    """Everybody ended the round with the sum over exactly `names`."""
    for client in clients.values():
        assert client.round == 1
        np.testing.assert_allclose(client.state.aggregate, carried.mean(names), atol=1e-12)


def test_everybody_is_asked_step_by_step_and_each_reply_is_taken(five):
    coordinator, clients = five
    carried = Watched(clients)
    assert drive(coordinator, carried) == ()
    asked = [Kind.INVITATION, *([Kind.SURVIVORS, Kind.UNMASK] if coordinator.masked else []), Kind.ANSWER]
    replied = [
        Kind.CONTRIBUTION,
        *([Kind.AGREEMENT, Kind.REVEAL] if coordinator.masked else []),
        Kind.RECEIPT,
    ]
    assert [name for name, _, _ in carried.asked] == list(FIVE) * len(asked)
    assert kinds(message for _, message, _ in carried.asked) == [kind for kind in asked for _ in FIVE]
    assert kinds(reply for *_, reply in carried.asked if reply) == [kind for kind in replied for _ in FIVE]
    assert coordinator.closed == 1 and coordinator.open_round is None
    check_sum(clients, carried, FIVE)


def test_a_hospital_that_gives_no_reply_is_left_out_and_hears_the_answer_when_it_is_back(five):
    coordinator, clients = five
    carried = Watched(clients, away=("cedar",))
    assert drive(coordinator, carried) == ()
    answer = carried.messages(Kind.ANSWER)["cedar"]
    assert clients["cedar"].round == 0
    clients["cedar"].apply(answer)
    check_sum(clients, carried, [name for name in FIVE if name != "cedar"])


FORGED = {
    "noise": lambda clients, reply: b"no message" * 40,
    "altered": lambda clients, reply: reply[:-1] + bytes([reply[-1] ^ 1]),
    "a body of another form": lambda clients, reply: to_coordinator(clients["cedar"], b"\x80", Kind.CONTRIBUTION),
    "another kind": lambda clients, reply: to_coordinator(clients["cedar"], Reveal(shares=b"")),
}


@pytest.mark.parametrize("what", FORGED)
def test_a_forged_contribution_of_one_leaves_the_sum_of_the_other_four(five, what):
    coordinator, clients = five

    def swap(name, reply):
        forged = name == "cedar" and reply and kinds([reply]) == [Kind.CONTRIBUTION]
        return FORGED[what](clients, reply) if forged else reply

    carried = Watched(clients, swap=swap)
    (refusal,) = drive(coordinator, carried)
    assert refusal.hospital == "cedar" and isinstance(refusal.reason, MessageError)
    check_sum(clients, carried, [name for name in FIVE if name != "cedar"])
    assert drive(coordinator, Carried(clients)) == ()
    assert {client.round for client in clients.values()} == {2}


@pytest.mark.parametrize("body", [Agreement(signature=bytes(3373)), Reveal(shares=b"short")])
def test_a_forged_signature_or_reveal_of_one_is_refused_and_the_sum_is_that_of_all(masked, body):
    coordinator, clients = masked

    def swap(name, reply):
        forged = name == "cedar" and reply and kinds([reply]) == [body.kind]
        return to_coordinator(clients["cedar"], body) if forged else reply

    carried = Watched(clients, swap=swap)
    (refusal,) = drive(coordinator, carried)
    assert refusal.hospital == "cedar"
    check_sum(clients, carried, FIVE)


def other_commitments(coordinator, client, reply, count):
    """The contribution, committed to other masks than its last neighbours hold."""
    body = opened_by_coordinator(coordinator, reply)
    commitments = body.masks.commitments[: -count * SECRET_BYTES] + bytes(count * SECRET_BYTES)
    masks = msgspec.structs.replace(body.masks, commitments=commitments)
    return to_coordinator(client, msgspec.structs.replace(body, masks=masks))


def test_masks_that_differ_from_one_neighbours_leave_both_out_and_the_next_round_has_a_sum(masked):
    """Nobody can say which of the two is right. Without both the others are too few to hide each other."""
    coordinator, clients = masked

    def swap(name, reply):
        forged = name == "cedar" and reply and kinds([reply]) == [Kind.CONTRIBUTION]
        return other_commitments(coordinator, clients[name], reply, 1) if forged else reply

    start = clients["alder"].state.shared
    assert drive(coordinator, Carried(clients, swap=swap)) == ()
    assert {client.round for client in clients.values()} == {1}
    assert all(np.array_equal(client.state.shared, start) for client in clients.values())
    named = {name: reason for (_, name), reason in coordinator.named.items()}
    (other,) = named.keys() - {"cedar"}
    assert other in named["cedar"] and "cedar" in named[other]
    assert drive(coordinator, Carried(clients)) == ()
    assert not np.array_equal(clients["alder"].state.shared, start)


def test_masks_that_differ_from_several_neighbours_leave_out_their_maker_alone(masked):
    coordinator, clients = masked

    def swap(name, reply):
        forged = name == "cedar" and reply and kinds([reply]) == [Kind.CONTRIBUTION]
        return other_commitments(coordinator, clients[name], reply, 2) if forged else reply

    carried = Watched(clients, swap=swap)
    assert drive(coordinator, carried) == ()
    check_sum(clients, carried, [name for name in FIVE if name != "cedar"])
    assert list(coordinator.named) == [(1, "cedar")]
    assert "committed to other masks than" in coordinator.named[1, "cedar"]


def test_a_round_goes_on_where_a_carrier_broke_off(five):
    coordinator, clients = five

    class Broken(Carried):
        def ask(self, name, message):
            raise ConnectionError("no line")

    with pytest.raises(ConnectionError):
        drive(coordinator, Broken(clients))
    salt = coordinator.open_round.salt
    carried = Carried(clients)
    assert drive(coordinator, carried) == ()
    assert coordinator.closed == 1 and coordinator.answered.salt == salt
    assert all(client.round == 1 for client in clients.values())


def test_the_runtime_in_one_process_raises_what_was_refused_once_the_round_is_over(five, monkeypatch):
    coordinator, clients = five
    run = SimulatedRun(coordinator, clients, Traffic.of(FIVE), 0.0)
    contribute = clients["cedar"].contribute
    monkeypatch.setattr(clients["cedar"], "contribute", lambda message: contribute(message)[:-1])
    with pytest.raises(MessageError):
        local_exchange(run)
    assert run.round == 1
