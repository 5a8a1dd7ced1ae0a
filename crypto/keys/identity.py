"""Who a party is: signing and sealing keys, each a classical and a post-quantum one together.

Signatures are Ed25519 and ML-DSA-65 (FIPS 204) side by side; both must verify. Sealing is HPKE (RFC 9180)
with the hybrid KEM ML-KEM-768 + X25519. All key material comes from the OS.
"""

import base64
import hashlib
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final, Self

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from securepfl.crypto.keys.secret import Secret
from securepfl.errors import MessageError

SIGNATURE_BYTES: Final = 64 + 3309
"""Ed25519, then ML-DSA-65."""

SEAL_BYTES: Final = 1088 + 32 + 16
"""What sealing adds: the ML-KEM-768 and X25519 encapsulations and the AEAD tag."""

FINGERPRINT_BYTES: Final = 20
_FINGERPRINT: Final = re.compile(r"([A-Z2-7]{4}-){7}[A-Z2-7]{4}")
_MAX_NAME_BYTES: Final = 255
_LENGTHS: Final = (32, 1952, 1184, 32)
_PRIVATE_LENGTHS: Final = (32, 32, 64, 32)
"""Ed25519 (RFC 8032), the seeds of ML-DSA-65 (FIPS 204) and ML-KEM-768 (FIPS 203: d and z), X25519 (RFC 7748)."""

_DOMAIN: Final = b"securepfl signature 1"
_SUITE: Final = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


def _framed(data: bytes, context: bytes) -> bytes:
    return b"".join((_DOMAIN, len(context).to_bytes(4, "big"), context, data))


def _check_name(name: str) -> None:
    if not 1 <= len(name.encode()) <= _MAX_NAME_BYTES:
        raise ValueError(f"name must be 1 to {_MAX_NAME_BYTES} bytes, not {name!r}")


# A message's header is read and written several times, always with the same few parties' fingerprints.
@lru_cache(maxsize=4096)
def fingerprint_text(digest: bytes) -> str:
    """20 bytes as 8 groups of 4 letters and digits, to be compared by phone."""
    letters = base64.b32encode(digest).decode()
    return "-".join(letters[start : start + 4] for start in range(0, len(letters), 4))


@lru_cache(maxsize=4096)
def fingerprint_bytes(text: str) -> bytes:
    """The 20 bytes of a fingerprint. Raises ValueError for text that is none.

    >>> fingerprint_text(fingerprint_bytes("AAAA-BBBB-CCCC-DDDD-EEEE-FFFF-2222-7777"))
    'AAAA-BBBB-CCCC-DDDD-EEEE-FFFF-2222-7777'
    """
    if not _FINGERPRINT.fullmatch(text):
        raise ValueError(f"fingerprint must be 8 groups of 4 letters and digits, not {text!r}")
    return base64.b32decode(text.replace("-", ""))


