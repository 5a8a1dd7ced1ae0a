"""Sketches, and inner products under one-time pads, of which nothing else leaves."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from securepfl.crypto.similarity.pads import SIMILARITY as PADS
from securepfl.crypto.similarity.pads import Pads, PadSimilarity
from securepfl.crypto.similarity.plain import SIMILARITY as PLAIN
from securepfl.crypto.similarity.plain import PlainSimilarity
from securepfl.crypto.similarity.precision import FINE
from securepfl.crypto.similarity.scheme import NO_NONCES, Shape, Similarity, distance
from securepfl.crypto.similarity.sketches import MAX_DIMENSIONS, sketch
from securepfl.crypto.sums.words import pack_words, unpack_words
from securepfl.errors import AggregateError, MessageError

P = 2**31 - 1
KEY = b"k" * 32
CONTEXT = b"digest, round 3, attempt 0"
SMALL = 32
SKETCH_NORM, LARGEST_PRODUCT = FINE.norm, FINE.largest


def pads_cipher(clients, dimensions, key=KEY):
    return PadSimilarity(key, Shape(clients, dimensions, FINE))


def plain_cipher(clients, dimensions):
    return PlainSimilarity(Shape(clients, dimensions, FINE))


def opened(cipher, answer, own, client, other, context=CONTEXT, nonces=NO_NONCES):
    """One answer of a row."""
    return cipher.open_row({other: answer}, own, client, context, nonces)[other]


def normal(seed, size):
    return np.random.default_rng(seed).standard_normal(size)


def scaled(values):
    """Integers of norm at most SKETCH_NORM, whatever the values."""
    values = np.array(values, dtype=np.float64)
    return np.trunc(values * (SKETCH_NORM / max(np.linalg.norm(values), 1e-9))).astype(np.int64)


def rows(cipher, sketches, context=CONTEXT, norms=None, way=PADS):
    """All answers, by receiver and other."""
    table = way.table(Shape(len(sketches), sketches[0].size, FINE), {})
    for client, values in enumerate(sketches):
        table.add(client, cipher.encrypt(values, norms[client] if norms else 1.0, client, context))
    return {client: table.row(client) for client in range(len(sketches))}


def table_of(uploads, dimensions=SMALL, way=PADS):
    table = way.table(Shape(len(uploads), dimensions, FINE), {})
    for client, upload in enumerate(uploads):
        table.add(client, upload)
    return table


def words_of(data, count):
    return unpack_words(data, count, 31, P)


def product_of(result):
    """The integer behind a cosine: exact unless it was held to [-1, 1]."""
    return round(result.cosine * SKETCH_NORM**2)


def expected_cosine(left, right):
    return max(-1.0, min(1.0, int(left @ right) / SKETCH_NORM**2))


@pytest.fixture(scope="module")
def three():
    """Three hospitals' cipher, sketches, and uploads."""
    cipher = pads_cipher(3, SMALL)
    sketches = [sketch(normal(seed, SMALL), SMALL, KEY) for seed in range(3)]
    return cipher, sketches, [cipher.encrypt(s, 1.5 + i, i, CONTEXT) for i, s in enumerate(sketches)]


# --- exactness ---


def one_hot(index, size=MAX_DIMENSIONS):
    vector = np.zeros(size)
    vector[index] = 1.0
    return vector


# The flat vector's entries are all rounded one way; opposite signs drive the product to its negative end.
FLAT = np.full(MAX_DIMENSIONS, 1.0)
CORNERS = [
    (normal(0, 257), normal(1, 257)),
    (normal(2, MAX_DIMENSIONS), normal(3, MAX_DIMENSIONS)),
    (FLAT, FLAT),
    (FLAT, -FLAT),
    (one_hot(0), one_hot(0)),
    (one_hot(MAX_DIMENSIONS - 1), -one_hot(MAX_DIMENSIONS - 1)),
    (one_hot(0), one_hot(MAX_DIMENSIONS - 1)),
    (np.zeros(9), normal(4, 9)),
]


