"""Where a coordinator stands in its run: what the records in its store change, the first time and after a restart."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from securepfl.coordinator.disputing import Dispute
from securepfl.coordinator.naming import Names
from securepfl.coordinator.round import AGREEING, ANSWERED, COLLECTING, REVEALING, OpenRound, Rules
from securepfl.coordinator.store import (
    Answered,
    AnyRecord,
    Begun,
    Ground,
    Named,
    Readmitted,
    Settling,
    Stated,
    Stepped,
    Taken,
)
from securepfl.crypto.keys.identity import PublicIdentity
from securepfl.crypto.messages.envelope import Header, Kind
from securepfl.errors import LateError, MessageError, StorageError
from securepfl.protocol.messages import Answer, Body, Contribution, Invitation, Statement
from securepfl.protocol.purposes import purposes_of

STEPS = (COLLECTING, AGREEING, REVEALING, ANSWERED)
"""What a round takes, in order."""


Take = Callable[[OpenRound, bytes], object]
"""Takes a hospital's sealed message in a round."""


class Progress(ABC):
    """What records change: see Coordinator for the attributes, `ground` for what goes from round to round."""

    hospitals: Mapping[str, PublicIdentity]

    def __init__(self, rules: Rules, fingerprint: str, closed: int) -> None:
        self.rules, self.closed = rules, closed
        self.heads: dict[str, str] = {}
        self.states: dict[str, str] = {}
        self.statements: dict[str, Statement] = {}
        self.evaluation: dict[str, bytes] = {}
        self.parts = {"updates": 0, "personal": 0, "similarity": 0, "masks": 0}
        self.open_round: OpenRound | None = None
        self.answered: OpenRound | None = None
        self.names = Names()
        self.dispute: Dispute | None = None
        self.same_keys = True
        self._fingerprint = fingerprint
        self._nonces: dict[str, bytes] = {}

    @abstractmethod
    def contribution(self, name: str) -> Contribution | None:
        """What hospital `name` contributed to the open round, or to the one just answered; None where it did not."""

    @property
    def ended(self) -> str:
        """Why the run cannot go on; empty while it can."""
        return "" if self.dispute is None else self.dispute.ended

    @property
    def invited(self) -> tuple[str, ...]:
        """Those who take part in a round's steps: all that nothing excludes."""
        return tuple(name for name in self.rules.federation.roster if name not in self.names.excluded)

    def ground(self) -> Ground:
        """Where the next round begins."""
        named, excluded = self.names.kept()
        return Ground(
            run=self.rules.run,
            settings=msgspec.structs.replace(self.rules.federation, sites={}).digest,
            base=self.rules.base,
            coordinator=self._fingerprint,
            closed=self.closed,
            heads=self.heads,
            statements=self.statements,
            nonces=self._nonces,
            parts=self.parts,
            named=named,
            excluded=excluded,
        )

    def go_on(self, ground: Ground, records: Iterable[AnyRecord], take: Take, where: Path | None) -> None:
        """Take the records of the store in `where` again, messages by `take`.

        Where keys or hospitals are others now, only what counts beyond them is taken: such a round must be over, and
        its answers open for nobody any more. Raises StorageError where it is not, or a message is none of these
        hospitals'.
        """
        closed = self.closed
        self.heads, self.statements, self._nonces = dict(ground.heads), dict(ground.statements), dict(ground.nonces)
        self.closed, self.parts, self.same_keys = ground.closed, dict(ground.parts), ground.base == self.rules.base
        self.names.go_on(ground.named, ground.excluded)
        for record in records:
            if self.same_keys or not isinstance(record, Taken | Stepped | Settling):
                try:
                    self._take_again(record, take, where)
                except MessageError as error:
                    raise StorageError(
                        f"{where}: not of these hospitals ({error}); load the keys it began with"
                    ) from None
        if closed not in (0, self.closed):
            raise StorageError(f"{where}: {self.closed} rounds are closed there, not {closed}; leave `closed` out")
        if not self.same_keys:
            self._go_on_under_new_keys(where)

    def _go_on_under_new_keys(self, where: Path | None) -> None:
        if self.open_round is not None:
            raise StorageError(
                f"{where}: round {self.open_round.number} is open under other keys or hospitals; finish it with those "
                "first"
            )
        known = self.rules.federation.roster
        self.heads = {name: head for name, head in self.heads.items() if name in known}
        self.answered, self.states, self.statements, self._nonces = None, {}, {}, {}
        self.dispute, self.names.excluded = None, {n: why for n, why in self.names.excluded.items() if n in known}

    def _take_again(self, record: AnyRecord, take: Take, where: Path | None) -> None:
        current = self.open_round or self.answered
        match record:
            case Begun():
                self._begin(record)
            case Stepped():
                self._step(record)
            case Answered():
                self._end(record)
            case Stated():
                self._state(record)
            case Named():
                self.names.add(record)
            case Readmitted():
                self._readmit(record)
            case Settling():
                self._settle()
            case Taken() if current is not None:
                try:
                    take(current, record.message)
                except MessageError as error:
                    raise StorageError(f"{where}: {error}; load the keys and hospitals it was used with") from None

    def _begin(self, begun: Begun) -> None:
        invitation = Invitation(
            round=self.closed + 1,
            nonces=self._nonces,
            salt=begun.salt,
            named=self.names.said(self.closed),
        )
        self.dispute = None
        self.answered, self.open_round = None, OpenRound.begin(self.rules, invitation, self.evaluation, self.statements)
        self._nonces, self.states = {}, {}

    def _step(self, stepped: Stepped) -> None:
        current = self._current()
        current.expected = (Kind(stepped.kind),)
        if current.expected == AGREEING and (disagreeing := current.disagreeing()):
            current.leave_out(disagreeing, self.contribution)
            for name, what in disagreeing.items():
                self.names.add(Named(number=current.number, hospital=name, what=what))
        if current.expected == REVEALING:
            with suppress(MessageError):  # who asks for shares is told
                current.begin_unmasking()

    def _end(self, answered: Answered) -> None:
        current = self._current()
        self.parts, self.heads = dict(answered.parts), dict(answered.heads)
        self.open_round, self.answered, self.closed = None, current, current.number
        current.expected = ANSWERED
        evaluation = {name: data for name, data in self.evaluation.items() if name in current.survivors}
        self.dispute = Dispute(current, self.hospitals, frozenset(self.invited), self.contribution, evaluation)

    def _settle(self) -> Mapping[str, Body]:
        """The dispute's next step; none where there is no dispute."""
        if self.answered is None or self.dispute is None:
            return {}
        return self.dispute.step()

    def _readmit(self, readmitted: Readmitted) -> None:
        self.names.excluded.pop(readmitted.hospital, None)

    def _state(self, stated: Stated) -> None:
        if self.dispute is not None:
            self.dispute.take_statement(stated.sender)
        self.statements[stated.sender], self.heads[stated.sender] = stated.statement, stated.statement.head

    @staticmethod
    def counted(parts: Mapping[str, int], body: Answer | Contribution) -> dict[str, int]:
        """`parts` with this answer or contribution."""
        more = purposes_of(body)
        return {part: count + more.get(part, 0) for part, count in parts.items()}

    def _current(self) -> OpenRound:
        if self.open_round is None:
            raise MessageError("no round is open: invite first")
        return self.open_round


