"""A coordinator that tells hospitals different things, and hospitals that state what is not so."""

import json

import msgspec
import pytest
from forging import opened_by_coordinator, opened_by_hospital, to_hospital
from parties import NAMES, close_all, exchange, federation_of, parties, reopened

from securepfl.client.agreeing import RECORD, Agreeing
from securepfl.coordinator.answering import Answering
from securepfl.errors import MessageError, StorageError
from securepfl.protocol.companions import MOST, companions_of
from securepfl.protocol.contradictions import Contradiction
from securepfl.protocol.statements import make_statement

ALONE = {"similarity": {"every": 0}, "coupling": {"strength": 0.0}, "encryption": {"scheme": "none"}}
OTHER = "f" * 64


def sums_apart(patch, coordinator, clients, subset, receivers):
    """From here on `receivers` are answered with the sum over `subset`, which is as valid as the one over all."""
    honest = Answering.answer

    def answer(self, name):
        if name not in receivers:
            return honest(self, name)
        total = coordinator.rules.sum_of("update")
        for sender in subset:
            total.add(opened_by_coordinator(coordinator, clients[sender].state.pending.message).update)
        return msgspec.structs.replace(honest(self, name), survivors=subset, aggregate=total.answer())

    patch.setattr(Answering, "answer", answer)


def after_different_sums(folder, receivers, names=NAMES):
    """(coordinator, clients) after a round in which `receivers` were answered with the sum of all but the last."""
    coordinator, clients = parties(federation_of(names, **ALONE), folder)
    with pytest.MonkeyPatch.context() as patch:
        sums_apart(patch, coordinator, clients, names[:-1], receivers)
        exchange(coordinator, clients)
    return coordinator, clients


def checked(client, coordinator):
    """(accused pairs, rounds) of a client's evidence, as somebody checks it who has nothing but public identities."""
    found = [Contradiction.read(path) for path in client.evidence]
    for contradiction in found:
        contradiction.check(coordinator.hospitals)
    return [(contradiction.one.name, contradiction.other.name) for contradiction in found]


def test_a_hospital_given_another_valid_sum_stops_a_round_later_with_evidence(tmp_path):
    coordinator, clients = after_different_sums(tmp_path, ["alder"])
    spent, state = clients["alder"].ledger.spent(), clients["alder"].state
    invitations = coordinator.invite()
    with pytest.raises(
        MessageError, match=r"birch, cedar, damson hold another state.*nothing was sent or spent"
    ) as refused:
        clients["alder"].contribute(invitations["alder"])
    assert "\n" not in str(refused.value)
    assert clients["alder"].ledger.spent() == spent and clients["alder"].state.pending is None
    assert clients["alder"].state.round == state.round == 1
    assert checked(clients["alder"], coordinator) == [("alder", name) for name in ("birch", "cedar", "damson")]
    close_all(clients)


def test_the_majority_goes_on_and_has_the_same_evidence(tmp_path):
    coordinator, clients = after_different_sums(tmp_path, ["alder"])
    for name, invitation in coordinator.invite().items():
        if name != "alder":
            coordinator.receive(clients[name].contribute(invitation))
            assert checked(clients[name], coordinator) == [(name, "alder")]
    for name, answer in coordinator.close().items():
        clients[name].apply(answer)
    assert coordinator.survivors == () and clients["birch"].state.aggregate is not None
    assert clients["birch"].state_digest == clients["damson"].state_digest != clients["alder"].state_digest
    close_all(clients)


def test_without_a_majority_nobody_spends_anything(tmp_path):
    coordinator, clients = after_different_sums(tmp_path, ["alder", "birch"])
    spent = {name: client.ledger.spent() for name, client in clients.items()}
    for name, invitation in coordinator.invite().items():
        with pytest.raises(MessageError, match="hold another state"):
            clients[name].contribute(invitation)
    assert {name: client.ledger.spent() for name, client in clients.items()} == spent
    close_all(clients)


