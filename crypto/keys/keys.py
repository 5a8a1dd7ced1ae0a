"""The keys of an epoch: what all hospitals share and the coordinator never holds, and what one hospital holds in all.

A key steward at one hospital generates the federation key and grants it to each approved hospital (grant.py).
Identities are in identity.py, the file that keeps all this under a passphrase in keystore.py.
"""

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Self

from securepfl.crypto.keys.identity import Identity, PublicIdentity
from securepfl.crypto.keys.secret import Secret
from securepfl.crypto.sums.ring import RING_KEY_BYTES, generate_ring_key, stamp
from securepfl.crypto.sums.versions import without_stamp
from securepfl.errors import MessageError
from securepfl.randomness import KEY_BYTES, derive_key, fresh_key

__all__ = ["FederationKey", "Identity", "Keyring", "PublicIdentity", "key_commitment"]

_MAGIC: Final = b"SPFK"
_VERSION: Final = 3
_HEAD: Final = struct.Struct(">4sBIB")
_INFO: Final = b"securepfl federation key 3"


@dataclass(frozen=True, repr=False)
class FederationKey:
    """One epoch's secrets: a root key (32 bytes) from which the seeds derive, and two BFV secret keys.

    `he_key` encrypts sums, under every parameter set. `similarity_he_key` encrypts sketches; the two are drawn
    independently. Each is a ternary polynomial (crypto/sums/ring.py), and both are empty for `--plaintext`. Raises
    ValueError for keys of a wrong length.

    It travels (grants) and persists (key files): `to_bytes` and the labels of the derived keys may never change under
    one version number, since commitments and whole runs are bound to them.

    >>> key = FederationKey.generate(encrypted=False)
    >>> key.encrypted, len(key.tag_key), FederationKey.from_bytes(key.to_bytes()) == key
    (False, 32, True)
    >>> key.tag_key
    Secret(32 bytes)
    >>> len({key.tag_key, key.support_key, key.similarity_key, key.snapshot_key})  # one for each use
    4
    """

    epoch: int
    root_key: bytes
    he_key: bytes = b""
    similarity_he_key: bytes = b""

    def __post_init__(self) -> None:
        if not 0 <= self.epoch < 2**32:
            raise ValueError(f"epoch must be in [0, 2^32), not {self.epoch}")
        if len(self.root_key) != KEY_BYTES:
            raise ValueError(f"root_key must be {KEY_BYTES} bytes, not {len(self.root_key)}")
        lengths = len(self.he_key), len(self.similarity_he_key)
        if lengths not in ((0, 0), (RING_KEY_BYTES, RING_KEY_BYTES)):
            raise ValueError(f"he_key and similarity_he_key must be {RING_KEY_BYTES} bytes each or none, not {lengths}")
        for name in ("root_key", "he_key", "similarity_he_key"):
            object.__setattr__(self, name, Secret(getattr(self, name)))

    def __repr__(self) -> str:
        short = self.commitment.hex()[:16]
        return f"FederationKey(epoch={self.epoch}, encrypted={self.encrypted}, commitment={short})"

    @classmethod
    def generate(cls, *, encrypted: bool, epoch: int = 0, root_key: bytes | None = None) -> Self:
        """A fresh key; without HE keys unless `encrypted`.

        The HE keys always come from the OS. `root_key` (32 bytes) fixes what derives from it: for a seeded
        simulation only.
        """
        root = Secret(fresh_key() if root_key is None else root_key)
        return cls(epoch, root, *(Secret(generate_ring_key()) for _ in range(2 * encrypted)))

    @property
    def encrypted(self) -> bool:
        """Whether sums under this key are encrypted; False only for `--plaintext`."""
        return bool(self.he_key)

    @property
    def tag_key(self) -> bytes:
        """The key of the sums' tags, 32 bytes."""
        return self._derived("federation tag key")

    @property
    def support_key(self) -> bytes:
        """The key from which each round's support is drawn, 32 bytes."""
        return self._derived("federation support key")

    @property
    def similarity_key(self) -> bytes:
        """The key of similarity sketches, 32 bytes."""
        return self._derived("federation similarity key")

    @property
    def snapshot_key(self) -> bytes:
        """The key of snapshots for late and new hospitals, 32 bytes."""
        return self._derived("federation snapshot key")

    def _derived(self, label: str) -> bytes:
        return Secret(derive_key(self.root_key, label, self.epoch))

    @property
    def commitment(self) -> bytes:
        """SHA-256 over the whole key, 32 bytes: fixes it, shows nothing of it."""
        return key_commitment(self.to_bytes())

    def to_bytes(self) -> Secret:
        """SEAL's version stamp, magic, version, epoch, whether encrypted, then the keys in their order."""
        head = _HEAD.pack(_MAGIC, _VERSION, self.epoch, self.encrypted)
        return Secret(b"".join((stamp(), head, self.root_key, self.he_key, self.similarity_he_key)))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of `to_bytes`, for authenticated bytes. Raises MessageError for anything else."""
        body = Secret(without_stamp(data, stamp(), "federation key"))
        magic, version, epoch, encrypted = _HEAD.unpack_from(body) if len(body) >= _HEAD.size else (b"", 0, 0, 0)
        if magic != _MAGIC or version != _VERSION or encrypted > 1:
            raise MessageError("federation key of an unknown form; install the same securepfl as the steward")
        start = _HEAD.size + KEY_BYTES
        middle, expected = start + encrypted * RING_KEY_BYTES, start + encrypted * 2 * RING_KEY_BYTES
        if len(body) != expected:
            raise MessageError(f"federation key of {len(body)} bytes, not {expected}; ask the steward to seal it again")
        return cls(epoch, body[_HEAD.size : start], body[start:middle], body[middle:])


def key_commitment(key: bytes) -> bytes:
    """The commitment to a federation key in its byte form: what the steward signs. 32 bytes."""
    return hashlib.sha256(_INFO + key).digest()


@dataclass(frozen=True, repr=False)
class Keyring:
    """What a hospital holds in one epoch.

    `hospitals` are all public identities of the roster by name, this one's own included. `pair_secrets` are 32
    bytes by other hospital's name, known to those two alone, and this hospital's self secret under its own name;
    fewer while the ceremony is not complete, none where no masks are used. `ceremony` is the digest of the settings and
    roster that the keys were made for (Federation.ceremony_digest), empty where they are for any, in simulations.
    Raises ValueError where the parts do not belong together.

    >>> alder, birch, server = (Identity.generate(name) for name in ("alder", "birch", "server"))
    >>> hospitals = {"alder": alder.public, "birch": birch.public}
    >>> keyring = Keyring(alder, FederationKey.generate(encrypted=False), server.public, hospitals)
    >>> keyring.roster, keyring.missing_pairs
    (('alder', 'birch'), ('alder', 'birch'))
    """

    identity: Identity
    federation_key: FederationKey
    coordinator: PublicIdentity
    hospitals: Mapping[str, PublicIdentity]
    pair_secrets: Mapping[str, bytes] = field(default_factory=dict)
    ceremony: bytes = b""

    def __post_init__(self) -> None:
        if self.hospitals.get(self.identity.name) != self.identity.public:
            raise ValueError(f"the roster does not hold {self.identity.name!r} with these keys")
        if any(public.name != name for name, public in self.hospitals.items()):
            raise ValueError("the roster holds an identity under another name")
        if self.coordinator.name in self.hospitals:
            raise ValueError(f"the coordinator {self.coordinator.name!r} must not be a hospital")
        check_pair_secrets(self.pair_secrets, self.hospitals)
        object.__setattr__(self, "hospitals", MappingProxyType(dict(self.hospitals)))
        hidden = {name: Secret(secret) for name, secret in self.pair_secrets.items()}
        object.__setattr__(self, "pair_secrets", MappingProxyType(hidden))

    def __repr__(self) -> str:
        held = f"hospitals={sorted(self.hospitals)}, pair_secrets={sorted(self.pair_secrets)}"
        return f"Keyring({self.identity.name!r}, {self.federation_key!r}, {held})"

    @property
    def roster(self) -> tuple[str, ...]:
        """The hospitals' names in roster order (sorted)."""
        return tuple(sorted(self.hospitals))

    @property
    def missing_pairs(self) -> tuple[str, ...]:
        """The hospitals with whom no pair secret is held yet, sorted; this one's own name for the self secret."""
        return tuple(name for name in self.roster if name not in self.pair_secrets)


def check_pair_secrets(secrets: Mapping[str, bytes], hospitals: Mapping[str, PublicIdentity]) -> None:
    """Raise ValueError for a pair secret of an unknown hospital or of a wrong length."""
    for name, secret in secrets.items():
        if name not in hospitals or len(secret) != KEY_BYTES:
            raise ValueError(f"pair secret with {name!r}: unknown hospital, or not {KEY_BYTES} bytes")
