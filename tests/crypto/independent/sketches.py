"""Sketches and norms, as crypto/similarity/sketches.py and norms.py tell it, in exact or 60-digit arithmetic."""

from decimal import Decimal, localcontext
from fractions import Fraction

from streams import derive_key, integers, permutation

SKETCH_NORM = 32_000
_DIGITS = 60


def _nearest(number: Decimal) -> int:
    return int(number.to_integral_value())


def sketch(vector: list[float], dimensions: int, key: bytes, scale: float = 1.0) -> list[int]:
    """Integers of norm about scale x 32,000."""
    short = [Fraction(0)] * dimensions
    if len(vector) <= dimensions:
        signs, buckets = [1] * len(vector), list(range(len(vector)))
    else:
        # One stream: a sign for each coordinate first, then the order, whose places go round the buckets.
        stream = derive_key(key, "sketch", len(vector), dimensions)
        signs = [2 * bit - 1 for bit in integers(stream, len(vector), 2)]
        buckets = [place % dimensions for place in permutation(stream, len(vector), skipped=len(vector))]
    for value, sign, bucket in zip(vector, signs, buckets, strict=True):
        short[bucket] += Fraction(value) * sign
    with localcontext() as context:
        context.prec = _DIGITS
        exact = [Decimal(value.numerator) / Decimal(value.denominator) for value in short]
        norm = sum((value * value for value in exact), Decimal(0)).sqrt()
        return [_nearest(value * Decimal(scale) * SKETCH_NORM / norm) if norm else 0 for value in exact]


def norm_level(norm: float) -> int:
    """The nearest of the levels, 2^22 to a factor of two, of which the first after 0 stands just above 2^-128."""
    if norm == 0:
        return 0
    with localcontext() as context:
        context.prec = _DIGITS
        level = _nearest((Decimal(norm).ln() / Decimal(2).ln() + 128) * 2**22)
    return min(max(level, 1), 2**30)


def level_norm(level: int) -> float:
    """What a level stands for."""
    if level == 0:
        return 0.0
    with localcontext() as context:
        context.prec = _DIGITS
        return float(Decimal(2) ** (Decimal(level) / 2**22 - 128))
