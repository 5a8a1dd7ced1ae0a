"""Layouts and the proven bounds."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tenseal import sealapi

from securepfl.crypto.sums import seal
from securepfl.crypto.sums.parameters import SETS, Layout, ParameterSet, choose_layout
from securepfl.crypto.sums.ring import RING_KEY_BYTES
from securepfl.errors import ConfigError

KEY = seal.generate_secret_key()


@pytest.mark.parametrize("parameters", SETS, ids=lambda p: p.name)
def test_seal_accepts_every_set_at_128_bits_classical_and_quantum_with_its_prime(parameters):
    assert len(KEY) == RING_KEY_BYTES
    assert seal.SecretContext(parameters, KEY).parameters == parameters


def test_the_sets_are_what_their_description_says():
    for parameters in SETS:
        q, t = parameters.coeff_modulus, parameters.plain_modulus
        assert q == t * parameters.step - 1 and q % (2 * parameters.poly_modulus_degree) == 1
        assert q.bit_length() == 60 and t.bit_length() == int(parameters.name.removeprefix("sum"))
        assert sealapi.Modulus(q).is_prime() and sealapi.Modulus(t).is_prime()


@pytest.mark.parametrize(
    ("degree", "prime", "plain"), [(1024, 1728053247999, 1_000_003), (2048, 288230376151711743, 2**36 - 5)]
)
def test_a_set_below_128_bits_is_refused(degree, prime, plain):
    # Any j with t j - 1 = 1 modulo twice the degree: length is looked at before anything else.
    step = next(j for j in range(prime // plain, 0, -1) if (plain * j - 1) % (2 * degree) == 1)
    with pytest.raises(ValueError, match="quantum"):
        seal.SecretContext(ParameterSet("weak", degree, plain * step - 1, plain), KEY)


def test_what_is_no_prime_is_refused():
    t = SETS[0].plain_modulus
    step = next(j for j in range(SETS[0].step - 1, 0, -1) if (t * j - 1) % 8192 == 1)
    assert not sealapi.Modulus(t * step - 1).is_prime()
    with pytest.raises(ValueError, match="SEAL refuses"):
        seal.SecretContext(ParameterSet("odd", 4096, t * step - 1, t), KEY)
    nine = 9 * next(j for j in range(2**50, 2**51) if (9 * j - 1) % 8192 == 1) - 1
    with pytest.raises(ValueError, match="must be prime"):
        seal.SecretContext(ParameterSet("odd", 4096, nine, 9), KEY)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"poly_modulus_degree": 4095}, "power of two"),
        ({"coeff_modulus": SETS[1].coeff_modulus - 2}, "1 modulo 8192"),
        ({"plain_modulus": SETS[1].plain_modulus}, "-1 modulo plain_modulus"),
        ({"plain_modulus": 2**36}, "odd"),
        ({"plain_modulus": SETS[0].coeff_modulus + 1}, "below 2"),
    ],
)
def test_a_set_that_would_leak_or_not_work_is_refused_when_made(changes, reason):
    with pytest.raises(ValueError, match=reason):
        dataclasses.replace(SETS[0], **changes)


@pytest.mark.parametrize("parameters", SETS, ids=lambda p: p.name)
def test_most_summands_is_the_largest_weight_within_the_bound(parameters):
    most, q, t = parameters.most_summands, parameters.coeff_modulus, parameters.plain_modulus
    bound = 2**58 * q - q  # 2^58 times it: whole numbers only
    assert 2**58 * ((43 * most + 2 * 64 + 1) * t + most + 1) < bound
    assert 2**58 * ((43 * (most + 1) + 2 * 64 + 1) * t + most + 3) >= bound
    assert parameters.carries(most)
    assert not parameters.carries(most + 1)


@given(st.sampled_from(SETS), st.data())
@settings(max_examples=60, deadline=None)
def test_as_many_bits_are_dropped_as_the_bound_allows(parameters, data):
    weight = data.draw(st.integers(1, parameters.most_summands))
    q, t, dropped = parameters.coeff_modulus, parameters.plain_modulus, parameters.dropped_bits(weight)
    doubled, bound = 2**dropped if dropped else 0, 2**58 * q - q
    further = 2 ** (dropped + 1)
    assert 2**58 * (t * (weight * (43 + further) + further + 2 * 64 + 1) + weight + 3) >= bound

    # And the flood takes all the room that is left.
    flood = parameters.flood(weight, dropped)
    assert flood >= 64
    assert 2**58 * (t * (weight * (43 + doubled) + doubled + 2 * flood + 1) + weight + 1) < bound
    flood += 1
    assert 2**58 * (t * (weight * (43 + doubled) + doubled + 2 * flood + 1) + weight + 3) >= bound
    with pytest.raises(ValueError, match="total_weight"):
        parameters.dropped_bits(parameters.most_summands + 1)


@given(st.integers(1, 5000), st.integers(2, 12), st.integers(1, 60))
@settings(max_examples=50, deadline=None)
def test_a_full_slot_never_overflows_the_plain_modulus(values, bits, clients):
    layout = choose_layout(values, bits, clients)
    worst = sum((layout.base - 1) * layout.base**digit for digit in range(layout.fields))
    assert worst < layout.parameters.plain_modulus
    assert layout.base - 1 == clients * (2**bits - 2)
    assert layout.forgery_bits >= 64


@given(st.integers(4, 16), st.integers(2, 100))
@settings(max_examples=60, deadline=None)
def test_the_chosen_layout_uploads_least_and_less_than_float32(bits, clients):
    chosen = choose_layout(10**6, bits, clients)
    for parameters in SETS:
        try:
            assert chosen.upload_bytes <= Layout(parameters, 10**6, bits, clients, clients).upload_bytes
        except ConfigError:
            continue
    if bits <= 10:
        assert chosen.upload_bytes < 4 * 10**6


def test_a_small_model_costs_no_whole_ciphertext():
    assert choose_layout(500, 8, 16).upload_bytes < 1000
    assert choose_layout(1, 8, 16).upload_bytes < 64


def test_a_roster_past_the_proven_bound_is_refused_with_the_set_that_would_fit():
    most = SETS[0].most_summands
    assert choose_layout(10, 4, most).total_weight == most
    with pytest.raises(ConfigError, match=f"{most + 1} summands.*only up to {most}"):
        choose_layout(10, 4, most + 1)
    heavy = SETS[0].most_weight(4095) // 4095
    assert choose_layout(10, 8, heavy, 4095).heaviest == 4095
    with pytest.raises(ConfigError, match=f"only up to {SETS[0].most_weight(4095)}"):
        choose_layout(10, 8, heavy + 1, 4095)
    limit = SETS[4].most_summands
    with pytest.raises(ConfigError, match=f"at most {limit} summands.*sum36, sum40, sum44, sum48 would fit"):
        Layout(SETS[4], 10, 4, limit + 1, limit + 1)


def test_a_field_wider_than_a_slot_is_refused():
    with pytest.raises(ConfigError, match=r"24-bit values .* sum40 would fit"):
        Layout(SETS[0], 10, 24, 10_000, 100)
    with pytest.raises(ConfigError, match="fewer bits"):
        choose_layout(10, 24, 10**6)
    with pytest.raises(ValueError, match="values"):
        Layout(SETS[0], 0, 8, 4, 4)
