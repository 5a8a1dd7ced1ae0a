import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securepfl.learning.personal.graph import choose_neighbours, symmetric_core

ROW = {"basel": 0.4, "cork": 0.9, "delft": -0.2, "evora": 0.4, "ghent": 0.7}


def choose(row=ROW, k=3, minimum=1):
    return choose_neighbours(row, k, minimum)


@pytest.mark.parametrize(
    ("arguments", "chosen"),
    [
        ({}, ("cork", "ghent", "basel")),
        ({"k": 9}, ("cork", "ghent", "basel", "evora")),
        ({"row": {"cork": 0.0, "ghent": -0.1}}, ()),
    ],
    ids=["three", "all-above-0", "nobody-above-0"],
)
def test_the_most_similar_come_first_with_ties_by_name(arguments, chosen):
    assert choose(**arguments) == chosen
    assert choose(**arguments | {"row": dict(reversed(arguments.get("row", ROW).items()))}) == chosen


def test_fewer_than_the_minimum_means_nobody():
    assert len(choose(k=6, minimum=4)) == 4
    assert choose(k=6, minimum=5) == ()
    assert choose({}) == ()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"minimum": 0}, "minimum .*not 0"),
        ({"k": 2, "minimum": 3}, "k .*minimum=3, not 2"),
        ({"row": {**ROW, "basel": float("inf")}}, "'basel' .*inf"),
    ],
    ids=["minimum", "k", "similarity"],
)
def test_bad_arguments_are_refused(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        choose(**arguments)


def test_an_edge_acts_at_both_ends_or_at_none():
    lists = {"a": ("b", "c", "d"), "b": ("c", "a"), "c": ("d", "a", "b"), "d": ("a", "c"), "e": ("a", "b")}
    assert symmetric_core(lists, 2) == {"a": ("b", "c", "d"), "b": ("a", "c"), "c": ("a", "b", "d"), "d": ("a", "c")}
    assert symmetric_core(lists, 3) == {}, "who drops out takes its edges along, and so on"


@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_all_that_remain_have_enough_edges_that_both_ends_chose(seed, minimum):
    generator = random.Random(seed)  # noqa: S311 - no secret
    names = [f"h{index}" for index in range(9)]
    lists = {name: generator.sample([other for other in names if other != name], 4) for name in names}
    core = symmetric_core(lists, minimum)
    for name, own in core.items():
        assert len(own) >= minimum
        assert all(name in core[other] and other in lists[name] and name in lists[other] for other in own)


def test_who_sent_no_list_has_no_edges():
    assert symmetric_core({"a": ("b", "absent"), "b": ("a",)}, 1) == {"a": ("b",), "b": ("a",)}


def test_nobody_is_its_own_neighbour():
    with pytest.raises(ValueError, match="'a' lists itself"):
        symmetric_core({"a": ("a", "b"), "b": ("a",)}, 1)
