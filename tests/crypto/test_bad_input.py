"""Input that no honest caller or sender gives: the typed error each, never a crash and never a number."""

import dataclasses

import numpy as np
import pytest

from securepfl.crypto.masks.graph import Masking
from securepfl.crypto.masks.masking import PairwiseMasker
from securepfl.crypto.similarity.pads import SIMILARITY as PADS
from securepfl.crypto.similarity.pads import PadSimilarity
from securepfl.crypto.similarity.plain import PlainSimilarity
from securepfl.crypto.similarity.precision import FINE
from securepfl.crypto.similarity.scheme import Shape
from securepfl.crypto.similarity.sketches import sketch
from securepfl.crypto.sums import seal
from securepfl.crypto.sums.contribution import check_and_unpack, prepare
from securepfl.crypto.sums.packing import pack, quantise, unpack
from securepfl.crypto.sums.parameters import SETS, choose_layout
from securepfl.crypto.sums.scheme import find_scheme, scheme_names
from securepfl.crypto.sums.versions import make_stamp
from securepfl.errors import AggregateError, ConfigError, MessageError
from securepfl.randomness import RandomStream

LAYOUT = choose_layout(50, 10, 4)
OTHER_SET = next(parameters for parameters in SETS if parameters != LAYOUT.parameters)
KEY, OTHER_KEY = (seal.generate_secret_key() for _ in range(2))
SCHEMES = {name: find_scheme(name) for name in scheme_names()}
PLAIN = SCHEMES["none"]
CIPHERS = {name: scheme.cipher(KEY, LAYOUT) for name, scheme in SCHEMES.items() if scheme.encrypted}
CLEAR = PLAIN.cipher(b"", LAYOUT)
ENCRYPTED = pytest.mark.parametrize("name", CIPHERS)
TAG_KEY, CONTEXT = b"t" * 32, b"federation, round 1, update"
NOT_FINITE = (np.nan, np.inf, -np.inf)


def stream():
    return RandomStream(b"k" * 32)


def levels():
    return np.arange(LAYOUT.values, dtype=np.uint64)


def slots(index=0):
    return prepare(levels(), LAYOUT, index, TAG_KEY, CONTEXT)


def answer_of(name, *contributions):
    aggregate = SCHEMES[name].total(LAYOUT)
    for contribution in contributions:
        aggregate.add(contribution)
    return aggregate.answer()


@pytest.mark.parametrize("value", NOT_FINITE)
def test_values_that_are_not_finite_are_not_quantised(value):
    values = np.zeros(50)
    values[17] = value
    with pytest.raises(ValueError, match="finite"):
        quantise(values, 10, 1.0, stream())


@pytest.mark.parametrize("value", NOT_FINITE)
def test_a_vector_that_is_not_finite_is_not_sketched(value):
    vector = np.ones(50)
    vector[-1] = value
    with pytest.raises(ValueError, match="finite"):
        sketch(vector, 16, b"k" * 32)


SHAPE = Shape(3, 16, FINE)


@pytest.mark.parametrize("norm", [*NOT_FINITE, -1.0])
@pytest.mark.parametrize("cipher", [PadSimilarity(b"k" * 32, SHAPE), PlainSimilarity(SHAPE)])
def test_a_norm_that_is_none_is_not_encrypted(cipher, norm):
    with pytest.raises(ValueError, match="norm must be finite"):
        cipher.encrypt(np.zeros(16, dtype=np.int64), norm, 0, b"context")


@pytest.mark.parametrize("limit", [*NOT_FINITE, 0.0, -1.0])
def test_a_limit_that_is_none_is_refused(limit):
    with pytest.raises(ValueError, match="limit must be positive and finite"):
        quantise(np.zeros(3), 10, limit, stream())


@pytest.mark.parametrize("shape", [(), (0,), (49,), (51,), (50, 1), (1, 50)])
def test_arrays_of_another_shape_are_refused_everywhere(shape):
    wrong = np.zeros(shape, dtype=np.uint64)
    for call in (
        lambda: pack(wrong, LAYOUT),
        lambda: prepare(wrong, LAYOUT, 0, TAG_KEY, CONTEXT),
        *(lambda cipher=cipher: cipher.encrypt(wrong, LAYOUT) for cipher in CIPHERS.values()),
        lambda: CLEAR.encrypt(wrong, LAYOUT),
        lambda: unpack(wrong, LAYOUT),
    ):
        with pytest.raises(ValueError, match="shape"):
            call()


@pytest.mark.parametrize("shape", [(), (15,), (17,), (16, 1)])
def test_sketches_of_another_shape_are_refused(shape):
    wrong = np.zeros(shape, dtype=np.int64)
    for cipher in (PadSimilarity(b"k" * 32, SHAPE), PlainSimilarity(SHAPE)):
        with pytest.raises(ValueError, match="shape"):
            cipher.encrypt(wrong, 1.0, 0, b"context")
    with pytest.raises(ValueError, match="shape"):
        PadSimilarity(b"k" * 32, SHAPE).open_row({1: bytes(PADS.answer_bytes(SHAPE))}, wrong, 0, b"context")
    with pytest.raises(ValueError, match="flat"):
        sketch(np.zeros((4, 4)), 16, b"k" * 32)


def test_slots_off_the_plain_modulus_are_refused():
    wrong = slots()
    wrong[3] = LAYOUT.parameters.plain_modulus
    for cipher in (*CIPHERS.values(), CLEAR):
        with pytest.raises(ValueError, match="slots must be below"):
            cipher.encrypt(wrong, LAYOUT)


