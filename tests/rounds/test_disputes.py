"""One dishonest hospital ends no round: it is named and left out; the others end as if it had not been there."""

import random

import msgspec
import numpy as np
import pytest
from forging import BODIES, falsify_answers, opened_by_coordinator, sum_of, to_hospital
from fuzz.mutator import fingerprint
from hostile import (
    BAD,
    Hostile,
    altered,
    another_form,
    digits_off_the_grid,
    garbage,
    opens_other_masks,
    refuses,
    silence,
    two_messages,
    wrong_personal_part,
    wrong_sketch,
    wrong_tag,
)
from parties import MODEL, close_all, federation_of, parties, rows_of

from securepfl.client.client import Client
from securepfl.client.round import Round
from securepfl.client.run_kind import Simulation
from securepfl.coordinator.coordinator import Coordinator
from securepfl.coordinator.opening import total_of
from securepfl.crypto.messages.envelope import Header, Kind
from securepfl.crypto.sums.packing import digits_to_slots
from securepfl.crypto.sums.parameters import top_level
from securepfl.errors import AggregateError, ConfigError, MessageError, SecurePFLError
from securepfl.protocol.messages import Evidence, Opening, Receipt
from securepfl.protocol.rounds import MOST_ATTEMPTS, drive
from securepfl.protocol.standing import sign_verdict
from securepfl.runtime.local import local_parties

FIVE = ("alder", "birch", "cedar", "damson", "elm")
HONEST = tuple(name for name in FIVE if name != BAD)
SEED = bytes(range(32))

COMPARED = {"every": 1, "beside_masks": True}
SCHEMES = {
    "tenseal": {"encryption": {"scheme": "tenseal"}},
    "none": {"encryption": {"scheme": "none"}},
    "tenseal masked": {"encryption": {"scheme": "tenseal", "masking": "pairwise"}, "similarity": COMPARED},
    "lean masked": {"encryption": {"scheme": "lean", "masking": "pairwise"}, "similarity": COMPARED},
}


@pytest.fixture(params=SCHEMES)
def scheme(request):
    return SCHEMES[request.param]


def setting(folder, tables, **more):
    """(coordinator, clients) of five hospitals, of whom one will not be honest."""
    federation = federation_of(names=FIVE, rounds=4, **({"privacy": {"epsilon": 1e4, "budget": 1e5}} | tables | more))
    return parties(federation, folder, root_key=SEED, noise_key=SEED)


def carried(coordinator, clients, tricks=None, **options):
    carrier = Hostile(clients, hub=coordinator, tricks=tricks or {}, **options)
    return carrier, drive(coordinator, carrier)


def held(client):
    """All that a hospital carries on, but for what it is told of others."""
    fields = msgspec.structs.asdict(client.state)
    kept = {
        name: value for name, value in fields.items() if name not in ("run", "joined", "nonce", "named", "federation")
    }
    return {name: value.tobytes() if isinstance(value, np.ndarray) else value for name, value in kept.items()} | {
        "trajectory": {name: part.tobytes() for name, part in fields["trajectory"].items()}
    }


def sends_it(scene):
    """The hospital replies as it should."""
    return scene.reply


def sends_no_sketch(scene):
    return scene.sent(sketch=None)


WITHOUT = {}
"""What honest hospitals hold and have spent, by what was run: all is seeded, so that one run serves all tests."""


def without(folder, tables, number, dropped):
    key = repr(tables), number, dropped.__name__
    if key not in WITHOUT:
        hub, others = setting(folder, tables)
        for round_ in range(1, number + 1):
            carried(hub, others, {Kind.INVITATION: dropped} if round_ == number else {})
        assert hub.closed == number
        WITHOUT[key] = {name: (held(others[name]), others[name].ledger.spent()) for name in HONEST}
        close_all(others)
    return WITHOUT[key]


