"""An open round at the coordinator: what has arrived, each part checked before any is added."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import msgspec

from securepfl.coordinator.comparing import GroupTables
from securepfl.crypto.keys.identity import PublicIdentity
from securepfl.crypto.masks.agreement import survivor_statement
from securepfl.crypto.masks.graph import Masking
from securepfl.crypto.masks.unmasking import Unmasking, disagreeing
from securepfl.crypto.messages.envelope import Kind
from securepfl.crypto.similarity.scheme import SimilarityScheme, SimilarityTable, similarity_scheme
from securepfl.crypto.sums.scheme import RunningSum
from securepfl.crypto.sums.words import Words
from securepfl.errors import ConfigError, MessageError
from securepfl.learning.personal.graph import LEAST_NEIGHBOURS
from securepfl.protocol.channels import Layouts, mask_context, run_digest
from securepfl.protocol.companions import companions_of
from securepfl.protocol.groups import group_of, groups_of
from securepfl.protocol.messages import NONCE_BYTES, Contribution, Invitation, MaskShares, Statement, Unmask
from securepfl.protocol.standing import check_parts, digests_of, parts_of
from securepfl.settings.federation import Federation, SumKind

_HASH = re.compile("[0-9a-f]{64}")

COLLECTING = (Kind.CONTRIBUTION, Kind.DECLINE)
AGREEING = (Kind.AGREEMENT,)
REVEALING = (Kind.REVEAL,)
ANSWERED = (Kind.RECEIPT, Kind.OPENED, Kind.VERDICT)
"""The kinds of message that a round takes, stage by stage."""


@dataclass(frozen=True)
class Rules:
    """What all rounds of a run have in common. `base` (32 bytes) is what messages are bound to, with the `run`'s
    identifier.
    """

    federation: Federation
    layouts: Layouts
    base: bytes
    run: bytes

    @cached_property
    def session(self) -> bytes:
        """What masks and statements are bound to. 32 bytes."""
        return run_digest(self.base, self.run)

    @property
    def comparing(self) -> SimilarityScheme:
        """How hospitals are compared."""
        return similarity_scheme(self.federation.scheme.similarity)

    def sum_of(self, kind: SumKind) -> RunningSum:
        """An empty sum. Raises ValueError where nothing is personal and that is asked for."""
        layout = self.layouts.update if kind == "update" else self.layouts.personal
        if layout is None:
            raise ValueError("this federation has no personal parameters to sum")
        return self.federation.scheme_of(kind).total(layout)

    @cached_property
    def most_bytes(self) -> int:
        """A bound on a message's body."""
        return self.layouts.most_bytes(self.federation)

    @cached_property
    def most_snapshot_bytes(self) -> int:
        """A bound on the body of a message that holds the shared state."""
        return self.layouts.most_snapshot_bytes(self.federation)

    @property
    def longest_bytes(self) -> int:
        """A bound on the body of any message, for whoever carries them."""
        return max(self.most_bytes, self.most_snapshot_bytes)

    @property
    def masking(self) -> Masking:
        """How updates are masked. Raises ConfigError where they are not."""
        if self.layouts.masking is None:
            raise ConfigError("updates are not masked in this federation: close the round at once")
        return self.layouts.masking

    def indexes(self, names: list[str]) -> list[int]:
        """The hospitals' places in the roster."""
        return [self.federation.places[name] for name in names]


