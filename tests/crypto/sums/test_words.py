"""Exact modular arithmetic and tight packing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securepfl.crypto.sums.words import add, dot, pack_words, packed_bytes, scale, subtract, unpack_words
from securepfl.errors import MessageError

MODULI = [12289, 2**36 - 5, 2**48 - 59, 2**50 - 27, 2**60 - 16383]


@given(st.integers(1, 64), st.data())
@settings(max_examples=40, deadline=None)
def test_packing_words_is_exact_and_tight(bits, data):
    values = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=150))
    words = np.array(values, dtype=np.uint64)
    packed = pack_words(words, bits)
    assert len(packed) == packed_bytes(len(values), bits) == -(-len(values) * bits // 8)
    assert unpack_words(packed, len(values), bits, 2**bits).tolist() == values


def test_packing_is_exact_across_chunks():
    words = np.random.default_rng(0).integers(0, 12289, 150_001).astype(np.uint64)
    assert (unpack_words(pack_words(words, 14), words.size, 14, 12289) == words).all()


@pytest.mark.parametrize("count", [64, 64 * 128, 64 * 129, 64 * 128 + 5])
@pytest.mark.parametrize("bits", range(1, 65))
def test_few_and_many_words_lie_where_the_format_says(bits, count):
    """Few words are packed in one step, many lane by lane: both are whole numbers' shifts, row by row."""
    words = np.random.default_rng(bits).integers(0, 2**64 - 1, count, dtype=np.uint64, endpoint=True)
    words &= np.uint64(2**bits - 1)
    packed, width = pack_words(words, bits), count // 64
    lanes = words[: 64 * width].reshape(64, width)
    for column in (0, width - 1):
        whole = sum(int(word) << index * bits for index, word in enumerate(lanes[:, column]))
        rows = np.frombuffer(packed, "<u8", bits * width).reshape(bits, width)[:, column]
        assert [int(row) for row in rows] == [whole >> 64 * row & (2**64 - 1) for row in range(bits)]
    assert (unpack_words(packed, count, bits, 2**bits) == words).all()


def test_words_out_of_range_or_of_a_wrong_length_are_refused():
    packed = pack_words(np.array([5, 12289], dtype=np.uint64), 14)
    with pytest.raises(MessageError, match="out of range"):
        unpack_words(packed, 2, 14, 12289)
    with pytest.raises(MessageError, match="belong"):
        unpack_words(packed + b"\0", 2, 14, 12290)
    with pytest.raises(MessageError, match="out of range"):
        unpack_words(packed[:-1] + bytes((packed[-1] | 0xF0,)), 2, 14, 12290)
    with pytest.raises(ValueError, match="13 bits"):
        pack_words(np.array([2**13], dtype=np.uint64), 13)


@given(st.sampled_from(MODULI), st.integers(0, 10**7), st.data())
@settings(max_examples=60, deadline=None)
def test_arithmetic_matches_exact_integers(modulus, factor, data):
    residues = st.lists(st.one_of(st.just(modulus - 1), st.integers(0, modulus - 1)), min_size=3, max_size=3)
    left, right = data.draw(residues), data.draw(residues)
    a, b = np.array(left, dtype=np.uint64), np.array(right, dtype=np.uint64)
    assert scale(a, factor, modulus).tolist() == [x * factor % modulus for x in left]
    assert add(a, b, modulus).tolist() == [(x + y) % modulus for x, y in zip(left, right, strict=True)]
    assert subtract(a, b, modulus).tolist() == [(x - y) % modulus for x, y in zip(left, right, strict=True)]
    if modulus.bit_length() <= 50:
        assert dot(a, b, modulus) == sum(x * y for x, y in zip(left, right, strict=True)) % modulus


def test_a_long_dot_product_of_the_largest_words_does_not_overflow():
    modulus = 2**50 - 27
    words = np.full(100_000, modulus - 1, dtype=np.uint64)
    assert dot(words, words, modulus) == 100_000 * (modulus - 1) ** 2 % modulus