@pytest.mark.parametrize(
    "wrong",
    [np.zeros(8), np.zeros(8, dtype=np.int64), np.zeros((2, 4), dtype=np.uint64), np.full(8, 97, dtype=np.uint64)],
)
def test_words_of_another_type_shape_or_range_are_not_masked(wrong):
    masker = PairwiseMasker(0, dict.fromkeys(range(3), b"p" * 32), Masking(3, 2))
    with pytest.raises(ValueError, match="slots must be uint64 words below 97"):
        masker.mask(wrong, 97, CONTEXT)


@ENCRYPTED
def test_a_layout_of_other_parameters_is_refused(name):
    other = dataclasses.replace(LAYOUT, parameters=OTHER_SET)
    with pytest.raises(ValueError, match=f"layout is for '{OTHER_SET.name}'"):
        CIPHERS[name].encrypt(np.zeros(other.slots, dtype=np.uint64), other)
    with pytest.raises(ValueError, match=f"layout is for '{OTHER_SET.name}'"):
        CIPHERS[name].decrypt(answer_of(name, CIPHERS[name].encrypt(slots(), LAYOUT)), other)


def test_a_layout_that_its_parameters_cannot_carry_is_refused():
    with pytest.raises(ConfigError, match="may not sum exactly"):
        dataclasses.replace(LAYOUT, parameters=SETS[0], bits=24, total_weight=2**20)


@ENCRYPTED
@pytest.mark.parametrize("other", [s for s in SETS if s != LAYOUT.parameters], ids=lambda s: s.name)
def test_contributions_made_under_another_parameter_set_never_give_a_sum(other, name):
    """Where lengths differ the coordinator refuses them; where they are equal, the tag."""
    layout = dataclasses.replace(LAYOUT, parameters=other)
    foreign = SCHEMES[name].cipher(KEY, layout).encrypt(prepare(levels(), layout, 0, TAG_KEY, CONTEXT), layout)
    with pytest.raises((MessageError, AggregateError)):
        check_and_unpack(CIPHERS[name].decrypt(answer_of(name, foreign), LAYOUT), LAYOUT, {0: 1}, TAG_KEY, CONTEXT)


@ENCRYPTED
def test_a_ciphertext_of_another_key_spoils_the_sum_and_nobody_applies_it(name):
    foreign = SCHEMES[name].cipher(OTHER_KEY, LAYOUT)
    own = CIPHERS[name].encrypt(slots(), LAYOUT)
    for contributions, reader in [
        ((own, foreign.encrypt(slots(1), LAYOUT)), CIPHERS[name]),
        ((foreign.encrypt(slots(), LAYOUT), foreign.encrypt(slots(1), LAYOUT)), CIPHERS[name]),
        ((own, CIPHERS[name].encrypt(slots(1), LAYOUT)), foreign),
    ]:
        decrypted = reader.decrypt(answer_of(name, *contributions), LAYOUT)
        with pytest.raises(AggregateError):
            check_and_unpack(decrypted, LAYOUT, {0: 1, 1: 1}, TAG_KEY, CONTEXT)
    right = CIPHERS[name].decrypt(answer_of(name, own, CIPHERS[name].encrypt(slots(1), LAYOUT)), LAYOUT)
    assert (check_and_unpack(right, LAYOUT, {0: 1, 1: 1}, TAG_KEY, CONTEXT) == 2 * levels()).all()


@ENCRYPTED
@pytest.mark.parametrize("stamp", [make_stamp((3, 7), (0, 3, 18)), make_stamp((4, 0), (0, 2, 0)), b"XX" + bytes(6)])
def test_what_another_seal_made_is_refused_by_both_sides(stamp, name):
    own = CIPHERS[name].encrypt(slots(), LAYOUT)
    other = stamp + own[len(stamp) :]
    aggregate = SCHEMES[name].total(LAYOUT)
    with pytest.raises(MessageError):
        aggregate.add(other)
    with pytest.raises(MessageError):
        aggregate.check(other)
    assert aggregate.contributions == 0
    with pytest.raises(MessageError):
        CIPHERS[name].decrypt(stamp + answer_of(name, own)[len(stamp) :], LAYOUT)


@ENCRYPTED
@pytest.mark.parametrize("length", [0, 1, 7, 8, 11, 12, 100])
def test_answers_of_a_wrong_length_are_refused_before_seal_sees_them(length, name):
    whole = answer_of(name, CIPHERS[name].encrypt(slots(), LAYOUT))
    for wrong in (whole[:length], whole[:-1], whole + bytes(length + 1)):
        with pytest.raises(MessageError):
            CIPHERS[name].decrypt(wrong, LAYOUT)


@ENCRYPTED
def test_secret_keys_of_a_wrong_length_or_range_are_refused(name):
    for wrong in (KEY[:-1], KEY + b"\0", b"\xff" * len(KEY)):
        with pytest.raises(MessageError):
            SCHEMES[name].cipher(wrong, LAYOUT)


@ENCRYPTED
def test_a_plain_answer_is_no_encrypted_one(name):
    aggregate = PLAIN.total(LAYOUT)
    aggregate.add(CLEAR.encrypt(slots(), LAYOUT))
    with pytest.raises(MessageError):
        CIPHERS[name].decrypt(aggregate.answer(), LAYOUT)
    assert PLAIN.wire(LAYOUT).read_answer(aggregate.answer())[0] == [1]
