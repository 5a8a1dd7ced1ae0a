"""A file that leaves a hospital: safetensors with JSON beside the arrays, signed by an identity, checked before it is
opened.

The signature is over every byte of the file but its own digits, so nothing of the arrays is read before it holds. It
tells that whoever holds those keys wrote the file; whose keys they are tells a comparison of fingerprints.
"""

import base64
import binascii
import hashlib
import json
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from securepfl.crypto.keys.identity import SIGNATURE_BYTES, Identity, PublicIdentity
from securepfl.errors import MessageError, StorageError
from securepfl.storage.folder import write_bytes

MOST_BYTES: Final = 2**28
"""Of one file: eight times a network of eight million weights. More is refused unread."""
_MOST_HEADER: Final = 2**20
_LENGTH: Final = 8
_CONTEXT: Final = b"released file 1"
_DIGITS: Final = 2 * SIGNATURE_BYTES
_UNSIGNED: Final = (
    "carries no signature: it was written by securepfl before released files were signed, or never released; run the "
    "federation again, or ask its hospital for the released file"
)


@dataclass(frozen=True)
class SignedFile:
    """What a file held whose signature holds: arrays by name, its JSON, and who signed."""

    arrays: Mapping[str, NDArray[Any]]
    meta: Any
    signer: PublicIdentity


def write_signed(path: Path, arrays: Mapping[str, NDArray[Any]], meta: object, signer: Identity) -> None:
    """Write `arrays` and JSON-able `meta`, signed by `signer`, in one step. Raises StorageError."""
    write_bytes(path, signed_bytes(arrays, meta, signer))


def signed_bytes(arrays: Mapping[str, NDArray[Any]], meta: object, signer: Identity) -> bytes:
    """The file's bytes. Under one _CONTEXT what is signed may never change.

    >>> data = signed_bytes({"weight": np.ones(2, np.float32)}, {"site": "alder"}, Identity.generate("alder"))
    >>> opened_bytes(data, "alder.safetensors").meta
    {'site': 'alder'}
    """
    blank = "0" * _DIGITS
    kept = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    told = {
        "meta": json.dumps(meta, allow_nan=False),
        "signer": base64.b64encode(signer.public.to_bytes()).decode(),
        "signature": blank,
    }
    data = save_safetensors(kept, metadata=told)
    signature = signer.sign(_signed(data), _CONTEXT).hex()
    return data.replace(blank.encode(), signature.encode(), 1)


def read_signed(path: Path, trusted: Collection[bytes] | None = None) -> SignedFile:
    """What `write_signed` wrote. `trusted`: the fingerprinted identities (PublicIdentity.to_bytes) to accept, None for
    any whose signature holds.

    Raises StorageError where it is missing, no plain file, larger than MOST_BYTES, unsigned, changed since it was
    signed, or of a signer that is not trusted; nothing of the arrays is decoded then.
    """
    return opened_bytes(bounded_bytes(path), str(path), trusted)


def opened_bytes(data: bytes, where: str, trusted: Collection[bytes] | None = None) -> SignedFile:
    """As read_signed, of bytes at hand; `where` names them in messages."""
    told = _told(data, where)
    if not {"signer", "signature"} <= told.keys():
        raise StorageError(f"{where}: {_UNSIGNED}")
    digits = str(told["signature"])
    try:
        signer = PublicIdentity.from_bytes(base64.b64decode(str(told["signer"]), validate=True))
        signature = bytes.fromhex(digits)
        if len(digits) != _DIGITS or data.count(digits.encode()) != 1:
            raise MessageError("its signature is none")
        signer.verify(signature, _signed(data.replace(digits.encode(), b"0" * _DIGITS, 1)), _CONTEXT)
    except (MessageError, ValueError, binascii.Error):
        raise StorageError(
            f"{where}: its signature does not hold, so it was changed since its hospital released it, and nothing was "
            "used; ask its hospital for it again"
        ) from None
    if trusted is not None and signer.to_bytes() not in trusted:
        raise StorageError(
            f"{where}: signed with keys of fingerprint {signer.fingerprint}, which is none of the given identities; "
            "compare the fingerprint with its hospital by phone"
        )
    try:
        return SignedFile(load_safetensors(data), json.loads(told["meta"]), signer)
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        raise StorageError(
            f"{where}: signed, but no file that securepfl writes; ask its hospital for it again"
        ) from None


def _signed(blanked: bytes) -> bytes:
    return hashlib.sha256(blanked).digest()


def bounded_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """The bytes of a plain file of at most `most` bytes. Raises StorageError for anything else, unread."""
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            raise StorageError(f"{path}: is no plain file; put the released file itself there")
        if found.st_size > most:
            raise StorageError(f"{path}: {found.st_size:,} bytes, and a released file has at most {most:,}; remove it")
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror}); name an existing run") from None


def _told(data: bytes, where: str) -> Mapping[str, Any]:
    """The texts of the header; nothing else of the file is looked at."""
    length = int.from_bytes(data[:_LENGTH], "little") if len(data) > _LENGTH else 0
    try:
        if not 2 <= length <= min(_MOST_HEADER, len(data) - _LENGTH):
            raise ValueError("no header of a possible length")
        told = json.loads(data[_LENGTH : _LENGTH + length])["__metadata__"]
        if not isinstance(told, dict):
            raise TypeError("no texts")
    except (ValueError, KeyError, TypeError, RecursionError):
        raise StorageError(f"{where}: not a file that securepfl wrote whole; restore it from a copy") from None
    return told
