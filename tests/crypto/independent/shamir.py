"""Shamir's sharing modulo 2^255 - 19, as crypto/masks/shamir.py tells it: holder k has the value at k + 1."""

from fractions import Fraction

PRIME = 2**255 - 19


def shares(value: int, coefficients: list[int], holders: int) -> list[int]:
    """Each holder's share of a value; `coefficients` are those of x^1, x^2 and so on."""
    powers = [value, *coefficients]
    return [sum(c * (holder + 1) ** power for power, c in enumerate(powers)) % PRIME for holder in range(holders)]


def secret(points: dict[int, int]) -> int:
    """The value back from enough shares by holder: Lagrange's formula at 0."""
    total = 0
    for holder, share in points.items():
        weight = Fraction(1)
        for other in points:
            if other != holder:
                weight *= Fraction(other + 1, other - holder)
        total += share * weight.numerator * pow(weight.denominator, PRIME - 2, PRIME)
    return total % PRIME