def test_where_all_were_given_the_same_sum_nobody_is_accused(tmp_path):
    coordinator, clients = after_different_sums(tmp_path, NAMES)
    exchange(coordinator, clients)
    assert all(client.round == 2 and client.evidence == () for client in clients.values())
    close_all(clients)


def test_a_build_that_does_not_compare_goes_on_with_another_state(tmp_path, monkeypatch):
    """The mutation that the tests above are for."""
    monkeypatch.setattr(Agreeing, "check", lambda *_: None)
    coordinator, clients = after_different_sums(tmp_path, ["alder"])
    clients["alder"].contribute(coordinator.invite()["alder"])
    assert clients["alder"].evidence == ()
    close_all(clients)


def with_statements(coordinator, clients, name, **statements):
    """The open round's invitation to `name` with some statements replaced; None takes one out."""
    _, body = opened_by_hospital(clients[name], coordinator.sent[name])
    changed = body.statements | statements
    stated = {of: statement for of, statement in changed.items() if statement is not None}
    return to_hospital(coordinator, name, msgspec.structs.replace(body, statements=stated))


@pytest.fixture
def second_round(tmp_path):
    """(coordinator, clients), invited to round 2 of an honest run; `sent` are the invitations."""
    coordinator, clients = parties(federation_of(**ALONE), tmp_path)
    exchange(coordinator, clients)
    coordinator.sent = coordinator.invite()
    yield coordinator, clients
    close_all(clients)


def stated_by(client, round_=1, state=OTHER, head="0" * 64, session=None):
    session = client.session.digest if session is None else session
    return make_statement(client.session.keyring.identity, session, round_, state, head)


def test_one_lying_hospital_stops_no_other_and_is_noted(second_round):
    coordinator, clients = second_round
    lie = stated_by(clients["damson"])
    for name in ("alder", "birch", "cedar"):
        coordinator.receive(clients[name].contribute(with_statements(coordinator, clients, name, damson=lie)))
        assert checked(clients[name], coordinator) == [(name, "damson")]
    assert coordinator.survivors == ("alder", "birch", "cedar")


def test_a_lying_hospital_stops_one_whose_other_statements_are_missing(second_round):
    """What the majority is counted over: those whose statements came."""
    coordinator, clients = second_round
    lie = stated_by(clients["damson"])
    with pytest.raises(MessageError, match="hold another state"):
        clients["alder"].contribute(with_statements(coordinator, clients, "alder", damson=lie, birch=None, cedar=None))
    clients["alder"].contribute(with_statements(coordinator, clients, "alder", damson=lie, birch=None))


def test_a_hospital_that_states_two_things_about_one_round_is_shown_by_its_own_signatures(second_round):
    coordinator, clients = second_round
    first = with_statements(coordinator, clients, "alder", birch=None, cedar=None, damson=stated_by(clients["damson"]))
    with pytest.raises(MessageError):
        clients["alder"].contribute(first)
    honest = with_statements(coordinator, clients, "alder")
    coordinator.receive(clients["alder"].contribute(honest))
    assert ("damson", "damson") in checked(clients["alder"], coordinator)


def test_statements_of_late_hospitals_and_missing_ones_are_not_compared(second_round):
    coordinator, clients = second_round
    late = stated_by(clients["damson"], round_=0)
    invitation = with_statements(coordinator, clients, "alder", alder=None, birch=None, cedar=None, damson=late)
    coordinator.receive(clients["alder"].contribute(invitation))
    assert clients["alder"].evidence == ()