def check_as_without(folder, tables, clients, number, dropped=silence):
    """The honest hospitals hold, bit for bit, what they hold where the dishonest one sends nothing in round `number`,
    or what `dropped` makes of it.
    """
    for name, (holding, spent) in without(folder / "without", tables, number, dropped).items():
        assert clients[name].round == number
        assert held(clients[name]) == holding, name
        assert clients[name].ledger.spent() == spent


def kinds(carrier):
    return [Header.from_bytes(message).kind for _, message, _ in carrier.asked]


@pytest.mark.parametrize("trick", [wrong_tag, digits_off_the_grid])
def test_who_sends_an_update_that_breaks_the_rules_is_found_and_left_out(tmp_path, scheme, trick):
    hub, clients = setting(tmp_path / "with", scheme)
    carrier, refused = carried(hub, clients, {Kind.INVITATION: trick})
    assert refused == ()
    assert set(hub.excluded) == {BAD} and list(hub.named) == [(1, BAD)]
    assert "its update broke the rules, as 4 of 4 hospitals found" in hub.named[1, BAD]
    assert (Kind.OPENING in kinds(carrier)) == hub.masked
    check_as_without(tmp_path, scheme, clients, 1)
    case = hub.cases[1, BAD]
    assert case.broken == ("update",) and set(case.verdicts) == set(HONEST)
    assert hub.evidence[1, BAD] == carrier.replies(Kind.INVITATION)[BAD]
    assert all(BAD in client.named for client in clients.values() if client.name != BAD)
    close_all(clients)


def test_a_hospital_that_was_found_guilty_is_not_invited_until_it_is_readmitted(tmp_path):
    hub, clients = setting(tmp_path, SCHEMES["tenseal"])
    carried(hub, clients, {Kind.INVITATION: wrong_tag})
    carrier, _ = carried(hub, clients)
    assert BAD not in carrier.messages(Kind.INVITATION) and BAD in carrier.messages(Kind.ANSWER)
    assert all("not invited until" in client.named[BAD] for client in clients.values())
    with pytest.raises(ConfigError, match="'alder' is not excluded; those are: birch"):
        hub.readmit("alder")
    hub.readmit(BAD)
    carrier, _ = carried(hub, clients)
    assert BAD in carrier.messages(Kind.INVITATION)
    assert {client.round for client in clients.values()} == {3}
    assert len({client.state.shared.tobytes() for client in clients.values()}) == 1
    close_all(clients)


def test_an_excluded_hospital_that_contributes_all_the_same_is_refused(tmp_path):
    hub, clients = setting(tmp_path, SCHEMES["tenseal"])
    carried(hub, clients, {Kind.INVITATION: wrong_tag})
    hub.invite()
    message = clients[BAD].contribute(to_hospital(hub, BAD, hub.open_round.invitation))
    with pytest.raises(MessageError, match="to which it was not invited"):
        hub.receive(message)
    close_all(clients)


def test_who_sends_a_wrong_sketch_is_found_and_its_row_left_out_but_not_its_update(tmp_path, scheme):
    """Others took their answer or could have: a sum that was right stays as it is for everybody."""
    hub, clients = setting(tmp_path / "with", scheme)
    carried(hub, clients)
    carrier, refused = carried(hub, clients, {Kind.INVITATION: wrong_sketch})
    if hub.federation.scheme.encrypted:
        assert refused == () and "its sketch broke the rules, as 4 of 4" in hub.named[2, BAD]
        assert Kind.OPENING not in kinds(carrier)
        check_as_without(tmp_path, scheme, clients, 2, sends_no_sketch)
    else:  # in clear the coordinator sees it on arrival
        assert "sketch out of range" in hub.named[2, BAD]
        check_as_without(tmp_path, scheme, clients, 2)
    assert all(BAD not in clients[name].similarity for name in HONEST)
    close_all(clients)


