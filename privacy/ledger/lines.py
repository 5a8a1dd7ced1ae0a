"""The lines of a budget ledger: what each kind holds, and its bytes. What makes lines a ledger is in history.py.

A line is canonical JSON (RFC 8785), one object a line. It holds the SHA-256 of the line before it and a
signature over its own canonical bytes without the signature, under the key that the last session line names.
"""

import hashlib
import json
import math
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
import rfc8785
from msgspec import Meta

from securepfl.errors import ConfigError, LedgerError
from securepfl.privacy.accounting.accounting import SMALLEST_DELTA
from securepfl.privacy.accounting.events import AnyRelease, Unit

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
    """The most a data set may spend, zero-out: epsilon at delta. Raises ConfigError for one out of range.

    Session lines hold it: the names and meanings of its fields may never change.

    >>> Budget(epsilon=4.0, delta=1e-5).epsilon
    4.0
    >>> Budget(epsilon=0.0, delta=1e-5)
    Traceback (most recent call last):
    securepfl.errors.ConfigError: budget epsilon is 0.0: give a finite number above 0
    """

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.epsilon) and self.epsilon > 0):
            raise ConfigError(f"budget epsilon is {self.epsilon!r}: give a finite number above 0")
        if not SMALLEST_DELTA <= self.delta < 1:
            raise ConfigError(f"budget delta is {self.delta!r}: give a number from {SMALLEST_DELTA} to below 1")


