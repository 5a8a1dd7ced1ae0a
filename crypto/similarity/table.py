"""The coordinator's side of a comparison: inner products modulo p of what hospitals uploaded. It holds no key."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from securepfl.crypto.similarity.field import BITS, P, dot
from securepfl.crypto.similarity.scheme import Shape
from securepfl.crypto.sums.words import Words, pack_words
from securepfl.errors import MessageError

# Uploads multiplied at once: the words of so many, at 64 bits, stay in the cache.
_CHUNK: Final = 8


def check_upload_length(upload: bytes, expected: int) -> None:
    """Raises MessageError for another length."""
    if len(upload) != expected:
        raise MessageError(
            f"sketch of {len(upload)} bytes where {expected} belong; all parties must run the same settings"
        )


def refuse_keys(keys: bytes) -> None:
    """Raises MessageError for evaluation keys where a way needs none."""
    if keys:
        raise MessageError(f"{len(keys)} bytes of evaluation keys, where none are used; same settings needed")


@dataclass(frozen=True)
class Upload:
    """What one hospital sent: `vectors` [lanes, dimensions], the sketch and its tags; `slots` [clients, lanes], what
    corrects the products for each receiver, and in the hospital's own place its norm.
    """

    vectors: Words
    slots: Words


class ProductTable:
    """One round's uploads, and rows of answers from them: 4 bytes a dimension and lane for every upload.

    `upload_bytes` is the exact length of one, `read` takes (client, bytes of that length) apart and raises MessageError
    for words out of range.
    """

    def __init__(self, shape: Shape, upload_bytes: int, read: Callable[[int, bytes], Upload]) -> None:
        self._shape, self._upload_bytes, self._read_parts = shape, upload_bytes, read
        self._vectors: dict[int, NDArray[np.uint32]] = {}
        self._slots: dict[int, Words] = {}

    def check(self, client: int, upload: bytes) -> None:
        """Raises MessageError for what `add` would refuse, and keeps nothing."""
        self._read(client, upload)

    def add(self, client: int, upload: bytes) -> None:
        """Take a hospital's upload.

        Raises MessageError for a wrong length or range, ValueError for an index outside the roster or one that has
        uploaded.
        """
        if client in self._vectors:
            raise ValueError(f"client {client} has uploaded its sketch already")
        parts = self._read(client, upload)
        self._vectors[client], self._slots[client] = parts.vectors.astype(np.uint32), parts.slots

    def _read(self, client: int, upload: bytes) -> Upload:
        self._shape.check_client(client)
        check_upload_length(upload, self._upload_bytes)
        return self._read_parts(client, upload)

    def leave_out(self, client: int) -> None:
        """Speak of a hospital in no row from now on, nor to it."""
        self._vectors.pop(client, None)
        self._slots.pop(client, None)

    def row(self, client: int) -> dict[int, bytes]:
        """The answers to one hospital by the other's index; none for a hospital that uploaded nothing."""
        if client not in self._vectors:
            return {}
        own = self._vectors[client][0].astype(np.uint64)
        others = [other for other in sorted(self._vectors) if other != client]
        answers: dict[int, bytes] = {}
        for start in range(0, len(others), _CHUNK):
            chunk = others[start : start + _CHUNK]
            products = dot(np.stack([self._vectors[other] for other in chunk]), own)
            for other, product in zip(chunk, products, strict=True):
                slots = self._slots[other]
                answers[other] = pack_words(np.concatenate([(product + P - slots[client]) % P, slots[other]]), BITS)
        return answers
