"""The coordinator: invites, adds ciphertexts as they arrive, answers. It never holds a key that opens a sum, and SEAL
never parses what hospitals send.
"""

import hashlib
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from securepfl.crypto.keys.identity import Identity, PublicIdentity
from securepfl.crypto.masks.masking import SIGNATURE_CONTEXT, Masking, Unmasking, survivor_statement
from securepfl.crypto.messages.envelope import Header, Kind, open_message, seal_message
from securepfl.crypto.similarity.similarity import SimilarityTable
from securepfl.crypto.sums.scheme import RunningSum
from securepfl.crypto.sums.words import Words
from securepfl.errors import ConfigError, MessageError
from securepfl.learning.personal.graph import LEAST_NEIGHBOURS, symmetric_core
from securepfl.protocol.channels import Layouts, mask_context
from securepfl.protocol.messages import (
    NONCE_BYTES,
    Agreement,
    Answer,
    Contribution,
    Decline,
    Invitation,
    MaskShares,
    Reveal,
    Survivors,
    Unmask,
    decode,
    encode,
)
from securepfl.settings.federation import Federation

_HASH = re.compile("[0-9a-f]{64}")
_COLLECTING = (Kind.CONTRIBUTION, Kind.DECLINE)
_AGREEING = (Kind.AGREEMENT,)
_REVEALING = (Kind.REVEAL,)


@dataclass
class _Round:
    """What the coordinator holds of an open round: one aggregate of updates, and the small per-hospital parts.

    `expected`: the kinds of message that the round takes now.
    """

    number: int
    total: RunningSum
    deadline: float
    salt: bytes
    similarity: SimilarityTable | None
    expected: tuple[Kind, ...] = _COLLECTING
    replied: dict[str, bytes] = field(default_factory=dict)
    survivors: list[str] = field(default_factory=list)
    personal: dict[str, bytes] = field(default_factory=dict)
    neighbours: dict[str, dict[str, int]] = field(default_factory=dict)
    coupled: dict[str, tuple[str, ...]] = field(default_factory=dict)
    masks: dict[str, MaskShares] = field(default_factory=dict)
    signatures: dict[str, bytes] = field(default_factory=dict)
    unmasking: Unmasking | None = None
    revealed: set[str] = field(default_factory=set)


