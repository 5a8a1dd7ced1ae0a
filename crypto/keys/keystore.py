"""A party's secrets at rest: one file under a passphrase.

scrypt (RFC 7914, n = 2^17, r = 8, p = 1: 128 MiB, most of a second) makes an AES-256 key of the passphrase;
AES-256-GCM encrypts, with the whole header as associated data. The header (36 bytes) is magic, version, log2 n, r,
p, salt, nonce; parameters out of bounds are refused before scrypt runs. This file knows bytes only: who writes them
is runtime/keyfolder.py.
"""

import secrets
import struct
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, Self

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from securepfl.crypto.keys.identity import Identity, PublicIdentity
from securepfl.crypto.keys.keys import FederationKey, Keyring, check_pair_secrets
from securepfl.crypto.keys.secret import Secret
from securepfl.errors import ConfigError, MessageError, StorageError

LOG_N: Final = 17
"""scrypt's cost for new files: n = 2^17."""

MIN_PASSPHRASE: Final = 12
"""Characters of a new passphrase."""

_MAGIC: Final = b"SPKS"
_VERSION: Final = 1
_HEADER: Final = struct.Struct(">4sBBBB16s12s")
# At most 2^20, which is 1 GiB of memory.
_LOG_N_BOUNDS: Final = range(14, 21)
_R: Final = 8
_P: Final = 1
_SCHEMA: Final = 1
_EPOCHS_KEPT: Final = 2


def passphrase_bytes(text: str) -> Secret:
    """A passphrase in UTF-8 after NFC (RFC 8265), so that each keyboard gives the same bytes.

    Raises ConfigError for what is no valid text.
    """
    encoded = _encoded(text)
    del text
    if encoded is None:
        raise ConfigError("the passphrase is not valid text; type it on a terminal that is set to UTF-8")
    return encoded


def _encoded(text: str) -> Secret | None:
    # No error leaves here: a UnicodeEncodeError would carry the passphrase.
    try:
        return Secret(unicodedata.normalize("NFC", text).encode())
    except UnicodeEncodeError:
        return None


def check_new_passphrase(passphrase: bytes) -> None:
    """Raise ConfigError for a passphrase that is too short for a new file."""
    if len(passphrase.decode()) < MIN_PASSPHRASE:
        raise ConfigError(f"the passphrase needs at least {MIN_PASSPHRASE} characters: try five words drawn at random")


@dataclass(frozen=True, repr=False)
class StoreKey:
    """The key of one file, derived once: each writing takes a fresh nonce, and only a new file a new salt."""

    log_n: int
    salt: bytes
    key: Secret

    @classmethod
    def create(cls, passphrase: bytes) -> Self:
        """For a new file. Raises ConfigError for a short passphrase."""
        check_new_passphrase(passphrase)
        salt = secrets.token_bytes(16)
        return cls(LOG_N, salt, _stretch(passphrase, salt, LOG_N))

    @classmethod
    def of(cls, data: bytes, passphrase: bytes) -> Self:
        """For a file as it stands. Raises StorageError for a header out of bounds, before scrypt runs."""
        log_n, salt, _ = _read_header(data)
        return cls(log_n, salt, _stretch(passphrase, salt, log_n))

    def seal(self, plaintext: bytes) -> bytes:
        """The whole file."""
        nonce = secrets.token_bytes(12)
        header = _HEADER.pack(_MAGIC, _VERSION, self.log_n, _R, _P, self.salt, nonce)
        return header + AESGCM(self.key).encrypt(nonce, plaintext, header)

    def open(self, data: bytes) -> Secret:
        """What `seal` was given. Raises StorageError where passphrase or file are not the ones."""
        _, _, nonce = _read_header(data)
        try:
            return Secret(AESGCM(self.key).decrypt(nonce, data[_HEADER.size :], data[: _HEADER.size]))
        except InvalidTag:
            raise StorageError("wrong passphrase, or the file was altered; try again, or restore it") from None


