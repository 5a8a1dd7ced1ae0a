"""Vetted BFV parameter sets, their proven noise margin, and how values are laid out in slots.

All sets share one ring (degree 4096, one 60-bit prime q) and so one secret key; they differ in the plain modulus t.
A slot is a coefficient, so a ciphertext is cut after the last one in use, and low bits of the first polynomial that
the margin does not need are never sent.

The margin. A fresh ciphertext has phase round(q m / t) + e with |e| <= 21 (centred binomial noise of 42 bits, SEAL's):
it lies within 21.5 of q m / t. Leaving out d low bits and putting their middle back moves it by at most 2^(d-1),
once for every summand and once more in the answer. Subtracting a mask moves it by at most 1/2. SEAL rounds correctly up
to q / (2 t) (1 - 2^-58): its base conversion (Bajard et al., SAC 2016, lemma 1) errs by at most 1 in gamma > 2^60.
So with a total weight W a sum decrypts exactly while

    t (W (43 + 2^d) + 2^d + 1) < q (1 - 2^-58)      (2^d counts as 0 for d = 0).

Nothing here is estimated: a roster past the bound is refused.
"""

from dataclasses import dataclass
from math import log2
from typing import Final

from securepfl.errors import ConfigError

SEED_BYTES: Final = 32
"""A contribution's uniform halves are expanded from one seed of this length."""

FORGERY_BITS: Final = 64
"""An altered sum passes its tag with probability at most 2^-64."""

MIN_BITS: Final = 2
MAX_BITS: Final = 24

_FRESH: Final = 43
"""Twice the largest distance of a fresh ciphertext from its message."""

_MASK: Final = 1
"""Twice the largest distance that subtracting the sum of all masks adds."""


@dataclass(frozen=True)
class ParameterSet:
    """One BFV parameter set; SEAL checks it against its 128-bit tables when the context is built.

    Raises ValueError for a degree that is no power of two, a prime without a negacyclic transform, or a plain modulus
    that leaves no margin.
    """

    name: str
    poly_modulus_degree: int
    coeff_modulus: int
    plain_modulus: int

    def __post_init__(self) -> None:
        degree = self.poly_modulus_degree
        if degree < 1024 or degree & (degree - 1):
            raise ValueError(f"poly_modulus_degree must be a power of two of at least 1024, not {degree}")
        if self.coeff_modulus % (2 * degree) != 1 or self.coeff_modulus.bit_length() > 60:
            raise ValueError(f"coeff_modulus must be 1 modulo {2 * degree} and below 2^60, not {self.coeff_modulus}")
        if self.most_summands < 1:
            raise ValueError(f"plain_modulus {self.plain_modulus} leaves no margin")
        if self.plain_modulus.bit_length() > 50:
            raise ValueError(f"plain_modulus must be below 2^50, not {self.plain_modulus}")

    @property
    def slots(self) -> int:
        """Integers modulo `plain_modulus` in one whole ciphertext."""
        return self.poly_modulus_degree

    @property
    def most_summands(self) -> int:
        """The largest sum of weights, and so the largest integer weight, with which a sum decrypts exactly."""
        return (self._margin - _MASK) // _FRESH

    @property
    def _margin(self) -> int:
        """The largest integer that 2 |error| may reach: t times it stays below q (1 - 2^-58)."""
        return (self.coeff_modulus - (self.coeff_modulus >> 58) - 2) // self.plain_modulus

    def carries(self, total_weight: int, dropped: int = 0) -> bool:
        """Whether sums of that total weight decrypt exactly when `dropped` low bits are not sent."""
        rounding = 1 << dropped if dropped else 0
        return total_weight * (_FRESH + rounding) + rounding + _MASK <= self._margin

    def dropped_bits(self, total_weight: int) -> int:
        """The most low bits of each word that may stay unsent. Raises ValueError where none can be summed at all."""
        if not self.carries(total_weight):
            raise ValueError(f"total_weight must be at most {self.most_summands}, not {total_weight}")
        bits = range(self.coeff_modulus.bit_length())
        return next(count for count in bits if not self.carries(total_weight, count + 1))


_DEGREE: Final = 4096
_PRIME: Final = 2**60 - 16383

SETS: Final[tuple[ParameterSet, ...]] = (
    ParameterSet("sum36", _DEGREE, _PRIME, 2**36 - 5),
    ParameterSet("sum40", _DEGREE, _PRIME, 2**40 - 87),
    ParameterSet("sum44", _DEGREE, _PRIME, 2**44 - 17),
    ParameterSet("sum48", _DEGREE, _PRIME, 2**48 - 59),
    ParameterSet("sum50", _DEGREE, _PRIME, 2**50 - 27),
)
"""For sums. The plain moduli are the largest primes of their lengths: prime for the tag, near a power of two so that
uniform values are drawn with hardly a rejection.
"""


def top_level(bits: int) -> int:
    """The highest quantisation level: 2^bits - 2, so that the grid is symmetric and 0 lies on it.

    >>> top_level(10)
    1022
    """
    return 2**bits - 2  # type: ignore[no-any-return]


