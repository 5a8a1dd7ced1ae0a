"""What every message travels in: signed by its sender, sealed to its receiver, bound to its place in the
protocol.

    message    header | sealing | content                                  content: none, or see content.py
    sealing    HPKE to the receiver, with the header as `info`, of
               signatures | body                                           where there is no content
               signatures | key and digest of the content | body's beginning

Both signatures cover the header, and all that is sealed behind them. What several receivers get alike is the end of
their bodies: one content for all, and for each a small envelope of its own. The header, in clear, says how long the
content is. It is parsed with struct after magic, version and size were checked, and compared with what the receiver
expects, before anything is decrypted; no body is decoded here.
"""

import enum
import io
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
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
from securepfl.crypto.messages.content import (
    DIGEST_BYTES,
    KEY_BYTES,
    Buffer,
    Content,
    open_content,
    plain_bytes,
    seal_content,
    sealed_bytes,
)
from securepfl.errors import MessageError

_MAGIC: Final = b"SPFL"
_VERSION: Final = 3
RUN_BYTES: Final = 16
"""Of a run's identifier."""
_LAYOUT: Final = struct.Struct(f">4sBB32s{RUN_BYTES}sII{FINGERPRINT_BYTES}s{FINGERPRINT_BYTES}sQ")
_CONTEXT: Final = b"envelope"

OVERHEAD_BYTES: Final = _LAYOUT.size + SEAL_BYTES + SIGNATURE_BYTES
"""What an envelope adds to its body, where that has no content."""
CONTENT_BYTES: Final = KEY_BYTES + DIGEST_BYTES
"""What it says of its content, which is longer by a tag a chunk than what it holds."""

LONG: Final = 1 << 16
"""Bytes of a body from which on it travels as a content, though one alone receives it."""


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
    runs, and no message of one is taken in another. It travels in clear before every message, 110 bytes: their layout,
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

    def to_bytes(self, content: int = 0) -> bytes:
        """The fixed layout, magic and version first, and last how long the content behind the sealing is, in bytes."""
        sender, receiver = fingerprint_bytes(self.sender), fingerprint_bytes(self.receiver)
        numbers = (self.kind, self.federation_digest, self.run, self.round, self.attempt)
        return _LAYOUT.pack(_MAGIC, _VERSION, *numbers, sender, receiver, content)

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """Read the first bytes of a message. Raises MessageError for another magic, version, kind or
        length.
        """
        if len(data) < _LAYOUT.size:
            raise MessageError(f"message of {len(data)} bytes is truncated; send it again")
        magic, version, kind, digest, run, number, attempt, sender, receiver, _ = _LAYOUT.unpack_from(data)
        if magic != _MAGIC:
            raise MessageError("not a securepfl message; check what is connected to this port or folder")
        if version != _VERSION:
            raise MessageError(f"message version {version}, but {_VERSION} is read here; install the same securepfl")
        if kind not in set(Kind):
            raise MessageError(f"message of unknown kind {kind}; install the same securepfl everywhere")
        names = fingerprint_text(sender), fingerprint_text(receiver)
        return cls(Kind(kind), digest, run, number, attempt, *names)


def longest(max_bytes: int) -> int:
    """The longest message whose body is at most `max_bytes`."""
    return OVERHEAD_BYTES + CONTENT_BYTES + sealed_bytes(max_bytes)


def seal_message(
    header: Header, body: bytes, sender: Identity, receiver: PublicIdentity, content: Content | None = None
) -> bytes:
    """Sign `body` with its header, then seal both to `receiver`. With a `content` it is the message without that, which
    goes behind it: `body` is then the beginning of the one that arrives, the content its end.

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
    >>> sealed = bytearray()
    >>> content = seal_content([b" of many"], sealed.extend)
    >>> message = seal_message(header, b"body", alder, server.public, content) + sealed
    >>> open_message(message, server, [alder.public], **expected) == (header, b"body of many")
    True
    """
    if header.sender != sender.public.fingerprint or header.receiver != receiver.fingerprint:
        raise ValueError(f"header names {header.sender} to {header.receiver}, not these parties")
    head = header.to_bytes(0 if content is None else content.size)
    signed = body if content is None else content.key + content.digest + body
    return head + receiver.seal(sender.sign(head + signed, _CONTEXT) + signed, info=head)


