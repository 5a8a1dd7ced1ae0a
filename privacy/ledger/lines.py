"""The lines of a budget ledger: what each kind holds, their bytes, and the rules that make them a ledger.

A line is canonical JSON (RFC 8785), one object a line. It holds the SHA-256 of the line before it and a
signature over its own canonical bytes without the signature, under the key that the last session line names.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
import rfc8785
from msgspec import Meta

from securepfl.errors import ConfigError, LedgerError
from securepfl.privacy.accounting.accounting import SMALLEST_DELTA, Composition
from securepfl.privacy.accounting.events import AnyRelease, Unit

Verifier = Callable[[str, bytes, bytes, bytes], bool]
"""(algorithm, public key, message, signature) -> whether the signature holds and the key is one to trust."""

NO_LINE = "0" * 64
_SIGNED_PREFIX = b"securepfl ledger line, schema 1\n"

Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Hex = Annotated[str, Meta(pattern="^([0-9a-f]{2})*$")]
Count = Annotated[int, Meta(ge=0, lt=2**53)]
# Names are printed to terminals: no control characters, and none that turns the direction of writing.
_PRINTABLE = "^[^\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]+$"
Text = Annotated[str, Meta(pattern=_PRINTABLE, max_length=512)]
Time = Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]


@dataclass(frozen=True)
class Budget:
    """The most a data set may spend, zero-out: epsilon at delta. Raises ConfigError for one out of range."""

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.epsilon) and self.epsilon > 0):
            raise ConfigError(f"budget epsilon is {self.epsilon!r}: give a finite number above 0")
        if not SMALLEST_DELTA <= self.delta < 1:
            raise ConfigError(f"budget delta is {self.delta!r}: give a number from {SMALLEST_DELTA} to below 1")


class Line(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", forbid_unknown_fields=True):
    """What every line holds. epsilon: spent once this line counts, zero-out, at its session's delta."""

    schema: Literal[1]
    index: Count
    previous: Digest
    time: Time
    site: Text
    simulation: bool
    seeded: bool
    epsilon: float
    signature: Hex

    def __post_init__(self) -> None:
        datetime.fromisoformat(self.time)  # ValueError for a 30th of February


@dataclass(frozen=True)
class Torn:
    """Bytes of an unfinished last line that a crash left. Nothing had been done on its strength."""

    count: Count
    sha256: Digest


class Session(Line, frozen=True, kw_only=True, tag="session"):
    """A process opened the ledger. Lines up to the next session are signed with `public_key`.

    recovered: what was dropped from the end of the file to continue it, or None.
    """

    run: Text
    data_set: Text
    budget: Budget
    algorithm: Text
    public_key: Hex
    recovered: Torn | None


class Reservation(Line, frozen=True, kw_only=True, tag="reservation"):
    """Written before the first noisy step. Counts in full until it is settled."""

    id: Hex
    run: Text
    federation: Hex
    round: Count
    attempt: Count
    release: AnyRelease


class Settlement(Line, frozen=True, kw_only=True, tag="settlement"):
    """What the reservation `id` released in fact: never more than it reserved."""

    id: Hex
    actual: AnyRelease


class ExpertRelease(Line, frozen=True, kw_only=True, tag="expert-release"):
    """A model left the hospital: post-processing of what the lines above released."""

    details: dict[str, Any]


class Audit(Line, frozen=True, kw_only=True, tag="audit"):
    """An attack was tried on models that never left the hospital: its result, which costs nothing."""

    details: dict[str, Any]


AnyLine = Session | Reservation | Settlement | ExpertRelease | Audit
_DECODER = msgspec.json.Decoder(AnyLine)


def reservation_id(run: str, federation: str, round_number: int, attempt: int) -> str:
    """One id for one (run, federation, round, attempt)."""
    return hashlib.sha256(rfc8785.dumps([run, federation, round_number, attempt])).hexdigest()[:32]


