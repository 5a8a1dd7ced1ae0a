"""What the steward gives: the federation key to each hospital, and to everybody what it fixes.

Nothing but the header (place.py) is parsed before the signatures hold. Secrets enter signatures only as their SHA-256.
"""

import hmac
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

import msgspec

from securepfl.crypto.keys.identity import SIGNATURE_BYTES, Identity, PublicIdentity
from securepfl.crypto.keys.keys import FederationKey, key_commitment
from securepfl.crypto.keys.place import EVERYONE, HEADER_BYTES, Kind, Place, split
from securepfl.crypto.keys.roster import Roster
from securepfl.crypto.keys.secret import Secret
from securepfl.errors import MessageError

MAX_GRANT_BYTES: Final = 2**20
"""A thousand hospitals with long names fit. A notice is bounded by the same."""

_DETAILS_SIZE: Final = struct.Struct(">I")
_SCHEMA: Final = 1

Digest = bytes | Callable[[Roster], bytes]
"""A federation digest (32 bytes), or how it follows from the roster that a grant turns out to hold."""


class _Details(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a grant says besides the key; no secret. Fields may be added or changed only with another `schema`."""

    schema: int = _SCHEMA
    steward: str
    coordinator: str
    fingerprints: dict[str, str]
    predecessor: bytes


@dataclass(frozen=True)
class Notice:
    """What the steward publishes of an epoch: the roster and the key's commitment, no secret.

    `predecessor` is the federation digest of the epoch before, or empty. It travels: the header (place.py), then
    signatures, commitment and details may never change under one version.

    >>> from securepfl.crypto.keys.identity import Identity
    >>> alder, birch, server = (Identity.generate(name) for name in ("alder", "birch", "server"))
    >>> roster = Roster.of("alder", server.public, [alder.public, birch.public])
    >>> notice = Notice(epoch=0, federation_digest=bytes(32), roster=roster, commitment=bytes(32))
    >>> Notice.open(notice.sign(alder), alder.public, bytes(32)) == notice
    True
    """

    epoch: int
    federation_digest: bytes
    roster: Roster
    commitment: bytes
    predecessor: bytes = b""

    def __post_init__(self) -> None:
        if len(self.commitment) != 32 or len(self.predecessor) not in (0, 32):
            raise ValueError("commitment must be 32 bytes, predecessor 32 or none")

    def statement(self) -> bytes:
        """What the steward signs after the header: the commitment, then the details in MessagePack."""
        roster = self.roster
        details = _Details(
            steward=roster.steward,
            coordinator=roster.coordinator,
            fingerprints=dict(roster.fingerprints),
            predecessor=self.predecessor,
        )
        return self.commitment + msgspec.msgpack.encode(details)

    @classmethod
    def read(cls, place: Place, statement: bytes, steward: PublicIdentity, expected: Digest) -> Self:
        """Parse a signed statement. Raises MessageError where it does not hold together."""
        try:
            details = msgspec.msgpack.decode(statement[32:], type=_Details)
            roster = Roster(details.steward, details.coordinator, details.fingerprints)
            notice = cls(place.epoch, place.federation_digest, roster, statement[:32], details.predecessor)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise MessageError("malformed, though signed; install the same securepfl as the steward") from None
        if details.schema != _SCHEMA:
            raise MessageError(f"schema {details.schema}, but {_SCHEMA} is read here; install the same securepfl")
        if roster.steward != steward.name:
            raise MessageError(f"names {roster.steward!r} as steward, not {steward.name!r}; refused")
        roster.check(steward)
        wanted = expected(roster) if callable(expected) else expected
        if wanted != place.federation_digest:
            found = place.federation_digest.hex()[:16]
            raise MessageError(
                f"made for other settings (digest {found}, here {wanted.hex()[:16]}); all parties need the same "
                "configuration file: compare yours with the steward's"
            )
        return notice

    def sign(self, steward: Identity) -> bytes:
        """The public file: header, signatures, commitment, roster. Raises ValueError for another steward."""
        _check_steward(self.roster, steward)
        place = Place(Kind.ROSTER, self.epoch, self.federation_digest, steward.public.fingerprint, EVERYONE)
        signed = place.to_bytes() + self.statement()
        return place.to_bytes() + steward.sign(signed, b"roster") + self.statement()

    @classmethod
    def open(cls, data: bytes, steward: PublicIdentity, federation_digest: Digest, *, oldest: int = 0) -> Self:
        """Check and read what `sign` gives. Raises MessageError for anything else, or an epoch before `oldest`."""
        place = Place.read(data, Kind.ROSTER, steward, EVERYONE, MAX_GRANT_BYTES)
        _check_epoch(place, oldest)
        signature, statement = split(data[HEADER_BYTES:], SIGNATURE_BYTES)
        steward.verify(signature, place.to_bytes() + statement, b"roster")
        return cls.read(place, statement, steward, federation_digest)


@dataclass(frozen=True)
class Grant:
    """What the steward gives a hospital: the federation key, and the roster that it belongs to.

    So a hospital checks one fingerprint out of band, the steward's. `predecessor` is the federation digest of the
    epoch before (32 bytes), or empty. It travels: header, then the HPKE sealing of signatures, the statement's length,
    statement and key may never change under one version.

    >>> from securepfl.crypto.keys.identity import Identity
    >>> alder, birch, server = (Identity.generate(name) for name in ("alder", "birch", "server"))
    >>> roster = Roster.of("alder", server.public, [alder.public, birch.public])
    >>> grant = Grant(FederationKey.generate(encrypted=False), roster)
    >>> sealed = grant.seal_for(birch.public, alder, federation_digest=bytes(32))
    >>> Grant.open(sealed, birch, alder.public, bytes(32)) == grant
    True
    """

    key: FederationKey
    roster: Roster
    predecessor: bytes = b""

    def notice(self, federation_digest: bytes) -> Notice:
        """The part of it that is no secret."""
        return Notice(self.key.epoch, federation_digest, self.roster, self.key.commitment, self.predecessor)

    def seal_for(self, recipient: PublicIdentity, steward: Identity, federation_digest: bytes) -> bytes:
        """Seal to a hospital of the roster, signed by the steward over recipient, epoch, digest and commitment.

        Raises ValueError for a recipient that is no hospital of the roster, another steward or a digest that is
        not 32 bytes; MessageError where the recipient's keys are unusable.
        """
        _check_steward(self.roster, steward)
        if self.roster.fingerprints.get(recipient.name) != recipient.fingerprint:
            raise ValueError(f"{recipient.name!r} is not in the roster with these keys")
        if recipient.name == self.roster.coordinator:
            raise ValueError(f"{recipient.name!r} is the coordinator, which never holds the federation key")
        sender = steward.public.fingerprint
        place = Place(Kind.GRANT, self.key.epoch, federation_digest, sender, recipient.fingerprint)
        statement = self.notice(federation_digest).statement()
        signature = steward.sign(place.to_bytes() + statement, b"grant")
        parts = (signature, _DETAILS_SIZE.pack(len(statement)), statement, self.key.to_bytes())
        return place.to_bytes() + recipient.seal(Secret(b"".join(parts)), info=place.to_bytes())

    @classmethod
    def open(
        cls,
        data: bytes,
        recipient: Identity,
        steward: PublicIdentity,
        federation_digest: Digest,
        *,
        oldest: int = 0,
    ) -> Self:
        """What `steward` granted to `recipient` for this federation; compare the fingerprint out of band first.

        `oldest` is the epoch already held: an older one is refused. Raises MessageError for anything else.
        """
        place = Place.read(data, Kind.GRANT, steward, recipient.public.fingerprint, MAX_GRANT_BYTES)
        _check_epoch(place, oldest)
        opened = Secret(recipient.open(data[HEADER_BYTES:], info=place.to_bytes()))
        signature, rest = split(opened, SIGNATURE_BYTES)
        length, rest = split(rest, _DETAILS_SIZE.size)
        statement, secret = split(rest, _DETAILS_SIZE.unpack(length)[0])
        # The signature covers the commitment, and the commitment the key: nothing is parsed before both hold.
        steward.verify(signature, place.to_bytes() + statement, b"grant")
        if not hmac.compare_digest(key_commitment(secret), statement[:32]):
            raise MessageError("the federation key does not match its commitment; ask the steward to seal it again")
        notice = Notice.read(place, statement, steward, federation_digest)
        key = FederationKey.from_bytes(secret)
        if key.epoch != place.epoch:
            raise MessageError(f"key of epoch {key.epoch} in a grant of epoch {place.epoch}; refused")
        notice.roster.check(recipient.public)
        return cls(key, notice.roster, notice.predecessor)


def _check_epoch(place: Place, oldest: int) -> None:
    if place.epoch < oldest:
        raise MessageError(f"epoch {place.epoch}, but epoch {oldest} is already held; an older one is refused")


def _check_steward(roster: Roster, steward: Identity) -> None:
    if steward.name != roster.steward or roster.fingerprints[steward.name] != steward.public.fingerprint:
        raise ValueError(f"{steward.name!r} is not the steward of this roster")