def check_in_time(current: OpenRound, header: Header) -> None:
    """Raises LateError for a message of a round or step that was over before it came. Nothing of it is opened."""
    steps = [step for step in STEPS if header.kind in step]
    earlier = bool(steps) and STEPS.index(steps[0]) < STEPS.index(current.expected)
    if header.round < current.number or (header.round == current.number and earlier):
        now = " or ".join(kind.name for kind in current.expected)
        raise LateError(
            f"{header.kind.name} of round {header.round} came late: round {current.number} takes {now} now; not used"
        )


def check_ground(found: Ground, wanted: Ground, where: Path | None, *, named: bool) -> None:
    """Whether what lies in `where` is the `wanted` run's; `named`: whether that run was named, or is just what was
    found. Raises StorageError.
    """
    if found.run != wanted.run:
        raise StorageError(f"{where}: holds run {found.run.hex()}, not {wanted.run.hex()}; name that run's folder")
    if found.settings != wanted.settings:
        raise StorageError(f"{where}: of a federation with other settings; name its own folder, or a new one")
    if found.coordinator != wanted.coordinator:
        raise StorageError(
            f"{where}: of coordinator {found.coordinator}, these keys are of {wanted.coordinator}; load that one's"
        )
    if found.base != wanted.base and not named:
        raise StorageError(
            f"{where}: was used under other keys or hospitals; to go on after a rotation name its run, "
            f"{found.run.hex()}, else name another folder"
        )
