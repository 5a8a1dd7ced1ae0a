"""60 settings drawn at random, from fixed seeds. The tests check every fifth; for all of them:

PYTHONPATH=tests python tests/privacy/accounting/test_against_a_lower_bound.py
"""

import math
import sys

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from dp_accounting.privacy_accountant import NeighboringRelation
from lower_bound import epsilon_at_least

from securepfl.privacy.accounting.accounting import Release, epsilon

RELATIONS = {"zero-out": NeighboringRelation.REPLACE_SPECIAL, "replace-one": NeighboringRelation.REPLACE_ONE}


def drawn(number):
    """(noise, rate, steps) of one to three kinds of steps, a delta, and an adjacency."""
    rng = np.random.default_rng(number)
    kind = ("full batch", "Poisson", "mixed")[number % 3]
    counts = []
    for place in range(1 + (kind == "mixed") + int(rng.integers(2))):
        full = kind == "full batch" or (kind == "mixed" and place == 0)
        rate = 1.0 if full else 10 ** rng.uniform(-2.5, -0.2)
        steps = int(rng.choice([1, 10, 50, 200, 800]))
        noise = max(rng.uniform(0.5, 1.5), rate * math.sqrt(steps) * math.exp(rng.uniform(-1.2, 1.5)))
        counts.append((noise, rate, steps))
    return counts, float(rng.choice([1e-4, 1e-5, 1e-6, 1e-8])), ("zero-out", "replace-one")[number // 3 % 2]


def of_library(counts, delta, adjacency, interval):
    accountant = PLDAccountant(RELATIONS[adjacency], value_discretization_interval=interval)
    for noise, rate, steps in counts:
        event = dp_event.GaussianDpEvent(noise)
        event = event if rate == 1 else dp_event.PoissonSampledDpEvent(rate, event)
        accountant.compose(dp_event.SelfComposedDpEvent(event, steps))
    return accountant.get_epsilon(delta)


def compared(number):
    counts, delta, adjacency = drawn(number)
    ours = epsilon(
        [Release(noise_multiplier=noise, sample_rate=rate, steps=n) for noise, rate, n in counts], delta, adjacency
    )
    return ours, epsilon_at_least(counts, delta, adjacency, ours), of_library(counts, delta, adjacency, 1e-3)


@pytest.mark.parametrize("number", range(0, 60, 5))
def test_epsilon_is_no_less_than_a_lower_bound_and_hardly_more_than_the_librarys(number):
    ours, least, library = compared(number)
    assert 0.9 * ours <= least <= ours
    assert ours <= 1.01 * library


if __name__ == "__main__":
    rows = [(*compared(number), number) for number in range(60)]
    for ours, least, library, number in rows:
        ratios = f"least {least / ours:.4f}, library {library / ours:.4f}"
        sys.stdout.write(f"{number}: {ours:.5f}, {ratios} {drawn(number)}\n")
    below, above = sum(o < least for o, least, _, _ in rows), max(o / library for o, _, library, _ in rows)
    sys.stdout.write(f"below the lower bound: {below}; at most {above:.4f} x the library's\n")
