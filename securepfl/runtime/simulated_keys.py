"""The keys of a simulation: every party's, in one place, so that they protect nobody from whoever runs it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import msgspec

from securepfl.crypto.keys.identity import Identity
from securepfl.crypto.keys.keys import FederationKey, Keyring
from securepfl.crypto.keys.secret import Secret
from securepfl.errors import MessageError, StorageError
from securepfl.randomness import KEY_BYTES, derive_key, fresh_key
from securepfl.settings.federation import Federation

_SCHEMA: Final = 2
_MARK: Final = "keys of a simulation: all parties' in one file; never to be used between real hospitals"


@dataclass(frozen=True, repr=False)
class SimulatedKeys:
    """Identities of all hospitals and the coordinator, the federation's key, and `pairs`: the root (32 bytes) of each
    pair's secret and of each hospital's own, empty where updates are not masked.

    >>> from securepfl.settings.tables import SiteSettings
    >>> sites = dict.fromkeys(("north", "south", "west"), SiteSettings())
    >>> keys = SimulatedKeys.generate(Federation(sites=sites).changed("encryption", scheme="none"))
    >>> keys, SimulatedKeys.from_bytes(keys.to_bytes()).keyrings()["north"].roster
    (SimulatedKeys(3 hospitals), ('north', 'south', 'west'))
    """

    hospitals: Mapping[str, Identity]
    coordinator: Identity
    key: FederationKey
    pairs: bytes

    def __repr__(self) -> str:
        return f"SimulatedKeys({len(self.hospitals)} hospitals)"

    @classmethod
    def generate(cls, federation: Federation, root_key: bytes | None = None) -> Self:
        """For a bound federation. `root_key` fixes the seeds that derive from it, for a seeded simulation; encryption
        keys are always the OS's.
        """
        identities = {name: Identity.generate(name) for name in federation.roster}
        key = FederationKey.generate(encrypted=federation.scheme.encrypted, root_key=root_key)
        pairs = Secret(fresh_key() if federation.masked else b"")
        return cls(identities, Identity.generate("coordinator"), key, pairs)

    def keyrings(self) -> dict[str, Keyring]:
        """What each hospital holds, by name."""
        public = {name: identity.public for name, identity in self.hospitals.items()}
        coordinator = self.coordinator.public
        return {
            name: Keyring(identity, self.key, coordinator, public, pair_secrets(self.pairs, name, public))
            for name, identity in self.hospitals.items()
        }

    def to_bytes(self) -> Secret:
        """MessagePack, marked as a simulation's. For a file that its owner alone may read."""
        names = sorted(self.hospitals)
        stored = _Stored(
            schema=_SCHEMA,
            mark=_MARK,
            coordinator=self.coordinator.to_private_bytes(),
            hospitals={name: self.hospitals[name].to_private_bytes() for name in names},
            key=self.key.to_bytes(),
            pairs=self.pairs,
        )
        return Secret(msgspec.msgpack.encode(stored, enc_hook=bytes))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of `to_bytes`. Raises StorageError for anything else, also for a real party's keys."""
        try:
            stored = msgspec.msgpack.decode(data, type=_Stored)
            if (stored.schema, stored.mark) != (_SCHEMA, _MARK):
                raise StorageError("not the keys of a simulation; restore the file from a copy")
            names = sorted(stored.hospitals)
            if len(stored.pairs) not in (0, KEY_BYTES):
                raise StorageError("malformed keys of a simulation; restore the file from a copy")
            return cls(
                {name: Identity.from_private_bytes(name, Secret(stored.hospitals[name])) for name in names},
                Identity.from_private_bytes("coordinator", Secret(stored.coordinator)),
                FederationKey.from_bytes(Secret(stored.key)),
                Secret(stored.pairs),
            )
        except (msgspec.MsgspecError, ValueError, RecursionError, MessageError):
            raise StorageError("malformed keys of a simulation; restore the file from a copy") from None


def pair_secrets(root: bytes, name: str, hospitals: Iterable[str]) -> dict[str, bytes]:
    """The secrets (32 bytes) that hospital `name` of a simulation shares with each of `hospitals`, its own under its
    name; none without a root.

    >>> one, other = (pair_secrets(bytes(32), name, ("north", "south")) for name in ("north", "south"))
    >>> one["south"] == other["north"], one["north"] == other["south"], pair_secrets(b"", "north", ("south",))
    (True, False, {})
    """
    if not root:
        return {}
    return {other: derive_key(root, "pair secret of a simulation", *sorted((name, other))) for other in hospitals}


class _Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    schema: int
    mark: str
    coordinator: bytes
    hospitals: dict[str, bytes]
    key: bytes
    pairs: bytes

    def __repr__(self) -> Any:
        return "_Stored(...)"
