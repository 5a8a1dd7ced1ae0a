"""Arithmetic and tight storage of unsigned words: numpy only, nothing secret."""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from securepfl.errors import MessageError

Words = NDArray[np.uint64]
Buffer = bytes | bytearray | memoryview

_LANES: Final = 64
CHUNK: Final = 1 << 16
"""Words handled at once: a multiple of 64 lanes, and small enough for the cache."""

_NARROW: Final = 128
"""Words in a lane up to which numpy's calls cost more than their work, so that all lanes are handled in one step."""


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that `count` words of `bits` bits take."""
    return -(-count * bits // 8)


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= 64:
        raise ValueError(f"bits must be in [1, 64], not {bits}")


def pack_words(words: Words, bits: int) -> bytes:
    """The low `bits` bits of each word and nothing between them: `packed_bytes` in all.

    Each chunk is cut into 64 lanes of consecutive words, and word k of all lanes fills word k of `bits` rows, lowest
    bits first. So every step works on whole rows. The last words, fewer than 64, follow one after another.
    Raises ValueError where a word does not fit, or for more than 64 bits.

    >>> packed = pack_words(np.array([1, 2, 3], dtype=np.uint64), bits=10)
    >>> packed.hex(), unpack_words(packed, 3, bits=10, modulus=1000).tolist()
    ('01083000', [1, 2, 3])
    """
    return b"".join(packed_chunks(words, bits))


def packed_chunks(words: Words, bits: int) -> Iterator[bytes]:
    """What `pack_words` joins, CHUNK words at a time. Raises as it does, before any is given."""
    _check_bits(bits)
    flat = words.reshape(-1)
    if flat.size and int(flat.max()) >> bits:
        raise ValueError(f"a word does not fit in {bits} bits")
    return _packed(flat, bits)


def _packed(flat: Words, bits: int) -> Iterator[bytes]:
    whole = flat.size - flat.size % _LANES
    for start in range(0, whole, CHUNK):
        yield _pack_chunk(flat[start : min(start + CHUNK, whole)], bits)
    tail = sum(word << index * bits for index, word in enumerate(flat[whole:].tolist()))
    yield tail.to_bytes(packed_bytes(flat.size - whole, bits), "little")


def _pack_chunk(words: Words, bits: int) -> bytes:
    lanes = words.reshape(_LANES, -1)
    if lanes.shape[1] <= _NARROW:
        return _pack_narrow(lanes, bits)
    rows = np.zeros((bits, lanes.shape[1]), dtype=np.uint64)
    for index, lane in enumerate(lanes):
        row, shift = divmod(index * bits, 64)
        rows[row] |= lane << np.uint64(shift)
        if shift + bits > 64:
            rows[row + 1] |= lane >> np.uint64(64 - shift)
    return rows.astype("<u8", copy=False).tobytes()


def _pack_narrow(lanes: Words, bits: int) -> bytes:
    """All lanes in one step. Words are at most as long as rows, so in each row one begins, and one at most ends that
    began in the row before.
    """
    row, shift = _places(bits)
    rows: Words = np.bitwise_or.reduceat(lanes << shift, np.searchsorted(row, np.arange(bits)), axis=0)
    over = shift[:, 0] > 64 - bits
    rows[row[over] + 1] |= lanes[over] >> (np.uint64(64) - shift[over])
    return rows.astype("<u8", copy=False).tobytes()


def _places(bits: int) -> tuple[NDArray[np.intp], Words]:
    """In which row each lane begins, shape (64,), and at which bit of it, shape (64, 1)."""
    row, shift = np.divmod(np.arange(_LANES) * bits, 64)
    return row, shift.astype(np.uint64)[:, np.newaxis]


def unpack_words(data: Buffer, count: int, bits: int, modulus: int) -> Words:
    """Read `count` words of `bits` bits. The inverse of `pack_words`.

    Raises MessageError where the length is wrong, a word is not below `modulus` or padding bits are set;
    ValueError for more than 64 bits.
    """
    words = np.empty(count, dtype=np.uint64)
    for start, chunk in unpacked_chunks(data, count, bits, modulus):
        words[start : start + chunk.size] = chunk
    return words


def unpacked_chunks(data: Buffer, count: int, bits: int, modulus: int) -> Iterator[tuple[int, Words]]:
    """(place, words) of what `unpack_words` reads, CHUNK words at a time. Raises as it does: what comes before words
    that are out of range is given.
    """
    _check_bits(bits)
    if len(data) != packed_bytes(count, bits):
        raise MessageError(f"{len(data)} bytes of packed words where {packed_bytes(count, bits)} belong; send again")
    whole = count - count % _LANES
    for start in range(0, count, CHUNK):
        words = np.empty(min(CHUNK, count - start), dtype=np.uint64)
        laned = words[: max(0, whole - start)]
        rows = np.frombuffer(data, "<u8", laned.size * bits // 64, start * bits // 8) if laned.size else words[:0]
        _unpack_chunk(rows.reshape(bits, -1), bits, laned.reshape(_LANES, -1))
        tail = int.from_bytes(data[whole * bits // 8 :], "little") if laned.size < words.size else 0
        words[laned.size :] = [tail >> index * bits & ((1 << bits) - 1) for index in range(words.size - laned.size)]
        if tail >> (count - whole) * bits or int(words.max()) >= modulus:
            raise MessageError("packed words out of range; the sender is damaged or dishonest")
        yield start, words


def _unpack_chunk(rows: Words, bits: int, lanes: Words) -> None:
    mask = np.uint64((1 << bits) - 1)
    if lanes.shape[1] <= _NARROW:
        _unpack_narrow(rows, bits, lanes)
    else:
        for index in range(_LANES):
            row, shift = divmod(index * bits, 64)
            np.right_shift(rows[row], np.uint64(shift), out=lanes[index])
            if shift + bits > 64:
                lanes[index] |= rows[row + 1] << np.uint64(64 - shift)
    lanes &= mask


def _unpack_narrow(rows: Words, bits: int, lanes: Words) -> None:
    """All lanes in one step; what lies above a lane's `bits` bits is not cleared."""
    row, shift = _places(bits)
    np.right_shift(rows[row], shift, out=lanes)
    over = shift[:, 0] > 64 - bits
    lanes[over] |= rows[row[over] + 1] << (np.uint64(64) - shift[over])


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


