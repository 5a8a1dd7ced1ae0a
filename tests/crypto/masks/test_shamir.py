"""Secret sharing: any threshold of shares gives the secrets, fewer say nothing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securepfl.crypto.masks.shamir import PRIME, combine, split

VALUES = st.lists(st.one_of(st.sampled_from([0, 1, PRIME - 1]), st.integers(0, PRIME - 1)), max_size=5)


@given(VALUES, st.integers(1, 20), st.data())
@settings(max_examples=60, deadline=None)
def test_any_threshold_of_holders_gives_every_value_back(values, holders, data):
    needed = data.draw(st.integers(1, holders))
    chosen = data.draw(st.sets(st.integers(0, holders - 1), min_size=needed))
    rows = split(values, needed, holders)
    assert all(len(row) == len(values) and all(0 <= share < PRIME for share in row) for row in rows)
    assert combine({holder: rows[holder] for holder in chosen}) == values


def test_one_share_too_few_is_consistent_with_any_secret():
    needed, holders = 11, 16
    known = dict(enumerate(split([123456789], needed, holders)[: needed - 1]))
    # For each guess there is a missing share that makes it the secret: the polynomial through both, at the next point.
    for guess in (0, 1, 123456789, PRIME - 1):
        through = {holder + 1: row for holder, row in known.items()} | {0: [guess]}
        missing = _at(needed + 1, {x: row[0] for x, row in through.items()})
        assert combine(known | {needed: [missing]}) == [guess]


def _at(point, through):
    total = 0
    for x, y in through.items():
        for other in through:
            if other != x:
                y = y * (point - other) * pow(x - other, -1, PRIME) % PRIME  # noqa: PLW2901
        total += y
    return total % PRIME


def test_the_same_value_is_never_shared_twice_alike():
    first, second = split([5, 5], 2, 3), split([5, 5], 2, 3)
    assert len({share for row in first + second for share in row}) == 12


def test_one_share_too_few_or_a_false_one_gives_another_value():
    rows = split([7], 3, 4)
    assert combine(dict(enumerate(rows[:2]))) != [7]
    assert combine({0: rows[0], 1: rows[1], 2: [rows[2][0] ^ 1]}) != [7]


@pytest.mark.parametrize(
    ("values", "needed", "holders"), [([1], 0, 3), ([1], 4, 3), ([PRIME], 2, 3), ([-1], 2, 3), ([1], 1, 0)]
)
def test_what_cannot_be_shared_is_refused(values, needed, holders):
    with pytest.raises(ValueError, match="must be in"):
        split(values, needed, holders)


@pytest.mark.parametrize("shares", [{}, {0: [1], 1: [1, 2]}, {-1: [1]}])
def test_shares_that_cannot_be_are_refused(shares):
    with pytest.raises(ValueError, match="shares must be"):
        combine(shares)
