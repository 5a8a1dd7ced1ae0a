import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from securepfl.randomness import RandomStream, derive_key, fresh_key


def test_the_same_key_repeats_and_another_does_not():
    key = fresh_key()
    assert RandomStream(key).bytes(64) == RandomStream(key).bytes(64)
    assert RandomStream(key).bytes(64) != RandomStream(fresh_key()).bytes(64)


def test_labels_cannot_be_shifted_into_each_other():
    key = bytes(32)
    assert derive_key(key, "ab", "c") != derive_key(key, "a", "bc")
    assert derive_key(key, 1, 23) != derive_key(key, 12, 3)


def test_gaussian_is_standard_normal():
    drawn = RandomStream(derive_key(bytes(32), "law")).gaussian(200_000)
    assert stats.kstest(drawn, "norm").pvalue > 1e-4
    assert abs(drawn.std() - 1) < 0.01


def test_uniform_stays_inside_the_open_interval():
    drawn = RandomStream(bytes(32)).uniform(100_000)
    assert drawn.min() > 0 and drawn.max() < 1
    assert stats.kstest(drawn, "uniform").pvalue > 1e-4


@pytest.mark.parametrize(("word", "expected"), [(0, 2.0**-53), (2**64 - 1, 1 - 2.0**-53)])
def test_the_extreme_words_give_no_zero_and_no_one(monkeypatch, word, expected):
    monkeypatch.setattr(RandomStream, "words", lambda self, count: np.full(count, word, dtype=np.uint64))
    assert RandomStream(bytes(32)).uniform(1)[0] == expected
    assert np.isfinite(RandomStream(bytes(32)).gaussian(1)[0])


@settings(max_examples=25)
@given(st.integers(1, 2**63), st.integers(0, 50))
def test_integers_are_below_their_modulus(modulus, count):
    drawn = RandomStream(bytes(32)).integers(count, modulus)
    assert drawn.shape == (count,)
    assert all(int(value) < modulus for value in drawn)


def test_integers_show_no_modulo_bias():
    # With 3 x 2^62 as modulus, plain reduction would make the first third twice as likely.
    drawn = RandomStream(bytes(32)).integers(20_000, 3 * 2**61)
    share = float(np.mean(drawn < 2**61))
    assert abs(share - 1 / 3) < 0.02


def test_permutation_holds_every_index_once():
    assert sorted(RandomStream(bytes(32)).permutation(1000).tolist()) == list(range(1000))


def test_the_key_does_not_show_in_the_repr():
    key = fresh_key()
    assert key.hex() not in repr(RandomStream(key)) and repr(key) not in repr(vars(RandomStream(key)))


def test_a_short_key_is_refused():
    with pytest.raises(ValueError, match="32 bytes"):
        RandomStream(b"short")