def signed_message(line: Line) -> bytes:
    """The bytes that `line`'s signature is over."""
    plain = msgspec.to_builtins(line)
    del plain["signature"]
    return _SIGNED_PREFIX + rfc8785.dumps(plain)


def encode_line(line: Line) -> bytes:
    """`line` as it stands in the file, without the newline. Raises ValueError for what JSON cannot hold."""
    return rfc8785.dumps(msgspec.to_builtins(line))


def decode_line(data: bytes) -> AnyLine:
    """Inverse of encode_line. Raises ValueError for all bytes that encode_line would not have written."""
    try:
        line: AnyLine = _DECODER.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ConfigError) as error:
        raise ValueError(f"is not a line of schema 1 ({error})") from None
    # One check for every other spelling of the same content: key order, spaces, escapes, doubled keys.
    if encode_line(line) != data:
        raise ValueError("is not in canonical form")
    return line


@dataclass
class History:
    """A ledger's lines, replayed in order. `add` is the only way in."""

    lines: int = 0
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

    def releases(self) -> list[AnyRelease]:
        """What counts, in the order in which it was reserved."""
        return [self.settled.get(id_, reservation.release) for id_, reservation in self.reserved.items()]

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
        self.lines += 1
        self.time = line.time
        self.head = hashlib.sha256(data).hexdigest()

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

    def _check_place(self, line: AnyLine) -> None:
        if line.index != self.lines:
            raise ValueError(f"has index {line.index} where {self.lines} is due")
        if line.previous != self.head:
            raise ValueError("does not continue the line before it: lines were changed, removed or reordered")
        if self.session is None:
            if not isinstance(line, Session):
                raise ValueError("comes before any session")
        elif (line.site, line.simulation) != (self.session.site, self.session.simulation):
            raise ValueError("belongs to another site, or mixes a simulation with real runs")
        elif line.seeded != self.session.seeded:
            raise ValueError("mixes seeded and unseeded noise")

    def _check_session(self, line: Session) -> None:
        if self.session is not None and line.data_set != self.session.data_set:
            raise ValueError(f"is about data set {line.data_set!r}, not {self.session.data_set!r}")

    def _check_reservation(self, line: Reservation) -> None:
        if line.id != reservation_id(line.run, line.federation, line.round, line.attempt):
            raise ValueError("has an id that is not its own")
        if line.id in self.reserved:
            raise ValueError(f"reserves round {line.round}, attempt {line.attempt} of its run a second time")
        if self.session is not None and line.run != self.session.run:
            raise ValueError("belongs to another run than its session")
        if self.composition.unit not in (None, line.release.unit):
            raise ValueError(
                f"counts by {line.release.unit} where the lines before it count by {self.composition.unit}"
            )

    def _check_settlement(self, line: Settlement) -> None:
        if line.id not in self.reserved:
            raise ValueError(f"settles reservation {line.id!r}, which is not in the ledger")
        if line.id in self.settled:
            raise ValueError(f"settles reservation {line.id!r} a second time")
        if not self.reserved[line.id].release.covers(line.actual):
            raise ValueError(f"settles reservation {line.id!r} with more than it reserved")


