"""What a ledger's lines come to when they are read in order, and the rules that make them a ledger."""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from securepfl.privacy.accounting.accounting import Adjacency, Composition
from securepfl.privacy.accounting.events import AnyRelease
from securepfl.privacy.accounting.versions import ACCOUNTANT
from securepfl.privacy.ledger.lines import (
    NO_LINE,
    AnyLine,
    DeclaredSession,
    ExpertRelease,
    Reduction,
    Reservation,
    Session,
    Settlement,
    Unprotected,
    Withdrawal,
    damaged,
    decode_line,
    reservation_id,
    signed_message,
)

Verifier = Callable[[str, bytes, bytes, bytes], None]
"""(algorithm, public key, message, signature) -> ValueError where the signature does not hold or the key is not one to
trust, else nothing. It returns no verdict: one that nobody looks at would trust every line."""


@dataclass(frozen=True)
class Withdrawn:
    """Patients who withdrew their consent: at which line, counted from 1, and what had been released by then.

    rounds: reservations before it, each of which may rest on their records. released: models and numbers that had left.

    >>> Withdrawn(line=9, time="2026-01-31T09:00:00Z", units=1, commitment="ab" * 32, rounds=3, released=1).rounds
    3
    """

    line: int
    time: str
    units: int
    commitment: str
    rounds: int
    released: int


