"""A masked round of five hospitals, held still before each of its messages is delivered."""

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import msgspec
from forging import to_coordinator
from fuzz.mutator import Mutator, fingerprint
from parties import federation_of, parties

from securepfl.client.pinning import PIN
from securepfl.crypto.keys.identity import Identity, PublicIdentity
from securepfl.crypto.messages.envelope import Header, Kind, open_message, seal_message
from securepfl.errors import MessageError, SecurePFLError
from securepfl.protocol.channels import run_digest
from securepfl.protocol.messages import Contribution, Decline, decode, encode
from securepfl.protocol.standing import digests_of, parts_of, sign_parts

FIVE = ("alder", "birch", "cedar", "damson", "elm")
FIXED = ("federation", "identity", "hospitals", "rules")
"""What no message changes of a coordinator."""

NOTED = ("parts", "seconds", "names")
"""What counts work done, and who sent what was refused: they decide nothing of the round."""


def federation(**tables):
    defaults = {
        "rounds": 4,
        "encryption": {"masking": "pairwise"},
        "similarity": {"every": 1, "beside_masks": True},
    }
    return federation_of(names=FIVE, **(defaults | tables))


@dataclass
class Target:
    """A genuine message just before its receiver gets it.

    `deliver` hands bytes to the receiver, `state` is a fingerprint of it. `genuine` are all bytes that it would take
    now; `foreign` whole messages for others, of other rounds and kinds; `rewind` undoes what was taken.
    """

    kind: Kind
    message: bytes
    deliver: Callable[[bytes], object]
    state: Callable[[], bytes]
    rewind: Callable[[], None]
    sender: Identity
    receiver: PublicIdentity
    opener: Callable[[bytes], tuple[Header, bytes]]
    genuine: set[bytes]
    foreign: list[bytes]
    name: str = "alder"

    def __post_init__(self) -> None:
        self.header, body = self.opener(self.message)
        self.body = bytes(body)

    def sealed(self, body: bytes, **changes) -> bytes:
        """`body` signed and sealed by the genuine sender, who stands by the parts of a contribution as they are now."""
        if self.kind == Kind.CONTRIBUTION:
            body = self._stood_by(body)
        return seal_message(replace(self.header, **changes), body, self.sender, self.receiver)

    def _stood_by(self, data: bytes) -> bytes:
        try:
            body = decode(data, Contribution)
        except MessageError:
            return data
        if body.stands != decode(self.body, Contribution).stands:
            return data  # that was altered itself
        digests = digests_of(parts_of(body), b"" if body.masks is None else body.masks.commitments)
        session = run_digest(self.header.federation_digest, self.header.run)
        stands = sign_parts(self.sender, session, self.header.round, digests)
        return encode(msgspec.structs.replace(body, stands=stands))

    def forged(self, mutator: Mutator) -> bytes:
        """Sealed to the receiver, as anybody can, but signed by nobody, somebody else, or for another header."""
        head, body = self.header.to_bytes(), self.body
        random, sign = mutator.random, self.sender.sign
        signatures = (
            lambda: b"",
            lambda: bytes(3373),
            lambda: random.randbytes(3373),
            lambda: STRANGER.sign(head + body, b"envelope"),
            lambda: sign(head + body, b"another use"),
            lambda: sign(body, b"envelope"),
            lambda: sign(head + body, b"envelope")[:64] + bytes(3309),
            lambda: bytes(64) + sign(head + body, b"envelope")[64:],
            lambda: sign(head + body, b"envelope")[:-1],
        )
        other = mutator.file(body or b"\0", [body])[1] if random.random() < 0.5 else body
        return head + self.receiver.seal(random.choice(signatures)() + other, info=head)

    def unread(self, message: bytes) -> bool:
        """Whether it says that it is the answer to a round before: a hospital leaves that unread, without an error."""
        header = Header.from_bytes(message)
        return self.kind == header.kind == Kind.ANSWER and header.round < self.header.round


