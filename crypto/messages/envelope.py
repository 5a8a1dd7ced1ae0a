"""What every message travels in: signed by its sender, sealed to its receiver, bound to its place in the
protocol.

Layout: a fixed header in clear, then the HPKE sealing of (signatures, body) with the header as `info`. Both
signatures cover header and body as sent. The header is parsed with struct after magic, version and size
were checked, and compared with what the receiver expects, before anything is decrypted; no body is decoded
here.
"""

import enum
import struct
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Self

from securepfl.crypto.keys.identity import (
    FINGERPRINT_BYTES,
    SEAL_BYTES,
    SIGNATURE_BYTES,
    Identity,
    PublicIdentity,
    fingerprint_bytes,
    fingerprint_text,
)
from securepfl.errors import MessageError

_MAGIC: Final = b"SPFL"
_VERSION: Final = 2
RUN_BYTES: Final = 16
"""Of a run's identifier."""
_LAYOUT: Final = struct.Struct(f">4sBB32s{RUN_BYTES}sII{FINGERPRINT_BYTES}s{FINGERPRINT_BYTES}s")
_CONTEXT: Final = b"envelope"

OVERHEAD_BYTES: Final = _LAYOUT.size + SEAL_BYTES + SIGNATURE_BYTES
"""What an envelope adds to its body."""


class Kind(enum.IntEnum):
    """What a message is. The numbers travel, and may never be given to another kind."""

    INVITATION = 1
    CONTRIBUTION = 2
    DECLINE = 3
    ANSWER = 4
    SURVIVORS = 5
    AGREEMENT = 6
    UNMASK = 7
    REVEAL = 8
    RECEIPT = 9
    OPENING = 10
    OPENED = 11
    EVIDENCE = 12
    VERDICT = 13
    ENDED = 14
    SNAPSHOT_WANTED = 15
    SNAPSHOT = 16
    REJOIN = 17


