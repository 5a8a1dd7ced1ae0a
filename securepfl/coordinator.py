"""The coordinator: invites, adds ciphertexts as they arrive, answers. It never holds a key that opens a sum."""

import hashlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from securepfl.crypto import seal
from securepfl.crypto.envelope import Header, Kind, open_message, seal_message
from securepfl.crypto.keys import Identity, PublicIdentity
from securepfl.crypto.parameters import Layout
from securepfl.crypto.similarity import Multiplier, PlainMultiplier, SealMultiplier
from securepfl.crypto.summation import Aggregate
from securepfl.errors import ConfigError, MessageError
from securepfl.exchange import LEAST_NEIGHBOURS, Layouts
from securepfl.federation import Federation
from securepfl.messages import Answer, Contribution, Decline, Invitation, decode, encode


@dataclass
class _Round:
    """What the coordinator holds of an open round: one aggregate of updates, and the small per-hospital parts."""

    number: int
    total: Aggregate
    deadline: float
    replied: dict[str, bytes] = field(default_factory=dict)
    survivors: list[str] = field(default_factory=list)
    personal: dict[str, bytes] = field(default_factory=dict)
    sketches: dict[str, bytes] = field(default_factory=dict)
    neighbours: dict[str, tuple[str, ...]] = field(default_factory=dict)