@pytest.mark.parametrize("pair", CORNERS)
def test_encrypted_products_are_exact_and_equal_plaintext_ones_at_the_corners(pair):
    sketches = [sketch(vector, MAX_DIMENSIONS, KEY) for vector in pair]
    cipher, plain = pads_cipher(2, MAX_DIMENSIONS), plain_cipher(2, MAX_DIMENSIONS)
    norms = [float(np.linalg.norm(vector)) for vector in pair]
    hidden, clear = rows(cipher, sketches, norms=norms), rows(plain, sketches, norms=norms, way=PLAIN)
    for receiver, other in ((0, 1), (1, 0)):
        mine = sketches[receiver]
        result = opened(cipher, hidden[receiver][other], mine, receiver, other, CONTEXT)
        assert result == opened(plain, clear[receiver][other], mine, receiver, other, CONTEXT)
        assert result.cosine == expected_cosine(*sketches)


@given(
    st.lists(st.lists(st.integers(-1000, 1000), min_size=6, max_size=6), min_size=2, max_size=5),
    st.lists(st.floats(0, 1e300), min_size=5, max_size=5),
    st.binary(max_size=40),
    st.binary(min_size=32, max_size=32),
)
@settings(max_examples=60, deadline=None)
def test_any_sketches_under_any_key_and_context_give_exact_products_as_plaintext_does(values, norms, context, key):
    sketches, clients = [scaled(v) for v in values], len(values)
    cipher, plain = pads_cipher(clients, 6, key), plain_cipher(clients, 6)
    hidden = rows(cipher, sketches, context, norms)
    clear = rows(plain, sketches, context, norms, way=PLAIN)
    for i in range(clients):
        assert set(hidden[i]) == set(range(clients)) - {i}
        for j, answer in hidden[i].items():
            result = opened(cipher, answer, sketches[i], i, j, context)
            assert product_of(result) == int(sketches[i] @ sketches[j])
            assert result == opened(plain, clear[i][j], sketches[i], i, j, context)


def test_no_product_of_sketches_can_wrap():
    # Every entry rounded up by nearly 1/2 is the worst that rounding can do to the norm.
    assert P / 2 > (SKETCH_NORM + MAX_DIMENSIONS**0.5 / 2) ** 2 >= LARGEST_PRODUCT
    cipher, edge = pads_cipher(2, 1), math.isqrt(LARGEST_PRODUCT)
    for own, other, sign in ((edge, edge, 1.0), (edge, -edge, -1.0), (-edge, -edge, 1.0)):
        answers = rows(cipher, [np.array([own]), np.array([other])])
        assert opened(cipher, answers[0][1], np.array([own]), 0, 1, CONTEXT).cosine == sign
    for values in (np.array([edge + 1]), np.array([-(2**63)])):
        for refusing in (cipher, plain_cipher(2, 1)):
            with pytest.raises(ValueError, match="wrap"):
                refusing.encrypt(values, 1.0, 0, CONTEXT)


def test_a_row_speaks_of_those_who_uploaded_and_one_without_an_upload_gets_none(three):
    cipher, sketches, uploads = three
    table = PADS.table(Shape(3, SMALL, FINE), {})
    table.add(2, uploads[2])
    table.add(0, uploads[0])
    assert table.row(1) == {}
    assert set(table.row(0)) == {2}
    result = opened(cipher, table.row(0)[2], sketches[0], 0, 2, CONTEXT)
    assert product_of(result) == int(sketches[0] @ sketches[2])


# --- sketches, norms, distances ---


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), st.floats(1e-3, 1e3))
@settings(max_examples=40, deadline=None)
def test_a_short_vector_is_kept_up_to_its_scale(values, factor):
    vector = np.array(values)
    result = sketch(vector, 64, KEY)
    assert np.abs(result - sketch(vector * factor, 64, KEY)).max() <= 1
    norm = np.linalg.norm(vector)
    if norm > 0:
        np.testing.assert_allclose(result[: vector.size], vector * (SKETCH_NORM / norm), atol=0.5 + 1e-4)
    assert not result[vector.size :].any()