def test_who_sends_a_wrong_personal_part_is_found_where_most_wanted_it(tmp_path, scheme):
    """In the last but one round the average over all is formed, so everybody refuses it."""
    hub, clients = setting(tmp_path, scheme)
    for _ in range(2):
        carried(hub, clients)
    _, refused = carried(hub, clients, {Kind.INVITATION: wrong_personal_part})
    assert refused == () and "its personal part broke the rules, as 4 of 4" in hub.named[3, BAD]
    assert {client.round for client in clients.values()} == {3}
    averages = {clients[name].state.average_personal.tobytes() for name in HONEST}
    assert len(averages) == 1
    close_all(clients)


@pytest.mark.parametrize("trick", [garbage, altered, another_form, silence])
def test_bytes_that_are_no_contribution_leave_their_sender_out_of_the_round(tmp_path, scheme, trick):
    hub, clients = setting(tmp_path / "with", scheme)
    _, refused = carried(hub, clients, {Kind.INVITATION: trick})
    assert [refusal.hospital for refusal in refused] == ([] if trick is silence else [BAD])
    assert list(hub.named) == ([] if trick is silence else [(1, BAD)]) and not hub.excluded
    check_as_without(tmp_path, scheme, clients, 1)
    carried(hub, clients)
    assert trick is silence or all(client.named[BAD] for client in clients.values())
    close_all(clients)


def test_two_different_contributions_are_named_and_the_first_one_counts(tmp_path, scheme):
    hub, clients = setting(tmp_path / "with", scheme)
    carrier, _ = carried(hub, clients, {Kind.INVITATION: two_messages})
    assert "sent other bytes" in hub.named[1, BAD] and not hub.excluded
    assert hub.evidence[1, BAD] == carrier.replies(Kind.INVITATION)[BAD]
    check_as_without(tmp_path, scheme, clients, 1, dropped=sends_it)
    close_all(clients)


@pytest.mark.parametrize("asked", [Kind.SURVIVORS, Kind.UNMASK, Kind.ANSWER])
def test_silence_after_contributing_is_named_and_costs_nobody_the_sum(tmp_path, scheme, asked):
    hub, clients = setting(tmp_path / "with", scheme)
    carrier, _ = carried(hub, clients, {asked: silence})
    if asked not in kinds(carrier):
        close_all(clients)
        pytest.skip("this step belongs to masks")
    check_as_without(tmp_path, scheme, clients, 1, dropped=sends_it)
    carried(hub, clients, {Kind.ANSWER: silence} if asked == Kind.ANSWER else {})
    said = {Kind.SURVIVORS: "signed no", Kind.UNMASK: "revealed no shares", Kind.ANSWER: "no receipt"}
    assert said[asked] in hub.named[1, BAD] and not hub.excluded
    assert all(said[asked] in clients[name].named[BAD] for name in HONEST)
    close_all(clients)


def test_a_false_refusal_of_the_sum_is_named_and_nothing_is_opened(tmp_path, scheme):
    hub, clients = setting(tmp_path / "with", scheme)
    carrier, _ = carried(hub, clients, {Kind.ANSWER: refuses("update")})
    assert "refused the sum that the others took" in hub.named[1, BAD]
    assert not {Kind.OPENING, Kind.EVIDENCE} & set(kinds(carrier)) and kinds(carrier).count(Kind.ANSWER) == len(FIVE)
    check_as_without(tmp_path, scheme, clients, 1, dropped=sends_it)
    close_all(clients)


@pytest.mark.parametrize("parts", [("sketch",), ("personal",), ("personal", "sketch")])
def test_a_false_refusal_of_ones_own_part_gets_an_answer_without_it_and_opens_nothing(tmp_path, scheme, parts):
    hub, clients = setting(tmp_path / "with", scheme)
    carrier, _ = carried(hub, clients, {Kind.ANSWER: refuses(*parts)})
    assert not {Kind.OPENING, Kind.EVIDENCE} & set(kinds(carrier))
    answers = [message for name, message, _ in carrier.asked if name == BAD and Header.from_bytes(message).kind == 4]
    assert len(answers) == 2, "refusing what it did not get is not answered again"
    assert "refused again" in hub.named[1, BAD]
    check_as_without(tmp_path, scheme, clients, 1, dropped=sends_it)
    close_all(clients)


