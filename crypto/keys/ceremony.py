"""What the key ceremony exchanges: identity cards, the steward's grants and roster, the pairs' secrets.

Grants, rosters and pair secrets begin with a fixed header in clear: magic, version, kind, epoch, federation
digest, the fingerprints of sender and receiver. It is compared with what is expected before anything is opened;
HPKE (RFC 9180) takes it as `info`, and both signatures (Ed25519, ML-DSA-65 of FIPS 204) cover it. Nothing else is
parsed before the signatures hold. Secrets enter signatures only as their SHA-256.
"""

import base64
import binascii
import enum
import hashlib
import hmac
import struct
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Self

import msgspec

from securepfl.crypto.keys.identity import (
    FINGERPRINT_BYTES,
    SEAL_BYTES,
    SIGNATURE_BYTES,
    Identity,
    PublicIdentity,
    fingerprint_bytes,
    fingerprint_text,
)
from securepfl.crypto.keys.keys import FederationKey, key_commitment
from securepfl.crypto.keys.secret import Secret
from securepfl.errors import MessageError
from securepfl.randomness import KEY_BYTES

MAX_CARD_BYTES: Final = 2**15
MAX_GRANT_BYTES: Final = 2**20
"""A thousand hospitals with long names fit. A roster is bounded by the same."""

_MAGIC: Final = b"SPKC"
_VERSION: Final = 1
_LAYOUT: Final = struct.Struct(f">4sBBI32s{FINGERPRINT_BYTES}s{FINGERPRINT_BYTES}s")
_EVERYONE: Final = fingerprint_text(bytes(FINGERPRINT_BYTES))
_DETAILS_SIZE: Final = struct.Struct(">I")
_SCHEMA: Final = 1

PAIR_BYTES: Final = _LAYOUT.size + SEAL_BYTES + SIGNATURE_BYTES + KEY_BYTES
"""Length of a sealed pair secret."""


class Kind(enum.IntEnum):
    """What a file of the ceremony is."""

    GRANT = 1
    PAIR = 2
    ROSTER = 3


@dataclass(frozen=True)
class _Place:
    """The header: which file of which ceremony this is."""

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
        sender, receiver = fingerprint_bytes(self.sender), fingerprint_bytes(self.receiver)
        return _LAYOUT.pack(_MAGIC, _VERSION, self.kind, self.epoch, self.federation_digest, sender, receiver)

    @classmethod
    def read(cls, data: bytes, kind: Kind, sender: PublicIdentity, receiver: str, max_bytes: int) -> Self:
        """The header of `data`, which must be of this kind and between these parties. Raises MessageError."""
        if not _LAYOUT.size <= len(data) <= max_bytes:
            raise MessageError(f"{len(data)} bytes, where {_LAYOUT.size} to {max_bytes} belong; copy the file again")
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


@dataclass(frozen=True)
class IdentityCard:
    """A public identity with its role, as text for people: signed by itself, so that nobody else changes the role.

    The card proves nothing about who made it: that is what comparing fingerprints by phone is for.
    """

    public: PublicIdentity
    coordinator: bool
    signature: bytes

    @classmethod
    def make(cls, identity: Identity, *, coordinator: bool) -> Self:
        """The card of a party of this role."""
        signature = identity.sign(bytes((coordinator,)) + identity.public.to_bytes(), b"identity card")
        return cls(identity.public, coordinator, signature)

    @property
    def role(self) -> str:
        """The role in a word."""
        return "coordinator" if self.coordinator else "hospital"

    def to_text(self) -> str:
        """Name, role and fingerprint to read, then all of it in base64."""
        data = bytes((_VERSION, self.coordinator)) + self.signature + self.public.to_bytes()
        lines = textwrap.wrap(base64.b64encode(data).decode(), 76)
        head = [f"name: {self.public.name}", f"role: {self.role}", f"fingerprint: {self.public.fingerprint}"]
        return "\n".join(["securepfl identity", *head, "-----BEGIN-----", *lines, "-----END-----", ""])

    @classmethod
    def from_text(cls, data: bytes) -> Self:
        """Read a card and check its signature. Raises MessageError for anything that `to_text` does not give."""
        if len(data) > MAX_CARD_BYTES:
            raise MessageError(f"identity of more than {MAX_CARD_BYTES} bytes; copy the file again")
        try:
            text = data.decode().replace("\r\n", "\n").strip() + "\n"
            lines = text.splitlines()
            raw = base64.b64decode("".join(lines[lines.index("-----BEGIN-----") + 1 : -1]), validate=True)
        except (ValueError, binascii.Error):
            raise MessageError("not an identity file, or a truncated one; copy the file again") from None
        if raw[:1] != bytes((_VERSION,)) or raw[1:2] not in (b"\0", b"\1"):
            raise MessageError("identity of another version; install the same securepfl")
        public = PublicIdentity.from_bytes(raw[2 + SIGNATURE_BYTES :])
        card = cls(public, raw[1] == 1, raw[2 : 2 + SIGNATURE_BYTES])
        public.verify(card.signature, raw[1:2] + public.to_bytes(), b"identity card")
        if not public.name.isprintable():
            raise MessageError("the identity's name has characters that do not print; refused")
        if card.to_text() != text:
            raise MessageError("the identity's readable lines differ from what is signed; copy the file again")
        return card


