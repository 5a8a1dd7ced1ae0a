"""Integers modulo the prime p = 2^31 - 1: what sketches, norms and their pads are added and multiplied in."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from securepfl.crypto.sums.words import Words

BITS: Final = 31
MODULUS: Final = 2**BITS - 1
P: Final = np.uint64(MODULUS)


def residues(values: NDArray[np.int64]) -> Words:
    """Signed integers modulo p.

    >>> residues(np.array([5, -1])).tolist()
    [5, 2147483646]
    """
    return (values % MODULUS).astype(np.uint64)


def centred(words: Words, modulus: int) -> NDArray[np.int64]:
    """The representatives of least size of words modulo at most 2^62. The inverse of `residues`, for any modulus.

    >>> centred(np.array([5, 2, 3], dtype=np.uint64), 7).tolist()
    [-2, 2, 3]
    """
    signed = words.astype(np.int64)
    found: NDArray[np.int64] = np.where(signed > modulus // 2, signed - modulus, signed)
    return found


def dot(rows: NDArray[np.uint64] | NDArray[np.uint32], vector: Words) -> Words:
    """Inner products modulo p of `rows` (..., d) with `vector` (d,), exactly, for words below 2^31 and d at most 8192:
    so many products of 31 and 16 bits sum to 60.
    """
    wide = rows.astype(np.uint64, copy=False)
    low, high = wide @ (vector & np.uint64(0xFFFF)), wide @ (vector >> np.uint64(16))
    total: Words = (low + (high % P << np.uint64(16))) % P
    return total