@dataclass(frozen=True)
class PublicIdentity:
    """A party's name and raw public keys. Raises ValueError for a name or key that cannot be.

    It travels and persists (identity files, key files): the order and lengths of `to_bytes`, and what `fingerprint`
    hashes, may never change.

    >>> alder = Identity.generate("alder").public
    >>> PublicIdentity.from_bytes(alder.to_bytes()) == alder, len(alder.fingerprint)
    (True, 39)
    """

    name: str
    ed25519: bytes
    ml_dsa: bytes
    ml_kem: bytes
    x25519: bytes

    def __post_init__(self) -> None:
        _check_name(self.name)
        if tuple(map(len, self._raw)) != _LENGTHS:
            raise ValueError(f"public keys must have {_LENGTHS} bytes, not {tuple(map(len, self._raw))}")
        _ = self._verifiers, self._recipient

    @property
    def _raw(self) -> tuple[bytes, bytes, bytes, bytes]:
        return self.ed25519, self.ml_dsa, self.ml_kem, self.x25519

    # Parsed once: a coordinator of 1,000 hospitals, and each of them, verifies and seals thousands of times.
    @cached_property
    def _verifiers(self) -> tuple[Ed25519PublicKey, MLDSA65PublicKey]:
        return Ed25519PublicKey.from_public_bytes(self.ed25519), MLDSA65PublicKey.from_public_bytes(self.ml_dsa)

    @cached_property
    def _recipient(self) -> hpke.MLKEM768X25519PublicKey:
        ml_kem = MLKEM768PublicKey.from_public_bytes(self.ml_kem)
        return hpke.MLKEM768X25519PublicKey(ml_kem, X25519PublicKey.from_public_bytes(self.x25519))

    @cached_property
    def fingerprint(self) -> str:
        """Identifies name and keys: 160 bits of SHA-256, as 8 groups of 4 letters and digits."""
        digest = hashlib.sha256(b"securepfl identity 1" + self.to_bytes()).digest()
        return fingerprint_text(digest[:FINGERPRINT_BYTES])

    def to_bytes(self) -> bytes:
        """Name length, name, and the four keys."""
        name = self.name.encode()
        return b"".join((bytes((len(name),)), name, *self._raw))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of `to_bytes`. Raises MessageError for anything else."""
        start = 1 + (data[0] if data else 0)
        if len(data) != start + sum(_LENGTHS):
            raise MessageError("public identity of a wrong length; copy the file again")
        keys = []
        for index in range(len(_LENGTHS)):
            at = start + sum(_LENGTHS[:index])
            keys.append(data[at : at + _LENGTHS[index]])
        try:
            return cls(data[1:start].decode(), *keys)
        except ValueError:
            raise MessageError("public identity with an invalid name or key; copy the file again") from None

    def verify(self, signature: bytes, data: bytes, context: bytes) -> None:
        """Check both signatures over `data` for `context`. Raises MessageError where either fails; returns nothing.

        >>> alder = Identity.generate("alder")
        >>> alder.public.verify(alder.sign(b"data", b"one use"), b"data", b"another use")
        Traceback (most recent call last):
        securepfl.errors.MessageError: a signature of 'alder' does not verify; the message was not used
        """
        framed = _framed(data, context)
        classical, post_quantum = self._verifiers
        try:
            classical.verify(signature[:64], framed)
            post_quantum.verify(signature[64:], framed)
        except InvalidSignature:
            raise MessageError(f"a signature of {self.name!r} does not verify; the message was not used") from None

    def verify_classical(self, signature: bytes, message: bytes) -> None:
        """Check what `Identity.sign_classical` made. Raises MessageError where it fails."""
        try:
            self._verifiers[0].verify(signature, message)
        except InvalidSignature:
            raise MessageError(f"a signature of {self.name!r} does not verify; the message was not used") from None

    def seal(self, plaintext: bytes, info: bytes) -> bytes:
        """Encrypt so that only this party opens it, bound to `info`. Raises MessageError for unusable
        public keys.
        """
        try:
            return _SUITE.encrypt(plaintext, self._recipient, info=info)
        except ValueError:
            raise MessageError(f"the public key of {self.name!r} is unusable; ask for its identity again") from None


@dataclass(frozen=True, repr=False)
class Identity:
    """A party's private keys, in memory; at rest only in the encrypted key file (keystore.py).

    The four keys of `to_private_bytes`, their order and lengths may never change, nor what `sign` frames.

    >>> alder, birch = Identity.generate("alder"), Identity.generate("birch")
    >>> alder
    Identity('alder')
    >>> signature = alder.sign(b"data", b"context")
    >>> alder.public.verify(signature, b"data", b"context")
    >>> birch.open(birch.public.seal(b"for birch alone", info=b"where"), info=b"where")
    b'for birch alone'
    """

    name: str
    _ed25519: Ed25519PrivateKey
    _ml_dsa: MLDSA65PrivateKey
    _ml_kem: MLKEM768PrivateKey
    _x25519: X25519PrivateKey

    def __repr__(self) -> str:
        return f"Identity({self.name!r})"

    @classmethod
    def generate(cls, name: str) -> Self:
        """Fresh keys from the OS. Raises ValueError for an empty or overlong name."""
        _check_name(name)
        return cls(
            str(name),
            Ed25519PrivateKey.generate(),
            MLDSA65PrivateKey.generate(),
            MLKEM768PrivateKey.generate(),
            X25519PrivateKey.generate(),
        )

    @classmethod
    def from_private_bytes(cls, name: str, data: bytes) -> Self:
        """The inverse of `to_private_bytes`. Raises ValueError for another length or an impossible name.

        >>> alder = Identity.generate("alder")
        >>> Identity.from_private_bytes("alder", alder.to_private_bytes()).public == alder.public
        True
        """
        _check_name(name)
        if len(data) != sum(_PRIVATE_LENGTHS):
            raise ValueError(f"private keys must have {sum(_PRIVATE_LENGTHS)} bytes, not {len(data)}")
        return cls(
            name,
            Ed25519PrivateKey.from_private_bytes(data[:32]),
            MLDSA65PrivateKey.from_seed_bytes(data[32:64]),
            MLKEM768PrivateKey.from_seed_bytes(data[64:128]),
            X25519PrivateKey.from_private_bytes(data[128:]),
        )

    def to_private_bytes(self) -> Secret:
        """The four private keys as raw keys and seeds, 160 bytes: for the encrypted key file alone."""
        keys = (self._ed25519, self._ml_dsa, self._ml_kem, self._x25519)
        return Secret(b"".join(key.private_bytes_raw() for key in keys))

    @cached_property
    def public(self) -> PublicIdentity:
        """What others may know."""
        return PublicIdentity(
            self.name,
            self._ed25519.public_key().public_bytes_raw(),
            self._ml_dsa.public_key().public_bytes_raw(),
            self._ml_kem.public_key().public_bytes_raw(),
            self._x25519.public_key().public_bytes_raw(),
        )

    def sign(self, data: bytes, context: bytes) -> bytes:
        """Both signatures over `data`, SIGNATURE_BYTES long; `context` keeps uses apart."""
        framed = _framed(data, context)
        return self._ed25519.sign(framed) + self._ml_dsa.sign(framed)

    def sign_classical(self, message: bytes) -> bytes:
        """An Ed25519 signature alone, 64 bytes. The caller's message carries its own domain.

        >>> alder = Identity.generate("alder")
        >>> alder.public.verify_classical(alder.sign_classical(b"a ledger's line"), b"a ledger's line")
        """
        return self._ed25519.sign(message)

    def open(self, sealed: bytes | memoryview, info: bytes) -> bytes:
        """Decrypt what was sealed to this party under `info`. Raises MessageError for anything else."""
        try:
            return _SUITE.decrypt(sealed, hpke.MLKEM768X25519PrivateKey(self._ml_kem, self._x25519), info=info)
        except (InvalidTag, ValueError):
            raise MessageError(
                f"a message sealed to {self.name!r} does not open; it was altered or misdirected"
            ) from None
