"""Reals to levels to slots, tags, and how a slot stands among words, as crypto/sums tells it, in fractions."""

from fractions import Fraction
from math import floor

from layouts import Layout, Set
from streams import derive_key, uniform, uniform_words


def quantise(reals: list[float], bits: int, limit: float, key: bytes) -> tuple[list[int], int]:
    """Levels, and how many reals lay beyond the limit: up with the chance of what is left, where u < it."""
    half, levels, clipped = 2 ** (bits - 1) - 1, [], 0
    for real, u in zip(reals, uniform(key, len(reals)), strict=True):
        scaled = Fraction(real) / Fraction(limit)
        clipped += abs(scaled) > 1
        position = (min(max(scaled, Fraction(-1)), Fraction(1)) + 1) * half
        below = floor(position)
        levels.append(min(below + (u < position - below), 2 * half))
    return levels, clipped


def dequantised(levels: list[int], weight: int, bits: int, limit: float) -> list[float]:
    """The weighted sum of reals that a sum of levels stands for, each to the nearest double."""
    half = 2 ** (bits - 1) - 1
    return [float((level - weight * half) * Fraction(limit) / half) for level in levels]


def packed(levels: list[int], layout: Layout) -> list[int]:
    """Digit k of slot s is level k x value_slots + s; digits that are not there are 0."""
    slots = []
    for slot in range(layout.value_slots):
        digits = levels[slot :: layout.value_slots]
        slots.append(sum(digit * layout.base**place for place, digit in enumerate(digits)))
    return slots


def unpacked(slots: list[int], layout: Layout) -> list[int]:
    """Sums of levels from sums of slots."""
    columns = [[slot // layout.base**place % layout.base for slot in slots] for place in range(layout.fields)]
    return [digit for column in columns for digit in column][: layout.values]


def tag(slots: list[int], layout: Layout, weights: dict[int, int], key: bytes, context: bytes) -> list[int]:
    """tag_j = sum_k alpha_jk m_k + sum_i w_i beta_ij modulo t."""
    t, slot = layout.set.t, layout.tag_slots
    stream = uniform_words(derive_key(key, "tag betas", context.hex(), t), (max(weights, default=0) + 1) * slot, t)
    betas = {index: stream[index * slot : (index + 1) * slot] for index in weights}
    words = []
    for place in range(layout.tag_slots):
        alphas = uniform_words(derive_key(key, "tag alpha", context.hex(), t, place), len(slots), t)
        total = sum(alpha * slot for alpha, slot in zip(alphas, slots, strict=True))
        words.append((total + sum(weight * betas[index][place] for index, weight in weights.items())) % t)
    return words


def prepared(levels: list[int], layout: Layout, index: int, key: bytes, context: bytes) -> list[int]:
    """A contribution's slots, its tag last."""
    slots = packed(levels, layout)
    return slots + tag(slots, layout, {index: 1}, key, context)


def encoded(word: int, parameters: Set) -> int:
    """SEAL's rounding of q m / t: floor((q m + (t + 1) / 2) / t)."""
    return (parameters.q * word + (parameters.t + 1) // 2) // parameters.t
