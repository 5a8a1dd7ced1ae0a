"""Who compares statements with whom: mutual, bounded, connected, and over the rounds everybody with everybody."""

from itertools import combinations

import numpy as np
import pytest

from securepfl.protocol.companions import MOST, companions_of, rounds_until_all_met
from securepfl.settings.federation import Federation
from securepfl.settings.tables import SiteSettings


def federation_of(hospitals):
    return Federation(sites={f"h{number:04}": SiteSettings() for number in range(hospitals)})


def graph_of(federation, round_):
    return {name: companions_of(federation, name, round_) for name in federation.roster}


@pytest.mark.parametrize("hospitals", [3, 4, 16, 17])
def test_a_small_roster_compares_everybody_with_everybody(hospitals):
    federation = federation_of(hospitals)
    for name, others in graph_of(federation, 2).items():
        assert others == set(federation.roster) - {name}


@pytest.mark.parametrize("hospitals", [18, 19, 24, 25, 64, 101, 256, 1000])
def test_a_larger_one_compares_each_with_15_or_16_mutually(hospitals):
    federation = federation_of(hospitals)
    for round_ in (2, 3, rounds_until_all_met(hospitals) + 1):
        graph = graph_of(federation, round_)
        assert all(MOST - 1 <= len(others) <= MOST for others in graph.values())
        assert all(name in graph[other] and name != other for name, others in graph.items() for other in others)


@pytest.mark.parametrize("hospitals", [18, 33, 100, 257])
def test_every_pair_meets_within_the_stated_rounds_from_any_round_on(hospitals):
    federation = federation_of(hospitals)
    for begin in (1, 6):
        met = set()
        for round_ in range(begin, begin + rounds_until_all_met(hospitals)):
            met |= {
                frozenset((name, other)) for name, others in graph_of(federation, round_).items() for other in others
            }
        assert met == set(map(frozenset, combinations(federation.roster, 2)))


def parts_of(graph):
    """How many connected parts a graph has."""
    left, parts = set(graph), 0
    while left:
        waiting, parts = [left.pop()], parts + 1
        while waiting:
            near = graph[waiting.pop()] & left
            left -= near
            waiting += near
    return parts


@pytest.mark.parametrize("hospitals", [18, 24, 100, 500])
def test_whoever_is_left_stays_connected_when_any_ten_are_missing(hospitals):
    """A connected graph that looks alike from every vertex, of degree d, needs 2(d + 1)/3 taken away (Watkins 1970)."""
    federation, random = federation_of(hospitals), np.random.default_rng(16)
    for round_ in range(2, 2 + min(8, rounds_until_all_met(hospitals))):
        graph = graph_of(federation, round_)
        assert parts_of(graph) == 1
        one = federation.roster[0]
        for missing in [set(random.choice(hospitals, 10, replace=False)) for _ in range(20)]:
            gone = {federation.roster[place] for place in missing}
            assert parts_of({name: others - gone for name, others in graph.items() if name not in gone}) == 1
        around = sorted(graph[one])[:10]
        assert parts_of({name: others - set(around) for name, others in graph.items() if name not in around}) == 1


@pytest.mark.parametrize("hospitals", [18, 19, 100, 500])
def test_in_any_group_of_at_most_eight_each_is_outvoted_by_its_companions(hospitals):
    """Seven others of the group at most: fewer than half of 15 and itself."""
    graph = graph_of(federation_of(hospitals), 2)
    for name, others in graph.items():
        inside = {name} | set(sorted(others)[:7])
        differing = len(others - inside)
        assert 2 * differing >= len(others) + 1
