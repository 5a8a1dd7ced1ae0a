"""Encoding is SEAL's, exactly, and on value slots exactly linear."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tenseal import sealapi

from securepfl.crypto.sums import seal
from securepfl.crypto.sums.containers import CIPHERTEXT_FIELDS, read_words, save
from securepfl.crypto.sums.encoding import encoded
from securepfl.crypto.sums.parameters import DEGREE, SETS, ParameterSet, choose_layout
from securepfl.crypto.sums.ring import unpack_key
from securepfl.crypto.sums.words import subtract

KEY = seal.generate_secret_key()
OLD_PRIME = 2**60 - 16383
"""Of all sets in an earlier version, and not t j - 1 for any of their t."""


@pytest.mark.parametrize("parameters", SETS, ids=lambda p: p.name)
@given(st.data())
@settings(max_examples=40, deadline=None)
def test_words_are_scaled_and_rounded_exactly(parameters, data):
    q, t = parameters.coeff_modulus, parameters.plain_modulus
    drawn = data.draw(st.lists(st.integers(0, t - 1), min_size=1, max_size=50))
    words = [0, 1, *(t // 2 + shift for shift in (-1, 0, 1, 2)), t - 1, *drawn]
    found = encoded(np.array(words, dtype=np.uint64), t, q).tolist()
    assert found == [(q * word + (t + 1) // 2) // t for word in words]
    assert encoded(np.array(words, dtype=np.uint64), t, t).tolist() == words


def test_a_prime_of_another_form_is_refused():
    t = SETS[0].plain_modulus
    with pytest.raises(ValueError, match=f"-1 modulo {t}"):
        encoded(np.zeros(1, dtype=np.uint64), t, OLD_PRIME)
    with pytest.raises(ValueError, match="single updates"):
        ParameterSet("old", DEGREE, OLD_PRIME, t)


def edges(t):
    """Messages around the largest for which encoding is linear, and at both ends."""
    near = [t // 2 + shift for shift in range(-2, 5)]
    rest = np.random.default_rng(1).integers(0, t, DEGREE - len(near) - 3).tolist()
    return np.array([0, 1, t - 1, *near, *rest], dtype=np.uint64)


def seals_encodings(q, t, words):
    """What SEAL adds to a ciphertext for a plaintext: the function that its Encryptor uses too."""
    settings = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.BFV)
    settings.set_poly_modulus_degree(DEGREE)
    settings.set_coeff_modulus([sealapi.Modulus(q)])
    settings.set_plain_modulus(t)
    context = sealapi.SEALContext(settings, True, sealapi.SEC_LEVEL_TYPE.TC128)
    zero, evaluator = sealapi.Ciphertext(), sealapi.Evaluator(context)
    sealapi.Encryptor(context, sealapi.KeyGenerator(context).secret_key()).encrypt_zero_symmetric(zero)
    before = first_polynomial(zero)
    evaluator.add_plain_inplace(zero, sealapi.Plaintext(polynomial(words)))
    return subtract(first_polynomial(zero), before, q)


def first_polynomial(ciphertext):
    return read_words(save(ciphertext)[1], CIPHERTEXT_FIELDS, (DEGREE,))


def polynomial(words):
    """As SEAL reads one from text: hexadecimal coefficients."""
    return " + ".join(f"{word:X}x^{index}" for index, word in reversed(list(enumerate(words.tolist()))) if word)


@pytest.mark.parametrize("parameters", SETS, ids=lambda p: p.name)
def test_seal_encodes_every_word_as_we_do_and_up_to_half_of_t_exactly_linearly(parameters):
    q, t = parameters.coeff_modulus, parameters.plain_modulus
    words = edges(t)
    found = seals_encodings(q, t, words)
    assert (found == encoded(words, t, q)).all()
    linear = [word * parameters.step == encoding for word, encoding in zip(words.tolist(), found.tolist(), strict=True)]
    assert linear == [word <= (t + 1) // 2 for word in words.tolist()]


def test_the_old_prime_would_not_be_linear():
    t = SETS[0].plain_modulus
    words = edges(t)
    found, steps = seals_encodings(OLD_PRIME, t, words), {(OLD_PRIME + shift) // t for shift in (0, t // 2, t)}
    for step in steps:
        linear = [word * step == encoding for word, encoding in zip(words.tolist(), found.tolist(), strict=True)]
        assert sum(linear) <= 2  # 0, and 1 for one of the steps


@pytest.mark.parametrize("parameters", SETS, ids=lambda p: p.name)
def test_seals_own_encryptions_lie_within_fresh_noise_of_the_linear_encoding(parameters):
    q, t, words = parameters.coeff_modulus, parameters.plain_modulus, edges(parameters.plain_modulus)
    context, secret = seal._context(parameters), seal.SecretContext(parameters, KEY)
    key = context.load(sealapi.SecretKey(), context.secret, context.coefficients(secret._key))
    fresh = sealapi.Ciphertext()
    sealapi.Encryptor(context.seal, key).encrypt_symmetric(context.plaintext(words), fresh)
    first, uniform = context.words(fresh, 2)
    phase = first.astype(object) + secret.times_secret(uniform.reshape(1, -1))[0].astype(object)
    linear = words.astype(object) * parameters.step
    noise = (phase - linear + q // 2) % q - q // 2
    assert np.abs(noise).max() <= 22
    assert np.abs(noise[words <= (t + 1) // 2]).max() <= 21


@given(st.integers(1, 400), st.integers(2, 16), st.integers(2, 40), st.sampled_from([1, 3, 4095]))
@settings(max_examples=60, deadline=None)
def test_no_value_slot_ever_leaves_the_linear_half(values, bits, clients, weight):
    if clients * weight * (2**bits - 2) >= SETS[0].plain_modulus or not SETS[0].carries(clients * weight):
        return
    layout = choose_layout(values, bits, clients, weight)
    highest = sum((2**bits - 2) * layout.base**digit for digit in range(layout.fields))
    assert highest * layout.total_weight < layout.parameters.plain_modulus
    assert highest <= (layout.parameters.plain_modulus + 1) // 2


@pytest.mark.parametrize("parameters", SETS, ids=lambda p: p.name)
def test_one_key_is_the_same_polynomial_under_every_prime(parameters):
    secret, rows = seal.SecretContext(parameters, KEY), np.zeros((1, DEGREE), dtype=np.uint64)
    rows[0, 0] = 1
    assert (secret.times_secret(rows)[0] == unpack_key(KEY, parameters.coeff_modulus)).all()
