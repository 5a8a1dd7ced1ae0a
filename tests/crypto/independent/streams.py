"""Keys derived from keys, and numbers read from a key's stream, as securepfl/randomness.py and uniform.py tell it.

derived key   HMAC-SHA-256 under the key, over each label as text in UTF-8 after its length, 4 bytes big-endian
stream        AES-256 in counter mode from counter 0, read as 64-bit words, least significant byte first
"""

import hashlib
import hmac
from collections.abc import Iterator
from fractions import Fraction
from statistics import NormalDist

from aes import keystream

_AT_ONCE = 1 << 12


def derive_key(key: bytes, *labels: str | int) -> bytes:
    """32 bytes."""
    encoded = [str(label).encode("utf-8") for label in labels]
    message = b"".join(len(label).to_bytes(4, "big") + label for label in encoded)
    return hmac.new(key, message, hashlib.sha256).digest()


def words_of(key: bytes, size: int = 8) -> Iterator[int]:
    """The words of a key's stream, `size` bytes each, without end."""
    counter = 0
    while True:
        data = keystream(key, 16 * _AT_ONCE, counter)
        counter += _AT_ONCE
        for at in range(0, len(data), size):
            yield int.from_bytes(data[at : at + size], "little")


def words(key: bytes, count: int) -> list[int]:
    """The first 64-bit words."""
    stream = words_of(key)
    return [next(stream) for _ in range(count)]


def uniform(key: bytes, count: int) -> list[Fraction]:
    """The middles of the 2^52 equal cells of (0, 1) that a word's top 52 bits name."""
    return [Fraction(2 * (word >> 12) + 1, 2**53) for word in words(key, count)]


def gaussian(key: bytes, count: int) -> list[float]:
    """Half the sum of four normal numbers, the words being those of four rows of `count`."""
    normal = [NormalDist().inv_cdf(float(number)) for number in uniform(key, 4 * count)]
    return [sum(normal[row * count + at] for row in range(4)) / 2 for at in range(count)]


def integers(key: bytes, count: int, modulus: int) -> list[int]:
    """Words below the largest multiple of the modulus that 64 bits hold, modulo it; the others are left out."""
    limit, kept, stream = 2**64 // modulus * modulus, [], words_of(key)
    while len(kept) < count:
        word = next(stream)
        if word < limit:
            kept.append(word % modulus)
    return kept


def permutation(key: bytes, count: int, skipped: int = 0) -> list[int]:
    """range(count) in the order of its words after `skipped` ones, the first of equals first."""
    ranks = words(key, skipped + count)[skipped:]
    return sorted(range(count), key=lambda index: (ranks[index], index))


def uniform_words(key: bytes, count: int, modulus: int, size: int = 8) -> list[int]:
    """Words cut to the bits of modulus - 1, those below the modulus."""
    mask, kept, stream = (1 << (modulus - 1).bit_length()) - 1, [], words_of(key, size)
    while len(kept) < count:
        word = next(stream) & mask
        if word < modulus:
            kept.append(word)
    return kept