@dataclass
class OpenRound:
    """What the coordinator holds of an open round: one aggregate of updates, and the small per-hospital parts.

    `invitation` opened it; `stated` is what hospitals had stated then, and `held` whose evaluation keys were there.
    `expected` are the kinds of message that it takes now. `survivors` are those whose updates are in `total`.
    """

    rules: Rules
    invitation: Invitation
    total: RunningSum
    similarity: SimilarityTable | None
    stated: Mapping[str, Statement]
    held: frozenset[str]
    evaluation: dict[int, bytes] = field(default_factory=dict)
    expected: tuple[Kind, ...] = COLLECTING
    replied: dict[str, bytes] = field(default_factory=dict)
    survivors: list[str] = field(default_factory=list)
    personal: dict[str, bytes] = field(default_factory=dict)
    neighbours: dict[str, dict[str, int]] = field(default_factory=dict)
    masks: dict[str, MaskShares] = field(default_factory=dict)
    signatures: dict[str, bytes] = field(default_factory=dict)
    unmasking: Unmasking | None = None
    revealed: set[str] = field(default_factory=set)

    @classmethod
    def begin(
        cls, rules: Rules, invitation: Invitation, evaluation: Mapping[str, bytes], stated: Mapping[str, Statement]
    ) -> Self:
        """The invitation's round, empty, with tables of similarities where sketches travel, multiplied by the
        `evaluation` keys that hospitals have sent and those that they will.
        """
        federation, table = rules.federation, None
        keys = {federation.places[name]: sent for name, sent in evaluation.items()}
        if federation.schedule.similarity_due(invitation.round):
            table = GroupTables.of(rules.comparing, federation, invitation.round, keys)
        return cls(rules, invitation, rules.sum_of("update"), table, dict(stated), frozenset(evaluation), keys)

    def invitation_to(self, name: str) -> Invitation:
        """The invitation as hospital `name` gets it: with what concerns it of what others stated and sent."""
        whose = {name} | companions_of(self.rules.federation, name, self.number)
        statements = {other: self.stated[other] for other in sorted(whose) if other in self.stated}
        group = self.compared_with(name)
        nonces = {other: nonce for other, nonce in self.invitation.nonces.items() if other in group}
        return msgspec.structs.replace(self.invitation, statements=statements, nonces=nonces, held=name in self.held)

    def compared_with(self, name: str) -> Collection[str]:
        """The hospitals whose sketches this round multiplies with that of hospital `name`, itself included."""
        federation = self.rules.federation
        due = federation.schedule.similarity_due(self.number)
        return group_of(federation, name, self.number).places if due else ()

    @property
    def groups(self) -> tuple[frozenset[str], ...]:
        """The hospitals who are compared with each other in this round; none where none are."""
        due = self.rules.federation.schedule.similarity_due(self.number)
        groups = groups_of(self.rules.federation, self.number) if due else ()
        return tuple(frozenset(group.members) for group in groups)

    @property
    def number(self) -> int:
        """From 1."""
        return self.invitation.round

    @property
    def salt(self) -> bytes:
        """What makes the round's masks fresh."""
        return self.invitation.salt

    @property
    def heard(self) -> frozenset[str]:
        """Whose messages of the kind that it takes now were taken."""
        kinds = {COLLECTING: self.replied.keys(), AGREEING: self.signatures.keys(), REVEALING: self.revealed}
        return frozenset(kinds.get(self.expected, ()))

    def add(self, sender: str, body: Contribution) -> None:
        """Check every part before any is added: a refused message leaves no trace, and closing cannot fail.

        Raises MessageError for what the round does not ask for, or what could not be summed or multiplied.
        """
        self._check(sender, body)
        index = self.rules.federation.places[sender]
        if body.evaluation is not None:
            self.evaluation.setdefault(index, body.evaluation)
        if body.sketch is not None and self.similarity is not None:
            self.similarity.add(index, body.sketch)
        self.total.add(body.update)
        self.survivors.append(sender)
        self.neighbours[sender] = body.neighbours
        if body.personal is not None:
            self.personal[sender] = body.personal
        if body.masks is not None:
            self.masks[sender] = body.masks

    def check_stands(self, body: Contribution, public: PublicIdentity) -> None:
        """Raises MessageError unless `public` signed the contribution's parts, so that others can judge them."""
        digests = digests_of(parts_of(body), b"" if body.masks is None else body.masks.commitments)
        check_parts(public, self.rules.session, self.number, digests, body.stands)

    def leave_out(self, names: Collection[str], contributed: Callable[[str], Contribution | None]) -> None:
        """Take hospitals out of a round whose survivors are not fixed yet: what the others contributed stays."""
        self.total = self.rules.sum_of("update")
        self.survivors = [name for name in self.survivors if name not in names]
        for name in self.survivors:
            body = contributed(name)
            if body is not None:
                self.total.add(body.update)
        for name in names:
            self.personal.pop(name, None)
            self.neighbours.pop(name, None)
            self.masks.pop(name, None)
            if self.similarity is not None:
                self.similarity.leave_out(self.rules.federation.places[name])

    def disagreeing(self) -> dict[str, str]:
        """Whose masks would not cancel, by name, and why: of two that differ, whoever differs with more; of two that
        differ with each other alone, both, as nobody can tell who is right.
        """
        roster, places = self.rules.federation.roster, self.rules.federation.places
        commitments = {places[name]: masks.commitments for name, masks in self.masks.items()}
        pairs, out = disagreeing(self.rules.masking, self.mask_context, commitments), dict[str, str]()
        while pairs:
            counts = Counter(end for pair in pairs for end in set(pair))
            worst = {end for end, count in counts.items() if count == max(counts.values())}
            ends = worst & set(next(pair for pair in pairs if worst & set(pair)))
            for end in ends:
                others = sorted({roster[other] for pair in pairs if end in pair for other in pair if other != end})
                out[roster[end]] = f"committed to other masks than {', '.join(others) or 'its place asks for'}"
            pairs = [pair for pair in pairs if not ends & set(pair)]
        return out

    @property
    def hidden(self) -> bool:
        """Whether the survivors are enough to hide each other. Raises ConfigError where updates are not masked."""
        return len(self.survivors) >= max(self.rules.masking.least_survivors, self.rules.federation.least_in_sum)

    def begin_unmasking(self) -> bool:
        """Take shares of what the sum still carries; whether enough hospitals signed the list for that. Done again, it
        changes nothing. Raises MessageError where masks don't fit each other.
        """
        if len(self.signatures) < self.rules.masking.threshold:
            return False
        if self.unmasking is not None:
            return True
        indexes = {name: self.rules.federation.places[name] for name in sorted(self.survivors)}
        commitments = {index: self.masks[name].commitments for name, index in indexes.items()}
        self.unmasking = Unmasking(self.rules.masking, self.mask_context, indexes.values(), commitments)
        return True

    def request(self, name: str) -> Unmask:
        """What hospital `name` is asked to reveal for: the signatures, and the shares that survivors sealed to it."""
        index = self.rules.federation.places[name]
        blobs = {sender: masks.blobs[index] for sender, masks in self.masks.items()}
        return Unmask(signatures=self.signatures, blobs=blobs)

    @property
    def mask_context(self) -> bytes:
        """What the round's masks are bound to."""
        return mask_context(self.rules.session, self.number, 0, self.salt)

    @property
    def statement(self) -> bytes:
        """What hospitals sign: the survivors. Raises ConfigError where updates are not masked."""
        return survivor_statement(self.rules.masking, self.mask_context, self.rules.indexes(self.survivors))

    def sum_for_all(self) -> bytes | None:
        """The sum that all receive, less its masks, or None where none can be formed."""
        if len(self.survivors) < self.rules.federation.least_in_sum:
            return None
        if self.rules.layouts.masking is None:
            return self.total.answer()
        mask = self._total_mask()
        return None if mask is None else self.total.answer(mask)

    def _total_mask(self) -> Words | None:
        layout = self.rules.layouts.update
        if self.unmasking is None or not self.unmasking.ready:
            return None
        try:
            return self.unmasking.total_mask(layout.slots, layout.parameters.plain_modulus)
        except MessageError:
            return None

    def _check(self, sender: str, body: Contribution) -> None:
        self._check_neighbours(sender, body.neighbours)
        self._check_sketch(sender, body)
        if len(body.nonce) != NONCE_BYTES or not all(_HASH.fullmatch(text) for text in (body.state, body.head)):
            raise MessageError(f"{sender}: nonce, state digest or ledger head of a wrong form; same securepfl needed")
        self._check_masks(sender, body.masks)
        self.total.check(body.update)
        self._check_personal(sender, body.personal)

    def _check_sketch(self, sender: str, body: Contribution) -> None:
        index, way = self.rules.federation.places[sender], self.rules.comparing
        if body.evaluation is not None:
            if not way.evaluation_bytes:
                raise MessageError(f"{sender}: sent evaluation keys, where none are used; same settings needed")
            way.check_keys(body.evaluation)
        if body.sketch is None:
            return
        if self.similarity is None:
            raise MessageError(f"{sender}: sent a sketch in round {self.number}, where none is due")
        if way.evaluation_bytes and body.evaluation is None and index not in self.evaluation:
            raise MessageError(f"{sender}: sent a sketch, and evaluation keys neither with it nor before; start again")
        self.similarity.check(index, body.sketch)

    def _check_personal(self, sender: str, personal: bytes | None) -> None:
        layout, schedule = self.rules.layouts.personal, self.rules.federation.schedule
        if (personal is not None) != (layout is not None and schedule.personal_due(self.number)):
            raise MessageError(
                f"{sender}: a personal component in round {self.number} where none is due, or none where one is; same "
                "settings needed"
            )
        if personal is not None:
            self.rules.sum_of("personal").check(personal)

    def _check_neighbours(self, sender: str, neighbours: dict[str, int]) -> None:
        federation = self.rules.federation
        others, most = set(federation.roster) - {sender}, federation.most_edge_weight
        sound = set(neighbours) <= others and all(1 <= weight <= most for weight in neighbours.values())
        if neighbours and not (sound and federation.coupled and len(neighbours) >= LEAST_NEIGHBOURS):
            raise MessageError(
                f"{sender}: a neighbourhood is at least {LEAST_NEIGHBOURS} other hospitals of weights 1 to {most}"
            )

    def _check_masks(self, sender: str, masks: MaskShares | None) -> None:
        masking = self.rules.layouts.masking
        if (masks is None) != (masking is None):
            raise MessageError(
                f"{sender}: masked where the federation does not mask, or the reverse; same settings needed"
            )
        if masks is not None and masking is not None and not masking.fits(masks.blobs, masks.commitments):
            raise MessageError(f"{sender}: shares or commitments of a wrong number or length; same settings needed")