UNREAD = "left unread"
STRANGER = Identity.generate("stranger")


@dataclass
class Stage:
    """The parties, two honest rounds on; `seen` is all that travelled."""

    coordinator: object
    clients: dict[str, object]
    seen: list[bytes] = field(default_factory=list)

    @classmethod
    def open(cls, folder, rounds=2, **tables) -> "Stage":
        stage = cls(*parties(federation(**tables), folder))
        for _ in range(rounds):
            for _ in stage.round():
                pass
        return stage

    def close(self):
        for client in self.clients.values():
            client.close()

    def hold(self) -> Callable[[], None]:
        """Remember every party's state; the result brings it back."""
        undo = [self._hold_coordinator(), *map(self._hold_client, FIVE)]
        return lambda: [step() for step in undo]

    def _hold_coordinator(self):
        held = self._copied(vars(self.coordinator))

        def rewind():
            vars(self.coordinator).update(self._copied(held))

        return rewind

    def _copied(self, attributes):
        kept = {name: value for name, value in attributes.items() if name not in FIXED}
        rules = self.coordinator.rules
        return copy.deepcopy(kept, {id(rules): rules})

    def _hold_client(self, name):
        """A client replaces its state as a whole, in memory and on disk, but for which answer it began to decrypt: that
        is noted in the state that it has, and in a file beside the stored one.
        """
        client, path, pin = self.clients[name], self.state_file(name), self.pin_file(name)
        held, state, stored, noted = dict(vars(client)), client.state, path.read_bytes(), content(pin)

        def rewind():
            vars(client).update(held | {"_state": state.copied()})
            path.write_bytes(stored)
            if noted is None:
                pin.unlink(missing_ok=True)
            else:
                pin.write_bytes(noted)

        return rewind

    def state_file(self, name):
        return self.clients[name].folder / "state.safetensors"

    def pin_file(self, name):
        return self.clients[name].folder / PIN

    def coordinator_state(self) -> bytes:
        """All that a refused message must not change."""
        kept = {n: value for n, value in vars(self.coordinator).items() if n not in (*FIXED, *NOTED)}
        current = kept["open_round"]
        return fingerprint(kept | {"open_round": None if current is None else replace(current, rules=None)})

    def client_state(self, name: str) -> bytes:
        client = self.clients[name]
        files = self.state_file(name), client.ledger.path, content(self.pin_file(name))
        return fingerprint(client.state, *files, client.ledger.head)

    def _down(self, kind, messages, deliver) -> Target:
        """The coordinator's message to alder."""
        client, mine = self.clients["alder"], messages["alder"]
        others = [message for name, message in messages.items() if name != "alder"]
        return Target(
            kind,
            mine,
            deliver,
            lambda: self.client_state("alder"),
            self._hold_client("alder"),
            self.coordinator.identity,
            client.session.keyring.identity.public,
            self._opener(kind, client.session.keyring.identity, [client.session.keyring.coordinator]),
            {mine},
            self.seen + others,
        )

    def _up(self, kind, messages, name, now) -> Target:
        """A hospital's message to the coordinator, which would take any of `messages`; `now` are its own to others."""
        coordinator = self.coordinator
        return Target(
            kind,
            messages[name],
            coordinator.receive,
            self.coordinator_state,
            self._hold_coordinator(),
            self.clients[name].session.keyring.identity,
            coordinator.identity.public,
            self._opener(kind, coordinator.identity, coordinator.hospitals),
            set(messages.values()),
            self.seen + list(now.values()),
            name,
        )

    def _opener(self, kind, receiver, senders):
        return partial(
            open_message,
            receiver=receiver,
            senders=senders,
            kinds=(kind,),
            federation_digest=self.coordinator.rules.base,
            run=self.coordinator.rules.run,
            round=self.clients["alder"].round + 1,
            max_bytes=self.coordinator.rules.most_bytes,
        )

    def round(self) -> Iterator[Target]:
        """One masked round, elm declining: yields each kind's message before it is delivered. Then all that is genuine
        is delivered, alder's twice.
        """
        coordinator, clients = self.coordinator, self.clients
        invitations = coordinator.invite()
        yield self._down(Kind.INVITATION, invitations, clients["alder"].contribute)
        replies = {name: self._twice(clients[name].contribute, invitations[name], name) for name in FIVE[:-1]}
        replies["elm"] = to_coordinator(clients["elm"], Decline(), run=coordinator.rules.run)
        yield self._up(Kind.CONTRIBUTION, replies, "alder", invitations)
        yield self._up(Kind.DECLINE, replies, "elm", invitations)
        self._receive(replies)
        lists = coordinator.fix_survivors()
        self.seen += [*invitations.values(), *replies.values()]
        yield self._down(Kind.SURVIVORS, lists, clients["alder"].sign_survivors)
        agreements = {name: self._twice(clients[name].sign_survivors, lists[name], name) for name in FIVE}
        yield self._up(Kind.AGREEMENT, agreements, "alder", lists)
        self._receive(agreements)
        requests = coordinator.unmask()
        self.seen += [*lists.values(), *agreements.values()]
        yield self._down(Kind.UNMASK, requests, clients["alder"].reveal)
        reveals = {name: self._twice(clients[name].reveal, requests[name], name) for name in FIVE}
        yield self._up(Kind.REVEAL, reveals, "alder", requests)
        self._receive(reveals)
        answers = coordinator.close()
        self.seen += [*requests.values(), *reveals.values()]
        yield self._down(Kind.ANSWER, answers, clients["alder"].apply)
        for name in FIVE:
            self._twice(clients[name].apply, answers[name], name)
        self.seen += answers.values()

    def _twice(self, deliver, message, name):
        reply = deliver(message)
        if name == "alder":
            before = self.client_state(name)
            replayed(deliver, message)
            assert self.client_state(name) == before, "a replay changed the hospital"
        return reply

    def _receive(self, messages):
        for name, message in messages.items():
            assert self.coordinator.receive(message) == name
            before = self.coordinator_state()
            replayed(self.coordinator.receive, message)
            assert self.coordinator_state() == before, "a replay changed the coordinator"


