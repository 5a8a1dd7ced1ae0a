"""Sums: exact, weighted, tagged, and identical with and without encryption."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securepfl.crypto.sums import lean_cipher, seal, versions
from securepfl.crypto.sums.contribution import check_and_unpack, prepare
from securepfl.crypto.sums.encoding import encoded
from securepfl.crypto.sums.parameters import SETS, Layout, choose_layout
from securepfl.crypto.sums.scheme import find_scheme, scheme_names
from securepfl.crypto.sums.uniform import uniform_words
from securepfl.crypto.sums.words import add, scale, subtract
from securepfl.errors import AggregateError, MessageError

TAG_KEY, CONTEXT = b"t" * 32, b"federation 1 round 2 attempt 0 update"
KEY = seal.generate_secret_key()
PLAIN = find_scheme("none")
ENCRYPTED = tuple(name for name in scheme_names() if find_scheme(name).encrypted)


def cipher_for(layout, scheme):
    found = find_scheme(scheme)
    return found.cipher(KEY if found.encrypted else b"", layout)


def total_for(layout, scheme):
    return find_scheme(scheme).total(layout)


def levels_for(layout, seed):
    return np.random.default_rng(seed).integers(0, 2**layout.bits - 1, layout.values).astype(np.uint64)


def summed(layout, scheme, weights, context=CONTEXT, times=1):
    """The decrypted slots of clients' contributions, weighted as given (index: weight)."""
    cipher, aggregate = cipher_for(layout, scheme), total_for(layout, scheme)
    for index, weight in weights.items():
        slots = prepare(levels_for(layout, index), layout, index, TAG_KEY, context)
        for _ in range(times):
            aggregate.add(cipher.encrypt(slots, layout), weight)
    return cipher.decrypt(aggregate.answer(), layout)


@given(st.integers(1, 30), st.integers(2, 10), st.lists(st.integers(1, 3), min_size=1, max_size=4), st.data())
@settings(max_examples=15, deadline=None)
def test_encrypted_and_plain_sums_are_identical_and_exact(values, bits, weights, data):
    layout = choose_layout(values, bits, 4, 3)
    row = st.lists(st.integers(0, 2**bits - 2), min_size=values, max_size=values)
    rows = [np.array(data.draw(row), dtype=np.uint64) for _ in weights]
    sums = []
    for scheme in scheme_names():
        aggregate, cipher = total_for(layout, scheme), cipher_for(layout, scheme)
        for index, (levels, weight) in enumerate(zip(rows, weights, strict=True)):
            contribution = cipher.encrypt(prepare(levels, layout, index, TAG_KEY, CONTEXT), layout)
            assert len(contribution) == find_scheme(scheme).wire(layout).contribution_bytes
            aggregate.add(contribution, weight)
        sums.append(cipher.decrypt(aggregate.answer(), layout))
    assert all((found == sums[0]).all() for found in sums)
    total = check_and_unpack(sums[0], layout, dict(enumerate(weights)), TAG_KEY, CONTEXT)
    assert (total == sum(np.uint64(w) * r for w, r in zip(weights, rows, strict=True))).all()


@pytest.mark.parametrize("scheme", ENCRYPTED)
@pytest.mark.parametrize("parameters", SETS, ids=lambda p: p.name)
def test_several_ciphertexts_sum_exactly_under_every_set(parameters, scheme):
    layout = Layout(parameters, 20_000, 8, 9, 3)
    assert layout.ciphertexts > 1
    total = check_and_unpack(summed(layout, scheme, {0: 1, 2: 3}), layout, {0: 1, 2: 3}, TAG_KEY, CONTEXT)
    assert (total == levels_for(layout, 0) + np.uint64(3) * levels_for(layout, 2)).all()


LAYOUT = choose_layout(50, 10, 4, 2)
WEIGHTS = {0: 1, 1: 2, 3: 1}