def _read_header(data: bytes) -> tuple[int, bytes, bytes]:
    """(log2 n, salt, nonce)."""
    if len(data) < _HEADER.size + 16 or not data.startswith(_MAGIC):
        raise StorageError("not a file of private keys, or a truncated one; restore it from a copy")
    _, version, log_n, r, p, salt, nonce = _HEADER.unpack_from(data)
    if version != _VERSION:
        raise StorageError(f"version {version}, but {_VERSION} is read here; install the securepfl that wrote it")
    if log_n not in _LOG_N_BOUNDS or (r, p) != (_R, _P):
        raise StorageError(f"scrypt parameters n = 2^{log_n}, r = {r}, p = {p} are out of bounds; restore the file")
    return log_n, salt, nonce


def _stretch(passphrase: bytes, salt: bytes, log_n: int) -> Secret:
    return Secret(Scrypt(salt=salt, length=32, n=2**log_n, r=_R, p=_P).derive(passphrase))


@dataclass(frozen=True, repr=False)
class Epoch:
    """What a party holds of one epoch. `key` and `pair_secrets` are a hospital's; a coordinator has neither.

    `federation_digest` and `predecessor` (empty for the first epoch) are the ceremony's. Pair secrets are as in
    Keyring. Raises ValueError where the parts do not belong together.
    """

    number: int
    federation_digest: bytes
    predecessor: bytes
    steward: str
    coordinator: PublicIdentity
    hospitals: Mapping[str, PublicIdentity]
    commitment: bytes
    key: FederationKey | None
    pair_secrets: Mapping[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.steward not in self.hospitals or self.coordinator.name in self.hospitals:
            raise ValueError("the steward must be a hospital of the roster, the coordinator none")
        if self.key is not None and (self.key.epoch, self.key.commitment) != (self.number, self.commitment):
            raise ValueError("the federation key is not the one of this epoch")
        check_pair_secrets(self.pair_secrets, self.hospitals)
        hidden = {name: Secret(secret) for name, secret in self.pair_secrets.items()}
        object.__setattr__(self, "hospitals", MappingProxyType(dict(self.hospitals)))
        object.__setattr__(self, "pair_secrets", MappingProxyType(hidden))

    def __repr__(self) -> str:
        return f"Epoch({self.number}, steward={self.steward!r}, hospitals={sorted(self.hospitals)})"

    @property
    def people(self) -> Mapping[str, PublicIdentity]:
        """Hospitals and coordinator by name."""
        return {**self.hospitals, self.coordinator.name: self.coordinator}

    def with_pairs(self, pairs: Mapping[str, bytes]) -> "Epoch":
        """A copy with more pair secrets. Raises ValueError where one that is held would change."""
        if any(name in self.pair_secrets for name in pairs):
            raise ValueError("a pair secret that is held never changes within an epoch")
        return replace(self, pair_secrets={**self.pair_secrets, **pairs})


@dataclass(frozen=True, repr=False)
class Holdings:
    """All that a party's file holds: its identity and role, and the last two epochs, the newest last.

    The epoch before is kept because the round in progress at a rotation is still finished under it; older keys
    open nothing that is still needed, and could only decrypt what somebody recorded. `removed` are fingerprints
    that a steward left out of a later epoch.
    """

    identity: Identity
    is_coordinator: bool
    epochs: tuple[Epoch, ...] = ()
    removed: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Holdings({self.identity.name!r}, epochs={[epoch.number for epoch in self.epochs]})"

    @property
    def latest(self) -> Epoch | None:
        """The newest epoch, or None before enrolment."""
        return self.epochs[-1] if self.epochs else None

    def with_epoch(self, epoch: Epoch) -> Self:
        """A copy that holds `epoch` in place of one of the same number, or after the others.

        Raises ValueError for one that is older than the newest.
        """
        if self.latest is not None and epoch.number < self.latest.number:
            raise ValueError(f"epoch {epoch.number} is older than epoch {self.latest.number}")
        others = [held for held in self.epochs if held.number != epoch.number]
        return replace(self, epochs=(*others, epoch)[-_EPOCHS_KEPT:])

    def keyring(self, number: int | None = None) -> Keyring:
        """A hospital's keyring of an epoch (default: the newest). Raises StorageError where it is not held."""
        epoch = self.epoch(number)
        if epoch.key is None:
            raise StorageError("keys of a coordinator, who holds no federation key; name a hospital's folder")
        return Keyring(
            self.identity,
            epoch.key,
            epoch.coordinator,
            epoch.hospitals,
            epoch.pair_secrets,
            ceremony=epoch.federation_digest,
        )

    def epoch(self, number: int | None = None) -> Epoch:
        """One epoch (default: the newest). Raises StorageError where it is not held."""
        if not self.epochs:
            raise StorageError(f"{self.identity.name!r} is not enrolled yet; run `securepfl keys enrol`")
        for epoch in self.epochs:
            if epoch.number == (self.epochs[-1].number if number is None else number):
                return epoch
        held = ", ".join(str(epoch.number) for epoch in self.epochs)
        raise StorageError(f"epoch {number} is not held, only {held}; older keys are deleted at rotation")

    def to_bytes(self) -> Secret:
        """MessagePack, for `StoreKey.seal`."""
        stored = _Stored(
            name=self.identity.name,
            private=self.identity.to_private_bytes(),
            coordinator=self.is_coordinator,
            epochs=[_stored_epoch(epoch) for epoch in self.epochs],
            removed=list(self.removed),
        )
        return Secret(msgspec.msgpack.encode(stored, enc_hook=bytes))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of `to_bytes`, for authenticated bytes. Raises StorageError for another version or form."""
        try:
            stored = msgspec.msgpack.decode(data, type=_Stored)
            if stored.schema != _SCHEMA:
                raise StorageError(f"schema {stored.schema}, but {_SCHEMA} is read here; install the newer securepfl")
            identity = Identity.from_private_bytes(stored.name, Secret(stored.private))
            epochs = tuple(_read_epoch(epoch) for epoch in stored.epochs)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise StorageError("malformed private keys; restore the file from a copy") from None
        except MessageError as error:
            raise StorageError(f"{error}") from None
        return cls(identity, stored.coordinator, epochs, tuple(stored.removed))


class _StoredEpoch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    number: int
    federation_digest: bytes
    predecessor: bytes
    steward: str
    coordinator: bytes
    hospitals: list[bytes]
    commitment: bytes
    key: bytes
    pair_secrets: dict[str, bytes]

    def __repr__(self) -> str:
        return "_StoredEpoch(...)"


class _Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    schema: int = _SCHEMA
    name: str
    private: bytes
    coordinator: bool
    epochs: list[_StoredEpoch]
    removed: list[str]

    def __repr__(self) -> str:
        return "_Stored(...)"


def _stored_epoch(epoch: Epoch) -> _StoredEpoch:
    plain: dict[str, Any] = {"pair_secrets": dict(epoch.pair_secrets)}
    for name in ("number", "federation_digest", "predecessor", "steward", "commitment"):
        plain[name] = getattr(epoch, name)
    return _StoredEpoch(
        coordinator=epoch.coordinator.to_bytes(),
        hospitals=[public.to_bytes() for public in epoch.hospitals.values()],
        key=b"" if epoch.key is None else epoch.key.to_bytes(),
        **plain,
    )


def _read_epoch(stored: _StoredEpoch) -> Epoch:
    hospitals = [PublicIdentity.from_bytes(data) for data in stored.hospitals]
    return Epoch(
        number=stored.number,
        federation_digest=stored.federation_digest,
        predecessor=stored.predecessor,
        steward=stored.steward,
        coordinator=PublicIdentity.from_bytes(stored.coordinator),
        hospitals={public.name: public for public in hospitals},
        commitment=stored.commitment,
        key=FederationKey.from_bytes(Secret(stored.key)) if stored.key else None,
        pair_secrets={name: Secret(secret) for name, secret in stored.pair_secrets.items()},
    )
