"""A cell means the same whatever stored it: what it is as a number, and which declared values it equals."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from securepfl.data.cells import Cells

BIG = 2**53


def test_typed_numbers_match_texts_that_are_plainly_numbers():
    cells = Cells.of(np.array([1.0, 2.5, np.nan]))
    assert cells.texts.to_pylist() == ["1", "2.5", None]
    assert cells.matches(["1"]).tolist() == [True, False, False]
    assert cells.matches(["01"]).tolist() == [False, False, False]


def test_numbers_match_by_value_and_texts_by_text():
    cells = Cells.of(["1.0", "1", "01", "one"])
    assert cells.matches([1]).tolist() == [True, True, True, False]
    assert cells.matches(["1"]).tolist() == [True, True, False, False]
    assert cells.matches(["01"]).tolist() == [False, False, True, False]
    assert cells.matches(["one", 1.0]).tolist() == [True, True, True, True]


def test_empty_cells_and_nan_are_always_missing():
    assert Cells.of(["", " ", "NaN", "nan", "?", "0", None]).missing(["?"]).tolist() == [True] * 5 + [False, True]
    assert Cells.of(np.array([np.nan, -9.0, 1.0])).missing([-9]).tolist() == [True, True, False]
    assert Cells.of(np.array([-9, 1])).missing(["-9"]).tolist() == [True, False]


@pytest.mark.parametrize("text", ["1_000", "0x10", "１", "1,5", "1d", "NA", "--1", "-", "nan(1)", "1.2.3"])
def test_what_only_looks_like_a_number_is_none(text: str):
    assert np.isnan(Cells.of([text, "1"]).numbers).tolist() == [True, False]


def test_numbers_in_every_spelling():
    spelled = ["1", "+1", "1.", ".5", "1e3", "1E+3", "inf", "-Infinity", "1e400", "007", " 2 ", "true", "FALSE"]
    values = [1, 1, 1, 0.5, 1e3, 1e3, np.inf, -np.inf, np.inf, 7, 2, 1, 0]
    assert Cells.of(spelled).numbers.tolist() == values
    assert Cells.of([*spelled, "text"]).numbers[:-1].tolist() == values


def test_a_declared_decimal_mark_is_the_only_one():
    cells = Cells.of(["-99,9", "1.5", "2", "1.234,5"], decimal=",")
    np.testing.assert_array_equal(cells.numbers, [-99.9, np.nan, 2, np.nan])
    assert cells.matches([-99.9, "2"]).tolist() == [True, False, True, False]
    assert cells.other_marks.tolist() == [False, True, False, True]
    excel = ["1\u00a0234,5", "1\u202f234", "1\u2019234.5", "\u22121.5", "1,00,000"]
    assert Cells.of(excel).other_marks.all()
    assert Cells.of(["27,5", "1,234", "1 234", "12.03.2020", "x"]).other_marks.tolist() == [True] * 3 + [False] * 2


@pytest.mark.parametrize("stored", [np.array([BIG, BIG + 1, BIG + 2]), [str(BIG), str(BIG + 1), str(BIG + 2)]])
def test_whole_numbers_past_float64_stay_apart(stored):
    assert Cells.of(stored).matches([BIG + 1]).tolist() == [False, True, False]
    assert Cells.of(stored).matches([str(BIG + 1)]).tolist() == [False, True, False]
    assert Cells.of(stored).matches([BIG + 1.5]).sum() == 1  # a float declares what float64 makes of it: BIG + 2


def test_a_value_outside_a_type_matches_nothing():
    assert not Cells.of(pa.array([2**64 - 1], pa.uint64())).matches([-1, 1.5, 2.0**70]).any()
    assert Cells.of(pa.array([2**64 - 1], pa.uint64())).matches([2**64 - 1]).all()
    assert not Cells.of(np.array([1])).matches([2**70, 1.5]).any()


def test_truth_is_written_in_any_case_and_is_one_or_zero():
    for cells in (Cells.of(["True", "FALSE", "true"]), Cells.of([True, False, True])):
        assert cells.numbers.tolist() == [1, 0, 1]
        assert cells.matches(["true"]).tolist() == [True, False, True]
        assert cells.matches([0]).tolist() == [False, True, False]


def test_texts_have_one_spelling():
    assert Cells.of(["Ko\u0308ln", " K\u00f6ln\u00a0"]).matches(["K\u00f6ln"]).all()


@given(st.lists(st.floats(allow_nan=False, width=64), min_size=1))
def test_a_number_is_found_again_as_text_and_as_float(values: list[float]):
    typed, texts = Cells.of(np.array(values)), Cells.of([repr(value) for value in values])
    np.testing.assert_array_equal(typed.numbers, texts.numbers)
    finite = [value for value in values if np.isfinite(value)]
    np.testing.assert_array_equal(typed.matches(finite), texts.matches(finite))
    assert typed.matches(finite).sum() == len(finite)
