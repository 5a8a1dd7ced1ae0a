"""Who a party is, as crypto/keys/identity.py tells it: four keys, a fingerprint, framed signatures, HPKE sealings.

The primitives are those of `cryptography`; ours is what is signed, sealed and in which order. ML-DSA's signatures and
HPKE's sealings hold fresh randomness: what was stored is kept where it verifies, or opens to just what is to be sealed.
"""

import base64
import hashlib
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from inputs import named

SIGNATURE_BYTES = 64 + 3309
_SUITE = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


@dataclass(frozen=True)
class Person:
    """A name, and 160 bytes: Ed25519's key, the seeds of ML-DSA-65 and ML-KEM-768 (64 bytes), X25519's key."""

    name: str
    private: bytes

    @property
    def _keys(self) -> tuple:
        ed25519, ml_dsa, ml_kem = self.private[:32], self.private[32:64], self.private[64:128]
        return (
            Ed25519PrivateKey.from_private_bytes(ed25519),
            MLDSA65PrivateKey.from_seed_bytes(ml_dsa),
            MLKEM768PrivateKey.from_seed_bytes(ml_kem),
            X25519PrivateKey.from_private_bytes(self.private[128:]),
        )

    @property
    def public(self) -> bytes:
        """Name length, name, four public keys."""
        keys = b"".join(key.public_key().public_bytes_raw() for key in self._keys)
        return bytes((len(self.name.encode()),)) + self.name.encode() + keys

    @property
    def fingerprint(self) -> bytes:
        """20 bytes."""
        return hashlib.sha256(b"securepfl identity 1" + self.public).digest()[:20]

    @property
    def text(self) -> str:
        """The fingerprint in base 32, by fours."""
        letters = base64.b32encode(self.fingerprint).decode()
        return "-".join(letters[at : at + 4] for at in range(0, len(letters), 4))

    def signature(self, stored: bytes, data: bytes, context: bytes) -> bytes:
        """Ed25519, then ML-DSA-65, both over a label, the context's length (4 bytes), context and data."""
        framed = b"securepfl signature 1" + len(context).to_bytes(4, "big") + context + data
        classical, post_quantum = self._keys[:2]
        try:
            classical.public_key().verify(stored[:64], framed)
            post_quantum.public_key().verify(stored[64:], framed)
        except InvalidSignature:
            return classical.sign(framed) + post_quantum.sign(framed)
        return stored

    def classical(self, data: bytes) -> bytes:
        """Ed25519 alone, over the data as they are."""
        return self._keys[0].sign(data)

    def opened(self, stored: bytes, info: bytes) -> bytes:
        """What a stored sealing holds, or nothing."""
        try:
            return _SUITE.decrypt(stored, self._pair(), info=info)
        except (InvalidTag, ValueError):
            return b""

    def sealed(self, stored: bytes, plaintext: bytes, info: bytes) -> bytes:
        """HPKE to this person."""
        if self.opened(stored, info) == plaintext:
            return stored
        return _SUITE.encrypt(plaintext, self._pair().public_key(), info=info)

    def _pair(self) -> hpke.MLKEM768X25519PrivateKey:
        return hpke.MLKEM768X25519PrivateKey(*self._keys[2:])


def person(name: str) -> Person:
    """This name's."""
    return Person(name, named(f"private keys of {name}", 160))
