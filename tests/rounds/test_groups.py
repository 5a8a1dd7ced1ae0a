"""Hospitals that are compared in groups that rotate: sketches meet within a group, rows grow, disputes stay in a group.

But for one test, groups are of at most 6 in place of 64, so that 13 hospitals are three groups in a round.
"""

from itertools import combinations

import msgspec
import pytest
from forging import BODIES, opened_by_hospital, to_hospital
from hostile import BAD, Hostile, Scene, refuses
from parties import Carried, close_all, federation_of, parties

from securepfl.client.comparing import compared_of
from securepfl.client.round import Round
from securepfl.coordinator.answering import Answering
from securepfl.crypto.messages.envelope import Header, Kind
from securepfl.errors import MessageError
from securepfl.learning.personal.graph import LEAST_NEIGHBOURS, choose_neighbours
from securepfl.protocol import groups
from securepfl.protocol.channels import Layouts
from securepfl.protocol.groups import comparisons_until_all_met, group_of, groups_of
from securepfl.protocol.messages import Evidence
from securepfl.protocol.rounds import drive
from securepfl.settings.fixed import GATE, GRAPH_ROUNDS

NAMES = (BAD, *(f"h{number:02}" for number in range(1, 13)))
SEED = bytes(range(32))
MOST = 6
SHOWN = {"epsilon": 1e4, "budget": 1e5}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(groups, "MOST", MOST)


SCHEMES = {
    "none": {"encryption": {"scheme": "none"}},
    "tenseal": {"encryption": {"scheme": "tenseal"}},
    "lean": {
        "encryption": {"scheme": "lean", "masking": "pairwise"},
        "similarity": {"every": 1, "beside_masks": True},
    },
}


def setting(folder, scheme="none", *, names=NAMES, rounds=5):
    settings = SCHEMES[scheme] | {"privacy": SHOWN}
    return parties(federation_of(names=names, rounds=rounds, **settings), folder, root_key=SEED, noise_key=SEED)


def group(client, round_):
    return set(group_of(client.federation, client.name, round_).members)


class Watching(Carried):
    """Keeps what each hospital is told before it takes it: nonces, and whom its row speaks of."""

    def ask(self, name, message):
        kind = Header.from_bytes(message).kind
        if kind in (Kind.INVITATION, Kind.ANSWER):
            _, body = opened_by_hospital(self.clients[name], message)
            told = body.nonces if kind == Kind.INVITATION else body.products
            self.told = getattr(self, "told", {}) | {(name, kind): set(told)}
        return super().ask(name, message)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_nonces_and_rows_are_of_the_rounds_group_alone(tmp_path, small, scheme):
    hub, clients = setting(tmp_path, scheme)
    for round_ in (1, 2, 3):
        before = {name: dict(client.similarity) for name, client in clients.items()}
        carried = Watching(clients)
        assert drive(hub, carried) == ()
        for name, client in clients.items():
            own = group(client, round_) if round_ > 1 else set()
            assert carried.told[name, Kind.INVITATION] == own
            assert carried.told[name, Kind.ANSWER] == (own if scheme == "tenseal" else own - {name})
            assert {n: v for n, v in client.similarity.items() if n not in own} == {
                n: v for n, v in before[name].items() if n not in own
            }
    assert all(
        set(client.similarity) == (group(client, 2) | group(client, 3)) - {client.name} for client in clients.values()
    )
    close_all(clients)


@pytest.mark.parametrize("scheme", ["none", "tenseal"])
def test_a_groups_row_is_what_one_group_of_all_would_say(tmp_path, monkeypatch, scheme):
    """Until rows are used, grouping changes nothing else: sketches, and so products, are the same."""
    rows = []
    for most in (64, MOST):
        monkeypatch.setattr(groups, "MOST", most)
        hub, clients = setting(tmp_path / str(most), scheme)
        for _ in range(2):
            assert drive(hub, Carried(clients)) == ()
        rows.append({name: (client.similarity, client.distances) for name, client in clients.items()})
        own = {name: group(client, 2) for name, client in clients.items()}
        close_all(clients)
    for name in NAMES:
        for whole, part in zip(rows[0][name], rows[1][name], strict=True):
            assert set(part) == own[name] - {name} and part == {other: whole[other] for other in part}


