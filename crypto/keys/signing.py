"""How a hospital signs its budget ledger: the signer that securepfl.privacy is handed."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from securepfl.crypto.keys.identity import Identity

ALGORITHM = "Ed25519"
_DOMAIN = b"securepfl ledger signature 1"


def ledger_verifier(trusted: Collection[bytes] | None) -> Callable[[str, bytes, bytes, bytes], None]:
    """(algorithm, public key, message, signature) -> ValueError unless a line's signature holds under a `trusted` key.

    None trusts whatever key the ledger names: then the reader compares that key with the hospital's.
    """

    def verify(algorithm: str, public_key: bytes, message: bytes, signature: bytes) -> None:
        if algorithm != ALGORITHM:
            raise ValueError(f"has no valid signature: it is one of {algorithm!r}, not of {ALGORITHM!r}")
        if trusted is not None and public_key not in trusted:
            raise ValueError("has no valid signature: its session names a key that is not trusted here")
        try:
            Ed25519PublicKey.from_public_bytes(public_key).verify(signature, _DOMAIN + message)
        except (InvalidSignature, ValueError):
            raise ValueError("has no valid signature") from None

    return verify


@dataclass(frozen=True)
class LedgerSigner:
    """Signs with an identity's Ed25519 key: 64 bytes a line, where both signatures would be 3,373.

    `trusting`: earlier sessions may have had any key. A simulation makes new identities for every run and
    trusts any; a real hospital trusts its own key, and `earlier` ones of its own, which its registry lists.
    """

    identity: Identity
    trusting: bool
    earlier: frozenset[bytes] = frozenset()

    @property
    def algorithm(self) -> str:
        """What the session line states."""
        return ALGORITHM

    @property
    def public_key(self) -> bytes:
        """The key that verifies what `sign` returns: 32 bytes."""
        return self.identity.public.ed25519

    def sign(self, message: bytes) -> bytes:
        """A signature over `message`: 64 bytes."""
        return self.identity.sign_classical(_DOMAIN + message)

    def verify(self, algorithm: str, public_key: bytes, message: bytes, signature: bytes) -> None:
        """Raises ValueError where the signature does not hold or the key is not one to trust."""
        trusted = None if self.trusting else {self.public_key, *self.earlier}
        ledger_verifier(trusted)(algorithm, public_key, message, signature)