@pytest.mark.parametrize("dimensions", [2048, 4096, 8192])
@pytest.mark.parametrize("cosine", [0.0, 0.5, 0.9])
def test_sketches_of_long_vectors_estimate_cosines_with_the_stated_error(dimensions, cosine):
    errors = []
    for seed in range(40):
        left, key = normal(seed, 40_000), bytes([seed]) * 32
        right = cosine * left + math.sqrt(1 - cosine**2) * normal(1000 + seed, 40_000)
        true = left @ right / np.linalg.norm(left) / np.linalg.norm(right)
        product = int(sketch(left, dimensions, key) @ sketch(right, dimensions, key))
        errors.append(product / SKETCH_NORM**2 - true)
    stated = 0.8 * (1 - cosine**2) / math.sqrt(dimensions)
    assert 0.6 * stated < np.mean(np.abs(errors)) < 1.4 * stated
    # Unbiased: the mean of 40 lies within three of its standard deviations.
    assert abs(np.mean(errors)) < 3 * stated / 0.8 / math.sqrt(40)


def test_a_vector_a_little_longer_than_its_sketch_errs_less_than_hashing_would():
    errors = []
    for seed in range(60):
        left, right, key = normal(seed, 2500), normal(500 + seed, 2500), bytes([seed]) * 32
        true = left @ right / np.linalg.norm(left) / np.linalg.norm(right)
        errors.append(int(sketch(left, 2048, key) @ sketch(right, 2048, key)) / SKETCH_NORM**2 - true)
    assert np.mean(np.abs(errors)) < 0.8 * 0.8 / math.sqrt(2048)


def test_rounding_alone_errs_by_about_a_hundred_thousandth():
    left, right = normal(5, 4096), normal(6, 4096)
    true = left @ right / np.linalg.norm(left) / np.linalg.norm(right)
    assert abs(expected_cosine(sketch(left, 4096, KEY), sketch(right, 4096, KEY)) - true) < 5e-5


def test_the_zero_vector_stays_zero_and_bad_vectors_are_refused():
    assert not sketch(np.zeros(5000), 100, KEY).any()
    assert np.linalg.norm(sketch(np.array([1e-300, 1e-300]), 4, KEY)) == pytest.approx(SKETCH_NORM, rel=0.01)
    with pytest.raises(ValueError, match="finite"):
        sketch(np.array([1.0, np.nan]), 4, KEY)
    with pytest.raises(ValueError, match="dimensions"):
        sketch(np.ones(4), MAX_DIMENSIONS + 1, KEY)


@pytest.mark.parametrize("norm", [0.0, 1e-30, 0.37, 1.0, 12345.678, 1e30])
def test_norms_arrive_within_a_ten_millionth_and_zero_as_zero(norm):
    vectors = [sketch(normal(0, 8), 8, KEY), sketch(np.zeros(8) if norm == 0 else normal(1, 8), 8, KEY)]
    cipher = pads_cipher(2, 8)
    result = opened(cipher, rows(cipher, vectors, norms=[1.0, norm])[0][1], vectors[0], 0, 1, CONTEXT)
    assert result.norm == pytest.approx(norm, rel=1e-7, abs=0)
    assert norm > 0 or result == Similarity(0.0, 0.0)


@pytest.mark.parametrize(("norm", "held"), [(1e-320, 2.0**-128), (1e300, 2.0**128)])
def test_norms_out_of_range_are_held_to_its_ends(norm, held):
    cipher = pads_cipher(2, 1)
    one = np.ones(1, dtype=np.int64)
    result = opened(cipher, rows(cipher, [one, one], norms=[1.0, norm])[0][1], one, 0, 1, CONTEXT)
    assert result.norm == pytest.approx(held, rel=1e-6)