@pytest.mark.parametrize(
    ("of", "statement", "said"),
    [
        ("birch", lambda c: msgspec.structs.replace(stated_by(c["birch"]), state="e" * 64), "'birch' does not verify"),
        ("birch", lambda c: stated_by(c["cedar"]), "'birch' does not verify"),
        ("birch", lambda c: stated_by(c["birch"], session=bytes(32)), "'birch' does not verify"),
        ("birch", lambda c: stated_by(c["birch"], state="ab"), "'birch' is malformed"),
        ("birch", lambda c: stated_by(c["birch"], round_=2), "birch states round 2, before its end"),
        ("nobody", lambda c: stated_by(c["birch"]), "'nobody', who is not in the roster"),
        ("alder", lambda c: stated_by(c["birch"]), "'alder' does not verify"),
        ("alder", lambda c: stated_by(c["alder"], session=bytes(32)), "'alder' does not verify"),
        ("alder", lambda c: stated_by(c["alder"], state=c["alder"].state_digest), "did not make here"),
        ("alder", lambda c: stated_by(c["alder"]), "did not make here"),
    ],
    ids=["altered", "another's", "of another run", "malformed", "of a later round", "nobody's", "own: another's",
         "own: of another run", "own: another head", "own: another state"],
)  # fmt: skip
def test_a_false_statement_is_refused_and_nothing_is_spent(second_round, of, statement, said):
    coordinator, clients = second_round
    spent = clients["alder"].ledger.spent()
    with pytest.raises(MessageError, match=said):
        clients["alder"].contribute(with_statements(coordinator, clients, "alder", **{of: statement(clients)}))
    assert clients["alder"].ledger.spent() == spent and clients["alder"].state.pending is None


def test_a_receipt_repeats_also_after_a_restart_and_a_new_ledger_line(tmp_path):
    coordinator, clients = parties(federation_of(**ALONE), tmp_path)
    exchange(coordinator, clients)
    before = coordinator.statements["alder"]
    clients["alder"].release("personal")
    clients["alder"] = reopened(clients["alder"])
    assert clients["alder"]._agreeing.own(1, clients["alder"].state_digest, clients["alder"].ledger.head) == before
    assert clients["alder"].ledger.head != before.head
    coordinator.receive(clients["alder"].receipt())
    assert coordinator.statements["alder"] == before
    close_all(clients)


def test_a_damaged_record_is_refused_by_name(tmp_path):
    coordinator, clients = parties(federation_of(**ALONE), tmp_path)
    exchange(coordinator, clients)
    invitation = coordinator.invite()["alder"]
    (tmp_path / "alder" / RECORD).write_text("{}x")
    with pytest.raises(StorageError, match=f"{RECORD}: not a file that securepfl wrote whole"):
        clients["alder"].contribute(invitation)
    (tmp_path / "alder" / RECORD).write_text('{"schema": 99}')
    with pytest.raises(StorageError, match=f"{RECORD}: schema 99"):
        clients["alder"].contribute(invitation)
    close_all(clients)


def test_each_hospital_keeps_the_ledger_heads_of_all_others(tmp_path):
    coordinator, clients = parties(federation_of(**ALONE), tmp_path)
    for _ in range(3):
        exchange(coordinator, clients)
    for name in NAMES:
        kept = json.loads((tmp_path / name / RECORD).read_text())["heads"]
        assert {of: len(heads) for of, heads in kept.items()} == {of: 3 if of == name else 2 for of in NAMES}
    close_all(clients)


def test_evidence_of_nothing_and_of_strangers_is_refused(second_round, tmp_path):
    coordinator, clients = second_round
    session = clients["alder"].session.digest
    lie, truth = stated_by(clients["damson"]), coordinator.statements["alder"]
    found = Contradiction.between(session, ("alder", truth), ("damson", lie))
    found.check(coordinator.hospitals)
    for wrong, said in (
        (Contradiction.between(session, ("alder", truth), ("birch", coordinator.statements["birch"])), "of nothing"),
        (Contradiction.between(session, ("alder", truth), ("alder", truth)), "of nothing"),
        (Contradiction.between(session, ("alder", truth), ("damson", stated_by(clients["damson"], 2))), "of nothing"),
        (Contradiction.between(bytes(32), ("alder", truth), ("damson", lie)), "does not verify"),
        (msgspec.structs.replace(found, session="zz"), "not given"),
    ):
        with pytest.raises(MessageError, match=said):
            wrong.check(coordinator.hospitals)
    with pytest.raises(MessageError, match="not given"):
        found.check({"alder": coordinator.hospitals["alder"]})
    path = tmp_path / "evidence.json"
    path.write_bytes(found.to_json())
    assert Contradiction.read(path) == found
    path.write_bytes(msgspec.structs.replace(found, schema=9).to_json())
    with pytest.raises(MessageError, match="schema 9"):
        Contradiction.read(path)
    path.write_text("[]")
    with pytest.raises(MessageError, match="no two statements"):
        Contradiction.read(path)
    with pytest.raises(StorageError, match=r"nowhere\.json"):
        Contradiction.read(tmp_path / "nowhere.json")


