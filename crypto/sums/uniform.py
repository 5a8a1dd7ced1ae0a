"""Uniform words from a key: how masks and public seeds are expanded. The same key always gives the same words.

AES-256-CTR keystream under a zero nonce, 8 bytes a word, least significant byte first. Each word is cut to the bit
length of modulus - 1 and kept if it lies below the modulus, so there is no modulo bias; just below a power of two
hardly any is lost.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np

from securepfl.crypto.sums.words import Words
from securepfl.randomness import RandomStream

_CHUNK: Final = 1 << 15
"""Words drawn at once: small enough for the cache, large enough that Python's share is negligible."""


def uniform_chunks(key: bytes, count: int, modulus: int) -> Iterator[Words]:
    """The words of `uniform_words` in order, in arrays of at most 2^15, none of which is used again.

    Raises ValueError where `key` is not 32 bytes, `count` is negative or `modulus` is not in [1, 2^64].
    """
    if count < 0 or not 1 <= modulus <= 2**64:
        raise ValueError(f"count {count} must be at least 0 and modulus {modulus} in [1, 2^64]")
    return _chunks(RandomStream(key), count, modulus)


def _chunks(stream: RandomStream, count: int, modulus: int) -> Iterator[Words]:
    top = np.uint64(modulus - 1)
    mask = np.uint64((1 << (modulus - 1).bit_length()) - 1)
    while count:
        words = np.frombuffer(stream.bytes(8 * min(count, _CHUNK)), dtype="<u8") & mask
        if words.max() > top:
            words = words[words <= top]
        count -= words.size
        yield words


def uniform_words(key: bytes, count: int, modulus: int) -> Words:
    """`count` words uniform on [0, modulus). A smaller count gives the first words of a larger one.

    Each key is for one use. Raises ValueError as `uniform_chunks` does.

    >>> uniform_words(bytes(32), 3, modulus=1000).tolist() == uniform_words(bytes(32), 5, modulus=1000)[:3].tolist()
    True
    """
    words, at = np.empty(max(count, 0), dtype=np.uint64), 0
    for chunk in uniform_chunks(key, count, modulus):
        words[at : at + chunk.size] = chunk
        at += chunk.size
    return words