@dataclass(frozen=True)
class Roster:
    """Whom the steward approves: every hospital's and the coordinator's fingerprint by name.

    Raises ValueError where the steward is no hospital, the coordinator is missing or text is no fingerprint.
    """

    steward: str
    coordinator: str
    fingerprints: Mapping[str, str]

    def __post_init__(self) -> None:
        if self.coordinator not in self.fingerprints:
            raise ValueError(f"the roster lacks the coordinator {self.coordinator!r}")
        if self.steward not in self.hospitals:
            raise ValueError(f"the steward {self.steward!r} must be a hospital of the roster")
        for text in self.fingerprints.values():
            fingerprint_bytes(text)
        object.__setattr__(self, "fingerprints", MappingProxyType(dict(self.fingerprints)))

    @classmethod
    def of(cls, steward: str, coordinator: PublicIdentity, hospitals: Iterable[PublicIdentity]) -> Self:
        """The roster of these parties."""
        people = {public.name: public.fingerprint for public in hospitals}
        if coordinator.name in people:
            raise ValueError(f"the coordinator {coordinator.name!r} must not be a hospital")
        return cls(steward, coordinator.name, people | {coordinator.name: coordinator.fingerprint})

    @property
    def hospitals(self) -> tuple[str, ...]:
        """The hospitals' names, sorted."""
        return tuple(sorted(name for name in self.fingerprints if name != self.coordinator))

    def check(self, public: PublicIdentity) -> None:
        """Raise MessageError where `public` is not the identity that this roster approves under its name."""
        approved = self.fingerprints.get(public.name)
        if approved != public.fingerprint:
            known = "nobody of that name" if approved is None else approved
            raise MessageError(f"{public.name!r} has fingerprint {public.fingerprint}, the roster holds {known}")


Digest = bytes | Callable[[Roster], bytes]
"""A federation digest (32 bytes), or how it follows from the roster that a grant turns out to hold."""


