"""Files that one party signs for others with its securepfl identity.

Whoever has confirmed that identity's fingerprint in the key ceremony needs no second phone call to trust them.
"""

from pathlib import Path
from typing import Final

from securepfl.crypto.keys.identity import SIGNATURE_BYTES, Identity, PublicIdentity
from securepfl.errors import MessageError
from securepfl.storage.keys import publish, read_bounded, withdraw

MAX_BYTES: Final = 2**20
_DOMAIN: Final = b"securepfl nvflare file 1"


def write_vouched(path: Path, payload: bytes, signer: Identity, *use: bytes) -> None:
    """Publish `payload` for others, signed for this `use`, in place of an earlier one. Raises StorageError."""
    withdraw(path)
    publish(path, signer.sign(payload, _context(use)) + payload)


def read_vouched(path: Path, signer: PublicIdentity, *use: bytes) -> bytes:
    """What `signer` wrote there for this `use`. Raises MessageError for anything else, StorageError where it cannot be
    read.

    >>> from tempfile import TemporaryDirectory
    >>> hub = Identity.generate("hub")
    >>> with TemporaryDirectory() as folder:
    ...     write_vouched(Path(folder) / "root", b"certificate", hub, b"root")
    ...     read_vouched(Path(folder) / "root", hub.public, b"root")
    b'certificate'
    """
    data = read_bounded(path, MAX_BYTES)
    payload = data[SIGNATURE_BYTES:]
    try:
        signer.verify(data[:SIGNATURE_BYTES], payload, _context(use))
    except MessageError:
        raise MessageError(f"{path}: is not signed by {signer.name!r} for this use; ask {signer.name} for it") from None
    return payload


def _context(use: tuple[bytes, ...]) -> bytes:
    return _DOMAIN + b"".join(len(part).to_bytes(4, "big") + part for part in use)
