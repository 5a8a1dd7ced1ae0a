"""The secret of two hospitals, from which their masks derive: made by one, sealed to the other.

What may never change: the header (place.py), then the HPKE sealing of signatures and secret. The signatures cover the
secret's SHA-256.
"""

import hashlib
from typing import Final

from securepfl.crypto.keys.identity import SEAL_BYTES, SIGNATURE_BYTES, Identity, PublicIdentity
from securepfl.crypto.keys.place import HEADER_BYTES, Kind, Place, split
from securepfl.crypto.keys.secret import Secret
from securepfl.errors import MessageError
from securepfl.randomness import KEY_BYTES

PAIR_BYTES: Final = HEADER_BYTES + SEAL_BYTES + SIGNATURE_BYTES + KEY_BYTES
"""Length of a sealed pair secret."""


def makes_pair(one: str, other: str) -> bool:
    """Whether `one` makes the pair's secret: the smaller name does, in roster order.

    >>> makes_pair("alder", "birch"), makes_pair("birch", "alder")
    (True, False)
    """
    return one < other


def seal_pair(
    secret: bytes, sender: Identity, receiver: PublicIdentity, *, federation_digest: bytes, epoch: int
) -> bytes:
    """Seal a pair's secret (32 bytes) to the other hospital, signed: PAIR_BYTES long.

    Raises ValueError where the other one makes it or a length is wrong; MessageError for unusable keys.

    >>> alder, birch = Identity.generate("alder"), Identity.generate("birch")
    >>> sealed = seal_pair(bytes(32), alder, birch.public, federation_digest=bytes(32), epoch=0)
    >>> open_pair(sealed, birch, alder.public, federation_digest=bytes(32), epoch=0)
    Secret(32 bytes)
    """
    if not makes_pair(sender.name, receiver.name) or len(secret) != KEY_BYTES:
        raise ValueError(f"{sender.name!r} does not make the pair with {receiver.name!r}, or not {KEY_BYTES} bytes")
    head = Place(Kind.PAIR, epoch, federation_digest, sender.public.fingerprint, receiver.fingerprint).to_bytes()
    signature = sender.sign(head + hashlib.sha256(secret).digest(), b"pair secret")
    return head + receiver.seal(Secret(signature + secret), info=head)


def open_pair(
    data: bytes, receiver: Identity, sender: PublicIdentity, *, federation_digest: bytes, epoch: int
) -> Secret:
    """The secret that `sender` made for the pair with `receiver`. Raises MessageError for anything else: another epoch,
    federation, sender, receiver or length, an alteration, or a pair that `receiver` makes itself. See `seal_pair`.
    """
    place = Place.read(data, Kind.PAIR, sender, receiver.public.fingerprint, PAIR_BYTES)
    if place.epoch != epoch or place.federation_digest != federation_digest:
        raise MessageError(f"pair secret of epoch {place.epoch} or of other settings, not of this epoch {epoch}")
    if not makes_pair(sender.name, receiver.name):
        raise MessageError(f"{receiver.name!r} makes this pair's secret, not {sender.name!r}; refused")
    opened = Secret(receiver.open(data[HEADER_BYTES:], info=place.to_bytes()))
    signature, secret = split(opened, SIGNATURE_BYTES)
    sender.verify(signature, place.to_bytes() + hashlib.sha256(secret).digest(), b"pair secret")
    if len(secret) != KEY_BYTES:
        raise MessageError(f"pair secret of {len(secret)} bytes, not {KEY_BYTES}; refused")
    return Secret(secret)
