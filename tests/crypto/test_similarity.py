"""Sketches, and inner products of which nothing else leaves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securepfl.crypto import seal
from securepfl.crypto.parameters import SIMILARITY
from securepfl.crypto.similarity import (
    MAX_DIMENSIONS,
    SKETCH_NORM,
    PlainMultiplier,
    PlainSimilarity,
    SealMultiplier,
    SealSimilarity,
    cosine,
    sketch,
)
from securepfl.errors import MessageError

SECRET = seal.generate_secret_key(SIMILARITY)
CIPHER = SealSimilarity(SECRET)
MULTIPLIER = SealMultiplier(seal.make_public_key(SIMILARITY, SECRET))
KEY = b"k" * 32
PRIME = SIMILARITY.data_primes[0]


def normal(seed, size):
    return np.random.default_rng(seed).standard_normal(size)


def encrypted_product(left, right):
    return CIPHER.decrypt_product(MULTIPLIER.product(CIPHER.encrypt_sketch(left), CIPHER.encrypt_sketch(right)))


def one_hot(index, size=MAX_DIMENSIONS):
    vector = np.zeros(size)
    vector[index] = 1.0
    return vector


# The flat vector rounds furthest up; opposite signs drive the product to its negative end.
FLAT = np.full(MAX_DIMENSIONS, 1.0)
PAIRS = [
    (normal(0, 257), normal(1, 257)),
    (normal(2, MAX_DIMENSIONS), normal(3, MAX_DIMENSIONS)),
    (FLAT, FLAT),
    (FLAT, -FLAT),
    (one_hot(0), one_hot(0)),
    (one_hot(MAX_DIMENSIONS - 1), -one_hot(MAX_DIMENSIONS - 1)),
    (one_hot(0), one_hot(MAX_DIMENSIONS - 1)),
    (np.zeros(9), normal(4, 9)),
]


@pytest.mark.parametrize("pair", PAIRS)
def test_encrypted_products_are_the_exact_integer_products(pair):
    left, right = (sketch(vector, MAX_DIMENSIONS, KEY) for vector in pair)
    plain = PlainSimilarity()
    in_clear = PlainMultiplier(MAX_DIMENSIONS).product(plain.encrypt_sketch(left), plain.encrypt_sketch(right))
    assert encrypted_product(left, right) == int(left @ right) == plain.decrypt_product(in_clear)


def test_the_longest_possible_sketch_still_cannot_wrap():
    # Every entry rounded up by nearly 1/2 is the worst that rounding can do to the norm.
    assert SIMILARITY.plain_modulus / 2 > 2 * (SKETCH_NORM + MAX_DIMENSIONS**0.5 / 2) ** 2
    with pytest.raises(ValueError, match="wrap"):
        CIPHER.encrypt_sketch(np.full(MAX_DIMENSIONS, 6, dtype=np.int64))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), st.floats(1e-3, 1e3))
@settings(max_examples=40, deadline=None)
def test_a_short_vector_is_kept_up_to_its_scale(values, factor):
    vector = np.array(values)
    result = sketch(vector, 64, KEY)
    assert (result == sketch(vector * factor, 64, KEY)).mean() > 0.9
    norm = np.linalg.norm(vector)
    if norm > 0:
        np.testing.assert_allclose(result[: vector.size], vector * (SKETCH_NORM / norm), atol=0.5 + 1e-6)
    assert not result[vector.size :].any()


def test_sketches_estimate_cosines_of_longer_vectors():
    left = normal(5, 20_000)
    right = 0.6 * left + 0.8 * normal(6, 20_000)
    true = left @ right / np.linalg.norm(left) / np.linalg.norm(right)
    estimates = [
        cosine(int(sketch(left, 1024, bytes([k]) * 32) @ sketch(right, 1024, bytes([k]) * 32))) for k in range(20)
    ]
    assert abs(np.mean(estimates) - true) < 0.02
    assert np.std(estimates) < 0.05


def test_the_zero_vector_stays_zero_and_bad_vectors_are_refused():
    assert not sketch(np.zeros(5000), 100, KEY).any()
    assert np.linalg.norm(sketch(np.array([1e-300, 1e-300]), 4, KEY)) == pytest.approx(SKETCH_NORM, rel=0.01)
    with pytest.raises(ValueError, match="finite"):
        sketch(np.array([1.0, np.nan]), 4, KEY)
    with pytest.raises(ValueError, match="dimensions"):
        sketch(np.ones(4), MAX_DIMENSIONS + 1, KEY)


def parts(answer):
    """The one coefficient, and the two packed polynomials."""
    return int.from_bytes(answer[8:16], "big"), answer[16:]


def test_an_answer_holds_one_coefficient_and_is_rerandomised_each_time():
    left, right = (CIPHER.encrypt_sketch(sketch(normal(seed, 100), 100, KEY)) for seed in (7, 8))
    first, second = (MULTIPLIER.product(left, right) for _ in range(2))
    assert len(first) == SealSimilarity.ANSWER_BYTES == 8 + 8 + 2 * 4096 * 46 // 8
    rows = [seal.unpack_rns(parts(answer)[1], 2, 4096, [PRIME]) for answer in (first, second)]
    # Uniform modulo a 46-bit prime: no word agrees except by chance.
    assert (rows[0] != rows[1]).mean() > 0.999
    differences = (rows[0].astype(np.int64) - rows[1].astype(np.int64)) % PRIME
    assert abs(differences.mean() / PRIME - 0.5) < 0.02
    assert CIPHER.decrypt_product(first) == CIPHER.decrypt_product(second)


def revealed_noise(answer, product):
    """The noise on the revealed coefficient, in units of the last prime, found by where decryption flips."""
    word, rest = parts(answer)
    step = PRIME // SIMILARITY.plain_modulus

    def reads(offset):
        moved = ((word + offset) % PRIME).to_bytes(8, "big")
        body = np.zeros((3, 1, 4096), dtype=np.uint64)
        body[0, 0, -1] = int.from_bytes(moved, "big")
        body[1:] = seal.unpack_rns(rest, 2, 4096, [PRIME])
        return secret.decrypt_coefficient(body, 4095) == 2 * product % SIMILARITY.plain_modulus

    secret = seal.SecretContext(SIMILARITY, SECRET)
    low, high = 0, step
    while high - low > 2**12:
        middle = (low + high) // 2
        low, high = (middle, high) if reads(middle) else (low, middle)
    return step // 2 - low


def test_the_revealed_coefficient_is_flooded_at_the_stated_level():
    values = sketch(normal(9, 100), 100, KEY)
    upload, product = CIPHER.encrypt_sketch(values), int(values @ values)
    noises = [revealed_noise(MULTIPLIER.product(upload, upload), product) for _ in range(12)]
    # The prime that was dropped takes its share of the stated 2^flood_bits with it.
    level = 2 ** seal.flood_bits(SIMILARITY) // SIMILARITY.data_primes[1]
    assert level // 4 < max(map(abs, noises)) < level + 2**14
    assert len({noise // 2**13 for noise in noises}) > 6


def test_uploads_and_answers_of_a_wrong_length_or_range_are_refused():
    upload = CIPHER.encrypt_sketch(sketch(normal(1, 9), 9, KEY))
    assert len(upload) == SealSimilarity.UPLOAD_BYTES
    for bad in (upload[:-1], upload + b"\0", b"", upload[:80] + b"\xff" * (len(upload) - 80)):
        with pytest.raises(MessageError):
            MULTIPLIER.product(upload, bad)
    answer = MULTIPLIER.product(upload, upload)
    for bad in (answer[:-1], b"", answer[:8] + b"\xff" * 8 + answer[16:], b"SB\1\3\6\0\3\4" + answer[8:]):
        with pytest.raises(MessageError):
            CIPHER.decrypt_product(bad)
    with pytest.raises(MessageError):
        PlainMultiplier(2).product(bytes(8), bytes(12))
