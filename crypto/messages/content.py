"""The part of a message that is encrypted under a key of its own: once, however many receive it, and piece by piece.

    content    chunk | chunk | ... | last chunk
    chunk      AES-256-GCM of CHUNK bytes (the last: what is left), then its tag of 16 bytes
    nonce      3 zero bytes | number of the chunk, 8 bytes | 1 for the last chunk, else 0      numbers big-endian

The key is drawn for this content alone, so no nonce comes twice under it. Its number and the last one's mark keep
chunks in their order and the content whole. But all who receive a content hold its key, and could make another: so what
makes it genuine is its SHA-256, which every receiver's envelope has under the sender's signatures.
"""

import hashlib
import secrets
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from securepfl.errors import MessageError

Buffer = bytes | bytearray | memoryview
"""Bytes, wherever they lie; views of single bytes."""

CHUNK: Final = 1 << 20
"""Bytes encrypted at once."""

KEY_BYTES: Final = 32
DIGEST_BYTES: Final = 32
_TAG_BYTES: Final = 16
_SEALED: Final = CHUNK + _TAG_BYTES
_NONCE: Final = struct.Struct(">3xQB")
_DOMAIN: Final = b"securepfl content 1"


@dataclass(frozen=True)
class Content:
    """What an envelope says of a content: its `key`, the `digest` of its bytes as they travel and how many those are
    (`size`).
    """

    key: bytes = field(repr=False)
    digest: bytes
    size: int


def sealed_bytes(plain: int) -> int:
    """How many bytes a content of `plain` bytes travels in.

    >>> sealed_bytes(0), sealed_bytes(CHUNK) - CHUNK, sealed_bytes(CHUNK + 1) - CHUNK
    (16, 16, 33)
    """
    return plain + _TAG_BYTES * max(1, -(-plain // CHUNK))


def plain_bytes(sealed: int) -> int:
    """The inverse of `sealed_bytes`. Raises MessageError for a length that no content has.

    >>> plain_bytes(sealed_bytes(3 * CHUNK + 5)) == 3 * CHUNK + 5
    True
    """
    plain = sealed - _TAG_BYTES * -(-sealed // _SEALED)
    if sealed < _TAG_BYTES or sealed_bytes(plain) != sealed:
        raise MessageError(f"a content of {sealed} bytes, a length that none has; the message was not used")
    return plain


def seal_content(pieces: Sequence[Buffer], write: Callable[[bytes], object]) -> Content:
    """Encrypt the joined `pieces` under a fresh key, chunk by chunk as `write` takes them: no piece is copied whole.

    >>> sealed = bytearray()
    >>> content = seal_content([b"for ", b"all"], sealed.extend)
    >>> opened = bytearray(plain_bytes(content.size))
    >>> open_content(content.key, content.digest, sealed, memoryview(opened))
    >>> bytes(opened)
    b'for all'
    """
    key, digest, size = secrets.token_bytes(KEY_BYTES), hashlib.sha256(), 0
    cipher, last = AESGCM(key), max(0, -(-sum(map(len, pieces)) // CHUNK) - 1)
    for number, chunk in enumerate(_chunks(pieces)):
        sealed = cipher.encrypt(_NONCE.pack(number, number == last), chunk, _DOMAIN)
        digest.update(sealed)
        write(sealed)
        size += len(sealed)
    return Content(key, digest.digest(), size)


def open_content(key: bytes, digest: bytes, sealed: Buffer, into: memoryview) -> None:
    """Decrypt a whole content `into` its place, of `plain_bytes` bytes.

    Raises MessageError, before anything is decrypted, unless it is the content of that `digest`; and where it does not
    open under `key`.
    """
    if hashlib.sha256(sealed).digest() != digest:
        raise MessageError("a message with another content than was signed with it; the message was not used")
    cipher, view, last = AESGCM(key), memoryview(sealed), -(-len(sealed) // _SEALED) - 1
    try:
        for number in range(last + 1):
            chunk, place = view[number * _SEALED : (number + 1) * _SEALED], into[number * CHUNK : (number + 1) * CHUNK]
            cipher.decrypt_into(_NONCE.pack(number, number == last), chunk, _DOMAIN, place)
    except (InvalidTag, ValueError):
        raise MessageError("the content of a message does not open; the message was not used") from None


def _chunks(pieces: Sequence[Buffer]) -> Iterator[Buffer]:
    """The joined pieces, CHUNK bytes at a time; one that is empty where all of it is."""
    gathered, given = bytearray(), False
    for piece in pieces:
        view = memoryview(piece)
        while view:
            if not gathered and len(view) >= CHUNK:
                part, view, given = view[:CHUNK], view[CHUNK:], True
                yield part
                continue
            room = CHUNK - len(gathered)
            gathered += view[:room]
            view = view[room:]
            if len(gathered) == CHUNK:
                yield gathered
                gathered, given = bytearray(), True
    if gathered or not given:
        yield gathered