@dataclass(frozen=True)
class Header:
    """A message's place in the protocol. `sender` and `receiver` are fingerprints
    (PublicIdentity.fingerprint).

    `federation_digest` (32 bytes) fixes settings and key, `run` (RUN_BYTES) is the run's identifier: keys serve many
    runs, and no message of one is taken in another. It travels in clear before every message, 102 bytes: their layout,
    and the numbers of `Kind`, may never change under one version. Raises ValueError for a digest or run of another
    length, numbers outside 32 bits or text that is no fingerprint.
    """

    kind: Kind
    federation_digest: bytes
    run: bytes
    round: int
    attempt: int
    sender: str
    receiver: str

    def __post_init__(self) -> None:
        if len(self.federation_digest) != 32:
            raise ValueError(f"federation_digest must be 32 bytes, not {len(self.federation_digest)}")
        if len(self.run) != RUN_BYTES:
            raise ValueError(f"run must be {RUN_BYTES} bytes, not {len(self.run)}")
        for name in ("round", "attempt"):
            if not 0 <= getattr(self, name) < 2**32:
                raise ValueError(f"{name} must be in [0, 2^32), not {getattr(self, name)}")
        fingerprint_bytes(self.sender)
        fingerprint_bytes(self.receiver)

    def to_bytes(self) -> bytes:
        """The fixed layout, magic and version first."""
        sender, receiver = fingerprint_bytes(self.sender), fingerprint_bytes(self.receiver)
        numbers = (self.kind, self.federation_digest, self.run, self.round, self.attempt)
        return _LAYOUT.pack(_MAGIC, _VERSION, *numbers, sender, receiver)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read the first bytes of a message. Raises MessageError for another magic, version, kind or
        length.
        """
        if len(data) < _LAYOUT.size:
            raise MessageError(f"message of {len(data)} bytes is truncated; send it again")
        magic, version, kind, digest, run, number, attempt, sender, receiver = _LAYOUT.unpack_from(data)
        if magic != _MAGIC:
            raise MessageError("not a securepfl message; check what is connected to this port or folder")
        if version != _VERSION:
            raise MessageError(f"message version {version}, but {_VERSION} is read here; install the same securepfl")
        if kind not in set(Kind):
            raise MessageError(f"message of unknown kind {kind}; install the same securepfl everywhere")
        names = fingerprint_text(sender), fingerprint_text(receiver)
        return cls(Kind(kind), digest, run, number, attempt, *names)


def seal_message(header: Header, body: bytes, sender: Identity, receiver: PublicIdentity) -> bytes:
    """Sign `body` with its header, then seal both to `receiver`.

    Raises ValueError where the header names other parties, MessageError where the receiver's keys are
    unusable.

    >>> alder, server = Identity.generate("alder"), Identity.generate("server")
    >>> names = alder.public.fingerprint, server.public.fingerprint
    >>> header = Header(Kind.CONTRIBUTION, bytes(32), bytes(16), 1, 0, *names)
    >>> message = seal_message(header, b"body", alder, server.public)
    >>> len(message) - len(b"body") == OVERHEAD_BYTES
    True
    >>> place = {"federation_digest": bytes(32), "run": bytes(16), "round": 1}
    >>> expected = place | {"kinds": {Kind.CONTRIBUTION}, "max_bytes": 100}
    >>> open_message(message, server, [alder.public], **expected) == (header, b"body")
    True
    """
    if header.sender != sender.public.fingerprint or header.receiver != receiver.fingerprint:
        raise ValueError(f"header names {header.sender} to {header.receiver}, not these parties")
    head = header.to_bytes()
    return head + receiver.seal(sender.sign(head + body, _CONTEXT) + body, info=head)


def open_message(
    data: bytes,
    receiver: Identity,
    senders: Mapping[str, PublicIdentity] | Iterable[PublicIdentity],
    *,
    kinds: Collection[Kind],
    federation_digest: bytes,
    run: bytes | None,
    round: int,  # noqa: A002 (the protocol's word)
    max_bytes: int,
) -> tuple[Header, bytes]:
    """The header and body of a message that is expected now, from a known sender, unaltered; at most
    `max_bytes` of body. `run`: None takes any run's, for a hospital that has joined none.

    | what arrives                                          | what happens                                        |
    |-------------------------------------------------------|-----------------------------------------------------|
    | an expected message, unaltered                        | its header and body                                 |
    | longer than expected, truncated, another magic        | MessageError before anything is decrypted           |
    | another version, kind, federation, run, round, receiver | MessageError before anything is decrypted         |
    | a sender that is not among `senders`                  | MessageError before anything is decrypted           |
    | any bit of header or sealing altered                  | MessageError: it does not open                      |
    | sealed by somebody else in a hospital's name          | MessageError: both signatures must verify           |
    | the same message again                                | opens: replays are the caller's to refuse           |
    | another attempt than the one under way                | opens: `attempt` is in the header                   |

    Raises MessageError for everything that does not open, in one line; the body is not parsed here. Example:
    `seal_message`.
    """
    if len(data) > max_bytes + OVERHEAD_BYTES:
        raise MessageError(f"message of {len(data)} bytes, at most {max_bytes + OVERHEAD_BYTES} are expected; refused")
    header = Header.from_bytes(data)
    _expect("kind", header.kind.name, [kind.name for kind in kinds])
    _expect("federation", header.federation_digest.hex()[:16], [federation_digest.hex()[:16]])
    if run is not None:
        _expect("run", header.run.hex(), [run.hex()])
    _expect("round", header.round, [round])
    _expect("receiver", header.receiver, [receiver.public.fingerprint])
    if header.federation_digest != federation_digest:
        raise MessageError("message of another federation; all parties must run the same settings")
    people = senders.values() if isinstance(senders, Mapping) else senders
    sender = next((person for person in people if person.fingerprint == header.sender), None)
    if sender is None:
        raise MessageError(f"message from unknown sender {header.sender}; enrol it or remove it")
    opened = receiver.open(data[_LAYOUT.size :], info=data[: _LAYOUT.size])
    if len(opened) < SIGNATURE_BYTES:
        raise MessageError(f"message from {sender.name!r} has no signatures; refused")
    signature, body = opened[:SIGNATURE_BYTES], opened[SIGNATURE_BYTES:]
    sender.verify(signature, data[: _LAYOUT.size] + body, _CONTEXT)
    return header, body


def _expect(what: str, found: object, expected: Collection[object]) -> None:
    if found not in expected:
        wanted = " or ".join(map(str, expected))
        raise MessageError(f"message of {what} {found} where {wanted} is expected; refused")