# Too many to compare all with all.

MANY = tuple(f"h{number:02}" for number in range(24))


@pytest.fixture
def among_many(tmp_path):
    coordinator, clients = parties(federation_of(MANY, **ALONE), tmp_path)
    yield coordinator, clients
    close_all(clients)


def divided(coordinator, clients, receivers):
    """The invitations of the round after one in which `receivers` were answered with another valid sum."""
    with pytest.MonkeyPatch.context() as patch:
        sums_apart(patch, coordinator, clients, MANY[:-1], receivers)
        exchange(coordinator, clients)
    return coordinator.invite()


def who_stops(clients, invitations):
    stopped = set()
    for name, invitation in invitations.items():
        try:
            clients[name].contribute(invitation)
        except MessageError as reason:
            assert "hold another state" in str(reason)
            stopped.add(name)
    return stopped


def test_an_invitation_carries_the_statements_of_its_companions_alone(among_many):
    coordinator, clients = among_many
    exchange(coordinator, clients)
    for name, invitation in coordinator.invite().items():
        _, body = opened_by_hospital(clients[name], invitation)
        assert set(body.statements) == companions_of(coordinator.federation, name, 2) | {name}
        assert len(body.statements) <= MOST + 1
        clients[name].contribute(invitation)


@pytest.mark.parametrize("size", [1, 8])
def test_a_group_of_up_to_eight_with_another_sum_stops_a_round_later(among_many, size):
    coordinator, clients = among_many
    receivers = set(MANY[::3][:size])
    spent = {name: clients[name].ledger.spent() for name in MANY}
    invitations = divided(coordinator, clients, receivers)
    before = {name: clients[name].ledger.spent() for name in MANY}
    assert who_stops(clients, invitations) >= receivers
    for name in receivers:
        assert clients[name].ledger.spent() == before[name] > spent[name]
        assert {pair[0] for pair in checked(clients[name], coordinator)} == {name}
    told = {name for name in MANY if name not in receivers and clients[name].evidence}
    assert told == {n for n in MANY if n not in receivers and receivers & companions_of(coordinator.federation, n, 2)}


def test_however_hospitals_are_divided_both_sides_have_evidence_a_round_later(among_many):
    coordinator, clients = among_many
    receivers = set(MANY[:12])
    invitations = divided(coordinator, clients, receivers)
    who_stops(clients, invitations)
    pairs = [set(pair) for name in MANY for pair in checked(clients[name], coordinator)]
    assert len({frozenset(pair) for pair in pairs}) >= MOST - 1
    assert all(len(pair & receivers) == 1 for pair in pairs)


def test_a_build_that_does_not_compare_goes_on_among_many_with_another_state(among_many, monkeypatch):
    """The mutation that the tests above are for."""
    coordinator, clients = among_many
    invitations = divided(coordinator, clients, set(MANY[:8]))
    monkeypatch.setattr(Agreeing, "check", lambda *_: None)
    assert who_stops(clients, invitations) == set()


def test_a_statement_of_somebody_else_than_companions_is_refused_and_nothing_is_spent(among_many):
    coordinator, clients = among_many
    exchange(coordinator, clients)
    invitation, spent = coordinator.invite()["h00"], clients["h00"].ledger.spent()
    _, body = opened_by_hospital(clients["h00"], invitation)
    stranger = min(set(MANY) - set(body.statements))
    more = body.statements | {stranger: stated_by(clients[stranger])}
    with pytest.raises(MessageError, match=f"statement of {stranger}, with whom it does not compare before round 2"):
        clients["h00"].contribute(to_hospital(coordinator, "h00", msgspec.structs.replace(body, statements=more)))
    assert clients["h00"].ledger.spent() == spent
