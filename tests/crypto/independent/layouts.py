"""Parameter sets, their margin and layouts, from the head of crypto/sums/parameters.py, in exact arithmetic."""

from dataclasses import dataclass
from functools import cached_property

from bits import packed_bytes

DEGREE = 4096
SEED_BYTES = 32
STAMP = b"SB" + bytes((1, 4, 3, 0, 3, 18))
"""SEAL 4.3 and TenSEAL 0.3.18, format 1."""

_LEAST_FLOOD = 64


@dataclass(frozen=True)
class Set:
    """A plain modulus t and a prime q = t j - 1."""

    name: str
    t: int
    j: int

    @property
    def q(self) -> int:
        """The prime that words stand under."""
        return self.t * self.j - 1

    def carries(self, weight: int, dropped: int, flood: int) -> bool:
        """Whether t (W (43 + 2^d) + 2^d + 2 F + 1) + W + 1 < q (1 - 2^-58), where 2^d counts as 0 for d = 0."""
        lost = 2**dropped if dropped else 0
        return (self.t * (weight * (43 + lost) + lost + 2 * flood + 1) + weight + 1) * 2**58 < self.q * (2**58 - 1)


SETS = (
    Set("sum36", 2**36 - 5, 16_754_278),
    Set("sum40", 2**40 - 203, 1_021_498),
    Set("sum44", 2**44 - 3_479, 64_434),
    Set("sum48", 2**48 - 17_847, 4_082),
    Set("sum50", 2**50 - 78_021, 998),
)


@dataclass(frozen=True)
class Layout:
    """`values` levels in [0, 2^bits - 2] of up to `clients` contributions of weights up to `max_weight`."""

    set: Set
    values: int
    bits: int
    clients: int
    max_weight: int

    @cached_property
    def weight(self) -> int:
        """The largest sum of weights."""
        return self.clients * self.max_weight

    @cached_property
    def top(self) -> int:
        """The highest level."""
        return 2**self.bits - 2

    @cached_property
    def base(self) -> int:
        """Of the digits: one more than the largest sum of levels."""
        return self.weight * self.top + 1

    @cached_property
    def fits(self) -> bool:
        """Whether the set carries it at all."""
        return self.base <= self.set.t and self.set.carries(self.weight, 0, _LEAST_FLOOD * self.max_weight)

    @cached_property
    def fields(self) -> int:
        """Digits in a slot."""
        return max(k for k in range(1, 64) if self.base**k <= self.set.t)

    @cached_property
    def value_slots(self) -> int:
        """Slots of digits."""
        return -(-self.values // self.fields)

    @cached_property
    def tag_slots(self) -> int:
        """As many as make a forgery 2^-64."""
        return min(k for k in range(1, 64) if self.set.t**k >= 2**64)

    @cached_property
    def slots(self) -> int:
        """All of them."""
        return self.value_slots + self.tag_slots

    @cached_property
    def ciphertexts(self) -> int:
        """Polynomials that hold them."""
        return -(-self.slots // DEGREE)

    @cached_property
    def dropped_bits(self) -> int:
        """The most low bits that can be left out."""
        least = _LEAST_FLOOD * self.max_weight
        return max(d for d in range(60) if self.set.carries(self.weight, d, least))

    @cached_property
    def flood(self) -> int:
        """The largest F that the margin then still carries."""
        low, high = 0, 2**60
        while low < high:
            middle = (low + high + 1) // 2
            if self.set.carries(self.weight, self.dropped_bits, middle):
                low = middle
            else:
                high = middle - 1
        return low

    @cached_property
    def word_bits(self) -> int:
        """Bits of a word that are sent."""
        return self.set.q.bit_length() - self.dropped_bits

    @cached_property
    def upload_bytes(self) -> int:
        """Seed and words."""
        return SEED_BYTES + packed_bytes(self.slots, self.word_bits)


def choose(values: int, bits: int, clients: int, max_weight: int) -> Layout:
    """The one with the fewest bytes up, the first of equals."""
    layouts = [Layout(found, values, bits, clients, max_weight) for found in SETS]
    return min((layout for layout in layouts if layout.fits), key=lambda layout: layout.upload_bytes)