def test_over_rounds_every_pair_meets_and_neighbours_come_from_all_of_them(tmp_path, small):
    """In the last round one is away: those that would have met it keep what they knew of it."""
    last, gone = 2 + GRAPH_ROUNDS, "h12"
    assert comparisons_until_all_met(len(NAMES)) == last - 2
    hub, clients = setting(tmp_path, rounds=last + 2)
    for _ in range(last - 1):
        assert drive(hub, Carried(clients)) == ()
    for one, two in combinations(clients, 2):
        assert clients[one].similarity[two] == clients[two].similarity[one]
        assert clients[one].distances[two] == pytest.approx(clients[two].distances[one], rel=1e-6)
    known = {name: (client.similarity, client.distances) for name, client in clients.items()}
    drive(hub, Carried(clients, away=(gone,)))
    elsewhere = set()
    for name, client in clients.items():
        if name == gone:
            continue
        assert set(client.similarity) == set(NAMES) - {name} and list(client.similarity) == sorted(client.similarity)
        older = (set(NAMES) - group(client, last) | {gone}) - {name}
        newer = set(NAMES) - older - {name}
        assert all(client.similarity[other] == known[name][0][other] for other in older)
        assert all(client.distances[other] == known[name][1][other] for other in older)
        assert all(client.distances[other] != known[name][1][other] for other in newer)
        best = choose_neighbours(client.similarity, client.federation.coupling.neighbours, LEAST_NEIGHBOURS)
        assert set(client.neighbours) == set(best)
        elsewhere |= set(client.neighbours) & older
    assert elsewhere, "nobody is coupled to a hospital of an earlier group"
    close_all(clients)


def test_a_row_that_speaks_of_a_hospital_outside_the_group_is_refused(tmp_path, small, monkeypatch):
    hub, clients = setting(tmp_path)
    assert drive(hub, Carried(clients)) == ()
    one = clients["h01"]
    stranger = min(set(NAMES) - group(one, 2))
    honest = Answering.answer

    def widened(self, name, *asked):
        body = honest(self, name, *asked)
        if name != "h01":
            return body
        return msgspec.structs.replace(body, products=body.products | {stranger: next(iter(body.products.values()))})

    monkeypatch.setattr(Answering, "answer", widened)
    refusals = []

    class Noting(Carried):
        def ask(self, name, message):
            try:
                return super().ask(name, message)
            except MessageError as error:
                refusals.append((name, str(error)))
                return b""

    drive(hub, Noting(clients))
    assert [name for name, _ in refusals] == ["h01"] and "does not fit what was asked" in refusals[0][1]
    assert one.round == 1 and not one.similarity and clients["h02"].round == 2
    close_all(clients)


def for_another_group(scene):
    """The right sketch, under another group's places and context."""
    comparison, federation = scene.client._parts.contributor.comparison, scene.client.federation
    there = next(its for its in groups_of(federation, 2) if BAD not in its.members)
    values = comparison._sketch(compared_of(scene.client.state, GATE), 2)
    context = there.context(scene.round_.contexts["similarity"])
    return scene.sent(sketch=comparison.cipher.encrypt(values, 1.0, 1, context, {}))


