"""The key of a round's noise while its message is made: whoever is killed in between draws that noise again, and no
other. Once the message is stored the key is gone.

It is on disk before the round is reserved in the ledger, sealed under a secret that this hospital alone holds. It
serves a reservation that is not settled: a message leaves only once it is, so that no noise comes twice. And it opens
over the state and the records alone for which it was drawn: a whole machine put back to a copy, ledger and all, could
else lay one noise over two sums, whose difference shows the record between them.
"""

import hashlib
import secrets
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from securepfl.client.contents import Contents
from securepfl.client.round import Session
from securepfl.client.state import ClientState
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
    def begun(cls, folder: Path, session: Session, number: int, inputs: bytes) -> Self:
        """A fresh key for round `number` from `inputs`, a digest of what trains, on disk when this returns. Raises
        StorageError.
        """
        draft = cls(fresh_key())
        draft._write(folder, session, number, inputs)
        return draft

    @classmethod
    def left(cls, folder: Path, session: Session, number: int, inputs: bytes) -> "Draft | None":
        """What a process that was killed left of round `number`, counted as tried once more; None where it left
        nothing, or what it left is of another round or `inputs`, damaged, or was tried often enough. Raises
        StorageError.
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
            key = _cipher(session).decrypt(nonce, data[_HEAD.size + _NONCE_BYTES :], head + session.digest + inputs)
        except InvalidTag:
            return None
        draft = cls(key, tries + 1)
        draft._write(folder, session, number, inputs)
        return draft

    def _write(self, folder: Path, session: Session, number: int, inputs: bytes) -> None:
        head, nonce = _HEAD.pack(_MAGIC, _VERSION, self.tries, number), secrets.token_bytes(_NONCE_BYTES)
        bound = head + session.digest + inputs
        write_bytes(folder / DRAFT, head + nonce + _cipher(session).encrypt(nonce, self.key, bound))


def inputs_of(state: ClientState, contents: Contents) -> bytes:
    """A digest (32 bytes) of what trains, or is scored, in a round: parameters, their average over rounds, what earlier
    rounds left behind, and all that the records hold.
    """
    digest = hashlib.blake2b(digest_size=32)
    arrays: list[NDArray[Any]] = [state.shared, state.personal, state.residual]
    for array in arrays + [state.trajectory[name] for name in sorted(state.trajectory)]:
        digest.update(array.size.to_bytes(8, "big") + str(array.dtype).encode())
        digest.update(np.ascontiguousarray(array).data)
    for place, unit in sorted(contents.units.items()):
        digest.update(place.to_bytes(8, "big") + unit)
    return digest.digest()


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