class Liars(Hostile):
    """Several hospitals refuse what is right."""

    def ask(self, name, message):
        reply = super().ask(name, message)
        if name in ("birch", "cedar") and reply and Header.from_bytes(message).kind == Kind.ANSWER:
            place = Header.from_bytes(message)
            return self.clients[name].session.message(place.round, Receipt(statement=None, refused=("update",)))
        return reply


@pytest.mark.parametrize("away", [(), ("damson", "elm"), ("alder", "damson", "elm")])
def test_two_liars_open_nobodys_update_also_where_few_others_are_there(tmp_path, scheme, away):
    hub, clients = setting(tmp_path, scheme)

    class Missing(Liars):
        def ask(self, name, message):
            gone = name in away and Header.from_bytes(message).kind == Kind.ANSWER
            return b"" if gone else super().ask(name, message)

    carrier = Missing(clients, hub=hub)
    drive(hub, carrier)
    assert not {Kind.OPENING, Kind.EVIDENCE} & set(kinds(carrier))
    assert {name for _, name in hub.named} == {"birch", "cedar"} and not hub.ended
    close_all(clients)


@pytest.mark.parametrize("trick", [silence, opens_other_masks])
def test_who_does_not_open_its_masks_is_found_whatever_it_sent(tmp_path, trick):
    scheme = SCHEMES["lean masked"]
    hub, clients = setting(tmp_path / "with", scheme)
    carried(hub, clients, {Kind.INVITATION: wrong_tag, Kind.OPENING: trick})
    assert "did not open the masks" in hub.named[1, BAD] and set(hub.excluded) == {BAD}
    check_as_without(tmp_path, scheme, clients, 1)
    close_all(clients)


def test_a_dispute_that_leaves_too_few_for_a_sum_ends_the_round_without_one(tmp_path):
    """Three honest ones and a dishonest one, of whom an honest one sits the round out."""
    hub, clients = parties(federation_of(names=FIVE[:4], sites={"damson": {"budget": 0.01}}), tmp_path)
    before = clients["alder"].state.shared.copy()
    carried(hub, clients, {Kind.INVITATION: wrong_tag})
    assert set(hub.excluded) == {BAD} and not hub.ended
    for client in clients.values():
        assert client.round == 1 and np.array_equal(client.state.shared, before)
    close_all(clients)


def off_by_a_word(hub, clients):
    """The right sum but for one word."""
    made = hub.federation.scheme_of("update"), hub.rules.layouts.update
    updates = [opened_by_coordinator(hub, client.state.pending.message).update for client in clients.values()]
    return sum_of(*made, updates, off=2**50)


def test_a_coordinator_that_alters_the_sum_ends_the_run_with_the_reason_and_names_nobody(tmp_path, monkeypatch):
    hub, clients = setting(tmp_path, SCHEMES["tenseal"])

    class Altered(Hostile):
        def ask(self, name, message):
            reply = super().ask(name, message)
            sent = [client.state.pending for client in clients.values()]
            if all(pending is not None and pending.message for pending in sent) and not hasattr(self, "done"):
                self.done = falsify_answers(monkeypatch, aggregate=off_by_a_word(hub, clients))
            return reply

    carrier = Altered(clients, hub=hub)
    assert drive(hub, carrier) == ()
    assert "the opening found nobody guilty" in hub.ended and not hub.named and not hub.excluded
    for client in clients.values():
        assert client.round == 0 and "the opening found nobody guilty" in client.ended
    with pytest.raises(MessageError, match="found nobody guilty"):
        hub.invite()
    close_all(clients)