def seal_pieces(header: Header, pieces: Sequence[Buffer], sender: Identity, receiver: PublicIdentity) -> bytes:
    """A whole message whose body are the joined `pieces`: a long one is all content, and never held twice. Raises as
    `seal_message` does.
    """
    size = sum(map(len, pieces))
    if size < LONG:
        return seal_message(header, b"".join(pieces), sender, receiver)
    message = io.BytesIO(bytes(OVERHEAD_BYTES + CONTENT_BYTES + sealed_bytes(size)))  # so that it never grows
    message.seek(OVERHEAD_BYTES + CONTENT_BYTES)
    content = seal_content(pieces, message.write)
    message.seek(0)
    message.write(seal_message(header, b"", sender, receiver, content))
    return message.getvalue()


def open_message(
    data: Buffer,
    receiver: Identity,
    senders: Mapping[str, PublicIdentity] | Iterable[PublicIdentity],
    *,
    kinds: Collection[Kind],
    federation_digest: bytes,
    run: bytes | None,
    round: int,  # noqa: A002 (the protocol's word)
    max_bytes: int,
) -> tuple[Header, bytes | bytearray]:
    """The header and body of a message that is expected now, from a known sender, unaltered; at most
    `max_bytes` of body. `run`: None takes any run's, for a hospital that has joined none.

    | what arrives                                          | what happens                                        |
    |-------------------------------------------------------|-----------------------------------------------------|
    | an expected message, unaltered                        | its header and body                                 |
    | longer than expected, truncated, another magic        | MessageError before anything is decrypted           |
    | another version, kind, federation, run, round, receiver | MessageError before anything is decrypted         |
    | a sender that is not among `senders`                  | MessageError before anything is decrypted           |
    | any bit of header or sealing altered                  | MessageError: it does not open                      |
    | another content than was signed with it               | MessageError before any of it is decrypted          |
    | sealed by somebody else in a hospital's name          | MessageError: both signatures must verify           |
    | the same message again                                | opens: replays are the caller's to refuse           |
    | another attempt than the one under way                | opens: `attempt` is in the header                   |

    Raises MessageError for everything that does not open, in one line; the body is not parsed here. Example:
    `seal_message`.
    """
    if len(data) > longest(max_bytes):
        raise MessageError(f"message of {len(data)} bytes, at most {longest(max_bytes)} are expected; refused")
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
    head, sealing, content = _split(memoryview(data), max_bytes)
    opened = receiver.open(sealing, info=head)
    signature, signed = opened[:SIGNATURE_BYTES], opened[SIGNATURE_BYTES:]
    sender.verify(signature, head + signed, _CONTEXT)
    return header, _body(signed, content) if content else signed


def _split(data: memoryview, max_bytes: int) -> tuple[bytes, memoryview, memoryview]:
    """Header, sealing and content. Raises MessageError where their lengths are none that a message has, or those of a
    body beyond `max_bytes`.
    """
    content: int = _LAYOUT.unpack_from(data)[-1]
    beginning = len(data) - OVERHEAD_BYTES - (content + CONTENT_BYTES if content else 0)
    if beginning < 0:
        raise MessageError(f"message of {len(data)} bytes is truncated; send it again")
    size = beginning + (plain_bytes(content) if content else 0)
    if size > max_bytes:
        raise MessageError(f"message with a body of {size} bytes, at most {max_bytes} are expected; refused")
    at = len(data) - content
    return bytes(data[: _LAYOUT.size]), data[_LAYOUT.size : at], data[at:]


def _body(signed: bytes, content: memoryview) -> bytearray:
    """A body with its content. Raises MessageError for another content than was signed."""
    key, digest, beginning = signed[:KEY_BYTES], signed[KEY_BYTES:CONTENT_BYTES], signed[CONTENT_BYTES:]
    body = bytearray(len(beginning) + plain_bytes(len(content)))
    body[: len(beginning)] = beginning
    open_content(key, digest, content, memoryview(body)[len(beginning) :])
    return body


def _expect(what: str, found: object, expected: Collection[object]) -> None:
    if found not in expected:
        wanted = " or ".join(map(str, expected))
        raise MessageError(f"message of {what} {found} where {wanted} is expected; refused")