@pytest.mark.parametrize("cosine", [-0.7, 0.0, 0.6, 0.99])
def test_distances_follow_from_cosine_and_norms(cosine):
    left = normal(7, 4096)
    right = 3.0 * (cosine * left + math.sqrt(1 - cosine**2) * normal(8, 4096))
    vectors = [sketch(v, 4096, KEY) for v in (left, right)]
    own, other = (float(np.linalg.norm(v)) for v in (left, right))
    cipher = pads_cipher(2, 4096)
    result = opened(cipher, rows(cipher, vectors, norms=[own, other])[0][1], vectors[0], 0, 1, CONTEXT)
    assert distance(own, result) == pytest.approx(float(np.linalg.norm(left - right)), rel=1e-4)
    assert distance(own, Similarity(1.0, own)) == 0.0
    assert distance(0.0, Similarity(0.0, 2.0)) == 2.0


# --- alterations ---


def refused(cipher, answer, own, client=0, other=1, context=CONTEXT):
    with pytest.raises(AggregateError, match="failed its check") as caught:
        opened(cipher, answer, own, client, other, context)
    return str(caught.value)


@pytest.mark.parametrize("word", range(6))
@pytest.mark.parametrize("change", [1, 2, 2**30, P - 1])
def test_any_word_of_an_answer_altered_is_refused_always_alike(three, word, change):
    cipher, sketches, uploads = three
    words = words_of(table_of(uploads).row(0)[1], 6)
    words[word] = (int(words[word]) + change) % P
    message = refused(cipher, pack_words(words, 31), sketches[0])
    assert message == "an encrypted similarity failed its check; ask the coordinator to repeat it"


@given(changes=st.lists(st.integers(0, P - 1), min_size=6, max_size=6).filter(any))
@settings(max_examples=60, deadline=None)
def test_any_alteration_of_an_answer_is_refused(three, changes):
    cipher, sketches, uploads = three
    words = words_of(table_of(uploads).row(0)[1], 6)
    refused(cipher, pack_words((words + np.array(changes, dtype=np.uint64)) % np.uint64(P), 31), sketches[0])


@pytest.mark.parametrize("lane", range(3))
@pytest.mark.parametrize("entry", ["sketch", "correction", "norm"])
def test_any_word_class_of_an_upload_altered_is_refused(three, lane, entry):
    cipher, sketches, uploads = three
    place = {"sketch": SMALL * lane + 5, "correction": 3 * SMALL + lane, "norm": 3 * SMALL + 3 + lane}[entry]
    words = words_of(uploads[1], 3 * SMALL + 9)
    words[place] = (int(words[place]) + 1) % P
    refused(cipher, table_of([uploads[0], pack_words(words, 31), uploads[2]]).row(0)[1], sketches[0])


def test_the_receivers_own_upload_altered_is_refused(three):
    cipher, sketches, uploads = three
    words = words_of(uploads[0], 3 * SMALL + 9)
    words[5] = (int(words[5]) + 1) % P
    refused(cipher, table_of([pack_words(words, 31), *uploads[1:]]).row(0)[1], sketches[0])


def test_swapped_uploads_answers_receivers_and_contexts_are_refused(three):
    cipher, sketches, uploads = three
    answers = {i: table_of(uploads).row(i) for i in range(3)}
    swapped = table_of([uploads[0], uploads[2], uploads[1]])
    refused(cipher, swapped.row(0)[1], sketches[0])
    refused(cipher, answers[0][2], sketches[0])
    refused(cipher, answers[2][1], sketches[0])
    refused(cipher, answers[1][0], sketches[0])
    refused(cipher, answers[0][1], sketches[0], context=b"digest, round 4, attempt 0")
    refused(cipher, answers[0][1], sketches[2])
    later = [cipher.encrypt(s, 1.5 + i, i, b"later") for i, s in enumerate(sketches)]
    for mixed in ([later[0], uploads[1]], [uploads[0], later[1]], later[:2]):
        refused(cipher, table_of([*mixed, uploads[2]]).row(0)[1], sketches[0])
    refused(pads_cipher(3, SMALL, b"K" * 32), answers[0][1], sketches[0])