def test_a_coordinator_that_answers_again_with_what_it_altered_is_stopped(tmp_path, monkeypatch):
    """It judges nobody, or all are right: hospitals take no further sum."""
    hub, clients = setting(tmp_path, SCHEMES["tenseal"])
    for name, invitation in hub.invite().items():
        hub.receive(clients[name].contribute(invitation))
    aggregate = off_by_a_word(hub, clients)
    with monkeypatch.context() as patch:
        falsify_answers(patch, aggregate=aggregate)
        answers = hub.close()
    with pytest.raises(AggregateError):
        clients["alder"].apply(answers["alder"])
    again = _answer(hub, "alder", attempt=1)
    with pytest.raises(MessageError, match="what the coordinator made of them is wrong"):
        clients["alder"].apply(again)
    assert "what the coordinator made of them is wrong" in clients["alder"].ended
    assert clients["alder"].round == 0
    close_all(clients)


def _answer(hub, name, attempt, **changes):
    body = msgspec.structs.replace(hub.dispute.answering.answer(name), **changes)
    return to_hospital(hub, name, body, number=hub.answered.number, attempt=attempt)


def test_hospitals_that_refused_nothing_open_and_judge_nothing(tmp_path):
    hub, clients = setting(tmp_path, SCHEMES["lean masked"])
    carried(hub, clients, {Kind.INVITATION: wrong_tag})
    hub.readmit(BAD)
    for name, invitation in hub.invite().items():
        hub.receive(clients[name].contribute(invitation))
    opening, evidence = (to_hospital(hub, "alder", body) for body in (Opening(), _evidence(hub)))
    with pytest.raises(MessageError, match="whose sum it did not refuse"):
        clients["alder"].open_masks(opening)
    with pytest.raises(MessageError, match="that it did not refuse"):
        clients["alder"].judge(evidence)
    assert clients["alder"].state.pending.judged == {}
    close_all(clients)


def _evidence(hub):
    return Evidence(sender="cedar", salt=bytes(16), parts={}, digests={}, stands=bytes(64))


def test_parts_that_their_sender_did_not_sign_are_not_judged(tmp_path):
    hub, clients = setting(tmp_path, SCHEMES["tenseal"])

    class Framed(Hostile):
        def ask(self, name, message):
            if Header.from_bytes(message).kind == Kind.EVIDENCE and name == "alder":
                _, body = opened(self.clients[name], message)
                parts = {"update": bytes(len(body.parts["update"]))}
                attempt, number = Header.from_bytes(message).attempt, Header.from_bytes(message).round
                forged = msgspec.structs.replace(body, parts=parts)
                message = to_hospital(hub, name, forged, number=number, attempt=attempt)
            return super().ask(name, message)

    carrier = Framed(clients, hub=hub, tricks={Kind.INVITATION: wrong_tag})
    drive(hub, carrier)
    assert any("did not sign" in str(error) for name, error in carrier.errors if name == "alder")
    close_all(clients)


def opened(client, message):
    form = BODIES[Header.from_bytes(message).kind]
    return Round.open(client.session, message, form, client.state, range(MOST_ATTEMPTS))


def noisy(folder):
    federation = federation_of(
        names=FIVE,
        rounds=3,
        encryption={"scheme": "lean", "masking": "pairwise"},
        coupling={"strength": 0.0},
        similarity={"every": 0},
        release={"experts": False},
        shared_noise={"dropouts": 1},
    )
    return parties(federation, folder)