@pytest.mark.parametrize("scheme", scheme_names())
@pytest.mark.parametrize(
    "actual",
    [
        {0: 1, 1: 2},
        {0: 1, 1: 2, 3: 2},
        {0: 1, 1: 1, 3: 1},
        {0: 2, 1: 1, 3: 1},
        {0: 1, 1: 2, 2: 1},
        {0: 2, 1: 4, 3: 2},
    ],
    ids=["dropped", "doubled", "lighter", "swapped", "another", "all doubled"],
)
def test_a_sum_of_other_contributions_is_refused(scheme, actual):
    with pytest.raises(AggregateError):
        check_and_unpack(summed(LAYOUT, scheme, actual), LAYOUT, WEIGHTS, TAG_KEY, CONTEXT)


def test_the_tag_binds_values_key_and_context():
    slots = summed(LAYOUT, "none", WEIGHTS)
    assert check_and_unpack(slots, LAYOUT, WEIGHTS, TAG_KEY, CONTEXT).size == 50
    altered = slots.copy()
    altered[7] = (altered[7] + np.uint64(1)) % np.uint64(LAYOUT.parameters.plain_modulus)
    messages = set()
    for bad in [
        (altered, LAYOUT, WEIGHTS, TAG_KEY, CONTEXT),
        (slots, LAYOUT, WEIGHTS, b"u" * 32, CONTEXT),
        (slots, LAYOUT, WEIGHTS, TAG_KEY, b"another round"),
        (slots, LAYOUT, {}, TAG_KEY, CONTEXT),
    ]:
        with pytest.raises(AggregateError) as caught:
            check_and_unpack(*bad)
        messages.add(str(caught.value))
    assert len(messages) == 1


def test_weights_that_carry_between_digits_are_refused():
    # Participation digits in a base B would let weights (w + B, w - 1) pass for (w, w); keyed ones do not.
    layout = choose_layout(5, 4, 4, 8)
    for base in (4, 5, 8):
        with pytest.raises(AggregateError):
            slots = summed(layout, "none", {0: 2 + base, 1: 1})
            check_and_unpack(slots, layout, {0: 2, 1: 2}, TAG_KEY, CONTEXT)


@pytest.mark.parametrize("scheme", ENCRYPTED)
def test_ciphertexts_altered_in_transit_are_refused_alike(scheme):
    cipher, aggregate = cipher_for(LAYOUT, scheme), total_for(LAYOUT, scheme)
    aggregate.add(cipher.encrypt(prepare(levels_for(LAYOUT, 0), LAYOUT, 0, TAG_KEY, CONTEXT), LAYOUT))
    answer = aggregate.answer()
    for position in (20, -3):  # a seed or a word of a uniform half, a word
        altered = bytearray(answer)
        altered[position] ^= 1
        slots = cipher.decrypt(bytes(altered), LAYOUT)
        with pytest.raises(AggregateError):
            check_and_unpack(slots, LAYOUT, {0: 1}, TAG_KEY, CONTEXT)


@pytest.mark.parametrize("scheme", scheme_names())
def test_bytes_of_a_wrong_length_are_refused_before_parsing(scheme):
    cipher, aggregate = cipher_for(LAYOUT, scheme), total_for(LAYOUT, scheme)
    contribution = cipher.encrypt(prepare(levels_for(LAYOUT, 0), LAYOUT, 0, TAG_KEY, CONTEXT), LAYOUT)
    for bad in (contribution[:-1], contribution + b"\0", b""):
        with pytest.raises(MessageError):
            aggregate.add(bad)
    aggregate.add(contribution)
    answer = aggregate.answer()
    assert len(answer) == find_scheme(scheme).wire(LAYOUT).answer_bytes(1)
    at = len(find_scheme(scheme).wire(LAYOUT).stamp)
    for bad in (answer[:-1], answer + b"\0", b"", answer[:at] + b"\xff" * 4 + answer[at + 4 :]):
        with pytest.raises(MessageError):
            cipher.decrypt(bad, LAYOUT)
    with pytest.raises(MessageError, match="total weight"):
        cipher.decrypt(answer[: at + 4] + b"\0\0\1\0" + answer[at + 8 :], LAYOUT)