def test_a_sketch_for_another_group_is_found_by_its_own_and_costs_the_others_nothing(tmp_path, small):
    """A hospital that asks for products under another group's places gets none that hold."""
    hub, clients = setting(tmp_path, "tenseal")
    drive(hub, Carried(clients))
    own = group(clients[BAD], 2)
    carrier = Hostile(clients, hub=hub, tricks={Kind.INVITATION: for_another_group})
    assert drive(hub, carrier) == ()
    assert set(hub.excluded) == {BAD} and not hub.ended
    others = len(own) - 1
    assert f"its sketch broke the rules, as {others} of {others} hospitals found" in hub.named[2, BAD]
    assert set(hub.cases[2, BAD].verdicts) == own - {BAD}
    shown = {(name, body.sender) for name, body in _shown(carrier, clients)}
    assert shown == {(name, sender) for name in own - {BAD} for sender in own if name != sender}
    for name, client in clients.items():
        assert client.round == 2
        if name != BAD:
            assert set(client.similarity) == group(client, 2) - {name, BAD}
    close_all(clients)


def _shown(carrier, clients):
    for name, message, _ in carrier.asked:
        header = Header.from_bytes(message)
        if header.kind == Kind.EVIDENCE:
            state = clients[name].state
            state.round = header.round - 1
            attempts = (header.attempt,)
            yield name, Round.open(clients[name].session, message, BODIES[header.kind], state, attempts)[1]


@pytest.mark.parametrize("liars", [2, 3])
def test_a_group_that_refuses_right_rows_ends_no_run_and_goes_without_them(tmp_path, small, liars):
    hub, clients = setting(tmp_path)
    drive(hub, Carried(clients))
    own = sorted(group(clients[BAD], 2))
    lying = set(own[:liars])

    class Liars(Hostile):
        def ask(self, name, message):
            reply = super().ask(name, message)
            first = Header.from_bytes(message).kind == Kind.ANSWER and name in lying
            if first and name not in getattr(self, "lied", ()):
                self.lied = {*getattr(self, "lied", ()), name}
                return refuses("sketch")(Scene(hub, self.clients[name], message, reply))
            return reply

    carrier = Liars(clients, hub=hub)
    drive(hub, carrier)
    opened = Kind.EVIDENCE in [Header.from_bytes(message).kind for _, message, _ in carrier.asked]
    assert opened == (liars > len(own) // 2) and not hub.ended and not hub.excluded
    assert all(client.round == 2 and not client.ended for client in clients.values())
    assert all(set(c.similarity) == group(c, 2) - {n} for n, c in clients.items() if n not in lying)
    close_all(clients)


def test_a_hospital_judges_no_sketch_of_another_group(tmp_path, small):
    hub, clients = setting(tmp_path)
    drive(hub, Carried(clients))
    judge = next(name for name in NAMES if name not in group(clients[BAD], 2))
    stranger = clients[judge]
    hub.invite()
    stranger.contribute(to_hospital(hub, judge, hub.open_round.invitation_to(judge)))
    state = stranger.state
    pending = msgspec.structs.replace(state.pending, refused=("sketch",), survivors=NAMES)
    state.pending = pending
    stranger._commit(state)
    evidence = Evidence(
        sender=BAD, salt=bytes.fromhex(pending.salt), parts={"sketch": b"words"}, digests={}, stands=bytes(64)
    )
    with pytest.raises(MessageError, match="which is not in its group; refused"):
        stranger.judge(to_hospital(hub, judge, evidence, number=2))
    assert stranger.state.pending.judged == {}
    close_all(clients)


def test_66_hospitals_are_two_groups_with_the_bound_as_it_is(tmp_path):
    names = tuple(f"h{number:02}" for number in range(66))
    hub, clients = setting(tmp_path, names=names)
    for _ in range(2):
        assert drive(hub, Carried(clients)) == ()
    assert {len(its.members) for its in groups_of(hub.federation, 2)} == {33}
    for name, client in clients.items():
        assert set(client.similarity) == group(client, 2) - {name} and len(client.similarity) == 32
    close_all(clients)


def test_a_message_is_bounded_by_a_group_and_not_by_all(monkeypatch):
    federation = federation_of(names=NAMES)
    whole = Layouts.of(federation).most_bytes(federation)
    monkeypatch.setattr(groups, "MOST", MOST)
    federation = federation_of(names=NAMES)
    assert Layouts.of(federation).most_bytes(federation) < whole