class Line(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", forbid_unknown_fields=True):
    """What every line holds. epsilon: spent once this line counts, zero-out, at its session's delta.

    Lines persist for as long as the data, and each is read again, to the byte, before the next is written. Of schema 1
    nothing may ever change: no kind's tag, no field's name, type or meaning, no field more or fewer, nor the canonical
    JSON, the hash or the bytes that are signed. What needs another field is a new kind or a new schema, read beside
    this one. tests/privacy/ledger holds two ledgers as they were written, and they must verify.
    """

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
    """Bytes of an unfinished last line that a crash left. Nothing had been done on its strength. Persists, see Line."""

    count: Count
    sha256: Digest


class Session(Line, frozen=True, kw_only=True, tag="session"):
    """A process opened the ledger. Lines up to the next session are signed with `public_key`.

    recovered: what was dropped from the end of the file to continue it, or None.

    >>> Session.__struct_config__.tag  # what `kind` says on such a line
    'session'
    """

    run: Text
    data_set: Text
    budget: Budget
    algorithm: Text
    public_key: Hex
    recovered: Torn | None


@dataclass(frozen=True)
class Facts:
    """What a session's releases rest on beside the events: with it, whoever has the file can recompute them.

    units: how many the hospital is declared to have; None where nobody declared it. unit: what each is. clip: most that
    one moves a sum, in the norm of the gradient; None where one clip doesn't say it. settings: digest of the federation
    that was run. So a `Release` adds noise of deviation noise_multiplier x clip to each sum, and divides it by
    sample_rate x units. Persists, see Line.

    >>> Facts(units=200, unit="patient", clip=1.0, settings="ab" * 32).units
    200
    """

    units: Annotated[int, Meta(ge=1, lt=2**53)] | None
    unit: Unit
    clip: float | None
    settings: Digest


class DeclaredSession(Session, frozen=True, kw_only=True, tag="declared-session"):
    """A session that also says what its lines were computed from and by what. Since this kind exists, `Session` is
    read and no longer written.

    adjacency: what `epsilon` on the lines bounds. accountant: how it is computed (accounting.versions.ACCOUNTANT), and
    so what a reader recomputes. versions: of this product and of the libraries that computed it, for information.
    Up to the next session a settlement is of all that was reserved: less takes a `Reduction`; and a release of an
    expert names the run.

    >>> DeclaredSession.__struct_config__.tag
    'declared-session'
    """

    facts: Facts | None
    adjacency: Literal["zero-out"]
    accountant: Text
    versions: dict[Text, Text]


class Reservation(Line, frozen=True, kw_only=True, tag="reservation"):
    """Written before the first noisy step. Counts in full until it is settled."""

    id: Hex
    run: Text
    federation: Hex
    round: Count
    attempt: Count
    release: AnyRelease


class Settlement(Line, frozen=True, kw_only=True, tag="settlement"):
    """What the reservation `id` released in fact: never more than it reserved, nor less in a `DeclaredSession`."""

    id: Hex
    actual: AnyRelease


class Reduction(Settlement, frozen=True, kw_only=True, tag="reduction"):
    """Somebody decided that the reservation `id` released less than it reserved. reason: theirs, in words."""

    reason: Text


class Unprotected(Line, frozen=True, kw_only=True, tag="unprotected"):
    """The records are about to train without clip or noise, in a simulation: no epsilon bounds what is released of them
    from here on, whatever came before.

    run, federation: as in a reservation; round: the first that trains so. JSON holds no infinity: `epsilon` on this
    line and on all that follow is of the noisy releases alone.
    """

    run: Text
    federation: Hex
    round: Count


class ExpertRelease(Line, frozen=True, kw_only=True, tag="expert-release"):
    """A model left the hospital: post-processing of what the lines above released.

    details: in a `DeclaredSession` "run" is its session's run, as in the reservations that the model rests on.

    >>> ExpertRelease.__struct_config__.tag
    'expert-release'
    """

    details: dict[str, Any]


class Audit(Line, frozen=True, kw_only=True, tag="audit"):
    """An attack was tried on models that never left the hospital: its result, which costs nothing."""

    details: dict[str, Any]


class Withdrawal(Line, frozen=True, kw_only=True, tag="withdrawal"):
    """Patients withdrew their consent. What the lines above released stays released, and counts as before.

    units: how many, in whatever the lines count by. commitment: `commitment_of` a salt and of what the registry knows
    their records by: whoever holds both can show whom the line is about, and nobody else can tell.
    """

    units: Annotated[int, Meta(ge=1, lt=2**53)]
    commitment: Digest


AnyLine = (
    Session | DeclaredSession | Reservation | Settlement | Reduction | Unprotected | ExpertRelease | Audit | Withdrawal
)
_DECODER = msgspec.json.Decoder(AnyLine)


def reservation_id(run: str, federation: str, round_number: int, attempt: int) -> str:
    """One id for one (run, federation, round, attempt). Persists: it may never be made otherwise.

    >>> reservation_id("one", "ab" * 32, 1, 0)
    '7fa9ae00bfe53256e78e578ea8c18544'
    """
    return hashlib.sha256(rfc8785.dumps([run, federation, round_number, attempt])).hexdigest()[:32]


def commitment_of(salt: bytes, marks: bytes) -> str:
    """What a `Withdrawal` says of `marks`, the sorted fingerprints of its records: 32 bytes in hexadecimal.

    With a `salt` of 32 bytes of the operating system's it tells nothing of them. Persists. Raises ValueError for a
    salt of another length.

    >>> commitment_of(bytes(32), b"a" * 16)[:16]
    '2c19d74b1333ed01'
    """
    if len(salt) != 32:
        raise ValueError(f"salt must be 32 bytes, not {len(salt)}")
    return hashlib.sha256(b"securepfl withdrawal 1" + salt + marks).hexdigest()


def signed_message(line: Line) -> bytes:
    """The bytes that `line`'s signature is over: all of it but the signature. They may never be made otherwise."""
    plain = msgspec.to_builtins(line)
    del plain["signature"]
    return _SIGNED_PREFIX + rfc8785.dumps(plain)


def encode_line(line: Line) -> bytes:
    """`line` as it stands in the file, without the newline. Raises ValueError for what JSON cannot hold."""
    return rfc8785.dumps(msgspec.to_builtins(line))


def decode_line(data: bytes) -> AnyLine:
    """Inverse of encode_line. Raises ValueError for all bytes that encode_line would not have written.

    >>> decode_line(b'{"kind": "session"}')
    Traceback (most recent call last):
    ValueError: is not a line of schema 1 (Object missing required field `schema`)
    """
    try:
        line: AnyLine = _DECODER.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ConfigError) as error:
        raise ValueError(f"is not a line of schema 1 ({error})") from None
    # One check for every other spelling of the same content: key order, spaces, escapes, doubled keys.
    if encode_line(line) != data:
        raise ValueError("is not in canonical form")
    return line


def split_lines(data: bytes) -> tuple[list[bytes], bytes]:
    """The complete lines of a ledger's bytes, and the torn rest: what a crash left of an unfinished one.

    A last line that is whole but for its newline counts as a line. So does one followed by anything else,
    which no crash leaves; reading it then fails.

    >>> split_lines(b'{"a":1}\\n{"b":2}\\n{"c"')
    ([b'{"a":1}', b'{"b":2}'], b'{"c"')
    """
    *lines, rest = data.split(b"\n")
    try:
        json.JSONDecoder().raw_decode(rest.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return lines, rest
    return [*lines, rest], b""


def damaged(name: str, number: int, fault: str) -> LedgerError:
    """The error for line `number` of the ledger `name`.

    >>> print(damaged("north.jsonl", 3, "has no valid signature"))
    north.jsonl: line 3 has no valid signature; restore the ledger from a copy, never edit it
    """
    return LedgerError(f"{name}: line {number} {fault}; restore the ledger from a copy, never edit it")
