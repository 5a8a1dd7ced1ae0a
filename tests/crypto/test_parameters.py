"""Layouts and the proven bounds."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securepfl.crypto import seal
from securepfl.crypto.parameters import SETS, SIMILARITY, Layout, ParameterSet, choose_layout
from securepfl.errors import ConfigError


@pytest.mark.parametrize("parameters", [*SETS, SIMILARITY], ids=lambda p: p.name)
def test_seal_accepts_every_set_at_128_bits_with_these_primes(parameters):
    assert len(seal.generate_secret_key(parameters)) == seal.secret_key_bytes(parameters)


def test_seal_refuses_a_set_below_128_bits():
    weak = ParameterSet("weak", 1024, SETS[1].coeff_modulus, 12289)
    with pytest.raises(ValueError, match="weak"):
        seal.generate_secret_key(weak)


@pytest.mark.parametrize("parameters", SETS, ids=lambda p: p.name)
def test_most_summands_is_the_largest_weight_within_the_bound(parameters):
    most, q, t = parameters.most_summands, parameters.coeff_modulus[0], parameters.plain_modulus
    assert 43 * most * t < q <= 43 * (most + 1) * t


@given(st.integers(1, 5000), st.integers(2, 12), st.integers(1, 60))
@settings(max_examples=50, deadline=None)
def test_a_full_slot_never_overflows_the_plain_modulus(values, bits, clients):
    layout = choose_layout(values, bits, clients)
    worst = sum((layout.base - 1) * layout.base**digit for digit in range(layout.fields))
    assert worst < layout.parameters.plain_modulus
    assert layout.base - 1 == clients * (2**bits - 2)
    assert layout.forgery_bits >= 64


def test_the_chosen_layout_uploads_least():
    assert choose_layout(257, 10, 4).parameters.name == "small"
    assert choose_layout(10**6, 8, 16).parameters.name == "standard"
    assert choose_layout(10**6, 8, 4).upload_bytes < Layout(SETS[1], 10**6, 8, 4, 4).upload_bytes


def test_a_roster_past_the_proven_bound_is_refused():
    assert choose_layout(10, 4, 3048).total_weight == 3048
    with pytest.raises(ConfigError, match="3049 summands"):
        choose_layout(10, 4, 3049)
    with pytest.raises(ConfigError, match="limit 253"):
        Layout(SETS[0], 10, 4, 254, 254)


@pytest.mark.parametrize("bits", [2, 16, 24])
def test_whatever_sums_within_the_bound_also_fits(bits):
    assert choose_layout(10, bits, 3048).fields >= 1


def test_a_field_wider_than_a_slot_is_refused():
    with pytest.raises(ConfigError, match=r"12-bit values .* lower"):
        Layout(SETS[0], 10, 12, 4, 4)
    with pytest.raises(ValueError, match="values"):
        Layout(SETS[0], 0, 8, 4, 4)
