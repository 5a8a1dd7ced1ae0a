"""The federation's key: what all hospitals share and the coordinator never holds.

A key steward at one hospital generates it and seals it to each approved hospital, signed over recipient,
epoch, federation digest and key commitment. Identities are in identity.py.
"""

import hashlib
import hmac
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Self

from securepfl.crypto import seal
from securepfl.crypto.aggregation import PlainCipher, SealCipher, SumCipher
from securepfl.crypto.identity import SIGNATURE_BYTES, Identity, PublicIdentity, fingerprint_bytes
from securepfl.crypto.parameters import BY_NAME, SIMILARITY, Layout, ParameterSet
from securepfl.crypto.similarity import PlainSimilarity, SealSimilarity, SimilarityCipher
from securepfl.crypto.versions import without_stamp
from securepfl.errors import MessageError
from securepfl.randomness import KEY_BYTES, derive_key, fresh_key

__all__ = ["FederationKey", "Identity", "Keyring", "PublicIdentity"]

_MAGIC: Final = b"SPFK"
_VERSION: Final = 1
_HEAD: Final = struct.Struct(">4sBIB")
_INFO: Final = b"securepfl federation key 1"
_CONTEXT: Final = b"federation key"
_ORDER: Final = tuple(BY_NAME)


@dataclass(frozen=True, repr=False)
class FederationKey:
    """One epoch's secrets: HE secret keys by parameter-set name, and the keys of tags and of the support.

    `public_key` is the similarity set's public key, which the coordinator may hold; empty without that set.
    With no HE secret keys at all (`--plaintext`) the ciphers are the plain ones.
    Raises ValueError for keys of a wrong length.
    """

    epoch: int
    tag_key: bytes
    support_key: bytes
    he_keys: Mapping[str, bytes]
    public_key: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.epoch < 2**32:
            raise ValueError(f"epoch must be in [0, 2^32), not {self.epoch}")
        if len(self.tag_key) != KEY_BYTES or len(self.support_key) != KEY_BYTES:
            raise ValueError(f"tag_key and support_key must be {KEY_BYTES} bytes each")
        for name, secret in self.he_keys.items():
            if name not in BY_NAME or len(secret) != seal.secret_key_bytes(BY_NAME[name]):
                raise ValueError(f"he_keys: unknown parameter set or wrong length for {name!r}")
        expected = seal.public_key_bytes(SIMILARITY) if SIMILARITY.name in self.he_keys else 0
        if len(self.public_key) != expected:
            raise ValueError(f"public_key must be {expected} bytes, not {len(self.public_key)}")
        object.__setattr__(self, "he_keys", MappingProxyType(dict(self.he_keys)))

    def __repr__(self) -> str:
        short = self.commitment.hex()[:16]
        return f"FederationKey(epoch={self.epoch}, sets={sorted(self.he_keys)}, commitment={short})"

    @classmethod
    def generate(cls, parameter_sets: Iterable[ParameterSet], *, epoch: int = 0, root_key: bytes | None = None) -> Self:
        """A fresh key for these parameter sets; none of them for `--plaintext`.

        HE secrets always come from the OS. `root_key` (32 bytes) fixes tag and support keys: for a seeded
        simulation only. Raises ValueError for an unknown parameter set.
        """
        root = fresh_key() if root_key is None else root_key
        he_keys = {p.name: seal.generate_secret_key(p) for p in sorted(set(parameter_sets), key=lambda p: p.name)}
        own = he_keys.get(SIMILARITY.name)
        return cls(
            epoch=epoch,
            tag_key=derive_key(root, "federation tag key", epoch),
            support_key=derive_key(root, "federation support key", epoch),
            he_keys=he_keys,
            public_key=b"" if own is None else seal.make_public_key(SIMILARITY, own),
        )

    def sum_cipher(self, layout: Layout) -> SumCipher:
        """What encrypts and decrypts sums of this layout. Raises ValueError where its set has no key."""
        if not self.he_keys:
            return PlainCipher()
        if layout.parameters.name not in self.he_keys:
            raise ValueError(f"no key for parameter set {layout.parameters.name!r} among {sorted(self.he_keys)}")
        return SealCipher(self.he_keys[layout.parameters.name], layout.parameters)

    def similarity_cipher(self) -> SimilarityCipher:
        """What encrypts sketches and decrypts products. Raises ValueError where the similarity set has no
        key.
        """
        if not self.he_keys:
            return PlainSimilarity()
        if SIMILARITY.name not in self.he_keys:
            raise ValueError(f"no key for parameter set {SIMILARITY.name!r} among {sorted(self.he_keys)}")
        return SealSimilarity(self.he_keys[SIMILARITY.name])

    @property
    def commitment(self) -> bytes:
        """SHA-256 over the whole key: fixes it, shows nothing of it."""
        return hashlib.sha256(_INFO + self._to_bytes()).digest()

    def _to_bytes(self) -> bytes:
        present = [name for name in _ORDER if name in self.he_keys]
        mask = sum(1 << _ORDER.index(name) for name in present)
        head = _HEAD.pack(_MAGIC, _VERSION, self.epoch, mask)
        secrets = b"".join(self.he_keys[name] for name in present)
        return seal.stamp() + head + self.tag_key + self.support_key + secrets + self.public_key

    @classmethod
    def _from_bytes(cls, data: bytes) -> Self:
        body = without_stamp(data, seal.stamp(), "federation key")
        magic, version, epoch, mask = _HEAD.unpack_from(body) if len(body) >= _HEAD.size else (b"", 0, 0, 0)
        if magic != _MAGIC or version != _VERSION or mask >> len(_ORDER):
            raise MessageError("federation key of an unknown form; install the same securepfl as the steward")
        start = _HEAD.size + 2 * KEY_BYTES
        tag_key, support_key = body[_HEAD.size : _HEAD.size + KEY_BYTES], body[_HEAD.size + KEY_BYTES : start]
        he_keys = {}
        for index, name in enumerate(_ORDER):
            if mask >> index & 1:
                size = seal.secret_key_bytes(BY_NAME[name])
                he_keys[name] = body[start : start + size]
                start += size
        try:
            return cls(epoch, tag_key, support_key, he_keys, body[start:])
        except ValueError:
            raise MessageError("federation key of a wrong length; ask the steward to seal it again") from None

    def seal_for(self, recipient: PublicIdentity, steward: Identity, federation_digest: bytes) -> bytes:
        """Seal this key to `recipient`, signed by `steward`.

        Raises ValueError for a digest that is not 32 bytes, MessageError where the recipient's keys are
        unusable.
        """
        statement = _statement(recipient, steward.public, federation_digest)
        commitment = self.commitment
        signature = steward.sign(statement + self.epoch.to_bytes(4, "big") + commitment, _CONTEXT)
        return recipient.seal(signature + commitment + self._to_bytes(), info=_INFO + statement)

    @classmethod
    def open(cls, data: bytes, recipient: Identity, steward: PublicIdentity, federation_digest: bytes) -> Self:
        """The key that `steward` sealed to `recipient` for this federation; compare fingerprints out of
        band first.

        Raises MessageError for anything else.
        """
        statement = _statement(recipient.public, steward, federation_digest)
        opened = recipient.open(data, info=_INFO + statement)
        signature, rest = opened[:SIGNATURE_BYTES], opened[SIGNATURE_BYTES:]
        commitment, secret = rest[:32], rest[32:]
        epoch = secret[len(seal.stamp()) + 5 :][:4]
        # The signature covers the commitment, and the commitment the secret: nothing is parsed before both
        # hold.
        steward.verify(signature, statement + epoch + commitment, _CONTEXT)
        if not hmac.compare_digest(hashlib.sha256(_INFO + secret).digest(), commitment):
            raise MessageError("federation key does not match its commitment; ask the steward to seal it again")
        return cls._from_bytes(secret)


def _statement(recipient: PublicIdentity, steward: PublicIdentity, federation_digest: bytes) -> bytes:
    if len(federation_digest) != 32:
        raise ValueError(f"federation_digest must be 32 bytes, not {len(federation_digest)}")
    return federation_digest + fingerprint_bytes(recipient.fingerprint) + fingerprint_bytes(steward.fingerprint)


@dataclass(frozen=True)
class Keyring:
    """What a hospital holds: its own identity, the key that only hospitals share, the coordinator's public keys."""

    identity: Identity
    federation_key: FederationKey
    coordinator: PublicIdentity