def add(left: Words, right: Words | np.uint64, modulus: int) -> Words:
    """left + right mod modulus, for words below a modulus of at most 63 bits."""
    total: Words = left + right
    # Where total < modulus the difference wraps round to a larger number.
    reduced: Words = np.minimum(total, total - np.uint64(modulus))
    return reduced


def subtract(left: Words, right: Words, modulus: int) -> Words:
    """left - right mod modulus, for words below a modulus of at most 63 bits."""
    difference: Words = left - right
    reduced: Words = np.minimum(difference, difference + np.uint64(modulus))
    return reduced


def dot(left: Words, right: Words, modulus: int) -> int:
    """sum(left * right) mod modulus, exactly, for words below a modulus of at most 50 bits."""
    if modulus.bit_length() > 50:
        raise ValueError(f"modulus must have at most 50 bits, not {modulus.bit_length()}")
    # Halves of 25 bits: a product takes 50, and 2^12 pairs of products 63.
    mask, half, chunk = np.uint64((1 << 25) - 1), np.uint64(25), 1 << 12
    total = 0
    for start in range(0, left.size, chunk):
        a, b = left[start : start + chunk], right[start : start + chunk]
        a0, a1, b0, b1 = a & mask, a >> half, b & mask, b >> half
        total += int(a0 @ b0) + (int(a0 @ b1 + a1 @ b0) << 25) + (int(a1 @ b1) << 50)
    return total % modulus
