"""Who is compared with whom: groups of a bounded size, a partition each time, and over rounds every pair."""

from itertools import combinations

import pytest

from securepfl.protocol import groups
from securepfl.protocol.channels import comparison_shape
from securepfl.protocol.groups import (
    comparisons_until_all_met,
    group_of,
    groups_of,
    largest_group,
    partition,
    rotates,
)
from securepfl.settings.federation import Federation
from securepfl.settings.tables import SiteSettings

SIZES = [(5, 4), (6, 4), (7, 4), (8, 4), (9, 4), (17, 4), (23, 6), (65, 64), (128, 64), (129, 64), (200, 64)]


def federation_of(hospitals, **tables):
    mapping = {"similarity": {"every": 1}, "rounds": 40} | tables
    sites = {f"h{number:04}": SiteSettings() for number in range(hospitals)}
    return Federation.from_mapping(mapping | {"sites": {name: {} for name in sites}})


@pytest.mark.parametrize("hospitals", [3, 16, 63, 64])
def test_up_to_64_are_one_group_under_the_rounds_own_context(hospitals):
    federation = federation_of(hospitals)
    for round_ in (2, 3, 17):
        (group,) = groups_of(federation, round_)
        assert group.members == federation.roster and group.places == federation.places
        assert group.context(b"of the round") == b"of the round"
    assert not rotates(federation) and comparison_shape(federation).clients == hospitals


@pytest.mark.parametrize(("hospitals", "most"), [*SIZES, (1000, 64), (10_000, 64)])
def test_each_time_everybody_is_in_one_group_of_a_bounded_size(hospitals, most):
    for turn in (0, 1, comparisons_until_all_met(hospitals, most) - 1):
        parts = partition(hospitals, turn, most)
        assert sorted(place for part in parts for place in part) == list(range(hospitals))
        assert len(parts) == -(-hospitals // most)
        assert all(2 <= len(part) <= largest_group(hospitals, most) <= most for part in parts)
        assert all(part == tuple(sorted(part)) for part in parts)


@pytest.mark.parametrize(("hospitals", "most"), SIZES)
@pytest.mark.parametrize("begin", [0, 1, 5])
def test_every_pair_meets_within_the_stated_comparisons_from_any_on(hospitals, most, begin):
    within, met = comparisons_until_all_met(hospitals, most), set()
    for turn in range(begin, begin + within):
        met |= {pair for part in partition(hospitals, turn, most) for pair in combinations(part, 2)}
        full = len(met) == hospitals * (hospitals - 1) // 2
        assert full or turn < begin + within - 1


def test_it_takes_all_of_the_stated_comparisons_and_no_more_than_twice_the_least_possible():
    for hospitals, most in SIZES:
        within = comparisons_until_all_met(hospitals, most)
        met = {
            pair
            for turn in range(within - 1)
            for part in partition(hospitals, turn, most)
            for pair in combinations(part, 2)
        }
        assert len(met) < hospitals * (hospitals - 1) // 2
        assert within <= 2 * -(-hospitals // most)


def test_a_federation_counts_comparisons_and_not_rounds():
    federation = federation_of(100, similarity={"every": 4})
    shown = [groups_of(federation, round_) for round_ in (4, 8, 12, 16)]
    assert len(set(shown[:3])) == 3 and shown[3] == shown[0]
    assert rotates(federation) and comparison_shape(federation).clients == 50


def test_groups_of_one_round_are_bound_to_contexts_of_their_own():
    found = groups_of(federation_of(130), 2)
    assert len({group.context(b"round 2") for group in found}) == len(found) == 3
    for group in found:
        assert all(group_of(federation_of(130), name, 2) == group for name in group.members)


def test_who_is_not_in_the_roster_is_in_no_group():
    with pytest.raises(StopIteration):
        group_of(federation_of(100), "nobody", 2)


def test_the_bound_is_even_as_a_group_is_two_blocks():
    assert groups.MOST == 64