class Coordinator:
    """The coordinator as a state machine over bytes: invite() -> messages, receive(message), close() -> answers; where
    updates are masked, agree() -> messages and unmask() -> messages between the two, their replies received alike.

    `hospitals` maps every name of the federation's roster to its public identity. `key_commitment` fixes the hospitals'
    key and shows nothing of it; `closed` are the rounds that were closed before (after a rotation). Each step of a
    round takes messages for `deadline_seconds`. `heads` keeps each hospital's latest ledger hash; `states` the keyed
    digests of the shared state from the open round's contributions; `evidence`, by round and hospital, the first
    message that contradicted the contribution taken; `parts` counts bytes by purpose.

    Raises ConfigError where identities and roster differ or two hospitals share an identity.
    """

    def __init__(
        self,
        federation: Federation,
        identity: Identity,
        hospitals: Mapping[str, PublicIdentity],
        *,
        key_commitment: bytes,
        closed: int = 0,
        deadline_seconds: float = 3600.0,
    ) -> None:
        if set(hospitals) != set(federation.roster):
            raise ConfigError("the coordinator's hospitals are not the federation's roster; enrol exactly those")
        self._names = {public.fingerprint: name for name, public in hospitals.items()}
        if len(self._names) != len(hospitals):
            raise ConfigError("two hospitals have the same identity; each must make its own")
        self.federation = federation
        self.heads: dict[str, str] = {}
        self.states: dict[str, str] = {}
        self.evidence: dict[tuple[int, str], bytes] = {}
        self.seconds = 0.0
        self.parts = {"updates": 0, "personal": 0, "similarity": 0, "masks": 0}
        self._identity, self._hospitals = identity, dict(hospitals)
        self._session = federation.session_digest(key_commitment)
        self._layouts = Layouts.of(federation)
        self._most_bytes = self._layouts.most_bytes(federation)
        self._deadline_seconds = deadline_seconds
        self._nonces: dict[str, bytes] = {}
        self._round: _Round | None = None
        self._closed = closed

    def invite(self) -> dict[str, bytes]:
        """Open the next round: one sealed invitation for each hospital. Raises MessageError where one is open, or the
        last is over.
        """
        if self._round is not None:
            raise MessageError(f"round {self._round.number} is open: close it before inviting again")
        if self._closed >= self.federation.rounds:
            raise MessageError(f"all {self.federation.rounds} rounds are over: the run has ended")
        deadline = time.time() + self._deadline_seconds
        number, roster, nonces = self._closed + 1, self.federation.roster, self._nonces
        salt = secrets.token_bytes(NONCE_BYTES)
        self._round = _Round(
            number, self.federation.scheme.total(self._layouts.update), deadline, salt, self._table(number)
        )
        self._nonces, self.states = {}, {}
        body = encode(Invitation(round=number, roster=roster, deadline=deadline, nonces=nonces, salt=salt))
        return {name: self._seal(Kind.INVITATION, name, body) for name in self.federation.roster}

    def receive(self, message: bytes) -> str:
        """Take one hospital's message and add what it holds; return the hospital's name.

        The same bytes again change nothing; another contribution from the same hospital is refused and kept in
        `evidence`. Of its signatures and reveals the first that is right counts, and later ones change nothing. Raises
        MessageError for anything that is not a whole, authentic message of this round.
        """
        if self._round is None:
            raise MessageError("no round is open: the message came before an invitation or after the close")
        if time.time() > self._round.deadline:
            raise MessageError(f"round {self._round.number} is past its deadline: close it")
        started = time.perf_counter()
        header, data = open_message(
            message,
            self._identity,
            self._hospitals,
            kinds=self._round.expected,
            federation_digest=self._session,
            round=self._round.number,
            max_bytes=self._most_bytes,
        )
        sender = self._names[header.sender]
        if header.kind in _COLLECTING:
            self._take(sender, header.kind, message, data)
        else:
            self._take_unmasking(sender, header.kind, data)
        self.seconds += time.perf_counter() - started
        return sender

    def agree(self) -> dict[str, bytes]:
        """Fix the survivors of a masked round: no contribution is taken any more. One sealed list for each hospital, to
        be signed; none where they are too few to hide each other. Raises MessageError where the round is not at that
        step, ConfigError where updates are not masked.
        """
        current, masking = self._next(_COLLECTING, _AGREEING)
        if len(current.survivors) < max(masking.least_survivors, self.federation.least_in_sum):
            return {}
        body = encode(Survivors(survivors=self.survivors, salt=current.salt))
        return {name: self._seal(Kind.SURVIVORS, name, body) for name in self.federation.roster}

    def unmask(self) -> dict[str, bytes]:
        """Ask those who signed the list for their shares: one sealed message each; none where they are too few. Raises
        MessageError where the round is not at that step, or what survivors sent cannot be unmasked; then close it.
        """
        current, masking = self._next(_AGREEING, _REVEALING)
        if len(current.signatures) < masking.threshold:
            return {}
        indexes = {name: self.federation.roster.index(name) for name in self.survivors}
        commitments = {index: current.masks[name].commitments for name, index in indexes.items()}
        current.unmasking = Unmasking(masking, self._mask_context(), indexes.values(), commitments)
        return {name: self._seal(Kind.UNMASK, name, self._request(name, current)) for name in current.signatures}

    def _request(self, name: str, current: _Round) -> bytes:
        index = self.federation.roster.index(name)
        blobs = {sender: masks.blobs[index] for sender, masks in current.masks.items()}
        return encode(Unmask(signatures=current.signatures, blobs=blobs))

    def close(self) -> dict[str, bytes]:
        """End the round: one sealed answer for each hospital of the roster, also those that sent nothing.

        Where fewer than the federation's minimum contributed, or too few helped to unmask them, no sum leaves. Raises
        MessageError where no round is open.
        """
        if self._round is None:
            raise MessageError("no round is open: invite first")
        started = time.perf_counter()
        current = self._round
        total = self._total(current)
        formed = total is not None
        consensus = self._consensus(current) if formed else None
        current.coupled = self._neighbourhoods(current)
        answers = {name: self._answer(name, current, total, consensus) for name in self.federation.roster}
        sealed = {name: self._seal(Kind.ANSWER, name, encode(answer)) for name, answer in answers.items()}
        self._round, self._closed = None, current.number
        self.seconds += time.perf_counter() - started
        return sealed

    @property
    def survivors(self) -> tuple[str, ...]:
        """The hospitals whose contributions are in the open round's sum so far."""
        return () if self._round is None else tuple(sorted(self._round.survivors))

    def _take(self, sender: str, kind: Kind, message: bytes, data: bytes) -> None:
        """A contribution or its refusal. Raises MessageError; other bytes than before are kept as evidence."""
        current, fingerprint = self._open_round(), hashlib.sha256(message).digest()
        earlier = current.replied.get(sender)
        if earlier is not None and earlier != fingerprint:
            self.evidence.setdefault((current.number, sender), message)
            raise MessageError(f"{sender}: sent other bytes for round {current.number} before; refused and kept")
        if earlier is None:
            if kind == Kind.CONTRIBUTION:
                self._add(sender, decode(data, Contribution))
            else:
                decode(data, Decline)
            current.replied[sender] = fingerprint

    def _take_unmasking(self, sender: str, kind: Kind, data: bytes) -> None:
        """A signature or shares; the first of each hospital counts."""
        current = self._open_round()
        if kind == Kind.AGREEMENT:
            signature = decode(data, Agreement).signature
            self._hospitals[sender].verify(signature, self._statement(current), SIGNATURE_CONTEXT)
            if sender in current.signatures:
                return
            current.signatures[sender] = signature
        elif current.unmasking is not None and sender not in current.revealed:
            current.unmasking.add(self.federation.roster.index(sender), decode(data, Reveal).shares)
            current.revealed.add(sender)
        else:
            return
        self.parts["masks"] += len(data)

    def _statement(self, current: _Round) -> bytes:
        masking, roster = self._layouts.masking, self.federation.roster
        if masking is None:
            raise ConfigError("updates are not masked in this federation: close the round at once")
        return survivor_statement(masking, self._mask_context(), [roster.index(name) for name in current.survivors])

    def _total(self, current: _Round) -> bytes | None:
        """The sum that all receive, or None where none can be formed."""
        if len(current.survivors) < self.federation.least_in_sum:
            return None
        if self._layouts.masking is None:
            return current.total.answer()
        mask = self._total_mask(current.unmasking)
        return None if mask is None else current.total.answer(mask)

    def _total_mask(self, unmasking: Unmasking | None) -> Words | None:
        layout = self._layouts.update
        if unmasking is None or not unmasking.ready:
            return None
        try:
            return unmasking.total_mask(layout.slots, layout.parameters.plain_modulus)
        except MessageError:
            return None

    def _mask_context(self) -> bytes:
        """What the masks of the open round are bound to."""
        current = self._open_round()
        return mask_context(self._session, current.number, 0, current.salt)

    def _table(self, number: int) -> SimilarityTable | None:
        """Where sketches are compared, in the rounds in which they travel."""
        if not self.federation.schedule.similarity_due(number):
            return None
        dimensions, clients = self.federation.similarity.dimensions, len(self.federation.roster)
        return SimilarityTable(dimensions, clients, self.federation.scheme.encrypted)

    def _add(self, sender: str, body: Contribution) -> None:
        """Check every part before any is added: a refused message leaves no trace, and close() cannot fail."""
        current = self._open_round()
        self._check(sender, body)
        if body.sketch is not None and current.similarity is not None:
            current.similarity.add(self.federation.roster.index(sender), body.sketch)
            self.parts["similarity"] += len(body.sketch)
        current.total.add(body.update)
        current.survivors.append(sender)
        current.neighbours[sender] = body.neighbours
        self.heads[sender], self.states[sender], self._nonces[sender] = body.head, body.state, body.nonce
        self.parts["updates"] += len(body.update)
        if body.personal is not None:
            current.personal[sender] = body.personal
            self.parts["personal"] += len(body.personal)
        if body.masks is not None:
            current.masks[sender] = body.masks
            self.parts["masks"] += len(body.masks.commitments) + sum(map(len, body.masks.blobs))

    def _check(self, sender: str, body: Contribution) -> None:
        """Raises MessageError for what the round does not ask for, or what could not be summed or multiplied."""
        current = self._open_round()
        self._check_neighbours(sender, body.neighbours)
        if body.sketch is not None:
            if current.similarity is None:
                raise MessageError(f"{sender}: sent a sketch in round {current.number}, where none is due")
            current.similarity.check(self.federation.roster.index(sender), body.sketch)
        if len(body.nonce) != NONCE_BYTES or not all(_HASH.fullmatch(text) for text in (body.state, body.head)):
            raise MessageError(f"{sender}: nonce, state digest or ledger head of a wrong form; same securepfl needed")
        self._check_masks(sender, body.masks)
        current.total.check(body.update)
        self._check_personal(sender, body.personal)

    def _check_personal(self, sender: str, personal: bytes | None) -> None:
        layout, number = self._layouts.personal, self._open_round().number
        if (personal is not None) != (layout is not None and self.federation.schedule.personal_due(number)):
            raise MessageError(
                f"{sender}: a personal component in round {number} where none is due, or none where one is; same "
                "settings needed"
            )
        if personal is not None and layout is not None:
            self.federation.scheme.total(layout).check(personal)

    def _check_neighbours(self, sender: str, neighbours: dict[str, int]) -> None:
        others, most = set(self.federation.roster) - {sender}, self.federation.coupling.most_edge_weight
        sound = set(neighbours) <= others and all(1 <= weight <= most for weight in neighbours.values())
        if neighbours and not (sound and self.federation.coupling.on and len(neighbours) >= LEAST_NEIGHBOURS):
            raise MessageError(
                f"{sender}: a neighbourhood is at least {LEAST_NEIGHBOURS} other hospitals of weights 1 to {most}"
            )

    def _check_masks(self, sender: str, masks: MaskShares | None) -> None:
        masking = self._layouts.masking
        if (masks is None) != (masking is None):
            raise MessageError(
                f"{sender}: masked where the federation does not mask, or the reverse; same settings needed"
            )
        if masks is not None and masking is not None and not masking.fits(masks.blobs, masks.commitments):
            raise MessageError(f"{sender}: shares or commitments of a wrong number or length; same settings needed")

    def _answer(self, name: str, current: _Round, total: bytes | None, consensus: bytes | None) -> Answer:
        products = self._row(name, current) if total is not None else {}
        neighbours = current.coupled.get(name, ()) if total is not None else ()
        weights = {other: current.neighbours[name][other] for other in neighbours}
        neighbourhood = self._personal_sum(current, weights) if neighbours else None
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
        """The receiver's own row of similarities, still encrypted."""
        if current.similarity is None:
            return {}
        roster = self.federation.roster
        return {roster[other]: data for other, data in current.similarity.row(roster.index(name)).items()}

    def _neighbourhoods(self, current: _Round) -> dict[str, tuple[str, ...]]:
        """By hospital, those of the neighbours it asked for that are present, sorted; at least 3 of them. The network
        lasso has edges that act at both ends.

        None in the round of the average over all: that, less these sums, could show a single hospital.
        """
        if self.federation.schedule.average_due(current.number):
            return {}
        present = {
            name: tuple(sorted(other for other in asked if other in current.personal))
            for name, asked in current.neighbours.items()
        }
        if self.federation.coupling.kind == "lasso":
            return symmetric_core(present, LEAST_NEIGHBOURS)
        return {name: names for name, names in present.items() if len(names) >= LEAST_NEIGHBOURS}

    def _consensus(self, current: _Round) -> bytes | None:
        """Where it is due, the sum of all survivors' personal components."""
        if not self.federation.schedule.average_due(current.number) or set(current.personal) != set(current.survivors):
            return None
        return self._personal_sum(current, dict.fromkeys(current.survivors, 1))

    def _personal_sum(self, current: _Round, weights: Mapping[str, int]) -> bytes:
        if self._layouts.personal is None:
            raise ValueError("this federation has no personal parameters to sum")
        total = self.federation.scheme.total(self._layouts.personal)
        for name, weight in weights.items():
            total.add(current.personal[name], weight)
        return total.answer()

    def _open_round(self) -> _Round:
        if self._round is None:
            raise MessageError("no round is open: invite first")
        return self._round

    def _next(self, now: tuple[Kind, ...], then: tuple[Kind, ...]) -> tuple[_Round, Masking]:
        """Move a masked round on by a step."""
        current, masking = self._open_round(), self._layouts.masking
        if masking is None:
            raise ConfigError("updates are not masked in this federation: close the round at once")
        if current.expected != now:
            raise MessageError(f"round {current.number} takes {current.expected[0].name} messages now; not this step")
        current.expected, current.deadline = then, time.time() + self._deadline_seconds
        return current, masking

    def _seal(self, kind: Kind, receiver: str, body: bytes) -> bytes:
        header = Header(
            kind=kind,
            federation_digest=self._session,
            round=self._open_round().number,
            attempt=0,
            sender=self._identity.public.fingerprint,
            receiver=self._hospitals[receiver].fingerprint,
        )
        return seal_message(header, body, self._identity, self._hospitals[receiver])
