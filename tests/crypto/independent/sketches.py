"""Sketches and norms, as crypto/similarity/sketches.py and norms.py tell it, in exact or 60-digit arithmetic."""

from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from math import floor

from streams import derive_key, integers, permutation, uniform

_DIGITS = 60


@dataclass(frozen=True)
class Precision:
    """The norm of a sketch before rounding, the most that its square may be after it, the moduli of products of
    ciphertexts, and whether entries are rounded at random.
    """

    norm: int
    largest: int
    moduli: tuple[int, ...]
    dithered: bool


COARSE = Precision(300, 94_208, (188_417,), dithered=True)
FINE = Precision(32_000, 1_026_898_357, (40_961, 65_537), dithered=False)


def _nearest(number: Decimal) -> int:
    return int(number.to_integral_value())


def sketch(
    vector: list[float],
    dimensions: int,
    key: bytes,
    scale: float = 1.0,
    precision: Precision = FINE,
    rounding: bytes | None = None,
) -> list[int]:
    """Integers of norm about scale x precision.norm."""
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
        scaled = [value * Decimal(scale) * precision.norm / norm if norm else Decimal(0) for value in exact]
    return _rounded(scaled, precision, rounding)


def _rounded(values: list[Decimal], precision: Precision, key: bytes | None) -> list[int]:
    """To the nearest; or, dithered, up with the chance of what is left, and all towards zero where that is too long."""
    if not precision.dithered:
        return [_nearest(value) for value in values]
    drawn = uniform(key, len(values))
    found = [floor(Fraction(value) + u) for value, u in zip(values, drawn, strict=True)]
    fits = sum(number * number for number in found) <= precision.largest
    return found if fits else [int(value) for value in values]


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
