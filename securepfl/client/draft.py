"""The key of a round's noise while its message is made: whoever is killed in between draws that noise again, and no
other. Once the message is stored the key is gone.

It is on disk before the round is reserved in the ledger, sealed under a secret that this hospital alone holds. It
serves a reservation that is not settled: a message leaves only once it is, so that no noise comes twice.
"""

import secrets
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from securepfl.client.round import Session
from securepfl.errors import StorageError
from securepfl.randomness import KEY_BYTES, derive_key, fresh_key
from securepfl.storage.folder import storage_error, write_bytes

DRAFT: Final = "draft"
TRIES: Final = 5
"""Processes that may end over one round: one that always does, for lack of memory say, sits the round out at last."""
_HEAD: Final = struct.Struct(">4sBBI")
_MAGIC: Final = b"SPDR"
_VERSION: Final = 1
_NONCE_BYTES: Final = 12
_BYTES: Final = _HEAD.size + _NONCE_BYTES + KEY_BYTES + 16


@dataclass(frozen=True)
class Draft:
    """The key (32 bytes) of all that hospital `session` draws for its contribution to a round of its run, and which
    `tries`th process draws it. The file is a head, a nonce and the key under AES-256-GCM: under one version no byte may
    mean anything else.
    """

    key: bytes = field(repr=False)
    tries: int = 1

    @classmethod
    def begun(cls, folder: Path, session: Session, number: int) -> Self:
        """A fresh key for round `number`, on disk when this returns. Raises StorageError."""
        draft = cls(fresh_key())
        draft._write(folder, session, number)
        return draft

    @classmethod
    def left(cls, folder: Path, session: Session, number: int) -> "Draft | None":
        """What a process that was killed left of round `number`, counted as tried once more; None where it left
        nothing, or what it left is of another round, damaged, or was tried often enough. Raises StorageError.
        """
        try:
            data = (folder / DRAFT).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"{folder / DRAFT}: cannot be read ({error.strerror}); mend its rights") from None
        if len(data) != _BYTES:
            return None
        head, nonce = data[: _HEAD.size], data[_HEAD.size :][:_NONCE_BYTES]
        tries = _HEAD.unpack(head)[2]
        if head != _HEAD.pack(_MAGIC, _VERSION, tries, number) or tries >= TRIES:
            return None
        try:
            key = _cipher(session).decrypt(nonce, data[_HEAD.size + _NONCE_BYTES :], head + session.digest)
        except InvalidTag:
            return None
        draft = cls(key, tries + 1)
        draft._write(folder, session, number)
        return draft

    def _write(self, folder: Path, session: Session, number: int) -> None:
        head, nonce = _HEAD.pack(_MAGIC, _VERSION, self.tries, number), secrets.token_bytes(_NONCE_BYTES)
        write_bytes(folder / DRAFT, head + nonce + _cipher(session).encrypt(nonce, self.key, head + session.digest))


def discard(folder: Path) -> None:
    """No draft lies in `folder` any more. Raises StorageError where one can't be removed."""
    try:
        (folder / DRAFT).unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(folder / DRAFT, error) from None


@contextmanager
def discarded(folder: Path) -> Iterator[None]:
    """A block that ends the draft where it raises an error. Ctrl-C and a kill are none: the draft stays."""
    try:
        yield
    except Exception:
        with suppress(StorageError):
            discard(folder)
        raise


def _cipher(session: Session) -> AESGCM:
    """Under a secret that nobody else has: no hospital, no coordinator."""
    return AESGCM(derive_key(session.keyring.identity.to_private_bytes(), "draft"))
