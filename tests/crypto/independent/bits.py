"""Words stored tightly, as crypto/sums/words.py tells it.

Words go in chunks of 65,536. The whole multiple of 64 in a chunk is cut into 64 lanes of consecutive words; word k of
every lane, lowest bits first, makes `bits` words of 64 bits, and the first of these for each k stand first, then the
second for each k, and so on. The last words, fewer than 64, follow one after another.
"""

_LANES = 64
_CHUNK = 65_536


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that `count` words of `bits` bits take."""
    return -(-count * bits // 8)


def _joined(words: list[int], bits: int) -> int:
    total = 0
    for place, word in enumerate(words):
        assert 0 <= word < 1 << bits
        total |= word << place * bits
    return total


def _chunk(words: list[int], bits: int) -> bytes:
    length = len(words) // _LANES
    columns = []
    for k in range(length):
        lanes = _joined([words[lane * length + k] for lane in range(_LANES)], bits)
        columns.append([lanes >> 64 * row & (2**64 - 1) for row in range(bits)])
    return b"".join(column[row].to_bytes(8, "little") for row in range(bits) for column in columns)


def pack_words(words: list[int], bits: int) -> bytes:
    """The bytes of words below 2^bits."""
    whole = len(words) - len(words) % _LANES
    chunks = [_chunk(words[start : min(start + _CHUNK, whole)], bits) for start in range(0, whole, _CHUNK)]
    tail = words[whole:]
    return b"".join(chunks) + _joined(tail, bits).to_bytes(packed_bytes(len(tail), bits), "little")