@dataclass
class History:
    """A ledger's lines, replayed in order. `add` is the only way in.

    | guaranteed of what was added | so |
    |---|---|
    | each line's index and hash follow from the line before | none was removed, moved or changed |
    | one site, one data set, one kind of run, one unit | epsilon is about one thing |
    | a round and attempt is reserved once in its run | noise is never drawn twice for one message |
    | a reservation is settled once, for no more than it | what counts is never less than what was released |
    | less than was reserved is a line of its own kind | nobody gives back budget by accident |
    | what is not settled counts in full | a crash never makes the spend smaller |
    | nothing is reserved once the records trained unprotected | no epsilon is claimed that nothing bounds |

    >>> History().composition.epsilon(1e-5)
    0.0
    """

    lines: int = 0
    origin: str = NO_LINE
    """Hash of the first line."""
    head: str = NO_LINE
    time: str = ""
    """Of the last line."""
    session: Session | None = None
    sessions: list[Session] = field(default_factory=list)
    reserved: dict[str, Reservation] = field(default_factory=dict)
    settled: dict[str, AnyRelease] = field(default_factory=dict)
    composition: Composition = field(default_factory=Composition)
    """What counts: settled reservations as settled, the others in full."""
    spent_after: dict[str, tuple[float, str]] = field(default_factory=dict)
    """For each reservation, the spend that its last line states, and that line's time."""
    unprotected: list[Unprotected] = field(default_factory=list)
    """The lines from which on no epsilon bounds anything."""
    released: int = 0
    """How many models and numbers left the hospital."""
    withdrawn: list[Withdrawn] = field(default_factory=list)

    def releases(self) -> list[AnyRelease]:
        """What counts, in the order in which it was reserved."""
        return [self.settled.get(id_, reservation.release) for id_, reservation in self.reserved.items()]

    def spent(self, composition: Composition | None = None, adjacency: Adjacency = "zero-out") -> float:
        """Epsilon of what counts, or of another `composition`, under the last session's budget; 0 before any session,
        infinite once the records trained unprotected.
        """
        return math.inf if self.unprotected else self.noisy(composition, adjacency)

    def noisy(self, composition: Composition | None = None, adjacency: Adjacency = "zero-out") -> float:
        """The same of the noisy releases alone: what lines state.

        A `DeclaredSession` accounts for runs that were chosen after a look at results, as those before it did not.
        """
        counted = self.composition if composition is None else composition
        if self.session is None:
            return 0.0
        budget = self.session.budget
        if isinstance(self.session, DeclaredSession):
            return counted.adaptive_epsilon(budget.epsilon, budget.delta, adjacency)
        return counted.epsilon(budget.delta, adjacency)

    @property
    def began(self) -> Session:
        """The newest session. Raises ValueError before any."""
        if self.session is None:
            raise ValueError("comes before any session")
        return self.session

    def composition_after(self, line: AnyLine) -> Composition:
        """What will count once `line`, which `check` lets pass, is added."""
        match line:
            case Reservation():
                return self.composition.with_release(line.release)
            case Settlement():
                after = self.composition.with_release(line.actual)
                after.remove(self.reserved[line.id].release)
                return after
        return self.composition

    def add(self, line: AnyLine, data: bytes) -> None:
        """Takes `line`, whose bytes are `data`. Raises ValueError, changing nothing, as `check`."""
        self.check(line)
        self.composition = self.composition_after(line)
        match line:
            case Session():
                self.session = line
                self.sessions.append(line)
            case Reservation():
                self.reserved[line.id] = line
                self.spent_after[line.id] = (line.epsilon, line.time)
            case Settlement():
                self.settled[line.id] = line.actual
                self.spent_after[line.id] = (line.epsilon, line.time)
            case Unprotected():
                self.unprotected.append(line)
            case ExpertRelease():
                self.released += 1
            case Withdrawal():
                before = (len(self.reserved), self.released)
                self.withdrawn.append(Withdrawn(self.lines + 1, line.time, line.units, line.commitment, *before))
        if self.composition.is_mixed:
            self.noisy()  # its sum at the budget's order is kept, and lines to come only add to it
        self.lines += 1
        self.time = line.time
        self.head = hashlib.sha256(data).hexdigest()
        self.origin = self.head if self.lines == 1 else self.origin

    def check(self, line: AnyLine) -> None:
        """Raises ValueError, saying what is wrong with it, where `line` cannot be the next line."""
        self._check_place(line)
        match line:
            case Session():
                self._check_session(line)
            case Reservation():
                self._check_reservation(line)
            case Settlement():
                self._check_settlement(line)
            case Unprotected():
                if not line.simulation:
                    raise ValueError("trains real runs' records unprotected, as only a simulation may")
                if self.session is not None and line.run != self.session.run:
                    raise ValueError("belongs to another run than its session")
            case ExpertRelease() if isinstance(self.session, DeclaredSession):
                if line.details.get("run") != self.session.run:
                    raise ValueError("releases an expert of another run than its session")

    def _check_place(self, line: AnyLine) -> None:
        if line.index != self.lines:
            raise ValueError(f"has index {line.index} where {self.lines} is due")
        if line.previous != self.head:
            raise ValueError("does not continue the line before it: lines were changed, removed or reordered")
        if self.session is None and isinstance(line, Session):
            return
        session = self.began
        if (line.site, line.simulation) != (session.site, session.simulation):
            raise ValueError("belongs to another site, or mixes a simulation with real runs")
        if line.seeded != session.seeded:
            raise ValueError("mixes seeded and unseeded noise")

    def _check_session(self, line: Session) -> None:
        if self.session is not None and line.data_set != self.session.data_set:
            raise ValueError(f"is about data set {line.data_set!r}, not {self.session.data_set!r}")
        if isinstance(line, DeclaredSession) and line.accountant != ACCOUNTANT:
            raise ValueError(f"accounts by {line.accountant!r}, which this version doesn't know ({ACCOUNTANT!r})")

    def _check_reservation(self, line: Reservation) -> None:
        if line.id != reservation_id(line.run, line.federation, line.round, line.attempt):
            raise ValueError("has an id that is not its own")
        if self.unprotected:
            raise ValueError("reserves budget after its records trained unprotected")
        if line.id in self.reserved:
            raise ValueError(f"reserves round {line.round}, attempt {line.attempt} of its run a second time")
        if self.session is not None and line.run != self.session.run:
            raise ValueError("belongs to another run than its session")
        if self.composition.unit not in (None, line.release.unit):
            raise ValueError(
                f"counts by {line.release.unit} where the lines before it count by {self.composition.unit}"
            )
        facts = self.session.facts if isinstance(self.session, DeclaredSession) else None
        if facts is not None and line.release.unit != facts.unit:
            raise ValueError(f"counts by {line.release.unit} where its session declares {facts.unit}s")

    def _check_settlement(self, line: Settlement) -> None:
        if line.id not in self.reserved:
            raise ValueError(f"settles reservation {line.id!r}, which is not in the ledger")
        if line.id in self.settled:
            raise ValueError(f"settles reservation {line.id!r} a second time")
        reserved = self.reserved[line.id].release
        if not reserved.covers(line.actual):
            raise ValueError(f"settles reservation {line.id!r} with more than it reserved")
        whole = isinstance(self.session, DeclaredSession) and not isinstance(line, Reduction)
        if whole and line.actual != reserved:
            raise ValueError(f"settles reservation {line.id!r} with less than it reserved: that takes a reduction")


def replay(name: str, lines: list[bytes], verify: Verifier, history: History, first: int = 1) -> Iterator[AnyLine]:
    """Each line, once its form, place and signature are checked and `history` has taken it.

    Raises LedgerError, naming the file `name` and the line, counted from `first`.

    >>> list(replay("north.jsonl", [b"{}"], lambda *line: None, History()))
    Traceback (most recent call last):
    securepfl.errors.LedgerError: north.jsonl: line 1 is not a line of schema 1 (...
    """
    for number, data in enumerate(lines, start=first):
        try:
            line = decode_line(data)
            history.add(line, data)
            _check_signature(line, history, verify)
        except ValueError as error:
            raise damaged(name, number, str(error)) from None
        yield line


def _check_signature(line: AnyLine, history: History, verify: Verifier) -> None:
    """Raises ValueError where `verify` does, and TypeError where it returns a verdict instead."""
    session = history.began
    key, signature = bytes.fromhex(session.public_key), bytes.fromhex(line.signature)
    verdict: object = verify(session.algorithm, key, signed_message(line), signature)  # type: ignore[func-returns-value]
    if verdict is not None:
        raise TypeError(f"verify must raise ValueError or return nothing, and it returned {verdict!r}")