def test_linear_combinations_and_scalings_of_all_the_coordinator_holds_are_refused(three):
    cipher, sketches, uploads = three
    table = table_of(uploads)
    answers = [words_of(table.row(i)[j], 6).astype(object) for i in range(3) for j in range(3) if i != j]
    right, rng = answers[0], np.random.default_rng(3)
    tried = [right * factor % P for factor in (0, 2, P - 1)]
    tried += [(right + int(rng.integers(1, P)) * (other - answers[1])) % P for other in answers[2:]]
    # The tags' differences scaled alike, as if the scalars were 1.
    tried.append((right + np.array([1, 1, 1, 0, 0, 0])) % P)
    # Norm words put in the product's place, and the reverse.
    tried.append(np.concatenate([right[3:], right[:3]]))
    for words in tried:
        refused(cipher, pack_words(words.astype(np.uint64), 31), sketches[0])


def test_a_forgery_by_who_knows_the_scalars_shows_that_the_mac_is_what_refuses(three):
    cipher, sketches, uploads = three
    words = words_of(table_of(uploads).row(0)[1], 6)
    words[:3] = (words[:3] + 7 * cipher.pads(CONTEXT).scalars()) % P
    result = opened(cipher, pack_words(words, 31), sketches[0], 0, 1, CONTEXT)
    assert product_of(result) == int(sketches[0] @ sketches[1]) + 7


