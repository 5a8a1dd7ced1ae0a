"""The secrets behind masks: which there are, in which order they travel, what commits to them, what words they give.

What may never change: the orders of `edges_of` and `edges_to_reveal`, the labels of each derived key, and the bytes
of `commitment`.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from securepfl.crypto.masks.shamir import PRIME
from securepfl.crypto.sums.uniform import uniform_chunks
from securepfl.crypto.sums.words import Words
from securepfl.randomness import derive_key

MAX_MODULUS: Final = 2**60

SECRET_BYTES: Final = 32
"""Of a secret, a share of one, and a commitment."""

ABSENT: Final = b"\xff" * SECRET_BYTES
"""Stands in a reveal for a share that its holder never got: no share is as large."""

_INDEX_BYTES: Final = 4

Graph = tuple[frozenset[int], ...]
"""Each client's neighbours."""

Edge = tuple[int, int]
"""Names a secret: (i, i) is b_i, (i, j) is s_ij as shared by i."""


def edges_of(graph: Graph, index: int) -> list[Edge]:
    """The secrets that a client shares, in the order of its blobs and commitments."""
    return [(index, index), *((index, other) for other in sorted(graph[index]))]


def edges_to_reveal(graph: Graph, survivors: Sequence[int]) -> list[Edge]:
    """The secrets to be revealed, in the order of reveals. No edge between two survivors is ever among them, nor b_j
    of a client that is none.
    """
    dropped = set(range(len(graph))) - set(survivors)
    edges = ((index, other) for index in survivors for other in sorted(graph[index] & dropped))
    return [*((index, index) for index in survivors), *edges]


def secret_to_bytes(secret: int) -> bytes:
    """A secret, or a share of one, as it travels: big-endian."""
    return secret.to_bytes(SECRET_BYTES, "big")


def pieces(data: bytes) -> list[bytes]:
    """Bytes cut into pieces as long as a secret."""
    return [data[at : at + SECRET_BYTES] for at in range(0, len(data), SECRET_BYTES)]


def pair_mask_secret(pair_secret: bytes, index: int, other: int, context: bytes) -> int:
    """The secret s_ij that two clients derive from what only they know, the same for both: below PRIME."""
    # 512 bits, so that the residue is uniform up to 2^-257.
    labels = (context.hex(), min(index, other), max(index, other))
    wide = b"".join(derive_key(pair_secret, "pair mask 1", half, *labels) for half in (0, 1))
    return int.from_bytes(wide, "big") % PRIME


def commitment(edge: Edge, secret: int, context: bytes) -> bytes:
    """What a client binds itself to before anybody reveals: SHA-256, 32 bytes."""
    # Both ends of an edge commit to the same bytes, so that a disagreement shows before anything is added.
    ends = b"".join(end.to_bytes(_INDEX_BYTES, "big") for end in sorted(edge))
    return hashlib.sha256(b"securepfl mask commitment 1" + ends + secret_to_bytes(secret) + context).digest()


def check_modulus(modulus: int) -> None:
    """Raises ValueError for a modulus not in [2, 2^60]."""
    if not 2 <= modulus <= MAX_MODULUS:
        raise ValueError(f"modulus must be in [2, 2^60], not {modulus}")


def add_masks(slots: Words, masks: Mapping[Edge, int], modulus: int, context: bytes) -> Words:
    """slots + the sum of sign(i, j) PRG(secret), modulo `modulus`."""
    total = slots.copy()
    # So many words below the modulus, and what is there already, fit in 64 bits: the rest is reduced once for all.
    room = 2**64 // modulus - 1
    terms = list(masks.items())
    for start in range(0, len(terms), room):
        for (index, other), secret in terms[start : start + room]:
            key = derive_key(secret_to_bytes(secret), "mask words 1", context.hex())
            _accumulate(total, uniform_chunks(key, total.size, modulus), modulus, subtract=index > other)
        total %= np.uint64(modulus)
    return total


def _accumulate(total: Words, chunks: Iterable[Words], modulus: int, *, subtract: bool) -> None:
    at = 0
    for chunk in chunks:
        part = total[at : at + chunk.size]
        part += np.uint64(modulus) - chunk if subtract else chunk
        at += chunk.size
