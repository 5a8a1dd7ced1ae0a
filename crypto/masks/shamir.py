"""Shamir's secret sharing (How to share a secret, CACM 1979) of many 255-bit secrets at once.

Over the prime 2^255 - 19, in Python integers: their running time depends on the values, so a machine where somebody
else can time single operations is no place for it. Written here because pycryptodome shares 16 bytes at a time over
GF(2^128), bit by bit, and computes the Lagrange coefficients anew for each secret: hundreds of times slower for what a
round needs.
"""

import secrets
from collections.abc import Mapping, Sequence
from math import prod
from typing import Final

PRIME: Final = 2**255 - 19
"""Secrets and shares lie below it, so they take 32 bytes."""


def split(values: Sequence[int], threshold: int, holders: int) -> list[list[int]]:
    """Shares of each value for each holder: `holders` rows as long as `values`. Any `threshold` rows give the values
    back, fewer say nothing about them. Coefficients come from the OS; holder k's share is the polynomial at k + 1.

    Raises ValueError where a value is not in [0, PRIME) or `threshold` not in [1, holders].

    >>> rows = split([42, 7], threshold=2, holders=3)
    >>> combine({0: rows[0], 2: rows[2]})
    [42, 7]
    """
    if not 1 <= threshold <= holders:
        raise ValueError(f"threshold must be in [1, {holders}], not {threshold}")
    if not all(0 <= value < PRIME for value in values):
        raise ValueError("values must be in [0, 2^255 - 19)")
    # Highest power first, for Horner's rule.
    polynomials = [[*(secrets.randbelow(PRIME) for _ in range(threshold - 1)), value] for value in values]
    return [[_evaluate(polynomial, holder + 1) for polynomial in polynomials] for holder in range(holders)]


def _evaluate(polynomial: list[int], x: int) -> int:
    total = 0
    for coefficient in polynomial:
        total = total * x + coefficient  # x is small: cheaper to let the number grow than to reduce it at each step
    return total % PRIME


def combine(shares: Mapping[int, Sequence[int]]) -> list[int]:
    """The values from the rows of at least `threshold` holders, by holder. Fewer rows, or a false share, give other
    values, and nothing here can tell.

    Raises ValueError where there is no row, rows differ in length or a holder's number is negative.
    """
    rows = list(shares.values())
    if not rows or len(set(map(len, rows))) > 1 or min(shares) < 0:
        raise ValueError("shares must be at least one row, all equally long, of holders numbered from 0")
    weights = _lagrange_at_zero([holder + 1 for holder in shares])
    return [
        sum(weight * share for weight, share in zip(weights, column, strict=True)) % PRIME
        for column in zip(*rows, strict=True)
    ]


def _lagrange_at_zero(points: list[int]) -> list[int]:
    # Products stay exact small integers until one inversion a point.
    whole = prod(points)
    return [whole // x * pow(prod(other - x for other in points if other != x), -1, PRIME) % PRIME for x in points]
