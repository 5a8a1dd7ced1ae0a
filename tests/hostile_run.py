"""A run of eight hospitals of which one plays another trick each round, and the run that it is compared with."""

from dataclasses import dataclass, field

import msgspec
import numpy as np
from hostile import (
    BAD,
    Hostile,
    altered,
    another_form,
    digits_off_the_grid,
    garbage,
    opens_other_masks,
    other_masks,
    refuses,
    silence,
    two_messages,
    wrong_sketch,
    wrong_tag,
)
from parties import close_all, federation_of, parties

from securepfl.crypto.messages.envelope import Header, Kind
from securepfl.protocol.rounds import drive

EIGHT = ("alder", BAD, "cedar", "damson", "elm", "fir", "gean", "hazel")
ROUNDS = 20
SEED = bytes(range(32))

ASKED, ANSWERED = Kind.INVITATION, Kind.ANSWER


def as_it_was(scene):
    return scene.reply


def without_sketch(scene):
    """In clear a sketch out of range is seen on arrival, and all that came with it is refused."""
    return scene.sent(sketch=None) if scene.hub.federation.scheme.encrypted else b""


@dataclass(frozen=True)
class Trick:
    """What the dishonest hospital makes of its replies, by the kind of message replied to; `instead` is what the run
    without it has in place of its contribution: nothing, or what there was no fault in.
    """

    name: str
    replies: dict
    instead: object = silence


OPEN = (
    Trick("a wrong tag", {ASKED: wrong_tag}),
    Trick("digits off the grid, a valid tag", {ASKED: digits_off_the_grid}),
    Trick("a wrong sketch", {ASKED: wrong_sketch}, without_sketch),
    Trick("garbage", {ASKED: garbage}),
    Trick("silence after contributing", {ANSWERED: silence}, as_it_was),
    Trick("two different messages", {ASKED: two_messages}, as_it_was),
    Trick("a message altered on its way", {ASKED: altered}),
    Trick("a false refusal of the sum", {ANSWERED: refuses("update")}, as_it_was),
    Trick("a body of another form", {ASKED: another_form}),
)
MASKED = (
    Trick("silence when the survivors are to be signed", {Kind.SURVIVORS: silence}, as_it_was),
    Trick("silence when shares are to be revealed", {Kind.UNMASK: silence}, as_it_was),
    Trick("a wrong tag, and other masks than it committed to", {ASKED: wrong_tag, Kind.OPENING: opens_other_masks}),
    Trick("commitments to other masks than its neighbours'", {ASKED: other_masks}),
)


def plan(masked, rounds=ROUNDS):
    """A trick for each round, those that follow from others' messages or need sketches neither first nor last."""
    tricks = (*OPEN, *MASKED) if masked else OPEN
    found, waiting = {}, list(tricks) * rounds
    for number in range(1, rounds + 1):
        sketches = 1 < number < rounds  # travel in all but the first and the last
        fits = [
            t for t in waiting if (t.name != "a wrong sketch" or sketches) and (ANSWERED not in t.replies or sketches)
        ]
        found[number] = fits[0]
        waiting.remove(fits[0])
    return found


@dataclass
class Playing(Hostile):
    """Plays the trick of the round that a message is of."""

    plan: dict = field(default_factory=dict)

    def ask(self, name, message):
        self.tricks = self.plan.get(Header.from_bytes(message).round, {})
        return super().ask(name, message)


def held(client):
    """All that a hospital carries on, but for what it is told of others."""
    apart = ("run", "joined", "nonce", "named", "federation")
    fields = {name: value for name, value in msgspec.structs.asdict(client.state).items() if name not in apart}
    return {name: value.tobytes() if isinstance(value, np.ndarray) else value for name, value in fields.items()} | {
        "trajectory": {name: part.tobytes() for name, part in fields["trajectory"].items()}
    }


def run(folder, tables, replies, rounds=ROUNDS, names=EIGHT):
    """(coordinator, what the honest hospitals hold after each round, budgets spent): readmitted after each round."""
    federation = federation_of(names=names, rounds=rounds, privacy={"epsilon": 50.0, "budget": 100.0}, **tables)
    hub, clients = parties(federation, folder, root_key=SEED, noise_key=SEED)
    carrier, ends = Playing(clients, hub=hub, plan=replies), []
    try:
        for _ in range(rounds):
            drive(hub, carrier)
            for name in tuple(hub.excluded):
                hub.readmit(name)
            ends.append({name: held(clients[name]) for name in names if name != BAD})
        return hub, ends, {name: clients[name].ledger.spent() for name in names if name != BAD}
    finally:
        close_all(clients)


def tables_of(scheme, masked):
    """The settings of a scheme; sketches travel beside masks."""
    encryption = {"scheme": scheme, "masking": "pairwise"} if masked else {"scheme": scheme}
    return {"encryption": encryption, "similarity": {"every": 1, "beside_masks": masked}}


def compared(folder, tables, rounds=ROUNDS, names=EIGHT):
    """(the coordinator of the run with the hostile hospital, for each round whether all honest ones hold what they hold
    without it, whether their budgets are spent alike).
    """
    tricks = plan("masking" in tables["encryption"], rounds)
    hub, ends, spent = run(
        folder / "with", tables, {number: trick.replies for number, trick in tricks.items()}, rounds, names
    )
    calm = {number: {ASKED: trick.instead} for number, trick in tricks.items()}
    _, without, as_much = run(folder / "without", tables, calm, rounds, names)
    assert len({end["alder"]["shared"] for end in ends}) == rounds, "each round has a sum"
    return hub, [end == other for end, other in zip(ends, without, strict=True)], spent == as_much
