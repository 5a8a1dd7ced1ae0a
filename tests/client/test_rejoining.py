"""A hospital that is behind takes the state on the word of most others, companions of the next round or not."""

import pytest
from torch import nn

from securepfl.client.round import Session
from securepfl.client.snapshot import Snapshot
from securepfl.client.state import ClientState
from securepfl.errors import MessageError
from securepfl.protocol.companions import companions_of
from securepfl.protocol.statements import make_statement
from securepfl.runtime.local import local_parties
from securepfl.settings.federation import Federation

ROUND = 5
RUN = bytes(range(16))
NAMES = tuple(f"h{number:02}" for number in range(40))


def model():
    return nn.Linear(3, 1)


@pytest.fixture(scope="module")
def run():
    """(session of h00 in a run, keyrings, the state after ROUND)."""
    federation = Federation.from_mapping({"model": {"kind": "own"}, "encryption": {"scheme": "none"}})
    federation = federation.bound(NAMES, model, units=40)
    keyrings, _ = local_parties(federation)
    session = Session.of(federation, keyrings["h00"], None).joining(RUN)
    zeros = model().weight.detach().numpy().ravel()
    state = ClientState.fresh(federation.digest.hex(), 0, "real", zeros, zeros[:0], compared=0)
    state.round = ROUND
    return session, keyrings, Snapshot.of(state)


def stated(run, names, state=None):
    session, keyrings, snapshot = run
    state = state or snapshot.digest(session.key.snapshot_key, session.digest)
    return {name: make_statement(keyrings[name].identity, session.digest, ROUND, state, "ab" * 32) for name in names}


def taken(run, statements):
    session, _, snapshot = run
    sealed = snapshot.seal(session.key.snapshot_key, session.digest, RUN)
    return Snapshot.attested(sealed, session, ROUND, snapshot.shared.size, statements)


def test_the_word_of_hospitals_that_are_no_companions_counts(run):
    strangers = set(NAMES[1:]) - companions_of(run[0].federation, "h00", ROUND + 1)
    assert len(strangers) > len(NAMES) // 2
    for names in (strangers, NAMES[1:]):
        assert taken(run, stated(run, names)).round == ROUND


@pytest.mark.parametrize("against", [19, 20, 39])
def test_most_of_all_who_are_shown_must_hold_it(run, against):
    """39 others: 20 are most of them, 19 are not."""
    statements = stated(run, NAMES[1:]) | stated(run, NAMES[1 : 1 + against], state="f" * 64)
    if against < 20:
        assert taken(run, statements).round == ROUND
        return
    with pytest.raises(MessageError, match="not most"):
        taken(run, statements)
