"""The header of every sealed or public file of the key ceremony: which file of which ceremony it is.

What may never change: its layout. Magic, version, kind, epoch, federation digest, the fingerprints of sender and
receiver, in clear, 82 bytes. It is compared with what is expected before anything is opened; HPKE (RFC 9180) takes it
as `info`, and both signatures cover it.
"""

import enum
import struct
from dataclasses import dataclass
from typing import Final, Self

from securepfl.crypto.keys.identity import FINGERPRINT_BYTES, PublicIdentity, fingerprint_bytes, fingerprint_text
from securepfl.errors import MessageError

_MAGIC: Final = b"SPKC"
_VERSION: Final = 1
_LAYOUT: Final = struct.Struct(f">4sBBI32s{FINGERPRINT_BYTES}s{FINGERPRINT_BYTES}s")

HEADER_BYTES: Final = _LAYOUT.size

EVERYONE: Final = fingerprint_text(bytes(FINGERPRINT_BYTES))
"""The receiver of what is public."""


class Kind(enum.IntEnum):
    """What a file of the ceremony is."""

    GRANT = 1
    PAIR = 2
    ROSTER = 3


@dataclass(frozen=True)
class Place:
    """Which file of which ceremony this is. `sender` and `receiver` are fingerprints.

    Raises ValueError for a digest that is not 32 bytes or an epoch outside 32 bits.
    """

    kind: Kind
    epoch: int
    federation_digest: bytes
    sender: str
    receiver: str

    def __post_init__(self) -> None:
        if len(self.federation_digest) != 32:
            raise ValueError(f"federation_digest must be 32 bytes, not {len(self.federation_digest)}")
        if not 0 <= self.epoch < 2**32:
            raise ValueError(f"epoch must be in [0, 2^32), not {self.epoch}")

    def to_bytes(self) -> bytes:
        """The fixed layout, HEADER_BYTES long."""
        sender, receiver = fingerprint_bytes(self.sender), fingerprint_bytes(self.receiver)
        return _LAYOUT.pack(_MAGIC, _VERSION, self.kind, self.epoch, self.federation_digest, sender, receiver)

    @classmethod
    def read(cls, data: bytes, kind: Kind, sender: PublicIdentity, receiver: str, max_bytes: int) -> Self:
        """The header of `data`, which must be of this kind and between these parties. Raises MessageError."""
        if not HEADER_BYTES <= len(data) <= max_bytes:
            raise MessageError(f"{len(data)} bytes, where {HEADER_BYTES} to {max_bytes} belong; copy the file again")
        magic, version, found, epoch, digest, from_, to = _LAYOUT.unpack_from(data)
        if magic != _MAGIC or found != kind:
            raise MessageError(f"not a {kind.name.lower()} of securepfl's key ceremony; copy the right file")
        if version != _VERSION:
            raise MessageError(f"version {version}, but {_VERSION} is read here; install the same securepfl")
        place = cls(kind, epoch, digest, fingerprint_text(from_), fingerprint_text(to))
        if place.sender != sender.fingerprint:
            raise MessageError(f"made by {place.sender}, not by {sender.name!r} ({sender.fingerprint}); refused")
        if place.receiver != receiver:
            raise MessageError(f"made for {place.receiver}, not for {receiver}; refused")
        return place


def split(data: bytes, size: int) -> tuple[bytes, bytes]:
    """The first `size` bytes and the rest. Raises MessageError for fewer."""
    if len(data) < size:
        raise MessageError("truncated; copy the file again")
    return data[:size], data[size:]
