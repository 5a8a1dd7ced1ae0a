"""What every way to compare promises: the same results, whole rows or nothing, and a verdict on a single upload."""

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securepfl.crypto.similarity.norms import travelled_norm
from securepfl.crypto.similarity.precision import COARSE, FINE
from securepfl.crypto.similarity.scheme import Shape, similarity_scheme
from securepfl.crypto.similarity.sketches import fits, sketch
from securepfl.crypto.sums.ring import generate_ring_key
from securepfl.errors import AggregateError, MessageError

WAYS = ("pads", "plain", "products")
CHECKED = ("pads", "products")
KEY, CONTEXT = b"k" * 32, b"digest, round 3, attempt 0"
CLIENTS, DIMENSIONS = 4, 48
NORMS = [0.0, 1.5, 1e-6, 3e7]
every_way = pytest.mark.parametrize("way", WAYS)
every_precision = pytest.mark.parametrize("precision", [COARSE, FINE], ids=["coarse", "fine"])


@cache
def ring_key():
    return generate_ring_key()


@cache
def cipher_of(way, precision, key=KEY, clients=CLIENTS, dimensions=DIMENSIONS):
    return similarity_scheme(way).cipher(key, ring_key(), Shape(clients, dimensions, precision))


@cache
def keys_of(way, client):
    return cipher_of(way, COARSE).evaluation_keys()


def sketch_of(seed, precision, size=DIMENSIONS):
    vector = np.random.default_rng(seed).standard_normal(size)
    return sketch(vector, size, KEY, 1.0, precision, bytes([seed % 256]) * 32)


def keys_for(way, clients=CLIENTS):
    held = {client: keys_of(way, client) for client in range(clients)}
    return {client: keys for client, keys in held.items() if keys is not None}


def table_of(way, precision, uploads, clients=CLIENTS, dimensions=DIMENSIONS):
    table = similarity_scheme(way).table(Shape(clients, dimensions, precision), keys_for(way, clients))
    for client, upload in uploads.items():
        table.add(client, upload)
    return table


@cache
def sketches_of(precision):
    return [sketch_of(seed, precision) for seed in range(CLIENTS)]


@cache
def uploads_of(way, precision):
    cipher = cipher_of(way, precision)
    pairs = zip(sketches_of(precision), NORMS, strict=True)
    return {client: cipher.encrypt(own, norm, client, CONTEXT) for client, (own, norm) in enumerate(pairs)}


@cache
def rows_of(way, precision):
    table = table_of(way, precision, uploads_of(way, precision))
    return {client: table.row(client) for client in range(CLIENTS)}


def opened(way, precision, row, client, context=CONTEXT):
    return cipher_of(way, precision).open_row(row, sketches_of(precision)[client], client, context)


# --- the same results ---


@every_way
@every_precision
def test_rows_hold_the_exact_products_and_norms_of_all_others(way, precision):
    sketches = sketches_of(precision)
    for client, row in rows_of(way, precision).items():
        found = opened(way, precision, row, client)
        assert set(found) == set(range(CLIENTS)) - {client}
        for other, similarity in found.items():
            product = int(sketches[client] @ sketches[other])
            assert similarity.cosine == max(-1.0, min(1.0, product / precision.norm**2))
            assert similarity.norm == travelled_norm(NORMS[other])


@every_way
@every_precision
@settings(max_examples=10, deadline=None)
@given(rows=st.lists(st.lists(st.integers(-1000, 1000), min_size=6, max_size=6), min_size=2, max_size=3))
def test_any_sketches_have_exact_products(way, precision, rows):
    limit = math.isqrt(precision.largest)
    vectors = [np.array(row, dtype=np.float64) for row in rows]
    sketches = [np.trunc(v * limit / max(np.linalg.norm(v), 1e-9)).astype(np.int64) for v in vectors]
    cipher = cipher_of(way, precision, clients=len(rows), dimensions=6)
    uploads = {client: cipher.encrypt(own, 1.0, client, CONTEXT) for client, own in enumerate(sketches)}
    table = table_of(way, precision, uploads, len(rows), 6)
    for client, own in enumerate(sketches):
        found = cipher.open_row(table.row(client), own, client, CONTEXT)
        right = {other: int(own @ sketches[other]) for other in range(len(rows)) if other != client}
        assert {other: similarity.cosine for other, similarity in found.items()} == {
            other: max(-1.0, min(1.0, product / precision.norm**2)) for other, product in right.items()
        }