def test_what_no_honest_sketch_or_norm_leads_to_is_refused_alike(three):
    cipher, sketches, uploads = three
    for place, far in ((0, P // 2 - int(sketches[0] @ sketches[1])), (3, 2**30)):
        words = words_of(table_of(uploads).row(0)[1], 6)
        words[place : place + 3] = (words[place : place + 3] + far * cipher.pads(CONTEXT).scalars()) % P
        refused(cipher, pack_words(words, 31), sketches[0])
    impossible = pack_words(np.array([P // 2, 5], dtype=np.uint64), 31)
    refused(plain_cipher(3, SMALL), impossible, sketches[0])


# --- form ---


def test_sizes_are_those_stated(three):
    _, sketches, uploads = three
    assert {len(upload) for upload in uploads} == {PADS.upload_bytes(Shape(3, SMALL, FINE))}
    assert PADS.upload_bytes(Shape(16, 4096, FINE)) == 47_802
    assert len(table_of(uploads).row(0)[1]) == PADS.answer_bytes(Shape(3, SMALL, FINE)) == 24
    plain = plain_cipher(3, SMALL)
    clear = [plain.encrypt(s, 1.0, i, CONTEXT) for i, s in enumerate(sketches)]
    assert {len(upload) for upload in clear} == {PLAIN.upload_bytes(Shape(3, SMALL, FINE))} == {4 * SMALL + 4}
    assert len(table_of(clear, way=PLAIN).row(0)[1]) == PLAIN.answer_bytes(Shape(3, SMALL, FINE)) == 8


@pytest.mark.parametrize("way", [PADS, PLAIN])
def test_uploads_and_answers_of_a_wrong_length_or_range_are_refused(three, way):
    _, sketches, _ = three
    cipher = way.cipher(KEY, b"", Shape(3, SMALL, FINE))
    uploads = [cipher.encrypt(s, 1.0, i, CONTEXT) for i, s in enumerate(sketches)]
    # As words all ones: p itself, just out of range. As integers: the last, a norm of 2^31 - 1.
    full = b"\xff" * (len(uploads[0]) - 4) + b"\xff\xff\xff\x7f"
    for bad in (uploads[0][:-1], uploads[0] + b"\0", b"", full):
        with pytest.raises(MessageError):
            way.table(Shape(3, SMALL, FINE), {}).add(0, bad)
    answer = table_of(uploads, way=way).row(0)[1]
    for bad in (answer[:-1], answer + b"\0", b"", b"\xff" * len(answer), answer[:-1] + bytes([answer[-1] | 128])):
        with pytest.raises(MessageError):
            opened(cipher, bad, sketches[0], 0, 1, CONTEXT)


@pytest.mark.parametrize("values", [[2**31 - 1] * 4 + [5], [-(2**31)] * 4 + [5], [1] * 4 + [-1], [1] * 4 + [2**30 + 1]])
def test_sketches_and_norms_in_clear_out_of_range_are_refused(values):
    with pytest.raises(MessageError, match="out of range"):
        PLAIN.table(Shape(2, 4, FINE), {}).add(0, np.array(values, dtype="<i4").tobytes())


def test_wrong_arguments_are_refused(three):
    cipher, sketches, uploads = three
    table = table_of(uploads)
    with pytest.raises(ValueError, match="already"):
        table.add(0, uploads[0])
    with pytest.raises(ValueError, match="client"):
        table.add(3, uploads[0])
    with pytest.raises(ValueError, match="itself"):
        opened(cipher, table.row(0)[1], sketches[0], 0, 0, CONTEXT)
    with pytest.raises(ValueError, match="32 bytes"):
        pads_cipher(3, SMALL, b"short")
    with pytest.raises(ValueError, match="dimensions"):
        PADS.table(Shape(3, MAX_DIMENSIONS + 1, FINE), {})
    for refusing in (cipher, plain_cipher(3, SMALL)):
        for client, norm, values in ((3, 1.0, sketches[0]), (-1, 1.0, sketches[0]), (0, 1.0, sketches[0][:-1])):
            with pytest.raises(ValueError, match=r"client|shape"):
                refusing.encrypt(values, norm, client, CONTEXT)
        for norm in (-1.0, math.inf, math.nan):
            with pytest.raises(ValueError, match="norm"):
                refusing.encrypt(sketches[0], norm, 0, CONTEXT)


def test_the_key_never_shows():
    key = b"\x41" * 32
    cipher = pads_cipher(3, SMALL, key)
    shown = f"{cipher!r} {cipher} {cipher.pads(CONTEXT)!r} {cipher.pads(CONTEXT)}"
    assert "AAAA" not in shown
    assert key.hex() not in shown


# --- what the coordinator sees ---


def uniform(words):
    """The chance that uniform words modulo p look no more even than these in their top or bottom four bits."""
    flat = words.reshape(-1).astype(np.int64)
    tops, bottoms = np.bincount(flat >> 27, minlength=16), np.bincount(flat & 15, minlength=16)
    return min(chisquare(tops).pvalue, chisquare(bottoms).pvalue)


def view(contexts=200):
    """Two hospitals of three upload the same constant sketch under many contexts: [contexts, hospitals, words]."""
    cipher, constant = pads_cipher(3, SMALL), scaled(np.ones(SMALL))
    return np.array(
        [
            [words_of(cipher.encrypt(constant, 1.0, i, n.to_bytes(2, "big")), 3 * SMALL + 9) for i in range(2)]
            for n in range(contexts)
        ]
    ).astype(np.int64)


def evenness(seen):
    """The least chance over every kind of word, and over what could relate lanes, hospitals and contexts."""
    parts = [seen[..., SMALL * lane : SMALL * (lane + 1)] for lane in range(3)]
    slots = seen[..., 3 * SMALL :].reshape(*seen.shape[:2], 3, 3)
    relations = [
        seen[:, 0] - seen[:, 1],
        seen[1:] - seen[:-1],
        parts[0] - parts[1],
        parts[1] - parts[2],
        np.diff(parts[0]),
        slots[:, 0, 1] - slots[:, 1, 0],
        slots[:, 0, 2] - slots[:, 1, 2],
    ]
    return min(uniform(part % P) for part in [*parts, *(slots[..., lane] for lane in range(3)), *relations])


def test_all_that_the_coordinator_sees_is_uniform_and_hospitals_with_one_sketch_look_unrelated():
    assert evenness(view()) > 1e-3


def test_without_pads_the_same_look_finds_the_sketches(monkeypatch):
    monkeypatch.setattr(Pads, "of", lambda self, client, count: np.zeros(count, dtype=np.uint64))
    assert evenness(view(20)) < 1e-9


RIGHT = Pads.of


@pytest.mark.parametrize(
    "mutant",
    [
        lambda self, client, count: RIGHT(self, 0, count),
        lambda self, client, count: RIGHT(dataclasses.replace(self, context=b""), client, count),
        lambda self, client, count: np.resize(RIGHT(self, client, SMALL), count),
    ],
    ids=["hospitals", "contexts", "lanes"],
)
def test_with_pads_shared_between_hospitals_contexts_or_lanes_the_same_look_finds_it(monkeypatch, mutant):
    monkeypatch.setattr(Pads, "of", mutant)
    assert evenness(view(60)) < 1e-9


def test_pads_and_scalars_differ_by_context_client_roster_and_dimensions():
    def start(cipher, context, client):
        return tuple(cipher.pads(context).of(client, 4).tolist())

    base = pads_cipher(3, SMALL)
    seen = {
        start(base, b"a", 0),
        start(base, b"b", 0),
        start(base, b"a", 1),
        start(pads_cipher(4, SMALL), b"a", 0),
        start(pads_cipher(3, SMALL + 1), b"a", 0),
        start(pads_cipher(3, SMALL, b"K" * 32), b"a", 0),
    }
    assert len(seen) == 6
    a, b = base.pads(b"a"), base.pads(b"b")
    assert tuple(a.scalars()) != tuple(b.scalars())
    assert start(base, b"a", 0) == tuple(a.of(0, 1000)[:4].tolist())
    # A scalar drawn from bytes that also serve as pads would not be independent of what the coordinator sees.
    assert a.stream("scalars").bytes(32) != a.stream("pads").bytes(32)


def test_another_nonce_gives_other_pads_under_the_same_context_and_only_to_its_owner():
    cipher = pads_cipher(3, SMALL)
    one, two = (cipher.pads(b"a", {0: nonce, 1: b"same"}) for nonce in (b"first run", b"second run"))
    assert not np.array_equal(one.of(0, 9), two.of(0, 9))
    assert np.array_equal(one.of(1, 9), two.of(1, 9))


def test_hospitals_that_were_told_different_nonces_refuse_each_others_answers(three):
    _, sketches, _ = three
    cipher, told = pads_cipher(2, SMALL), [{0: b"x", 1: b"y"}, {0: b"z", 1: b"y"}]
    uploads = [cipher.encrypt(sketches[i], 1.0, i, CONTEXT, told[i]) for i in range(2)]
    refused_by = table_of(uploads).row(0)[1]
    with pytest.raises(AggregateError):
        opened(cipher, refused_by, sketches[0], 0, 1, CONTEXT, told[0])
    agreed = [cipher.encrypt(sketches[i], 1.0, i, CONTEXT, told[0]) for i in range(2)]
    found = opened(cipher, table_of(agreed).row(0)[1], sketches[0], 0, 1, CONTEXT, told[0])
    assert product_of(found) == int(sketches[0] @ sketches[1])


def test_two_sketches_under_one_context_would_show_their_difference():
    # Why a context serves once: this is what the hospital's stored contribution guards against.
    cipher, first, second = pads_cipher(2, SMALL), *(scaled(normal(s, SMALL)) for s in (1, 2))
    words = [words_of(cipher.encrypt(s, 1.0, 0, CONTEXT), 3 * SMALL + 6).astype(np.int64) for s in (first, second)]
    difference = (words[0] - words[1])[:SMALL] % P
    np.testing.assert_array_equal(difference, (first - second) % P)


# --- what a hospital can make of its answers ---


def received(own, other, contexts, client=0):
    """The answer words to `own` (one sketch a context) about a hospital that uploads `other` in each."""
    cipher = pads_cipher(2, other.size)
    answers = [rows(cipher, [mine, other], context)[client][1] for mine, context in zip(own, contexts, strict=True)]
    return np.concatenate([words_of(answer, 6) for answer in answers]).astype(np.int64)


def rank(matrix):
    """Over the integers modulo p."""
    rows_, found = [[int(x) % P for x in row] for row in matrix], 0
    for column in range(len(rows_[0])):
        pivot = next((r for r in range(found, len(rows_)) if rows_[r][column]), None)
        if pivot is None:
            continue
        rows_[found], rows_[pivot] = rows_[pivot], rows_[found]
        inverse = pow(rows_[found][column], -1, P)
        for r in range(found + 1, len(rows_)):
            factor = rows_[r][column] * inverse % P
            rows_[r] = [(x - factor * y) % P for x, y in zip(rows_[r], rows_[found], strict=True)]
        found += 1
    return found


def response(own, contexts):
    """How the answer words depend on the other's sketch, [words, dimensions]: they are affine in it modulo p."""
    base = received(own, np.zeros(SMALL, dtype=np.int64), contexts)
    unit = np.eye(SMALL, dtype=np.int64)
    return np.stack([(received(own, unit[k], contexts) - base) % P for k in range(SMALL)], axis=1)


def test_two_products_with_one_stored_sketch_leave_a_hospital_two_numbers_and_no_more():
    # Of BFV products two gave the whole sketch away, through their noise.
    own, contexts = [scaled(normal(seed, SMALL)) for seed in (1, 2)], [b"one", b"two"]
    matrix = response(own, contexts)
    assert matrix.shape[0] == 12
    assert rank(matrix) == 2
    assert rank(np.vstack([matrix, own[0], own[1]])) == 2
    other = scaled(normal(3, SMALL))
    np.testing.assert_array_equal(
        (received(own, other, contexts) - received(own, 0 * other, contexts)) % P,
        np.array([sum(int(a) * int(b) for a, b in zip(row, other, strict=True)) % P for row in matrix]),
    )


def test_sketches_with_the_same_products_give_the_same_bytes():
    own = [scaled(np.append(normal(seed, SMALL // 2), np.zeros(SMALL // 2))) for seed in (1, 2)]
    first = scaled(normal(3, SMALL)) // 2
    second = np.append(first[: SMALL // 2], scaled(normal(4, SMALL // 2)) // 2)
    assert (first != second).sum() > SMALL // 2 - 3
    contexts = [b"one", b"two"]
    np.testing.assert_array_equal(received(own, first, contexts), received(own, second, contexts))


def test_least_squares_on_all_that_a_hospital_decrypts_finds_no_more_than_the_products():
    dimensions, clients = 64, 2
    own, other = [scaled(normal(seed, dimensions)) for seed in (1, 2)], scaled(normal(3, dimensions))
    cipher = pads_cipher(clients, dimensions)
    products = []
    for mine, context in zip(own, (b"one", b"two"), strict=True):
        answer = rows(cipher, [mine, other], context)[0][1]
        products.append(product_of(opened(cipher, answer, mine, 0, 1, context)))
    estimate, *_ = np.linalg.lstsq(np.array(own, dtype=np.float64), np.array(products, dtype=np.float64), rcond=None)
    basis, _ = np.linalg.qr(np.array(own, dtype=np.float64).T)
    plane = basis @ (basis.T @ other)
    np.testing.assert_allclose(estimate, plane, atol=1e-3)
    # What lies outside the plane of its own two sketches, nearly all, stays unknown.
    assert np.linalg.norm(other - estimate) > 0.9 * np.linalg.norm(other)


def test_a_hospital_that_shifts_one_coefficient_of_its_upload_reads_one_other_linear_functional():
    cipher = pads_cipher(2, SMALL)
    own, other, k, shift = scaled(normal(1, SMALL)), scaled(normal(2, SMALL)), 7, -1000
    words = words_of(cipher.encrypt(own, 1.0, 0, CONTEXT), 3 * SMALL + 6)
    words[k] = (int(words[k]) + shift) % P
    answer = table_of([pack_words(words, 31), cipher.encrypt(other, 1.0, 1, CONTEXT)]).row(0)[1]
    assert len(answer) == PADS.answer_bytes(Shape(3, SMALL, FINE))
    chosen = own.copy()
    chosen[k] += shift
    result = opened(cipher, answer, chosen, 0, 1, CONTEXT)
    assert product_of(result) == int(chosen @ other) == int(own @ other) + shift * int(other[k])
    # The tags repeat the same functional: no second one comes with them.
    unit = np.eye(SMALL, dtype=np.int64)
    assert rank(response([chosen], [CONTEXT])) == 1
    refused(cipher, answer, own)
    assert rank(np.stack([own, unit[k]])) == 2