def test_under_shared_noise_nothing_is_opened_and_the_run_ends_with_the_reason(tmp_path):
    hub, clients = noisy(tmp_path)
    carrier, _ = carried(hub, clients, {Kind.INVITATION: wrong_tag})
    assert not {Kind.OPENING, Kind.EVIDENCE} & set(kinds(carrier))
    assert "under shared noise nothing may be opened" in hub.ended and not hub.named
    with pytest.raises(MessageError, match="this run has ended"):
        drive(hub, carrier)
    for client in clients.values():
        assert client.round == 0 and "under shared noise nothing may be opened" in client.ended
        assert client.state.pending.own_mask == ""
        with pytest.raises(MessageError, match="shared noise"):
            client.open_masks(to_hospital(hub, client.name, Opening(), number=1))
        with pytest.raises(MessageError, match="that it did not refuse"):
            client.judge(to_hospital(hub, client.name, _evidence(hub), number=1))
    close_all(clients)


def test_a_hospital_takes_part_in_no_round_of_a_run_that_has_ended(tmp_path):
    hub, clients = noisy(tmp_path)
    carried(hub, clients, {Kind.INVITATION: wrong_tag})
    spent = clients["alder"].ledger.spent()
    invitation = to_hospital(hub, "alder", hub.answered.invitation, number=1)
    with pytest.raises(MessageError, match="this run has ended"):
        clients["alder"].contribute(invitation)
    assert clients["alder"].ledger.spent() == spent
    close_all(clients)


class Denying(Hostile):
    """All refuse everything, whatever they are answered."""

    def ask(self, name, message):
        super().ask(name, message)
        place, client = Header.from_bytes(message), self.clients[name]
        if place.kind == Kind.ANSWER:
            body = Receipt(statement=None, refused=self.parts)
            return client.session.message(place.round, body, place.attempt)
        return self.asked[-1][2]


@pytest.mark.parametrize("parts", [("update",), ("personal", "sketch"), ("update", "personal", "sketch")])
def test_a_dispute_ends_whatever_hospitals_refuse(tmp_path, parts):
    hub, clients = setting(tmp_path, SCHEMES["none"])
    carrier = Denying(clients, hub=hub)
    carrier.parts = parts
    drive(hub, carrier)
    answers = [name for name, message, _ in carrier.asked if Header.from_bytes(message).kind == Kind.ANSWER]
    assert max(map(answers.count, FIVE)) <= MOST_ATTEMPTS
    assert hub.settle() == {}
    close_all(clients)


def client_of(federation, keyring, folder):
    name = keyring.identity.name
    rows, simulation = rows_of(name), Simulation(SEED)
    return Client(federation, name, MODEL, rows, keyring, folder, device="cpu", simulation=simulation)


def again(federation, hub, keyrings, folder):
    """The coordinator made anew from its folder."""
    commitment = keyrings[BAD].federation_key.commitment
    return Coordinator(
        federation.without_budgets(),
        hub.identity,
        hub.hospitals,
        key_commitment=commitment,
        folder=folder,
    )


class KilledError(Exception):
    """Stands for the coordinator's process."""


class Fragile(Hostile):
    """The coordinator is killed once so many messages were carried."""

    left = 10**9

    def ask(self, name, message):
        self.left -= 1
        if self.left < 0:
            raise KilledError
        return super().ask(name, message)


@pytest.mark.parametrize("scheme", ["tenseal", "lean masked"])
def test_a_coordinator_killed_in_a_dispute_goes_on_with_it(tmp_path, scheme):
    """After each few messages: those whom it asked again reply the same, and all ends as without a kill."""
    federation = federation_of(names=FIVE, rounds=4, **SCHEMES[scheme])
    keyrings, hub = local_parties(federation, SEED, folder=tmp_path / "hub")
    clients = {name: client_of(federation, keyring, tmp_path / name) for name, keyring in keyrings.items()}
    kills, carrier = 0, Fragile(clients, hub=hub, tricks={Kind.INVITATION: wrong_tag})
    carrier.left = len(FIVE) * (4 if hub.masked else 2) - 2
    while hub.closed < 2:
        try:
            drive(hub, carrier)
        except KilledError:
            kills += 1
            hub.stop()
            hub = carrier.hub = again(federation, hub, keyrings, tmp_path / "hub")
            carrier.left = 4 + kills  # more each time: invitations go out anew to all
        else:
            carrier.tricks, carrier.left = {}, 10**9
    for name, message in hub.owed().items():
        hub.receive(clients[name].handle(message))
    assert kills > 5
    assert set(hub.excluded) == {BAD} and hub.cases[1, BAD].broken == ("update",) and (1, BAD) in hub.evidence
    assert {client.round for client in clients.values()} == {2}
    assert len({client.state.shared.tobytes() for client in clients.values()}) == 1
    hub.stop()
    close_all(clients)


