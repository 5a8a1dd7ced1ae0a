"""A vector's norm under AES-256-GCM: hospitals read it, the coordinator passes it on."""

import secrets
import struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from securepfl.crypto.similarity.answers import refused
from securepfl.crypto.similarity.norms import encode_norm
from securepfl.randomness import derive_key

_NONCE_BYTES: Final = 12
_LEVEL: Final = struct.Struct(">I")
SEALED_NORM_BYTES: Final = _NONCE_BYTES + _LEVEL.size + 16


def _cipher(key: bytes, context: bytes, sender: int) -> AESGCM:
    return AESGCM(derive_key(key, "similarity", "norm", context.hex(), sender))


def seal_norm(norm: float, key: bytes, context: bytes, sender: int) -> bytes:
    """A norm sealed for one context and sender, SEALED_NORM_BYTES long: a nonce from the OS, the level, a tag.

    Raises ValueError for a norm that is negative or not finite.
    """
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + _cipher(key, context, sender).encrypt(nonce, _LEVEL.pack(encode_norm(norm)), None)


def open_norm(sealed: bytes, key: bytes, context: bytes, sender: int) -> int:
    """The norm's level. Raises AggregateError for what was not sealed for this context by this sender.

    >>> open_norm(seal_norm(0.0, bytes(32), b"round 3", sender=2), bytes(32), b"round 3", sender=2)
    0
    """
    nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
    try:
        (level,) = _LEVEL.unpack(_cipher(key, context, sender).decrypt(nonce, rest, None))
    except InvalidTag:
        raise refused() from None
    return int(level)