class _Details(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a grant says besides the key; no secret."""

    schema: int = _SCHEMA
    steward: str
    coordinator: str
    fingerprints: dict[str, str]
    predecessor: bytes


@dataclass(frozen=True)
class Notice:
    """What the steward publishes of an epoch: the roster and the key's commitment, no secret.

    `predecessor` is the federation digest of the epoch before, or empty.
    """

    epoch: int
    federation_digest: bytes
    roster: Roster
    commitment: bytes
    predecessor: bytes = b""

    def __post_init__(self) -> None:
        if len(self.commitment) != 32 or len(self.predecessor) not in (0, 32):
            raise ValueError("commitment must be 32 bytes, predecessor 32 or none")

    def _statement(self) -> bytes:
        roster = self.roster
        details = _Details(
            steward=roster.steward,
            coordinator=roster.coordinator,
            fingerprints=dict(roster.fingerprints),
            predecessor=self.predecessor,
        )
        return self.commitment + msgspec.msgpack.encode(details)

    @classmethod
    def _read(cls, place: _Place, statement: bytes, steward: PublicIdentity, expected: Digest) -> Self:
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
        place = _Place(Kind.ROSTER, self.epoch, self.federation_digest, steward.public.fingerprint, _EVERYONE)
        signed = place.to_bytes() + self._statement()
        return place.to_bytes() + steward.sign(signed, b"roster") + self._statement()

    @classmethod
    def open(cls, data: bytes, steward: PublicIdentity, federation_digest: Digest, *, oldest: int = 0) -> Self:
        """Check and read what `sign` gives. Raises MessageError for anything else, or an epoch before `oldest`."""
        place = _Place.read(data, Kind.ROSTER, steward, _EVERYONE, MAX_GRANT_BYTES)
        _check_epoch(place, oldest)
        signature, statement = _split(data[_LAYOUT.size :], SIGNATURE_BYTES)
        steward.verify(signature, place.to_bytes() + statement, b"roster")
        return cls._read(place, statement, steward, federation_digest)


@dataclass(frozen=True)
class Grant:
    """What the steward gives a hospital: the federation key, and the roster that it belongs to.

    So a hospital checks one fingerprint out of band, the steward's. `predecessor` is the federation digest of the
    epoch before (32 bytes), or empty.
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
        place = _Place(Kind.GRANT, self.key.epoch, federation_digest, sender, recipient.fingerprint)
        statement = self.notice(federation_digest)._statement()
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
        place = _Place.read(data, Kind.GRANT, steward, recipient.public.fingerprint, MAX_GRANT_BYTES)
        _check_epoch(place, oldest)
        opened = Secret(recipient.open(data[_LAYOUT.size :], info=place.to_bytes()))
        signature, rest = _split(opened, SIGNATURE_BYTES)
        length, rest = _split(rest, _DETAILS_SIZE.size)
        statement, secret = _split(rest, _DETAILS_SIZE.unpack(length)[0])
        # The signature covers the commitment, and the commitment the key: nothing is parsed before both hold.
        steward.verify(signature, place.to_bytes() + statement, b"grant")
        if not hmac.compare_digest(key_commitment(secret), statement[:32]):
            raise MessageError("the federation key does not match its commitment; ask the steward to seal it again")
        notice = Notice._read(place, statement, steward, federation_digest)
        key = FederationKey.from_bytes(secret)
        if key.epoch != place.epoch:
            raise MessageError(f"key of epoch {key.epoch} in a grant of epoch {place.epoch}; refused")
        notice.roster.check(recipient.public)
        return cls(key, notice.roster, notice.predecessor)


def makes_pair(one: str, other: str) -> bool:
    """Whether `one` makes the pair's secret: the smaller name does, in roster order."""
    return one < other


def seal_pair(
    secret: bytes, sender: Identity, receiver: PublicIdentity, *, federation_digest: bytes, epoch: int
) -> bytes:
    """Seal a pair's secret (32 bytes) to the other hospital, signed: PAIR_BYTES long.

    Raises ValueError where the other one makes it or a length is wrong; MessageError for unusable keys.
    """
    if not makes_pair(sender.name, receiver.name) or len(secret) != KEY_BYTES:
        raise ValueError(f"{sender.name!r} does not make the pair with {receiver.name!r}, or not {KEY_BYTES} bytes")
    head = _Place(Kind.PAIR, epoch, federation_digest, sender.public.fingerprint, receiver.fingerprint).to_bytes()
    signature = sender.sign(head + hashlib.sha256(secret).digest(), b"pair secret")
    return head + receiver.seal(Secret(signature + secret), info=head)


def open_pair(
    data: bytes, receiver: Identity, sender: PublicIdentity, *, federation_digest: bytes, epoch: int
) -> Secret:
    """The secret that `sender` made for the pair with `receiver`. Raises MessageError for anything else."""
    place = _Place.read(data, Kind.PAIR, sender, receiver.public.fingerprint, PAIR_BYTES)
    if place.epoch != epoch or place.federation_digest != federation_digest:
        raise MessageError(f"pair secret of epoch {place.epoch} or of other settings, not of this epoch {epoch}")
    if not makes_pair(sender.name, receiver.name):
        raise MessageError(f"{receiver.name!r} makes this pair's secret, not {sender.name!r}; refused")
    opened = Secret(receiver.open(data[_LAYOUT.size :], info=place.to_bytes()))
    signature, secret = _split(opened, SIGNATURE_BYTES)
    sender.verify(signature, place.to_bytes() + hashlib.sha256(secret).digest(), b"pair secret")
    if len(secret) != KEY_BYTES:
        raise MessageError(f"pair secret of {len(secret)} bytes, not {KEY_BYTES}; refused")
    return Secret(secret)


def _split(data: bytes, size: int) -> tuple[bytes, bytes]:
    if len(data) < size:
        raise MessageError("truncated; copy the file again")
    return data[:size], data[size:]


def _check_epoch(place: _Place, oldest: int) -> None:
    if place.epoch < oldest:
        raise MessageError(f"epoch {place.epoch}, but epoch {oldest} is already held; an older one is refused")


def _check_steward(roster: Roster, steward: Identity) -> None:
    if steward.name != roster.steward or roster.fingerprints[steward.name] != steward.public.fingerprint:
        raise ValueError(f"{steward.name!r} is not the steward of this roster")