@pytest.mark.parametrize("scheme", ENCRYPTED)
def test_another_seal_version_is_refused_naming_both(scheme):
    cipher, aggregate = cipher_for(LAYOUT, scheme), total_for(LAYOUT, scheme)
    contribution = cipher.encrypt(prepare(levels_for(LAYOUT, 0), LAYOUT, 0, TAG_KEY, CONTEXT), LAYOUT)
    foreign = versions.make_stamp((3, 6), (0, 3, 4)) + contribution[versions.STAMP_BYTES :]
    aggregate.add(contribution)
    with pytest.raises(MessageError, match=r"SEAL 3\.6, TenSEAL 0\.3\.4.*SEAL 4\.") as caught:
        aggregate.add(foreign)
    assert "\n" not in str(caught.value)
    wire = find_scheme(scheme).wire(LAYOUT)
    lone = type(aggregate)(dataclasses.replace(wire, stamp=foreign[: versions.STAMP_BYTES]))
    lone.add(foreign)
    with pytest.raises(MessageError, match=r"SEAL 3\.6"):
        cipher.decrypt(lone.answer(), LAYOUT)


def test_an_aggregate_refuses_weights_past_the_layout():
    aggregate = PLAIN.total(choose_layout(5, 4, 2))
    with pytest.raises(ValueError, match="weight 0"):
        aggregate.add(b"", 0)
    with pytest.raises(ValueError, match="weight 3"):
        aggregate.add(b"", 3)
    with pytest.raises(ValueError, match="at least 1"):
        aggregate.answer()


DEGREE = SETS[0].poly_modulus_degree