def unopenable_shares(scene):
    """Sealed for nobody: no hospital gets a share of its masks."""
    masks = scene.body.masks
    return scene.sent(masks=msgspec.structs.replace(masks, blobs=tuple(bytes(len(blob)) for blob in masks.blobs)))


def test_who_deals_shares_that_do_not_open_costs_one_sum_and_is_invited_no_more(tmp_path):
    """Its update is under masks that nobody can take off: the round has no sum, and the next one is without it."""
    hub, clients = setting(tmp_path, SCHEMES["lean masked"])
    before = clients["alder"].state.shared.copy()
    carried(hub, clients, {Kind.INVITATION: unopenable_shares})
    assert dict(hub.named) == {(1, BAD): "round 1: dealt false shares of its masks"} and set(hub.excluded) == {BAD}
    assert {client.round for client in clients.values()} == {1}
    assert np.array_equal(clients["alder"].state.shared, before)
    carrier, _ = carried(hub, clients)
    assert BAD not in carrier.messages(Kind.INVITATION)
    assert not np.array_equal(clients["alder"].state.shared, before)
    close_all(clients)


def verdict_on(sender, signer):
    """A verdict that `sender` broke the rules, in the dishonest hospital's name, signed by `signer` of the clients."""

    def trick(scene):
        round_, shown = opened(scene.client, scene.message)
        if shown.sender != sender:
            return scene.reply
        identity = signer(scene).session.keyring.identity
        verdict = sign_verdict(identity, round_.session.digest, round_.number, shown, ("update",))
        return scene.client.session.message(round_.number, verdict, round_.header.attempt)

    return trick


@pytest.mark.parametrize("forged", [False, True])
def test_a_false_verdict_finds_nobody_guilty_and_a_forged_one_is_refused(tmp_path, forged):
    scheme = SCHEMES["none"]
    hub, clients = setting(tmp_path / "with", scheme)
    trick = verdict_on("cedar", lambda scene: clients["alder"] if forged else scene.client)
    _, refused = carried(hub, clients, {Kind.INVITATION: wrong_tag, Kind.EVIDENCE: trick})
    assert [refusal.hospital for refusal in refused] == [BAD] * forged
    assert set(hub.excluded) == {BAD}
    check_as_without(tmp_path, scheme, clients, 1)
    close_all(clients)


class Late(Hostile):
    """One honest hospital hears no answer until the next round."""

    def ask(self, name, message):
        place = Header.from_bytes(message)
        if name == "elm" and place.kind == Kind.ANSWER and self.hub.open_round is None and not self.back:
            return b""
        return super().ask(name, message)

    back = False


def test_who_hears_of_a_disputed_answer_late_judges_for_itself_and_goes_on(tmp_path):
    hub, clients = setting(tmp_path, SCHEMES["tenseal"])
    carrier = Late(clients, hub=hub, tricks={Kind.INVITATION: wrong_tag})
    drive(hub, carrier)
    assert clients["elm"].round == 0 and clients["alder"].round == 1 and set(hub.excluded) == {BAD}
    carrier.back, carrier.tricks = True, {}
    drive(hub, carrier)
    assert {client.round for client in clients.values()} == {2}
    assert len({client.state.shared.tobytes() for client in clients.values()}) == 1
    assert {name for _, name in hub.named} <= {BAD, "elm"}
    close_all(clients)


