"""Words from a key: uniform for any modulus, the same whole and in chunks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from securepfl.crypto.sums import uniform
from securepfl.crypto.sums.uniform import uniform_chunks, uniform_words
from securepfl.randomness import RandomStream, fresh_key

KEY = bytes(range(32))
MODULI = [1, 2, 3, 5, 2**16, 2**36 + 1, 2**37 - 25, 2**60, 2**63 + 1, 2**64]


@pytest.mark.parametrize("modulus", MODULI)
@pytest.mark.parametrize("count", [0, 1, 5000, 70_000])
def test_words_are_the_keystream_cut_to_length_without_those_at_or_above_the_modulus(modulus, count):
    keystream = RandomStream(KEY).words(2 * count + 200)
    cut = keystream & np.uint64(2 ** (modulus - 1).bit_length() - 1)
    expected = cut[cut <= np.uint64(modulus - 1)][:count]
    assert expected.size == count
    words = uniform_words(KEY, count, modulus)
    assert words.dtype == np.uint64
    assert (words == expected).all()


@given(st.binary(min_size=32, max_size=32), st.integers(0, 300), st.integers(1, 2**64), st.integers(1, 64))
@settings(max_examples=60, deadline=None)
def test_the_size_of_chunks_changes_no_word(key, count, modulus, size):
    whole = uniform_words(key, count, modulus)
    assert (uniform_words(key, count + 7, modulus)[:count] == whole).all()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uniform, "_CHUNK", size)
        chunks = list(uniform_chunks(key, count, modulus))
    assert all(chunk.size <= size for chunk in chunks)
    assert (np.concatenate([np.empty(0, dtype=np.uint64), *chunks]) == whole).all()


@pytest.mark.parametrize("modulus", [3, 10, 2**36 + 1, 2**59 + 2**58])
def test_words_are_uniform_also_where_many_are_rejected(modulus):
    words = uniform_words(fresh_key(), 50_000, modulus)
    cells = min(modulus, 16)
    counts = np.bincount([int(word) * cells // modulus for word in words.tolist()], minlength=cells)
    sizes = np.array([-(-modulus * (cell + 1) // cells) - -(-modulus * cell // cells) for cell in range(cells)])
    assert chisquare(counts, words.size * (sizes / modulus)).pvalue > 1e-9


def test_other_keys_give_other_words():
    assert (uniform_words(KEY, 9, 2**60) != uniform_words(bytes(32), 9, 2**60)).all()


@pytest.mark.parametrize(("key", "count", "modulus"), [(b"", 1, 5), (KEY, -1, 5), (KEY, 1, 0), (KEY, 1, 2**64 + 1)])
def test_arguments_out_of_range_are_refused_before_a_word_is_drawn(key, count, modulus):
    with pytest.raises(ValueError, match="must be"):
        uniform_chunks(key, count, modulus)
    with pytest.raises(ValueError, match="must be"):
        uniform_words(key, count, modulus)