def fresh(secret, message):
    """Words and uniform halves of an encryption of `message` in every slot, and the noise in each word.

    The noise is found with the decryptor alone: a slot flips where its phase crosses half a step above
    round(q m / t).
    """
    q, t = secret.parameters.coeff_modulus, secret.parameters.plain_modulus
    seed, words = lean_cipher.encrypted(secret, np.full(DEGREE, message, dtype=np.uint64))
    uniform = uniform_words(seed, DEGREE, q).reshape(1, -1)
    low, high = np.zeros(DEGREE, dtype=np.uint64), np.full(DEGREE, q // t, dtype=np.uint64)
    while (high - low).max() > 1:
        middle = (low + high) // np.uint64(2)
        reads = secret.decrypt(add(words, middle, q), uniform) == message
        low, high = np.where(reads, middle, low), np.where(reads, high, middle)
    # low is the largest offset that still reads as the message: encoded + e + low < (m + 1/2) q / t.
    edge = (q * (2 * message + 1) - 1) // (2 * t) - int(encoded(np.array([message], dtype=np.uint64), t, q)[0])
    return words, uniform, edge - low.astype(np.int64)


def worst(parameters):
    """The message whose encoding lies furthest above q m / t, by (t + 1) / (2 t)."""
    return (parameters.plain_modulus + 1) // 2


def times(words, weight, q):
    return np.array([int(word) * weight % q for word in words.reshape(-1)], dtype=np.uint64)


@pytest.mark.parametrize("parameters", SETS, ids=lambda p: p.name)
def test_the_proven_number_of_worst_summands_and_flood_decrypt_and_more_does_not(parameters):
    q, t, most = parameters.coeff_modulus, parameters.plain_modulus, parameters.most_summands
    secret, message = seal.SecretContext(parameters, seal.generate_secret_key()), worst(parameters)
    words, uniform, noise = fresh(secret, message)
    assert np.abs(noise).max() <= 21
    words = add(words, (21 - noise).astype(np.uint64), q)

    # The mask whose encoding lies furthest below.
    mask = (t + 3) // 2
    taken = encoded(np.full(DEGREE, mask, dtype=np.uint64), t, q)

    def survives(weight, flood):
        total = add(subtract(times(words, weight, q), taken, q), np.uint64(flood), q)
        slots = secret.decrypt(total, times(uniform, weight, q).reshape(1, -1))
        return set(slots.tolist()) == {(message * weight - mask) % t}

    assert survives(most, 64)
    assert not survives(most + 1, 64)
    for weight in {1, 2, 7, most // 3 + 1, most}:
        room = parameters.flood(weight, 0)
        assert survives(weight, room)
        # The worst mask lies 4 / (2 t) nearer than the bound says, and one step of flood may fall right between.
        assert not survives(weight, room + 2)


@pytest.mark.parametrize("weight", [40, 80])
def test_bits_are_dropped_up_to_the_proven_bound_and_no_further(weight):
    parameters = SETS[3]
    q, t, dropped = parameters.coeff_modulus, parameters.plain_modulus, parameters.dropped_bits(weight)
    secret, message = seal.SecretContext(parameters, seal.generate_secret_key()), worst(parameters)
    words, uniform, noise = fresh(secret, message)
    words = add(words, (21 - noise).astype(np.uint64), q)

    def wrong(bits, flood=0):
        # Among 4096 words some are whole multiples: their middle lies furthest above them.
        cut = words >> np.uint64(bits) << np.uint64(bits)
        total = add(times(cut, weight, q), np.uint64(flood), q) >> np.uint64(bits) << np.uint64(bits)
        middle = np.uint64((1 << bits >> 1) * (weight + 1) % q)
        slots = secret.decrypt(add(total, middle, q), times(uniform, weight, q).reshape(1, -1))
        return int((slots != np.uint64(message * weight % t)).sum())

    flood = parameters.flood(weight, dropped)
    assert dropped >= 1 and flood >= 64
    assert wrong(dropped, flood) == 0
    assert wrong(dropped, flood + (weight << dropped) // 8) > 0
    assert wrong(dropped + 2) > 0


@given(st.integers(1, 3), st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
def test_a_mask_comes_off_the_sum_exactly(weight, seed):
    layout = choose_layout(70, 8, 4, 3)
    t, random = layout.parameters.plain_modulus, np.random.default_rng(seed)
    slots = prepare(levels_for(layout, 1), layout, 1, TAG_KEY, CONTEXT)
    mask = random.integers(0, t, slots.size).astype(np.uint64)
    for scheme in scheme_names():
        aggregate, cipher = total_for(layout, scheme), cipher_for(layout, scheme)
        aggregate.add(cipher.encrypt(add(slots, mask, t), layout), weight)
        opened = cipher.decrypt(aggregate.answer(scale(mask, weight, t)), layout)
        total = check_and_unpack(opened, layout, {1: weight}, TAG_KEY, CONTEXT)
        assert (total == np.uint64(weight) * levels_for(layout, 1)).all()


@pytest.mark.parametrize("scheme", ENCRYPTED)
@pytest.mark.parametrize("parameters", SETS, ids=lambda p: p.name)
def test_one_secret_key_serves_every_set_and_uploads_are_cut_after_the_last_slot(parameters, scheme):
    layout = Layout(parameters, 500, 4, 16, 16)
    cipher, aggregate = cipher_for(layout, scheme), total_for(layout, scheme)
    slots = prepare(levels_for(layout, 0), layout, 0, TAG_KEY, CONTEXT)
    contribution = cipher.encrypt(slots, layout)
    seeds = find_scheme(scheme).wire(layout).seed_bytes
    assert len(contribution) == versions.STAMP_BYTES + seeds + -(-layout.slots * layout.word_bits // 8)
    aggregate.add(contribution)
    assert (cipher.decrypt(aggregate.answer(), layout) == slots).all()