class Coordinator:
    """The coordinator as a state machine over bytes: invite() -> messages, receive(message), close() -> answers.

    `hospitals` maps every name of the federation's roster to its public identity; `public_key` is the
    federation's public encryption key, which encrypts and can't decrypt. A round takes contributions for
    `deadline_seconds`. `heads` keeps each hospital's latest ledger hash; `evidence`, by round and hospital, the
    first message that contradicted the one taken; `parts` counts bytes by purpose.

    Raises ConfigError where identities and roster differ or two hospitals share an identity.
    """

    def __init__(
        self,
        federation: Federation,
        identity: Identity,
        hospitals: Mapping[str, PublicIdentity],
        public_key: bytes,
        *,
        deadline_seconds: float = 3600.0,
    ) -> None:
        if set(hospitals) != set(federation.roster):
            raise ConfigError("the coordinator's hospitals are not the federation's roster; enrol exactly those")
        self._names = {public.fingerprint: name for name, public in hospitals.items()}
        if len(self._names) != len(hospitals):
            raise ConfigError("two hospitals have the same identity; each must make its own")
        self.federation = federation
        self.heads: dict[str, str] = {}
        self.evidence: dict[tuple[int, str], bytes] = {}
        self.seconds = 0.0
        self.parts = {"updates": 0, "personal": 0, "similarity": 0}
        self._identity, self._hospitals, self._digest = identity, dict(hospitals), federation.digest
        self._layouts = Layouts.of(federation)
        self._most_bytes = self._layouts.most_bytes(federation)
        self._stamp = seal.stamp() if federation.encrypted else b""
        self._multiplier = _multiplier(federation, public_key)
        self._deadline_seconds = deadline_seconds
        self._round: _Round | None = None
        self._closed = 0

    def invite(self) -> dict[str, bytes]:
        """Open the next round: one sealed invitation for each hospital. Raises MessageError where one is open."""
        if self._round is not None:
            raise MessageError(f"round {self._round.number} is open: close it before inviting again")
        deadline = time.time() + self._deadline_seconds
        self._round = _Round(self._closed + 1, self._sum(self._layouts.update), deadline)
        body = encode(Invitation(round=self._round.number, roster=self.federation.roster, deadline=deadline))
        return {name: self._seal(Kind.INVITATION, name, body) for name in self.federation.roster}

    def receive(self, message: bytes) -> str:
        """Take one hospital's message and add what it holds; return the hospital's name.

        The same bytes again change nothing; other bytes from the same hospital are refused and kept in
        `evidence`. Raises MessageError for anything that is not a whole, authentic message of this round.
        """
        if self._round is None:
            raise MessageError("no round is open: the message came before an invitation or after the close")
        if time.time() > self._round.deadline:
            raise MessageError(f"round {self._round.number} is past its deadline: close it")
        started = time.perf_counter()
        kinds = (Kind.CONTRIBUTION, Kind.DECLINE)
        header, data = open_message(
            message,
            self._identity,
            self._hospitals,
            kinds=kinds,
            federation_digest=self._digest,
            round=self._round.number,
            max_bytes=self._most_bytes,
        )
        sender, fingerprint = self._names[header.sender], hashlib.sha256(message).digest()
        earlier = self._round.replied.get(sender)
        if earlier is not None and earlier != fingerprint:
            self.evidence.setdefault((header.round, sender), message)
            raise MessageError(f"{sender}: sent other bytes for round {header.round} before; refused and kept")
        if earlier is None:
            if header.kind == Kind.CONTRIBUTION:
                self._add(sender, decode(data, Contribution))
            else:
                decode(data, Decline)
            self._round.replied[sender] = fingerprint
        self.seconds += time.perf_counter() - started
        return sender

    def close(self) -> dict[str, bytes]:
        """End the round: one sealed answer for each hospital of the roster, also those that sent nothing.

        Where fewer than the federation's minimum contributed, no sum leaves. Raises MessageError where no
        round is open.
        """
        if self._round is None:
            raise MessageError("no round is open: invite first")
        started = time.perf_counter()
        current = self._round
        formed = len(current.survivors) >= self.federation.minimum
        total = current.total.answer() if formed else None
        consensus = self._consensus(current) if formed else None
        answers = {name: self._answer(name, current, total, consensus) for name in self.federation.roster}
        sealed = {name: self._seal(Kind.ANSWER, name, encode(answer)) for name, answer in answers.items()}
        self._round, self._closed = None, current.number
        self.seconds += time.perf_counter() - started
        return sealed

    @property
    def survivors(self) -> tuple[str, ...]:
        """The hospitals whose contributions are in the open round's sum so far."""
        return () if self._round is None else tuple(sorted(self._round.survivors))

    def _sum(self, layout: Layout) -> Aggregate:
        return Aggregate(layout, self.federation.encryption.scheme, self._stamp)

    def _add(self, sender: str, body: Contribution) -> None:
        """Check every part before any is added: a refused message leaves no trace, and close() cannot fail."""
        current = self._open_round()
        self._check(sender, body)
        current.total.add(body.update)
        current.survivors.append(sender)
        current.neighbours[sender] = body.neighbours
        self.heads[sender] = body.head
        self.parts["updates"] += len(body.update)
        if body.personal is not None:
            current.personal[sender] = body.personal
            self.parts["personal"] += len(body.personal)
        if body.sketch is not None:
            current.sketches[sender] = body.sketch
            self.parts["similarity"] += len(body.sketch)

    def _check(self, sender: str, body: Contribution) -> None:
        """Raises MessageError for what the round does not ask for, or what could not be summed or multiplied."""
        number, others = self._open_round().number, set(self.federation.roster) - {sender}
        neighbours = body.neighbours
        if neighbours and (len(neighbours) < LEAST_NEIGHBOURS or neighbours != tuple(sorted(set(neighbours) & others))):
            raise MessageError(f"{sender}: a neighbourhood is at least {LEAST_NEIGHBOURS} other hospitals, sorted")
        if body.sketch is not None:
            if self._multiplier is None or not self.federation.similarity_due(number):
                raise MessageError(f"{sender}: sent a sketch in round {number}, where none is due")
            self._multiplier.check(body.sketch)
        if body.personal is not None:
            if self._layouts.personal is None:
                raise MessageError(f"{sender}: sent a personal component, but this federation has none")
            self._sum(self._layouts.personal).check(body.personal)

    def _answer(self, name: str, current: _Round, total: bytes | None, consensus: bytes | None) -> Answer:
        products = self._row(name, current) if total is not None else {}
        neighbours = self._present_neighbours(name, current) if total is not None else ()
        neighbourhood = self._personal_sum(current, neighbours) if neighbours else None
        self.parts["updates"] += len(total or b"")
        self.parts["personal"] += len(neighbourhood or b"") + len(consensus or b"")
        self.parts["similarity"] += sum(len(product) for product in products.values())
        return Answer(
            survivors=tuple(sorted(current.survivors)),
            aggregate=total,
            products=products,
            neighbourhood=neighbourhood,
            neighbours=neighbours,
            consensus=consensus,
        )

    def _row(self, name: str, current: _Round) -> dict[str, bytes]:
        """The receiver's own row of encrypted inner products; a stored sketch enters one product per receiver."""
        own = current.sketches.get(name)
        if own is None or self._multiplier is None:
            return {}
        others = {other: data for other, data in current.sketches.items() if other != name}
        return {other: self._multiplier.product(own, data) for other, data in others.items()}

    def _present_neighbours(self, name: str, current: _Round) -> tuple[str, ...]:
        """Those of the neighbours asked for that are present; nobody below 3 of them.

        Nobody in the last round either: its average over all, less this sum, could show a single hospital.
        """
        present = [other for other in current.neighbours.get(name, ()) if other in current.personal]
        formed = len(present) >= LEAST_NEIGHBOURS and current.number != self.federation.rounds
        return tuple(present) if formed else ()

    def _consensus(self, current: _Round) -> bytes | None:
        """In the last round, the sum of all survivors' personal components."""
        if current.number != self.federation.rounds or set(current.personal) != set(current.survivors):
            return None
        return self._personal_sum(current, current.survivors)

    def _personal_sum(self, current: _Round, names: Iterable[str]) -> bytes:
        if self._layouts.personal is None:
            raise ValueError("this federation has no personal parameters to sum")
        total = self._sum(self._layouts.personal)
        for name in names:
            total.add(current.personal[name])
        return total.answer()

    def _open_round(self) -> _Round:
        if self._round is None:
            raise MessageError("no round is open: invite first")
        return self._round

    def _seal(self, kind: Kind, receiver: str, body: bytes) -> bytes:
        header = Header(
            kind=kind,
            federation_digest=self._digest,
            round=self._open_round().number,
            attempt=0,
            sender=self._identity.public.fingerprint,
            receiver=self._hospitals[receiver].fingerprint,
        )
        return seal_message(header, body, self._identity, self._hospitals[receiver])


def _multiplier(federation: Federation, public_key: bytes) -> Multiplier | None:
    """What forms similarity products, or None where the federation wants none. Raises ConfigError without a key."""
    if not federation.similarity.every:
        return None
    if not federation.encrypted:
        return PlainMultiplier(federation.similarity.dimensions)
    if not public_key:
        raise ConfigError("similarity needs the federation's public key; ask the key steward for it")
    return SealMultiplier(public_key)
