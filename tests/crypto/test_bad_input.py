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
from securepfl.crypto.sums.scheme import find_scheme
from securepfl.crypto.sums.versions import make_stamp
from securepfl.errors import AggregateError, ConfigError, MessageError
from securepfl.randomness import RandomStream

LAYOUT = choose_layout(50, 10, 4)
OTHER_SET = next(parameters for parameters in SETS if parameters != LAYOUT.parameters)
KEY, OTHER_KEY = (seal.generate_secret_key() for _ in range(2))
BFV, PLAIN = find_scheme("bfv"), find_scheme("none")
CIPHER, CLEAR = BFV.cipher(KEY, LAYOUT), PLAIN.cipher(b"", LAYOUT)
TAG_KEY, CONTEXT = b"t" * 32, b"federation, round 1, update"
NOT_FINITE = (np.nan, np.inf, -np.inf)


def stream():
    return RandomStream(b"k" * 32)


def levels():
    return np.arange(LAYOUT.values, dtype=np.uint64)


def slots(index=0):
    return prepare(levels(), LAYOUT, index, TAG_KEY, CONTEXT)


def answer_of(*contributions, layout=LAYOUT):
    aggregate = BFV.total(layout)
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
        lambda: CIPHER.encrypt(wrong, LAYOUT),
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
    for cipher in (CIPHER, CLEAR):
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


def test_a_layout_of_other_parameters_is_refused():
    other = dataclasses.replace(LAYOUT, parameters=OTHER_SET)
    with pytest.raises(ValueError, match=f"layout is for '{OTHER_SET.name}'"):
        CIPHER.encrypt(np.zeros(other.slots, dtype=np.uint64), other)
    with pytest.raises(ValueError, match=f"layout is for '{OTHER_SET.name}'"):
        CIPHER.decrypt(answer_of(CIPHER.encrypt(slots(), LAYOUT)), other)


def test_a_layout_that_its_parameters_cannot_carry_is_refused():
    with pytest.raises(ConfigError, match="may not sum exactly"):
        dataclasses.replace(LAYOUT, parameters=SETS[0], bits=24, total_weight=2**20)


@pytest.mark.parametrize("other", [s for s in SETS if s != LAYOUT.parameters], ids=lambda s: s.name)
def test_contributions_made_under_another_parameter_set_never_give_a_sum(other):
    """Where lengths differ the coordinator refuses them; where they are equal, the tag."""
    layout = dataclasses.replace(LAYOUT, parameters=other)
    foreign = BFV.cipher(KEY, layout).encrypt(prepare(levels(), layout, 0, TAG_KEY, CONTEXT), layout)
    with pytest.raises((MessageError, AggregateError)):
        check_and_unpack(CIPHER.decrypt(answer_of(foreign), LAYOUT), LAYOUT, {0: 1}, TAG_KEY, CONTEXT)


def test_a_ciphertext_of_another_key_spoils_the_sum_and_nobody_applies_it():
    foreign = BFV.cipher(OTHER_KEY, LAYOUT)
    own = CIPHER.encrypt(slots(), LAYOUT)
    for contributions, reader in [
        ((own, foreign.encrypt(slots(1), LAYOUT)), CIPHER),
        ((foreign.encrypt(slots(), LAYOUT), foreign.encrypt(slots(1), LAYOUT)), CIPHER),
        ((own, CIPHER.encrypt(slots(1), LAYOUT)), foreign),
    ]:
        decrypted = reader.decrypt(answer_of(*contributions), LAYOUT)
        with pytest.raises(AggregateError):
            check_and_unpack(decrypted, LAYOUT, {0: 1, 1: 1}, TAG_KEY, CONTEXT)
    right = CIPHER.decrypt(answer_of(own, CIPHER.encrypt(slots(1), LAYOUT)), LAYOUT)
    assert (check_and_unpack(right, LAYOUT, {0: 1, 1: 1}, TAG_KEY, CONTEXT) == 2 * levels()).all()


@pytest.mark.parametrize("stamp", [make_stamp((3, 7), (0, 3, 18)), make_stamp((4, 0), (0, 2, 0)), b"XX" + bytes(6)])
def test_what_another_seal_made_is_refused_by_both_sides(stamp):
    own = CIPHER.encrypt(slots(), LAYOUT)
    other = stamp + own[len(stamp) :]
    aggregate = BFV.total(LAYOUT)
    with pytest.raises(MessageError):
        aggregate.add(other)
    with pytest.raises(MessageError):
        aggregate.check(other)
    assert aggregate.contributions == 0
    with pytest.raises(MessageError):
        CIPHER.decrypt(stamp + answer_of(own)[len(stamp) :], LAYOUT)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 11, 12, 100])
def test_answers_of_a_wrong_length_are_refused_before_seal_sees_them(length):
    whole = answer_of(CIPHER.encrypt(slots(), LAYOUT))
    for wrong in (whole[:length], whole[:-1], whole + bytes(length + 1)):
        with pytest.raises(MessageError):
            CIPHER.decrypt(wrong, LAYOUT)


def test_secret_keys_of_a_wrong_length_or_range_are_refused():
    for wrong in (b"", KEY[:-1], KEY + b"\0", b"\xff" * len(KEY)):
        with pytest.raises(MessageError):
            BFV.cipher(wrong, LAYOUT)


def test_a_plain_answer_is_no_encrypted_one():
    aggregate = PLAIN.total(LAYOUT)
    aggregate.add(CLEAR.encrypt(slots(), LAYOUT))
    with pytest.raises(MessageError):
        CIPHER.decrypt(aggregate.answer(), LAYOUT)
    assert PLAIN.wire(LAYOUT).read_answer(aggregate.answer())[0] == [1]
