"""SEAL's edges: its randomness, its secrets, its files."""

import re
from pathlib import Path

import numpy as np
import pytest
from tenseal import sealapi

from securepfl.crypto.sums import lean_cipher, seal
from securepfl.crypto.sums.encoding import encoded
from securepfl.crypto.sums.parameters import SETS
from securepfl.crypto.sums.ring import unpack_key
from securepfl.crypto.sums.uniform import uniform_words
from securepfl.crypto.sums.words import add, subtract
from securepfl.errors import MessageError

ROOT = Path(__file__).parents[3]
SOURCES = [path for package in ("securepfl", "crypto", "privacy") for path in (ROOT / package).rglob("*.py")]
SMALL = SETS[0]


def test_seal_is_never_given_a_generator_or_a_seed():
    found = re.compile(r"set_random_generator|PRNGFactory|Blake2xbPRNG|Shake256PRNG|random_generator\(")
    assert len(SOURCES) > 10
    assert [path.name for path in SOURCES if found.search(path.read_text())] == []


def test_one_file_of_each_folder_touches_tenseal_and_one_that_compares_with_it():
    touching = re.compile(r"^\s*(import|from) tenseal", re.MULTILINE)
    touched = [f"{path.parent.name}/{path.name}" for path in SOURCES if touching.search(path.read_text())]
    assert sorted(touched) == ["bench/ckks.py", "similarity/seal.py", "sums/seal.py"]


KEY = seal.generate_secret_key()
SECRET = seal.SecretContext(SMALL, KEY)


def by_seal(secret, message):
    """SEAL's seeds, its words, and the uniform halves that it expands the seeds to."""
    seeds, words = secret.encrypt(message)
    total = seal.CiphertextSum(SMALL, message.size)
    total.add(seeds, words, 1)
    again, uniform = total.words()
    assert (again == words).all()
    return seeds, words, uniform