@every_way
@every_precision
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_products_do_not_wrap_and_larger_sketches_are_refused(way, precision, sign):
    cipher, edge = cipher_of(way, precision, clients=2, dimensions=1), math.isqrt(precision.largest)
    values = [np.array([edge]), np.array([sign * edge])]
    uploads = {client: cipher.encrypt(own, 1.0, client, CONTEXT) for client, own in enumerate(values)}
    table = table_of(way, precision, uploads, 2, 1)
    assert cipher.open_row(table.row(0), values[0], 0, CONTEXT)[1].cosine == sign
    with pytest.raises(ValueError, match="wrap"):
        cipher.encrypt(np.array([edge + 1]), 1.0, 0, CONTEXT)


# --- form ---


@every_way
@every_precision
def test_lengths_are_those_stated(way, precision):
    scheme, shape = similarity_scheme(way), Shape(CLIENTS, DIMENSIONS, precision)
    assert {len(upload) for upload in uploads_of(way, precision).values()} == {scheme.upload_bytes(shape)}
    assert max(len(answer) for row in rows_of(way, precision).values() for answer in row.values()) == (
        scheme.answer_bytes(shape)
    )
    assert len(cipher_of(way, precision).evaluation_keys() or b"") == scheme.evaluation_bytes


@every_way
@every_precision
def test_uploads_and_answers_of_another_form_are_refused_before_anything_is_kept(way, precision):
    uploads, row = uploads_of(way, precision), rows_of(way, precision)[0]
    table = table_of(way, precision, {})
    last = b"\xff\xff\xff\x7f"
    for bad in (uploads[0][:-1], uploads[0] + b"\0", b"", b"\xff" * (len(uploads[0]) - 4) + last):
        for take in (table.check, table.add):
            with pytest.raises(MessageError):
                take(0, bad)
    table.add(0, uploads[0])
    for bad in (row[1][:-1], row[1] + b"\0", b"", b"\xff" * len(row[1])):
        with pytest.raises((MessageError, AggregateError)):
            opened(way, precision, row | {1: bad}, 0)


@every_way
def test_a_table_takes_an_upload_once_and_rows_are_the_same_however_often_they_are_asked_for(way):
    table = table_of(way, COARSE, uploads_of(way, COARSE))
    with pytest.raises(ValueError, match="already"):
        table.add(0, uploads_of(way, COARSE)[0])
    with pytest.raises(ValueError, match="client"):
        table.add(CLIENTS, uploads_of(way, COARSE)[0])
    assert table.row(0) == table.row(0)
    one, alone = table_of(way, COARSE, {}), table_of(way, COARSE, {2: uploads_of(way, COARSE)[2]})
    assert one.row(0) == {}
    assert alone.row(2) == alone.row(0) == {}
    assert opened(way, COARSE, {}, 0) == {}


@every_way
@every_precision
def test_rows_without_a_hospital_that_was_left_out(way, precision):
    table = table_of(way, precision, uploads_of(way, precision))
    before = opened(way, precision, table.row(0), 0)
    table.leave_out(2)
    table.leave_out(2)
    after = opened(way, precision, table.row(0), 0)
    assert after == {other: similarity for other, similarity in before.items() if other != 2}
    assert table.row(2) == {}


@every_way
@pytest.mark.parametrize("wrong", [-1, CLIENTS])
def test_hospitals_outside_the_roster_are_refused(way, wrong):
    cipher = cipher_of(way, COARSE)
    with pytest.raises(ValueError, match="client"):
        cipher.encrypt(sketches_of(COARSE)[0], 1.0, wrong, CONTEXT)
    with pytest.raises(ValueError, match="client"):
        cipher.check_upload(uploads_of(way, COARSE)[0], wrong, CONTEXT)
    for norm in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="norm"):
            cipher.encrypt(sketches_of(COARSE)[0], norm, 0, CONTEXT)


# --- alterations: pads' own are in test_pads.py, products' in test_products.py ---


@pytest.mark.parametrize("way", CHECKED)
@every_precision
def test_rows_swapped_between_hospitals_contexts_and_receivers_are_refused(way, precision):
    rows = rows_of(way, precision)
    uploads = uploads_of(way, precision)
    swapped = table_of(way, precision, {0: uploads[0], 1: uploads[2], 2: uploads[1], 3: uploads[3]})
    for row, client, context in (
        (rows[0] | {1: rows[0][2], 2: rows[0][1]}, 0, CONTEXT),
        (rows[0] | {1: rows[3][1]}, 0, CONTEXT),
        (swapped.row(0), 0, CONTEXT),
        (rows[0], 0, b"digest, round 4, attempt 0"),
    ):
        with pytest.raises(AggregateError, match="failed its check") as caught:
            opened(way, precision, row, client, context)
        assert str(caught.value) == "an encrypted similarity failed its check; ask the coordinator to repeat it"


