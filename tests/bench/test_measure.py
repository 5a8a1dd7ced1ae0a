"""The benchmark measures what it says: every scheme returns the mean, sizes follow the case, bad numbers are named."""

import io
import json
from functools import cache

import numpy as np
import pytest
from rich.console import Console

from securepfl.bench.case import LIMIT, Case, Updates
from securepfl.bench.coordinator import coordinator_process
from securepfl.bench.measure import measure_aggregation, print_tables, run_case, sweep
from securepfl.bench.schemes import hospital_half, scheme_names
from securepfl.crypto.sums.parameters import choose_layout
from securepfl.crypto.sums.scheme import find_scheme
from securepfl.crypto.sums.words import unpack_words
from securepfl.errors import ConfigError

CASE = Case(size=5000, hospitals=4, bits=8, density=0.5)
STEP = LIMIT / 127


@cache
def result():
    ((_, found),) = sweep([CASE])
    return found


def rows(part):
    return {row["scheme"]: row for row in result()[part]}


SIMILARITY_ROWS = ["products", "unchecked", "unhidden", "pads", "ckks-dot"]


def test_json_has_the_documented_shape():
    found = json.loads(json.dumps(result(), allow_nan=False))
    assert set(found) == {"aggregation", "similarity"}
    assert [row["scheme"] for row in found["aggregation"]] == list(scheme_names(CASE))
    assert [row["scheme"] for row in found["similarity"]] == SIMILARITY_ROWS
    for row in found["aggregation"]:
        assert set(row) == {"scheme", "upload_bytes", "download_bytes", "seconds", "peak_bytes", "error"}
        assert set(row["seconds"]) == {"encrypt", "serialize", "load", "add", "decrypt"}
        assert min(row["seconds"].values()) >= 0
        assert row["peak_bytes"] > 0
    for row in found["similarity"]:
        assert set(row) == {"scheme", "upload_bytes", "pair_bytes", "context_bytes", "seconds", "error"}
        assert set(row["seconds"]) == {"upload", "answer", "decrypt"}


@pytest.mark.parametrize("scheme", ["tenseal", "tenseal-masked", "lean", "none", "bfv-vector", "pad"])
def test_quantised_schemes_err_by_rounding_alone(scheme):
    # A mean of n unbiased roundings has an error of at most STEP / (2 sqrt n); half of the entries are exact zeros.
    error = rows("aggregation")[scheme]["error"]
    bound = STEP / 2 / np.sqrt(CASE.hospitals) * np.sqrt(CASE.density)
    assert bound / 3 < error < bound


@pytest.mark.parametrize("scheme", ["ckks", "ckks-seeded", "float32", "float32-sparse"])
def test_real_valued_schemes_return_the_mean(scheme):
    assert rows("aggregation")[scheme]["error"] < 1e-6


def test_bytes_are_those_that_travel():
    found, layout = rows("aggregation"), choose_layout(CASE.sent, CASE.bits, CASE.hospitals)
    for name in ("tenseal", "lean", "none"):
        wire = find_scheme(name).wire(layout)
        assert found[name]["upload_bytes"] == wire.contribution_bytes
        assert found[name]["download_bytes"] == wire.answer_bytes(CASE.hospitals)
    assert found["tenseal-masked"]["upload_bytes"] == found["tenseal"]["upload_bytes"]
    assert found["pad"]["upload_bytes"] == 12 + CASE.sent * 10 // 8
    assert found["float32"]["upload_bytes"] == 4 * CASE.size
    assert found["float32-sparse"]["upload_bytes"] == 8 * CASE.sent


def test_cosines_are_near_under_both_schemes():
    # 2,500 entries are sketched to 2,048: the error is that of the sketch.
    assert all(0.001 < row["error"] < 0.05 for row in rows("similarity").values())


def test_peak_memory_is_one_aggregate_whatever_the_roster():
    few, many = (measure_aggregation("tenseal", Updates(Case(400_000, n, 8, 1.0))) for n in (4, 16))
    # Twelve more uploads kept would show; their seeds and what the allocator holds do not.
    assert many.peak_bytes < few.peak_bytes + 8 * many.upload_bytes


def test_vectors_are_the_same_in_blocks_and_whole():
    updates = Updates(Case(70_000, 4, 8, 0.99))
    vectors = np.stack([updates.values(hospital) for hospital in range(4)])
    np.testing.assert_allclose(updates.cosines(), np.corrcoef(vectors), atol=0.02)
    assert np.array_equal(updates.dense(vectors[0])[updates.support], vectors[0])
    assert updates.support.size == np.unique(updates.support).size == 69_300


def test_pads_hide_the_levels_and_never_repeat():
    updates = Updates(Case(4096, 2, 8, 1.0))
    hospital = hospital_half("pad", updates)
    uploads = [hospital.serialize(hospital.encrypt(0, updates.values(0))) for _ in range(2)]
    assert uploads[0][:12] != uploads[1][:12]
    words, others = (unpack_words(upload[12:], 4096, 9, 2**9) for upload in uploads)
    assert np.count_nonzero(words == others) < 4096 * 0.02
    assert abs(float(words.mean()) / 2**9 - 0.5) < 0.05


def test_a_dead_coordinator_is_noticed(capfd):
    with pytest.raises((EOFError, BrokenPipeError)), coordinator_process("tenseal", CASE, b"") as process:
        process.contribute(bytes(10))
    assert "contribution of 10 bytes" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("numbers", "option"),
    [
        ((0, 4, 8, 1.0), "--size"),
        ((9, 1, 8, 1.0), "--hospitals"),
        ((9, 4, 1, 1.0), "--bits"),
        ((9, 4, 8, 0), "--density"),
    ],
)
def test_numbers_that_make_no_case_are_named(numbers, option):
    with pytest.raises(ConfigError, match=option):
        Case(*numbers)


def test_stdout_stays_free_for_results(capfd):
    # TenSEAL warns on stdout where a vector needs more than one ciphertext.
    measure_aggregation("ckks", Updates(Case(5000, 2, 8, 1.0)))
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(("width", "tables"), [(160, 1), (80, 2)])
def test_tables_show_every_row_and_break_no_cell(width, tables):
    text = io.StringIO()
    print_tables(Console(file=text, width=width), CASE, result())
    sums = text.getvalue().split("similarity:")[0]
    first = [line.split("│")[1].strip() for line in sums.splitlines() if line.startswith("│")]
    assert sorted(first) == sorted([*scheme_names(CASE)] * tables)
    assert "ckks-dot" in text.getvalue() and max(map(len, text.getvalue().splitlines())) <= width


def test_asked_schemes_alone_are_run():
    names = [row["scheme"] for row in run_case(300, 2, 8, 1.0, {"float32", "pad"})["aggregation"]]
    assert names == ["pad", "float32"]


def test_sums_that_would_wrap_in_a_bfv_vector_are_refused():
    with pytest.raises(ConfigError, match="--bits 16"):
        hospital_half("bfv-vector", Updates(Case(10, 16, 16, 1.0)))
