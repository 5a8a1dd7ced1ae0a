"""SEAL's edges: its randomness, its secrets, its files."""

import re
from pathlib import Path

import numpy as np
import pytest

from securepfl.crypto.sums import seal
from securepfl.crypto.sums.parameters import SETS
from securepfl.crypto.sums.uniform import uniform_words
from securepfl.errors import MessageError

ROOT = Path(__file__).parents[3]
SOURCES = [path for package in ("securepfl", "crypto", "privacy") for path in (ROOT / package).rglob("*.py")]
SMALL = SETS[0]


def test_seal_is_never_given_a_generator_or_a_seed():
    found = re.compile(r"set_random_generator|PRNGFactory|Blake2xbPRNG|Shake256PRNG|random_generator\(")
    assert len(SOURCES) > 10
    assert [path.name for path in SOURCES if found.search(path.read_text())] == []


def test_only_one_file_touches_tenseal_and_one_that_compares_with_it():
    touching = re.compile(r"^\s*(import|from) tenseal", re.MULTILINE)
    touched = [f"{path.parent.name}/{path.name}" for path in SOURCES if touching.search(path.read_text())]
    assert sorted(touched) == ["bench/ckks.py", "sums/seal.py"]


def opened(secret, seed, words):
    whole = -(-words.size // SMALL.slots) * SMALL.slots
    uniform = uniform_words(seed, whole, SMALL.coeff_modulus)
    return secret.decrypt(words, uniform.reshape(-1, SMALL.slots))


def test_encrypting_twice_shares_neither_seed_nor_words():
    secret = seal.SecretContext(SMALL, seal.generate_secret_key())
    zeros = np.zeros(SMALL.slots, dtype=np.uint64)
    (seed, words), (other_seed, other_words) = secret.encrypt(zeros), secret.encrypt(zeros)
    assert seed != other_seed
    assert (words != other_words).mean() > 0.999


@pytest.mark.parametrize("size", [1, SMALL.slots, SMALL.slots + 1, 17 * SMALL.slots + 3])
def test_any_number_of_slots_comes_back(size):
    secret = seal.SecretContext(SMALL, seal.generate_secret_key())
    message = np.random.default_rng(size).integers(0, SMALL.plain_modulus, size).astype(np.uint64)
    seed, words = secret.encrypt(message)
    assert words.shape == (size,)
    assert (opened(secret, seed, words) == message).all()


def test_words_are_uniform_whatever_the_message():
    secret = seal.SecretContext(SMALL, seal.generate_secret_key())
    for message in (0, SMALL.plain_modulus - 1):
        _, words = secret.encrypt(np.full(64 * SMALL.slots, message, dtype=np.uint64))
        counts = np.bincount((words >> np.uint64(54)).astype(np.int64), minlength=64)
        # 63 degrees of freedom: a chi-square of 150 has chance 5e-9.
        assert ((counts - 4096) ** 2 / 4096).sum() < 150


def test_noise_has_seals_distribution_and_bound():
    """Centred binomial of 42 bits: variance 10.5, at most 21, of sealapi's own encryptions too (measured 3.24)."""
    noise = seal.centred_noise(200_000, SMALL.coeff_modulus).astype(np.int64)
    noise = np.where(noise > 21, noise - np.int64(SMALL.coeff_modulus), noise)
    assert np.abs(noise).max() <= 21
    assert abs(noise.mean()) < 0.05
    assert abs(noise.var() - 10.5) < 0.2
    again = seal.centred_noise(200_000, SMALL.coeff_modulus)
    assert (again != seal.centred_noise(200_000, SMALL.coeff_modulus)).mean() > 0.5


def test_secret_keys_differ_and_do_not_decrypt_each_others_sums():
    keys = [seal.generate_secret_key() for _ in range(2)]
    mine, other = (seal.SecretContext(SMALL, key) for key in keys)
    message = np.arange(SMALL.slots, dtype=np.uint64)
    seed, words = mine.encrypt(message)
    assert (opened(mine, seed, words) == message).all()
    assert (opened(other, seed, words) == message).mean() < 0.01


def test_no_repr_shows_a_secret():
    assert repr(seal.SecretContext(SMALL, seal.generate_secret_key())) == "SecretContext('sum36')"


def test_keys_of_a_wrong_length_or_range_are_refused():
    key = seal.generate_secret_key()
    for bad in (key[:-1], key + b"\0", b"\xff" * len(key)):
        with pytest.raises(MessageError):
            seal.SecretContext(SMALL, bad)
