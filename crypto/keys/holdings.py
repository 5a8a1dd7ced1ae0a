"""All that a party holds of a federation, and the form in which its file keeps it (keystore.py encrypts that)."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, Self

import msgspec

from securepfl.crypto.keys.identity import Identity, PublicIdentity
from securepfl.crypto.keys.keys import FederationKey, Keyring, check_pair_secrets
from securepfl.crypto.keys.secret import Secret
from securepfl.errors import MessageError, StorageError

_SCHEMA: Final = 1
_EPOCHS_KEPT: Final = 2


@dataclass(frozen=True, repr=False)
class Epoch:
    """What a party holds of one epoch. `key` and `pair_secrets` are a hospital's; a coordinator has neither.

    `federation_digest` and `predecessor` (empty for the first epoch) are the ceremony's. Pair secrets are as in
    Keyring. Raises ValueError where the parts do not belong together. See `Holdings`.
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

    >>> alder, server = Identity.generate("alder"), Identity.generate("server")
    >>> key = FederationKey.generate(encrypted=False)
    >>> people = {"alder": alder.public}
    >>> epoch = Epoch(0, bytes(32), b"", "alder", server.public, people, key.commitment, key)
    >>> held = Holdings(alder, is_coordinator=False).with_epoch(epoch)
    >>> held, Holdings.from_bytes(held.to_bytes()).keyring().federation_key == key
    (Holdings('alder', epochs=[0]), True)
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
        stored = StoredHoldings(
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
            stored = msgspec.msgpack.decode(data, type=StoredHoldings)
            if stored.schema != _SCHEMA:
                raise StorageError(f"schema {stored.schema}, but {_SCHEMA} is read here; install the newer securepfl")
            identity = Identity.from_private_bytes(stored.name, Secret(stored.private))
            epochs = tuple(read_epoch(epoch) for epoch in stored.epochs)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise StorageError("malformed private keys; restore the file from a copy") from None
        except MessageError as error:
            raise StorageError(f"{error}") from None
        return cls(identity, stored.coordinator, epochs, tuple(stored.removed))


class StoredEpoch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An epoch in the key file. What may never change under one schema: names and types; the keys are each theirs."""

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
        return "StoredEpoch(...)"


class StoredHoldings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The key file's content in MessagePack. Names and types may change only with another `schema`, and whoever changes
    them goes on reading the files of today: a lost key file is a hospital that has to be enrolled again.
    """

    schema: int = _SCHEMA
    name: str
    private: bytes
    coordinator: bool
    epochs: list[StoredEpoch]
    removed: list[str]

    def __repr__(self) -> str:
        return "StoredHoldings(...)"


def _stored_epoch(epoch: Epoch) -> StoredEpoch:
    plain: dict[str, Any] = {"pair_secrets": dict(epoch.pair_secrets)}
    for name in ("number", "federation_digest", "predecessor", "steward", "commitment"):
        plain[name] = getattr(epoch, name)
    return StoredEpoch(
        coordinator=epoch.coordinator.to_bytes(),
        hospitals=[public.to_bytes() for public in epoch.hospitals.values()],
        key=b"" if epoch.key is None else epoch.key.to_bytes(),
        **plain,
    )


def read_epoch(stored: StoredEpoch) -> Epoch:
    """An epoch as it was stored. Raises ValueError or MessageError for parts that do not belong together."""
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