@pytest.mark.parametrize("way", CHECKED)
def test_a_row_that_mixes_contexts_or_keys_is_refused(way):
    cipher, sketches = cipher_of(way, COARSE), sketches_of(COARSE)
    later = {0: cipher.encrypt(sketches[0], 1.0, 0, b"later")}
    with pytest.raises(AggregateError):
        opened(way, COARSE, table_of(way, COARSE, uploads_of(way, COARSE) | later).row(1), 1)
    other = cipher_of(way, COARSE, key=b"K" * 32)
    with pytest.raises(AggregateError):
        other.open_row(rows_of(way, COARSE)[0], sketches[0], 0, CONTEXT)


# --- the verdict on one upload ---


@every_way
@every_precision
def test_a_hospitals_upload_passes_the_check_of_every_other(way, precision):
    for client, upload in uploads_of(way, precision).items():
        assert cipher_of(way, precision).check_upload(upload, client, CONTEXT)


@every_way
@every_precision
def test_a_sketch_beyond_the_norm_is_found_out(way, precision, monkeypatch):
    monkeypatch.setattr(f"securepfl.crypto.similarity.{way}.check_sketch", lambda *_: None)
    large = np.zeros(DIMENSIONS, dtype=np.int64)
    large[:2] = math.isqrt(precision.largest)
    upload = cipher_of(way, precision).encrypt(large, 1.0, 1, CONTEXT)
    assert not fits(large, precision)
    assert not cipher_of(way, precision).check_upload(upload, 1, CONTEXT)


@pytest.mark.parametrize("way", CHECKED)
@every_precision
def test_an_upload_altered_anywhere_or_of_another_context_or_sender_is_found_out(way, precision):
    cipher, upload = cipher_of(way, precision), uploads_of(way, precision)[1]
    assert not cipher.check_upload(upload, 1, b"digest, round 4, attempt 0")
    assert not cipher.check_upload(upload, 2, CONTEXT)
    assert not cipher.check_upload(upload[:-1], 1, CONTEXT)
    for place in range(3, len(upload), len(upload) // 23):
        altered = bytearray(upload)
        altered[place] ^= 1
        assert not cipher.check_upload(bytes(altered), 1, CONTEXT), place


@pytest.mark.parametrize("way", ["pads", "plain"])
def test_ways_without_evaluation_keys_refuse_any(way):
    similarity_scheme(way).check_keys(b"")
    with pytest.raises(MessageError, match="evaluation keys"):
        similarity_scheme(way).check_keys(b"0")
    assert cipher_of(way, COARSE).check_keys(b"")
    assert not cipher_of(way, COARSE).check_keys(b"0")


# --- rounding at random ---


def test_coarse_rounding_is_unbiased_also_where_entries_are_small():
    rng = np.random.default_rng(0)
    common, products = rng.standard_normal(4096), []
    left, right = (common + rng.standard_normal(4096) for _ in range(2))
    scale = 0.05
    for trial in range(200):
        pair = [
            sketch(vector, 4096, KEY, scale, COARSE, bytes([side, trial]) * 16)
            for side, vector in enumerate((left, right))
        ]
        products.append(int(pair[0] @ pair[1]) / (scale * COARSE.norm) ** 2)
    true = left @ right / np.linalg.norm(left) / np.linalg.norm(right)
    assert abs(np.mean(products) - true) < 4 * np.std(products) / math.sqrt(200)
    # Entries are a fifth of a step: to the nearest, all would be zero.
    assert np.abs(left * scale * COARSE.norm / np.linalg.norm(left)).max() < 1


def test_a_sketch_that_rounding_makes_too_long_is_rounded_towards_zero(monkeypatch):
    monkeypatch.setattr("securepfl.randomness.RandomStream.uniform", lambda self, count: np.ones(count))
    vector = np.full(4096, 1.0)
    assert fits(sketch(vector, 4096, KEY, 1.0, COARSE, KEY), COARSE)
    with pytest.raises(ValueError, match="key to round by"):
        sketch(vector, 4096, KEY, 1.0, COARSE)


def test_coarse_cosines_of_100_000_parameters_err_by_a_hundredth():
    errors = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        left, right = (rng.standard_normal(100_000) for _ in range(2))
        pair = [sketch(v, 4096, bytes([seed]) * 32, 1.0, COARSE, bytes([i]) * 32) for i, v in enumerate((left, right))]
        true = left @ right / np.linalg.norm(left) / np.linalg.norm(right)
        errors.append(abs(int(pair[0] @ pair[1]) / COARSE.norm**2 - true))
    assert np.mean(errors) < 0.02