def split_lines(data: bytes) -> tuple[list[bytes], bytes]:
    """The complete lines of a ledger's bytes, and the torn rest: what a crash left of an unfinished one.

    A last line that is whole but for its newline counts as a line. So does one followed by anything else,
    which no crash leaves; reading it then fails.
    """
    *lines, rest = data.split(b"\n")
    try:
        json.JSONDecoder().raw_decode(rest.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return lines, rest
    return [*lines, rest], b""


def replay(name: str, lines: list[bytes], verify: Verifier, history: History, first: int = 1) -> Iterator[AnyLine]:
    """Each line, once its form, place and signature are checked and `history` has taken it.

    Raises LedgerError, naming the file `name` and the line, counted from `first`.
    """
    for number, data in enumerate(lines, start=first):
        try:
            line = decode_line(data)
            history.add(line, data)
            if not _signature_holds(line, history, verify):
                raise ValueError("has no valid signature")
        except ValueError as error:
            raise damaged(name, number, str(error)) from None
        yield line


def _signature_holds(line: AnyLine, history: History, verify: Verifier) -> bool:
    session = history.session
    if session is None:
        return False
    key, signature = bytes.fromhex(session.public_key), bytes.fromhex(line.signature)
    return verify(session.algorithm, key, signed_message(line), signature)


def damaged(name: str, number: int, fault: str) -> LedgerError:
    """The error for line `number` of the ledger `name`."""
    return LedgerError(f"{name}: line {number} {fault}; restore the ledger from a copy, never edit it")


@dataclass(frozen=True)
class RoundSpend:
    """What one round's reservation counts for. epsilon: all that was spent once its last line, at `time`, counted."""

    run: str
    federation: str
    round: int
    attempt: int
    settled: bool
    release: AnyRelease
    time: str
    epsilon: float


@dataclass(frozen=True)
class SessionStart:
    """When a process opened the ledger, for which run, and what the budget was from then on.

    recovered: the unfinished line that it found and dropped, or None.
    """

    run: str
    time: str
    budget: Budget
    recovered: Torn | None


@dataclass(frozen=True)
class LedgerSummary:
    """What a verified ledger says. Spends compose all lines at the last session's delta.

    unit: what epsilon protects; None before the first release. rounds: in the order of their reservations. seen: lines
    up to the last head that the coordinator saw: those after it could be cut off unseen. 0 without heads.
    settled_below: rounds settled for less than they reserved, on the hospital's word. epsilon_reserved: were all
    counted in full. hashes: of each line, in order.
    """

    site: str
    data_set: str
    simulation: bool
    seeded: bool
    budget: Budget
    lines: int
    head: str
    public_keys: tuple[bytes, ...]
    releases: tuple[AnyRelease, ...]
    unsettled: int
    epsilon: float
    epsilon_replace_one: float
    unit: Unit | None
    rounds: tuple[RoundSpend, ...]
    sessions: tuple[SessionStart, ...]
    settled_below: int
    epsilon_reserved: float
    hashes: tuple[str, ...]
    seen: int = 0


def summary(history: History, hashes: Sequence[str]) -> LedgerSummary:
    """Of a history with at least one session, and its lines' hashes. Raises ValueError where there is none."""
    last = history.session
    if last is None:
        raise ValueError("history holds no session")
    delta = last.budget.delta
    return LedgerSummary(
        site=last.site,
        data_set=last.data_set,
        simulation=last.simulation,
        seeded=any(session.seeded for session in history.sessions),
        budget=last.budget,
        lines=history.lines,
        head=history.head,
        public_keys=tuple(dict.fromkeys(bytes.fromhex(session.public_key) for session in history.sessions)),
        releases=tuple(history.releases()),
        unsettled=len(history.reserved) - len(history.settled),
        epsilon=history.composition.epsilon(delta),
        epsilon_replace_one=history.composition.epsilon(delta, "replace-one"),
        unit=history.composition.unit,
        rounds=tuple(_round(history, reservation) for reservation in history.reserved.values()),
        sessions=tuple(SessionStart(s.run, s.time, s.budget, s.recovered) for s in history.sessions),
        settled_below=sum(actual != history.reserved[id_].release for id_, actual in history.settled.items()),
        epsilon_reserved=Composition.of(r.release for r in history.reserved.values()).epsilon(delta),
        hashes=tuple(hashes),
    )


def _round(history: History, reservation: Reservation) -> RoundSpend:
    epsilon, time = history.spent_after[reservation.id]
    return RoundSpend(
        run=reservation.run,
        federation=reservation.federation,
        round=reservation.round,
        attempt=reservation.attempt,
        settled=reservation.id in history.settled,
        release=history.settled.get(reservation.id, reservation.release),
        time=time,
        epsilon=epsilon,
    )
