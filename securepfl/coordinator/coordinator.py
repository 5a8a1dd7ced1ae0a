"""The coordinator: invites, adds ciphertexts as they arrive, answers. It never holds a key that opens a sum, and SEAL
never parses what hospitals send.
"""

import hashlib
import secrets
import time
from collections.abc import Mapping

from securepfl.coordinator.answering import Answering
from securepfl.coordinator.round import AGREEING, ANSWERED, COLLECTING, REVEALING, OpenRound, Rules
from securepfl.crypto.keys.identity import Identity, PublicIdentity
from securepfl.crypto.masks.agreement import SIGNATURE_CONTEXT
from securepfl.crypto.masks.graph import Masking
from securepfl.crypto.messages.envelope import RUN_BYTES, Header, Kind, open_message, seal_message
from securepfl.errors import ConfigError, MessageError
from securepfl.protocol.channels import Layouts
from securepfl.protocol.messages import (
    Agreement,
    Answer,
    Contribution,
    Decline,
    Invitation,
    Receipt,
    Reveal,
    Statement,
    Survivors,
    decode,
    encode,
)
from securepfl.protocol.statements import check_statement
from securepfl.settings.federation import Federation


class Coordinator:
    """The coordinator as a state machine over bytes: invite() -> messages, receive(message), close() -> answers; where
    updates are masked, fix_survivors() -> messages and unmask() -> messages between the two. All replies are received.

    `hospitals` maps every name of the federation's roster to its public identity. `key_commitment` fixes the hospitals'
    key and shows nothing of it; `run` (16 bytes) identifies the run, and `closed` are its rounds that were closed
    before, where it goes on after a rotation. Each step of a round takes messages for `deadline_seconds`. `heads` keeps
    each hospital's latest ledger hash; `states` the keyed digests of the shared state from the open round's
    contributions; `statements` what hospitals stated last; `evaluation` the keys that they sent to multiply sketches
    with; `evidence`, by round and hospital, the first message that contradicted the contribution taken; `parts` counts
    bytes by purpose.

    Raises ConfigError where identities and roster differ or two hospitals share an identity.

    >>> from securepfl.settings.tables import SiteSettings
    >>> names = ("north", "south", "west")
    >>> hospitals = {name: Identity.generate(name).public for name in names[:2]}
    >>> federation = Federation(sites=dict.fromkeys(names, SiteSettings()))
    >>> Coordinator(federation, Identity.generate("hub"), hospitals, key_commitment=bytes(32))
    Traceback (most recent call last):
    securepfl.errors.ConfigError: the coordinator's hospitals are not the federation's roster; enrol exactly those
    """

    def __init__(
        self,
        federation: Federation,
        identity: Identity,
        hospitals: Mapping[str, PublicIdentity],
        *,
        key_commitment: bytes,
        run: bytes | None = None,
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
        self.statements: dict[str, Statement] = {}
        self.evaluation: dict[str, bytes] = {}
        self.evidence: dict[tuple[int, str], bytes] = {}
        self.seconds = 0.0
        self.parts = {"updates": 0, "personal": 0, "similarity": 0, "masks": 0}
        self.identity, self.hospitals = identity, dict(hospitals)
        base, layouts = federation.session_digest(key_commitment), Layouts.of(federation)
        self.rules = Rules(federation, layouts, base, run or secrets.token_bytes(RUN_BYTES))
        self.deadline_seconds = deadline_seconds
        self._nonces: dict[str, bytes] = {}
        self.open_round: OpenRound | None = None
        self.answered: OpenRound | None = None
        self.closed = closed

    def invite(self) -> dict[str, bytes]:
        """Open the next round: one sealed invitation for each hospital. Raises MessageError where one is open, or the
        last is over.
        """
        if self.open_round is not None:
            raise MessageError(f"round {self.open_round.number} is open: close it before inviting again")
        if self.closed >= self.federation.rounds:
            raise MessageError(f"all {self.federation.rounds} rounds are over: the run has ended")
        deadline = time.time() + self.deadline_seconds
        current = OpenRound.begin(self.rules, self.closed + 1, deadline, self.evaluation)
        roster = self.federation.roster
        body = Invitation(
            round=current.number,
            roster=roster,
            deadline=current.deadline,
            nonces=self._nonces,
            salt=current.salt,
            statements=self.statements,
            held=tuple(sorted(self.evaluation)),
        )
        self.answered = None
        self.open_round, self._nonces, self.states = current, {}, {}
        return self._sealed(Kind.INVITATION, dict.fromkeys(roster, encode(body)))

    def receive(self, message: bytes) -> str:
        """Take one hospital's message and add what it holds; return the hospital's name.

        The same bytes again change nothing; another contribution from the same hospital is refused and kept in
        `evidence`. Of its signatures and reveals the first that is right counts, and later ones change nothing. Raises
        MessageError for anything that is not a whole, authentic message of this round.
        """
        current = self.open_round or self.answered
        if current is None:
            raise MessageError("no round is open: the message came before an invitation or after the close")
        if time.time() > current.deadline:
            raise MessageError(f"round {current.number} is past its deadline: close it")
        started = time.perf_counter()
        header, data = open_message(
            message,
            self.identity,
            self.hospitals,
            kinds=current.expected,
            federation_digest=self.rules.base,
            run=self.rules.run,
            round=current.number,
            max_bytes=self.rules.most_bytes,
        )
        sender = self._names[header.sender]
        if header.kind in COLLECTING:
            self._take(current, sender, header.kind, message, data)
        elif header.kind == Kind.RECEIPT:
            self._take_receipt(current, sender, decode(data, Receipt))
        else:
            self._take_unmasking(current, sender, header.kind, data)
        self.seconds += time.perf_counter() - started
        return sender

    def fix_survivors(self) -> dict[str, bytes]:
        """Fix the survivors of a masked round: no contribution is taken any more. One sealed list for each hospital, to
        be signed; none where they are too few to hide each other. Raises MessageError where the round is not at that
        step, ConfigError where updates are not masked.
        """
        current, masking = self._next(COLLECTING, AGREEING)
        if len(current.survivors) < max(masking.least_survivors, self.federation.least_in_sum):
            return {}
        body = Survivors(survivors=self.survivors, salt=current.salt)
        return self._sealed(Kind.SURVIVORS, dict.fromkeys(self.federation.roster, encode(body)))

    def unmask(self) -> dict[str, bytes]:
        """Ask those who signed the list for their shares: one sealed message each; none where they are too few. Raises
        MessageError where the round is not at that step, or what survivors sent cannot be unmasked; then close it.
        """
        current, masking = self._next(AGREEING, REVEALING)
        if len(current.signatures) < masking.threshold:
            return {}
        current.begin_unmasking()
        return self._sealed(Kind.UNMASK, {name: encode(current.request(name)) for name in current.signatures})

    def close(self) -> dict[str, bytes]:
        """End the round: one sealed answer for each hospital of the roster, also those that sent nothing.

        Where fewer than the federation's minimum contributed, or too few helped to unmask them, no sum leaves. Raises
        MessageError where no round is open.
        """
        current, started = self._current(), time.perf_counter()
        answering = Answering(current)
        answers = {name: answering.answer(name) for name in self.federation.roster}
        for answer in answers.values():
            self._count(answer)
        sealed = self._sealed(Kind.ANSWER, {name: encode(answer) for name, answer in answers.items()})
        self.open_round, self.answered, self.closed = None, current, current.number
        current.expected, current.deadline = ANSWERED, time.time() + self.deadline_seconds
        self.seconds += time.perf_counter() - started
        return sealed

    @property
    def masked(self) -> bool:
        """Whether a round has the two exchanges of masks."""
        return self.federation.masked

    @property
    def survivors(self) -> tuple[str, ...]:
        """The hospitals whose contributions are in the open round's sum so far."""
        return () if self.open_round is None else tuple(sorted(self.open_round.survivors))

    def _take(self, current: OpenRound, sender: str, kind: Kind, message: bytes, data: bytes) -> None:
        """A contribution or its refusal. Raises MessageError; other bytes than before are kept as evidence."""
        fingerprint = hashlib.sha256(message).digest()
        earlier = current.replied.get(sender)
        if earlier is not None and earlier != fingerprint:
            self.evidence.setdefault((current.number, sender), message)
            raise MessageError(f"{sender}: sent other bytes for round {current.number} before; refused and kept")
        if earlier is None:
            if kind == Kind.CONTRIBUTION:
                self._add(current, sender, decode(data, Contribution))
            else:
                decode(data, Decline)
            current.replied[sender] = fingerprint

    def _add(self, current: OpenRound, sender: str, body: Contribution) -> None:
        current.add(sender, body)
        if body.evaluation is not None:
            self.evaluation.setdefault(sender, body.evaluation)
        self.heads[sender], self.states[sender], self._nonces[sender] = body.head, body.state, body.nonce
        self.parts["updates"] += len(body.update)
        self.parts["personal"] += len(body.personal or b"")
        self.parts["similarity"] += len(body.sketch or b"") + len(body.evaluation or b"")
        if body.masks is not None:
            self.parts["masks"] += len(body.masks.commitments) + sum(map(len, body.masks.blobs))

    def _take_unmasking(self, current: OpenRound, sender: str, kind: Kind, data: bytes) -> None:
        """A signature or shares; the first of each hospital counts."""
        if kind == Kind.AGREEMENT:
            signature = decode(data, Agreement).signature
            self.hospitals[sender].verify(signature, current.statement, SIGNATURE_CONTEXT)
            if sender in current.signatures:
                return
            current.signatures[sender] = signature
        elif current.unmasking is not None and sender not in current.revealed:
            current.unmasking.add(self.federation.roster.index(sender), decode(data, Reveal).shares)
            current.revealed.add(sender)
        else:
            return
        self.parts["masks"] += len(data)

    def _take_receipt(self, current: OpenRound, sender: str, receipt: Receipt) -> None:
        """A hospital's statement about the round that it has applied. Raises MessageError for a false one."""
        statement = receipt.statement
        if statement is None:
            raise MessageError(f"{sender}: refused the answer to round {current.number}")
        check_statement(self.hospitals[sender], self.rules.session, statement)
        if statement.round != current.number:
            raise MessageError(f"{sender}: states round {statement.round} in a receipt for round {current.number}")
        self.statements[sender], self.heads[sender] = statement, statement.head

    def _count(self, answer: Answer) -> None:
        self.parts["updates"] += len(answer.aggregate or b"")
        self.parts["personal"] += len(answer.neighbourhood or b"") + len(answer.consensus or b"")
        self.parts["similarity"] += sum(map(len, answer.products.values()))

    def _current(self) -> OpenRound:
        if self.open_round is None:
            raise MessageError("no round is open: invite first")
        return self.open_round

    def _next(self, now: tuple[Kind, ...], then: tuple[Kind, ...]) -> tuple[OpenRound, Masking]:
        """Move a masked round on by a step."""
        current, masking = self._current(), self.rules.masking
        if current.expected != now:
            raise MessageError(f"round {current.number} takes {current.expected[0].name} messages now; not this step")
        current.expected, current.deadline = then, time.time() + self.deadline_seconds
        return current, masking

    def _sealed(self, kind: Kind, bodies: Mapping[str, bytes]) -> dict[str, bytes]:
        """One sealed message of the open round for each receiver."""
        return {name: self._seal(kind, name, body) for name, body in bodies.items()}

    def _seal(self, kind: Kind, receiver: str, body: bytes) -> bytes:
        header = Header(
            kind=kind,
            federation_digest=self.rules.base,
            run=self.rules.run,
            round=self._current().number,
            attempt=0,
            sender=self.identity.public.fingerprint,
            receiver=self.hospitals[receiver].fingerprint,
        )
        return seal_message(header, body, self.identity, self.hospitals[receiver])