def by_us(secret, message):
    """Our seed, our words, and the uniform halves that we expand the seed to."""
    seed, words = lean_cipher.encrypted(secret, message)
    whole = -(-words.size // SMALL.slots) * SMALL.slots
    return seed, words, uniform_words(seed, whole, SMALL.coeff_modulus).reshape(-1, SMALL.slots)


BOTH = pytest.mark.parametrize("encrypt", [by_seal, by_us])


@BOTH
def test_encrypting_twice_shares_neither_seed_nor_words(encrypt):
    zeros = np.zeros(2 * SMALL.slots, dtype=np.uint64)
    (seeds, words, _), (other_seeds, other_words, _) = encrypt(SECRET, zeros), encrypt(SECRET, zeros)
    pieces = [one[start : start + 32] for one in (seeds, other_seeds) for start in range(0, len(one), 32)]
    assert len(set(pieces)) == len(pieces)
    assert (words != other_words).mean() > 0.999
    assert (words[: SMALL.slots] != words[SMALL.slots :]).mean() > 0.999


@BOTH
@pytest.mark.parametrize("size", [1, SMALL.slots, SMALL.slots + 1, 17 * SMALL.slots + 3])
def test_any_number_of_slots_comes_back(size, encrypt):
    message = np.random.default_rng(size).integers(0, SMALL.plain_modulus, size).astype(np.uint64)
    _, words, uniform = encrypt(SECRET, message)
    assert words.shape == (size,)
    assert (SECRET.decrypt(words, uniform) == message).all()


@BOTH
def test_words_are_uniform_whatever_the_message(encrypt):
    for message in (0, SMALL.plain_modulus - 1):
        _, words, _ = encrypt(SECRET, np.full(64 * SMALL.slots, message, dtype=np.uint64))
        counts = np.bincount((words * np.uint64(16) // np.uint64(SMALL.coeff_modulus // 4)).astype(np.int64))
        # 63 degrees of freedom: a chi-square of 150 has chance 5e-9.
        assert ((counts - 4096) ** 2 / 4096).sum() < 150


def noise_of(encrypt):
    """What fresh encryptions of many random slots are away from their encoding."""
    message = np.random.default_rng(5).integers(0, SMALL.plain_modulus, 50 * SMALL.slots).astype(np.uint64)
    _, words, uniform = encrypt(SECRET, message)
    phase = add(words, SECRET.times_secret(uniform).reshape(-1), SMALL.coeff_modulus)
    noise = subtract(phase, encoded(message, SMALL.plain_modulus, SMALL.coeff_modulus), SMALL.coeff_modulus)
    signed = noise.astype(np.int64)
    return np.where(signed > SMALL.coeff_modulus // 2, signed - SMALL.coeff_modulus, signed)


@BOTH
def test_noise_has_seals_distribution_and_bound(encrypt):
    """Centred binomial of 42 bits: variance 10.5, at most 21."""
    noise = noise_of(encrypt)
    assert np.abs(noise).max() <= 21
    assert abs(noise.mean()) < 0.05
    assert abs(noise.var() - 10.5) < 0.2
    assert (noise != noise_of(encrypt)).mean() > 0.5


def rounded(words, uniform):
    """Slots by our own arithmetic, with SEAL only for the product: round(t phase / q) modulo t."""
    q, t = SMALL.coeff_modulus, SMALL.plain_modulus
    product = SECRET.times_secret(uniform).reshape(-1)[: words.size]
    phase = [(word + part) % q for word, part in zip(words.tolist(), product.tolist(), strict=True)]
    return np.array([(2 * t * word + q) // (2 * q) % t for word in phase], dtype=np.uint64)


def opened_by_seal(words, uniform):
    """Slots of one ciphertext by a Decryptor that only sealapi made, from the polynomials as SEAL would load them."""
    context = seal._context(SMALL)
    ternary = context.plaintext(unpack_key(KEY, SMALL.plain_modulus))
    sealapi.Evaluator(context.seal).transform_to_ntt_inplace(ternary, context.seal.first_parms_id())
    key = context.load(sealapi.SecretKey(), context.secret, context.coefficients(ternary))
    found = sealapi.Plaintext()
    sealapi.Decryptor(context.seal, key).decrypt(context.ciphertext(np.stack([words, uniform])), found)
    return context.coefficients(found)


def test_seals_decryptor_opens_what_we_encrypt_and_we_open_what_seal_encrypts():
    message = np.random.default_rng(8).integers(0, SMALL.plain_modulus, SMALL.slots).astype(np.uint64)
    _, ours, half = by_us(SECRET, message)
    assert (opened_by_seal(ours, half[0]) == message).all()
    _, seals, other = by_seal(SECRET, message)
    assert (rounded(seals, other) == message).all()
    # And sums of both are one ciphertext: rings and keys are the same.
    q, t = SMALL.coeff_modulus, SMALL.plain_modulus
    both, halves = add(ours, seals, q), add(half, other, q)
    assert (opened_by_seal(both, halves[0]) == rounded(both, halves)).all()
    assert (rounded(both, halves) == add(message, message, t)).all()


def test_secret_keys_differ_and_do_not_decrypt_each_others_sums():
    keys = [seal.generate_secret_key() for _ in range(2)]
    mine, other = (seal.SecretContext(SMALL, key) for key in keys)
    message = np.arange(SMALL.slots, dtype=np.uint64)
    for encrypt in (by_seal, by_us):
        _, words, uniform = encrypt(mine, message)
        assert (mine.decrypt(words, uniform) == message).all()
        assert (other.decrypt(words, uniform) == message).mean() < 0.01


def test_no_repr_shows_a_secret():
    assert repr(seal.SecretContext(SMALL, seal.generate_secret_key())) == "SecretContext('sum36')"


def test_keys_of_a_wrong_length_or_range_are_refused():
    key = seal.generate_secret_key()
    for bad in (key[:-1], key + b"\0", b"\xff" * len(key)):
        with pytest.raises(MessageError):
            seal.SecretContext(SMALL, bad)
