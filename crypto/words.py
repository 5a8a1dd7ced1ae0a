"""Arithmetic and tight storage of unsigned words: numpy only, nothing secret."""

import numpy as np
from numpy.typing import NDArray

from securepfl.errors import MessageError

Words = NDArray[np.uint64]

_CHUNK = 1 << 16
"""Words handled at once: a multiple of 8, so that every chunk ends on a byte, and small enough for the
cache.
"""


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that `count` words of `bits` bits take."""
    return -(-count * bits // 8)


def _check_bits(bits: int) -> None:
    # Shifted by up to 7 bits, a word must still fit in 64.
    if not 1 <= bits <= 57:
        raise ValueError(f"bits must be in [1, 57], not {bits}")


def pack_words(words: Words, bits: int) -> bytes:
    """The low `bits` bits of each word, one after another, least significant first.

    Raises ValueError where a word does not fit, or for more than 57 bits.
    """
    _check_bits(bits)
    if words.size and int(words.max()) >> bits:
        raise ValueError(f"a word does not fit in {bits} bits")
    flat = words.reshape(-1)
    parts = [_pack_chunk(flat[start : start + _CHUNK], bits) for start in range(0, flat.size, _CHUNK)]
    return b"".join(parts)


def _pack_chunk(words: Words, bits: int) -> bytes:
    # Eight words fill `bits` bytes exactly, each at a fixed byte and shift of its group.
    groups = np.zeros((-(-words.size // 8), 8), dtype=np.uint64)
    groups.reshape(-1)[: words.size] = words
    octets = np.zeros((groups.shape[0], bits + 8), dtype=np.uint8)
    for place in range(8):
        start, shift = divmod(place * bits, 8)
        shifted = (groups[:, place] << np.uint64(shift)).astype("<u8")
        octets[:, start : start + 8] |= shifted.view(np.uint8).reshape(-1, 8)
    return octets[:, :bits].tobytes()[: packed_bytes(words.size, bits)]


def unpack_words(data: bytes, count: int, bits: int, modulus: int) -> Words:
    """Read `count` words of `bits` bits. The inverse of `pack_words`.

    Raises MessageError where the length is wrong, a word is not below `modulus` or padding bits are set;
    ValueError for more than 57 bits.
    """
    _check_bits(bits)
    if len(data) != packed_bytes(count, bits):
        raise MessageError(f"{len(data)} bytes of packed words where {packed_bytes(count, bits)} belong; send again")
    words = np.empty(-(-count // 8) * 8, dtype=np.uint64)
    octets = np.frombuffer(data, dtype=np.uint8)
    for start in range(0, count, _CHUNK):
        chunk = words[start : start + _CHUNK]
        at = start * bits // 8
        _unpack_chunk(octets[at : at + chunk.size * bits // 8], bits, chunk.reshape(-1, 8))
    if words.size and (int(words[:count].max()) >= modulus or words[count:].any()):
        raise MessageError("packed words out of range; the sender is damaged or dishonest")
    return words[:count]


def _unpack_chunk(octets: NDArray[np.uint8], bits: int, groups: Words) -> None:
    padded = np.zeros(groups.shape[0] * bits, dtype=np.uint8)
    padded[: octets.size] = octets
    wide = np.pad(padded.reshape(-1, bits), ((0, 0), (0, 8)))
    for place in range(8):
        start, shift = divmod(place * bits, 8)
        words = np.ascontiguousarray(wide[:, start : start + 8]).view("<u8")[:, 0]
        groups[:, place] = words >> np.uint64(shift) & np.uint64((1 << bits) - 1)


def scale(words: Words, factor: int, modulus: int) -> Words:
    """words * factor mod modulus, exactly, for words below a modulus of at most 62 bits."""
    # Horner on digits of `factor` so small that every intermediate stays under 2^64.
    step = 63 - modulus.bit_length()
    if step < 1 or factor < 0:
        raise ValueError(f"modulus {modulus} must have at most 62 bits and factor {factor} be at least 0")
    if factor == 1:
        return words
    digits = [factor >> shift & ((1 << step) - 1) for shift in range(0, max(factor.bit_length(), 1), step)]
    result = words * np.uint64(digits[-1]) % np.uint64(modulus)
    for digit in reversed(digits[:-1]):
        result = ((result << np.uint64(step)) + words * np.uint64(digit)) % np.uint64(modulus)
    return result


def add(left: Words, right: Words, modulus: int) -> Words:
    """left + right mod modulus, for words below a modulus of at most 63 bits."""
    total = left + right
    return np.where(total >= np.uint64(modulus), total - np.uint64(modulus), total)


def dot(left: Words, right: Words, modulus: int) -> int:
    """sum(left * right) mod modulus, exactly, for words below a modulus of at most 48 bits."""
    if modulus.bit_length() > 48:
        raise ValueError(f"modulus must have at most 48 bits, not {modulus.bit_length()}")
    # Halves of 24 bits: products of 48 bits, 2^15 of which stay within 63 bits.
    mask, half = np.uint64((1 << 24) - 1), np.uint64(24)
    total = 0
    for start in range(0, left.size, _CHUNK // 2):
        a, b = left[start : start + _CHUNK // 2], right[start : start + _CHUNK // 2]
        a0, a1, b0, b1 = a & mask, a >> half, b & mask, b >> half
        total += int(a0 @ b0) + (int(a0 @ b1 + a1 @ b0) << 24) + (int(a1 @ b1) << 48)
    return total % modulus