def _fields(base: int, plain_modulus: int) -> int:
    """Values in one slot: the largest k with base^k <= plain_modulus."""
    count = 0
    while base ** (count + 1) <= plain_modulus:
        count += 1
    return count


@dataclass(frozen=True)
class Layout:
    """How `values` quantised numbers of one contribution fill the slots of its ciphertexts.

    Mixed radix: a slot holds as many base-`base` digits ("fields") as fit under the plain modulus, where `base` exceeds
    the largest possible sum of levels, so no sum overflows. Tag slots follow the value slots.
    `total_weight` is the largest sum of weights one sum may have; `clients` the most contributions in it.
    Raises ValueError for sizes that make no sense, ConfigError for ones the parameter set cannot carry, naming one
    that can. Every party computes it from the settings alone, so how it follows from them may never change unseen: a
    sum of two layouts would fail its tag. Example: `choose_layout`.
    """

    parameters: ParameterSet
    values: int
    bits: int
    total_weight: int
    clients: int

    def __post_init__(self) -> None:
        for name in ("values", "total_weight", "clients"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not MIN_BITS <= self.bits <= MAX_BITS:
            raise ValueError(f"bits must be in [{MIN_BITS}, {MAX_BITS}], not {self.bits}")
        if not self._fits(self.parameters):
            fitting = [parameters.name for parameters in SETS if self._fits(parameters)]
            remedy = (
                f"{', '.join(fitting)} would fit" if fitting else "use fewer hospitals, lower weights or fewer bits"
            )
            raise ConfigError(
                f"{self.bits}-bit values of total weight {self.total_weight} may not sum exactly under parameter set "
                f"{self.parameters.name!r} (at most {self.parameters.most_summands} summands, slots below "
                f"{self.parameters.plain_modulus}): {remedy}"
            )

    def _fits(self, parameters: ParameterSet) -> bool:
        return parameters.carries(self.total_weight) and self.base <= parameters.plain_modulus

    @property
    def base(self) -> int:
        """One more than the largest sum of levels."""
        return self.total_weight * top_level(self.bits) + 1

    @property
    def fields(self) -> int:
        """Values in one slot."""
        return _fields(self.base, self.parameters.plain_modulus)

    @property
    def value_slots(self) -> int:
        """Slots that hold packed values."""
        return -(-self.values // self.fields)

    @property
    def tag_slots(self) -> int:
        """Slots of the tag: as many as make 2^-64 the chance of a forgery."""
        count = 1
        while self.parameters.plain_modulus**count < 2**FORGERY_BITS:
            count += 1
        return count

    @property
    def slots(self) -> int:
        """Value and tag slots together: the words of one contribution."""
        return self.value_slots + self.tag_slots

    @property
    def ciphertexts(self) -> int:
        """Ciphertexts of one contribution, the last one cut."""
        return -(-self.slots // self.parameters.slots)

    @property
    def dropped_bits(self) -> int:
        """Low bits of each word that are not sent."""
        return self.parameters.dropped_bits(self.total_weight)

    @property
    def word_bits(self) -> int:
        """Bits of each word that are sent."""
        return self.parameters.coeff_modulus.bit_length() - self.dropped_bits

    @property
    def upload_bytes(self) -> int:
        """Bytes of one encrypted contribution, seed and tightly packed words, without envelope."""
        return SEED_BYTES - (-self.slots * self.word_bits // 8)

    @property
    def forgery_bits(self) -> float:
        """-log2 of the chance that an altered sum passes its tag."""
        return self.tag_slots * log2(self.parameters.plain_modulus)


def choose_layout(values: int, bits: int, clients: int, max_weight: int = 1) -> Layout:
    """The layout with the fewest upload bytes for sums of up to `clients` contributions of weight <= `max_weight`.

    Raises ConfigError where no parameter set carries it, saying what would fit; ValueError for nonsense sizes.

    >>> layout = choose_layout(values=10_000, bits=10, clients=5)
    >>> layout.parameters.name, layout.fields, layout.slots, layout.upload_bytes
    ('sum50', 4, 2502, 16608)
    """
    if clients < 1 or max_weight < 1 or not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(f"clients {clients}, max_weight {max_weight} must be at least 1, bits {bits} in [2, 24]")
    total = clients * max_weight
    base = total * top_level(bits) + 1
    fitting = [s for s in SETS if s.carries(total) and base <= s.plain_modulus]
    if fitting:
        return min((Layout(s, values, bits, total, clients) for s in fitting), key=lambda layout: layout.upload_bytes)
    most = max(min(s.most_summands, (s.plain_modulus - 1) // top_level(bits)) for s in SETS)
    raise ConfigError(
        f"{clients} hospitals of weight up to {max_weight} make {total} summands of {bits} bits, but sums are exact "
        f"only up to {most}; use fewer hospitals, lower weights or fewer bits"
    )