def content(path):
    """None where there is no such file."""
    return path.read_bytes() if path.exists() else None


def replayed(deliver, message):
    """Deliver what was delivered before: taken without effect, or refused."""
    try:
        deliver(message)
    except SecurePFLError:
        return


@dataclass
class Tally:
    """What became of mutated messages. `faults` is what must never happen."""

    outcomes: Counter = field(default_factory=Counter)
    operations: Counter = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    accepted: list[tuple[str, bytes]] = field(default_factory=list)

    @property
    def count(self) -> int:
        return sum(self.outcomes.values())

    def try_one(self, target: Target, before: bytes, operation: str, message: bytes) -> object | None:
        """Deliver a mutated message; it must be refused by a typed error or left unread, and leave no trace; or it is
        noted.
        """
        outcome, result = "accepted", None
        try:
            result = target.deliver(message)
            if target.unread(message):
                outcome = UNREAD
        except SecurePFLError as error:
            outcome = type(error).__name__
        except Exception as error:  # noqa: BLE001 (finding these is what a fuzzer is for)
            outcome = f"crash {type(error).__name__}"
            self.faults.append(f"{target.kind.name} {operation}: {error!r}")
        self.outcomes[outcome] += 1
        self.operations[operation] += 1
        if outcome == "accepted":
            self.accepted.append((operation, message))
        elif target.state() != before:
            self.faults.append(f"{target.kind.name} {operation}: {outcome}, but the receiver's state changed")
            target.rewind()
        return result

    def line(self) -> str:
        """In one line."""
        return ", ".join(f"{name} {count}" for name, count in self.outcomes.most_common())
