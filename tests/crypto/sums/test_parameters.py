"""Layouts and the proven bounds."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securepfl.crypto.sums import seal
from securepfl.crypto.sums.parameters import SETS, Layout, ParameterSet, choose_layout
from securepfl.crypto.sums.ring import RING_KEY_BYTES
from securepfl.errors import ConfigError

PRIME = SETS[0].coeff_modulus


@pytest.mark.parametrize("parameters", SETS, ids=lambda p: p.name)
def test_seal_accepts_every_set_at_128_bits_classical_and_quantum_with_this_prime(parameters):
    assert len(seal.generate_secret_key(parameters)) == RING_KEY_BYTES


@pytest.mark.parametrize(
    ("degree", "prime", "reason"),
    [(1024, 18014398509404161, "quantum"), (2048, 18014398509404161, "quantum"), (1024, 134215681, "quantum")],
)
def test_a_set_below_128_bits_is_refused(degree, prime, reason):
    with pytest.raises(ValueError, match=reason):
        seal.generate_secret_key(ParameterSet("weak", degree, prime, 12289))


def test_a_prime_that_is_not_seals_is_refused():
    with pytest.raises(ValueError, match="differ"):
        seal.generate_secret_key(ParameterSet("odd", 4096, 1152921504606748673, 12289))


@pytest.mark.parametrize("parameters", SETS, ids=lambda p: p.name)
def test_most_summands_is_the_largest_weight_within_the_bound(parameters):
    most, q, t = parameters.most_summands, parameters.coeff_modulus, parameters.plain_modulus
    assert (43 * most + 1) * t < q - q / 2**58 <= (43 * (most + 1) + 2) * t
    assert parameters.carries(most)
    assert not parameters.carries(most + 1)


@given(st.sampled_from(SETS), st.data())
@settings(max_examples=60, deadline=None)
def test_as_many_bits_are_dropped_as_the_bound_allows(parameters, data):
    weight = data.draw(st.integers(1, parameters.most_summands))
    q, t, dropped = parameters.coeff_modulus, parameters.plain_modulus, parameters.dropped_bits(weight)
    doubled = 2**dropped if dropped else 0
    assert t * (weight * (43 + doubled) + doubled + 1) < q
    further = 2 ** (dropped + 1)
    assert t * (weight * (43 + further) + further + 2) >= q - q // 2**58
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