DISPUTED = (Kind.OPENING, Kind.OPENED, Kind.EVIDENCE, Kind.VERDICT, Kind.RECEIPT, Kind.ENDED)


def test_altered_messages_of_a_dispute_are_refused_by_typed_errors_and_change_nothing(tmp_path):
    """Cut, lengthened, a bit flipped anywhere: each before the genuine one is taken."""
    hub, clients = setting(tmp_path, SCHEMES["lean masked"])
    draw, seen = random.Random(7), set()  # noqa: S311 (repeats)

    def broken(deliver, message):
        place = draw.randrange(len(message))
        flipped = message[:place] + bytes([message[place] ^ (1 << draw.randrange(8))]) + message[place + 1 :]
        for other in (flipped, message[:place], message + b"\0", b""):
            with pytest.raises(SecurePFLError):
                deliver(other)

    class Fuzzing(Hostile):
        def ask(self, name, message):
            kind, client = Header.from_bytes(message).kind, self.clients[name]
            if kind in DISPUTED:
                before = fingerprint(client.state)
                broken(client.handle, message)
                assert fingerprint(client.state) == before
            reply = super().ask(name, message)
            if reply and Header.from_bytes(reply).kind in DISPUTED:
                dispute = (dict(hub.dispute.refused), set(hub.dispute.stated), dict(hub.dispute.verdicts))
                broken(hub.receive, reply)
                assert dispute == (hub.dispute.refused, hub.dispute.stated, hub.dispute.verdicts)
                seen.add(Header.from_bytes(reply).kind)
            seen.add(kind)
            return reply

    drive(hub, Fuzzing(clients, hub=hub, tricks={Kind.INVITATION: wrong_tag}))
    assert set(DISPUTED) - seen == {Kind.ENDED}
    assert set(hub.excluded) == {BAD} and {client.round for client in clients.values()} == {1}
    close_all(clients)


def test_a_hospital_omitted_from_a_sum_that_it_did_not_refuse_takes_no_further_answer(tmp_path, monkeypatch):
    """It holds that sum by then: a second one, without it, would make its state another than the others'."""
    hub, clients = setting(tmp_path, SCHEMES["none"])
    carried(hub, clients)
    for name, invitation in hub.invite().items():
        hub.receive(clients[name].contribute(invitation))
    with monkeypatch.context() as patch:
        falsify_answers(patch, products={"cedar": b"\xff"})
        answers = hub.close()
    with pytest.raises(AggregateError):
        clients["alder"].apply(answers["alder"])
    others = tuple(name for name in FIVE if name != "alder")
    aggregate = total_of(hub.answered, hub.contribution, {})(others)
    without = _answer(hub, "alder", 1, survivors=others, products={}, aggregate=aggregate)
    with pytest.raises(MessageError, match="over other hospitals than it found to be right"):
        clients["alder"].apply(without)
    clients["alder"].apply(_answer(hub, "alder", 1, products={}))
    assert clients["alder"].round == 2
    close_all(clients)


def all_at_the_limit(slots, layout, tag):
    """Every value as large as the grid has it: legal digits, and no legal update."""
    values = digits_to_slots(np.full(layout.values, top_level(layout.bits), dtype=np.uint64), layout)
    return np.concatenate([values, tag(values)])


def test_an_update_beyond_its_bound_is_found_where_the_sum_is_beyond(tmp_path):
    tables = {"sites": {name: {"units": 40} for name in FIVE}, "encryption": {"scheme": "none", "limit": 8.0}}
    hub, clients = setting(tmp_path / "with", tables)

    def beyond(scene):
        return scene.sent(update=scene.resummed("update", all_at_the_limit))

    carried(hub, clients, {Kind.INVITATION: beyond})
    assert "its update broke the rules" in hub.named[1, BAD]
    check_as_without(tmp_path, tables, clients, 1)
    close_all(clients)
