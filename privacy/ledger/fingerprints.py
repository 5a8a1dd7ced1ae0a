"""Records known again by what they hold: keyed fingerprints, which say nothing to whoever lacks the key.

A record has one or more identities, each of a kind: the features that train ("features"), the declared cells of a
table ("cells"), all cells of its row ("row"). A record is known if any of them is, whatever file, order or name it
comes under. A patient's id ("patient") is a hint alone: every study numbers from 1.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["HINTS", "Fingerprints", "Identities", "content_of", "decode_fingerprints", "encode_fingerprints"]

Identities = Mapping[str, Sequence[bytes]]
"""By kind, one text of bytes for each record, in any order."""

HINTS: Final = frozenset({"patient", "spelling"})
"""Kinds that tell of records but decide nothing. "spelling": what another spelling of a patient's id would match."""

_WHOLE: Final = "set"
"""The kind of one identity that all records have together."""

_MAGIC: Final = b"SPFLROWS1"
_BYTES: Final = 16
_CHECK_BYTES: Final = 16


def content_of(values: NDArray[Any]) -> bytes | None:
    """32 bytes that are equal for arrays of equal numbers in one order, whatever their shape and type; None for what
    holds no numbers.

    Numbers count as float32 does, so that 1, 1.0 and True are one, -0.0 is 0.0 and all NaN are one.

    >>> content_of(np.array([[1, 0]])) == content_of(np.array([1.0, -0.0])) != content_of(np.array([0, 1]))
    True
    """
    if values.dtype.kind not in "biufc":
        return None
    real = np.ascontiguousarray(values).view(f"f{values.itemsize // 2}") if values.dtype.kind == "c" else values
    with np.errstate(over="ignore"):
        numbers = real.astype("<f4").reshape(-1) + np.float32(0.0)
    numbers[np.isnan(numbers)] = np.nan
    return hashlib.blake2b(numbers.tobytes(), digest_size=32).digest()


@dataclass(frozen=True, eq=False)
class Fingerprints:
    """What a data set's records are known by under one key: by kind, one of 16 bytes a record.

    >>> one = Fingerprints.of(bytes(32), {"features": [b"ann", b"bo", b"bo"]})
    >>> one.found_in(Fingerprints.of(bytes(32), {"features": [b"bo", b"cy"]}).together)
    {'features': 2}
    >>> one.twins["features"]
    0.6666666666666666
    """

    kinds: Mapping[str, NDArray[np.bytes_]]

    @classmethod
    def of(cls, key: bytes, identities: Identities) -> "Fingerprints":
        """Under `key` (32 bytes). Raises ValueError for a key of another length."""
        if len(key) != 32:
            raise ValueError(f"key must be 32 bytes, not {len(key)}")
        kinds = {kind: _keyed(key, kind, texts) for kind, texts in identities.items() if len(texts)}
        for kind in [kind for kind in kinds if kind not in HINTS]:
            whole = _keyed(key, _WHOLE, [kind.encode() + np.sort(kinds[kind]).tobytes()])
            kinds[_WHOLE] = np.concatenate([kinds[_WHOLE], whole]) if _WHOLE in kinds else whole
        return cls(kinds)

    @property
    def together(self) -> NDArray[np.bytes_]:
        """Those of all kinds, sorted, each once."""
        return np.unique(np.concatenate(list(self.kinds.values()))) if self.kinds else np.array([], f"S{_BYTES}")

    @cached_property
    def twins(self) -> dict[str, float]:
        """By kind, the share of records that another record of the same data set equals."""
        return {kind: _twins(marks) for kind, marks in self.kinds.items()}

    def found_in(self, known: NDArray[np.bytes_]) -> dict[str, int]:
        """By kind, how many records are among the `known` fingerprints; kinds without any are left out."""
        counts = {kind: int(np.isin(marks, known).sum()) for kind, marks in self.kinds.items()}
        return {kind: count for kind, count in counts.items() if count}


def encode_fingerprints(known: NDArray[np.bytes_]) -> bytes:
    """The bytes of a file of fingerprints: each 16 bytes, sorted, and a checksum.

    >>> decode_fingerprints(encode_fingerprints(np.array([b"b" * 16, b"a" * 16]))).tolist()
    [b'aaaaaaaaaaaaaaaa', b'bbbbbbbbbbbbbbbb']
    """
    data = np.unique(known.astype(f"S{_BYTES}")).tobytes()
    return _MAGIC + hashlib.blake2b(data, digest_size=_CHECK_BYTES).digest() + data


def decode_fingerprints(data: bytes) -> NDArray[np.bytes_]:
    """Inverse of encode_fingerprints. Raises ValueError for bytes that it did not make.

    >>> decode_fingerprints(b"")
    Traceback (most recent call last):
    ValueError: is not a file of fingerprints that securepfl wrote whole
    """
    start = len(_MAGIC) + _CHECK_BYTES
    check, marks = data[len(_MAGIC) : start], data[start:]
    if data[: len(_MAGIC)] != _MAGIC or hashlib.blake2b(marks, digest_size=_CHECK_BYTES).digest() != check:
        raise ValueError("is not a file of fingerprints that securepfl wrote whole")
    return np.frombuffer(marks, dtype=f"S{_BYTES}")


def _keyed(key: bytes, kind: str, texts: Sequence[bytes]) -> NDArray[np.bytes_]:
    """BLAKE2b with a key (RFC 7693) is a MAC: without the key nobody can try out records they guess."""
    start = hashlib.blake2b(kind.encode() + b"\0", key=key, digest_size=_BYTES)
    found = []
    for text in texts:
        one = start.copy()
        one.update(text)
        found.append(one.digest())
    return np.frombuffer(b"".join(found), dtype=f"S{_BYTES}")


def _twins(marks: NDArray[np.bytes_]) -> float:
    counts = np.unique(marks, return_counts=True)[1]
    return float(counts[counts > 1].sum() / len(marks))
