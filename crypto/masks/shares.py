"""How shares travel: sealed from one client to another under a key that only those two know.

What may never change: nonce (12 bytes), then AES-256-GCM over the shares, 32 bytes each, with no associated data; the
key names both ends and the direction.
"""

import secrets
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from securepfl.crypto.masks.edges import SECRET_BYTES, pieces, secret_to_bytes
from securepfl.crypto.masks.shamir import PRIME
from securepfl.errors import MessageError
from securepfl.randomness import derive_key

_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16


def sealed_bytes(count: int) -> int:
    """Length of `count` shares, sealed."""
    return _NONCE_BYTES + count * SECRET_BYTES + _TAG_BYTES


def _key(pair_secret: bytes, sender: int, receiver: int, context: bytes) -> bytes:
    return derive_key(pair_secret, "mask shares 1", context.hex(), sender, receiver)


def seal_shares(shares: Sequence[int], pair_secret: bytes, sender: int, receiver: int, context: bytes) -> bytes:
    """Shares for one receiver, sealed_bytes(len(shares)) long. The nonce is the OS's."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    key = _key(pair_secret, sender, receiver, context)
    return nonce + AESGCM(key).encrypt(nonce, b"".join(map(secret_to_bytes, shares)), None)


def open_shares(blob: bytes, count: int, pair_secret: bytes, sender: int, receiver: int, context: bytes) -> list[bytes]:
    """The `count` shares that `sender` sealed, 32 bytes each.

    Raises MessageError, naming the sender, for another length, an alteration, another receiver or context, or a share
    out of range.
    """
    refused = f"client {sender}'s shares are missing or were altered; repeat the round without it"
    if len(blob) != sealed_bytes(count):
        raise MessageError(refused)
    key = _key(pair_secret, sender, receiver, context)
    try:
        row = AESGCM(key).decrypt(blob[:_NONCE_BYTES], blob[_NONCE_BYTES:], None)
    except InvalidTag:
        raise MessageError(refused) from None
    shares = pieces(row)
    # Passed on unchecked, the sender's fault would look like this client's.
    if any(int.from_bytes(share, "big") >= PRIME for share in shares):
        raise MessageError(refused)
    return shares
