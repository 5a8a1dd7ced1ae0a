"""BLAKE2b (RFC 7693), BLAKE2Xb (Aumasson, Neves, Wilcox-O'Hearn and Winnerlein, 2016), and what SEAL 4 makes of it.

hashlib's BLAKE2b refuses the tree depth 0 that BLAKE2Xb asks for, so the whole of it stands here.
"""

import struct
from collections.abc import Iterator

_MASK = 2**64 - 1
_IV = (
    0x6A09E667F3BCC908,
    0xBB67AE8584CAA73B,
    0x3C6EF372FE94F82B,
    0xA54FF53A5F1D36F1,
    0x510E527FADE682D1,
    0x9B05688C2B3E6C1F,
    0x1F83D9ABFB41BD6B,
    0x5BE0CD19137E2179,
)
_ORDERS = (
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
    (14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3),
    (11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4),
    (7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8),
    (9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13),
    (2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9),
    (12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11),
    (13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10),
    (6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5),
    (10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0),
)
_COLUMNS_AND_DIAGONALS = (
    (0, 4, 8, 12),
    (1, 5, 9, 13),
    (2, 6, 10, 14),
    (3, 7, 11, 15),
    (0, 5, 10, 15),
    (1, 6, 11, 12),
    (2, 7, 8, 13),
    (3, 4, 9, 14),
)
_BLOCK = 128


def _turned(word: int, by: int) -> int:
    return (word >> by | word << 64 - by) & _MASK


def _compressed(state: list[int], block: bytes, count: int, *, last: bool) -> list[int]:
    message = struct.unpack("<16Q", block)
    v = [*state, *_IV]
    v[12] ^= count
    v[14] ^= _MASK if last else 0
    for number in range(12):
        order = _ORDERS[number % 10]
        for at, (a, b, c, d) in enumerate(_COLUMNS_AND_DIAGONALS):
            for place, first, second in ((2 * at, 32, 24), (2 * at + 1, 16, 63)):
                v[a] = (v[a] + v[b] + message[order[place]]) & _MASK
                v[d] = _turned(v[d] ^ v[a], first)
                v[c] = (v[c] + v[d]) & _MASK
                v[b] = _turned(v[b] ^ v[c], second)
    return [state[i] ^ v[i] ^ v[i + 8] for i in range(8)]


def blake2b(data: bytes, key: bytes = b"", parameters: bytes = b"\x40\0\1\1" + bytes(60)) -> bytes:
    """64 bytes under a block of 64 bytes of parameters, of which the key's length must be one."""
    state = [iv ^ word for iv, word in zip(_IV, struct.unpack("<8Q", parameters), strict=True)]
    whole = (key + bytes(_BLOCK - len(key)) if key else b"") + data
    blocks = [whole[at : at + _BLOCK] for at in range(0, len(whole), _BLOCK)] or [b""]
    for number, block in enumerate(blocks):
        last = number == len(blocks) - 1
        count = len(whole) if last else (number + 1) * _BLOCK
        state = _compressed(state, block + bytes(_BLOCK - len(block)), count, last=last)
    return struct.pack("<8Q", *state)


def blake2xb(data: bytes, key: bytes, length: int) -> bytes:
    """`length` bytes: a root hash, whose parameters name the length, and of it a hash for each 64 bytes."""
    root = blake2b(data, key, struct.pack("<BBBBIII", 64, len(key), 1, 1, 0, 0, length) + bytes(48))
    parts = []
    for number in range(-(-length // 64)):
        size = min(64, length - 64 * number)
        parameters = struct.pack("<BBBBIIIBB", size, 0, 0, 0, 64, number, length, 0, 64) + bytes(46)
        parts.append(blake2b(root, b"", parameters)[:size])
    return b"".join(parts)


def _seal_bytes(seed: bytes) -> Iterator[bytes]:
    """SEAL's generator, 8 bytes at a time: BLAKE2Xb under the seed of a counter of 8 bytes, 4,096 bytes each."""
    counter = 0
    while True:
        data = blake2xb(counter.to_bytes(8, "little"), seed, 4096)
        counter += 1
        yield from (data[at : at + 8] for at in range(0, len(data), 8))


def seal_uniform_rows(seed: bytes, count: int, primes: tuple[int, ...]) -> list[list[int]]:
    """The polynomial that SEAL expands from a ciphertext's seed, modulo each prime: words below the largest multiple of
    the prime, less one, modulo it. Words that are not are drawn anew, after all those of all primes.
    """
    stream, rows = _seal_bytes(seed), []
    drawn = [[int.from_bytes(next(stream), "little") for _ in range(count)] for _ in primes]
    for prime, row in zip(primes, drawn, strict=True):
        limit, words = (2**64 - 1) - (2**64 - 1) % prime - 1, []
        for first in row:
            word = first
            while word >= limit:
                word = int.from_bytes(next(stream), "little")
            words.append(word % prime)
        rows.append(words)
    return rows


def seal_uniform(seed: bytes, count: int, prime: int) -> list[int]:
    """The same for one prime."""
    return seal_uniform_rows(seed, count, (prime,))[0]
