"""Vetted BFV parameter sets, their proven noise margin, and how values are laid out in slots.

Every set has degree 4096, a plain modulus t and a 60-bit prime q of its own; the secret key is one ternary polynomial
(ring.py), which serves them all. A slot is a coefficient, so a ciphertext is cut after the last one in use, and low
bits of the first polynomial that the margin does not need are never sent.

Exactly linear encoding. SEAL encodes m as floor((q m + (t + 1) / 2) / t). With q = t j - 1 that is

    j m + floor(((t + 1) / 2 - m) / t) = j m for m <= (t + 1) / 2, and j m - 1 above.

Values are packed so that W m < t for the total weight W (`Layout.base`), hence m < t / 2 for W >= 2: value slots encode
as j m, and a sum of encodings is j times the sum of values. So what noise a decrypted sum is left with depends on that
sum and on fresh noise, and on no single update. For another q every encoding is rounded, the rounding errors of single
updates add up in the sum's noise, and whoever holds the key reads them there. Tags and masked slots range over all
residues: there a contribution m of weight w moves the noise by w m / t, less w from t / 2 on. Masks hide that, or a
flood (below) drowns it: with F >= 64 w it changes the noise's distribution by less than 1/128.

The margin. A fresh ciphertext has phase encoding + e with |e| <= 21 (centred binomial noise of 42 bits, SEAL's), and an
encoding lies within 1/2 + 1 / (2 t) of q m / t. Leaving out d low bits and putting their middle back moves a word by
at most 2^(d-1), once for every summand and once more in the answer. A flood uniform in [-F, F] moves it by at most F.
Subtracting a mask moves it by one more encoding error. SEAL rounds correctly up to q / (2 t) (1 - 2^-58): its base
conversion (Bajard et al., SAC 2016, lemma 1) errs by at most 1 in gamma > 2^60. So with a total weight W a sum decrypts
exactly while

    t (W (43 + 2^d) + 2^d + 2 F + 1) + W + 1 < q (1 - 2^-58)      (2^d counts as 0 for d = 0).

d is the largest that leaves room for F = 2^6 times the largest weight, and F is then all the room there is.
Nothing here is estimated: a roster past the bound is refused.
"""

from dataclasses import dataclass
from math import log2
from typing import Final

from securepfl.errors import ConfigError

SEED_BYTES: Final = 32
"""Where we encrypt ourselves, a contribution's uniform halves are expanded from one seed of this length."""

FORGERY_BITS: Final = 64
"""An altered sum passes its tag with probability at most 2^-64."""

MIN_BITS: Final = 2
MAX_BITS: Final = 24

LEAST_FLOOD: Final = 64
"""The room that every sum leaves for noise which drowns its own, times the largest weight that is in it."""

_FRESH: Final = 43
"""Twice the largest distance of a fresh ciphertext from its message, but for 1 / t."""

_MASK: Final = 1
"""Twice the largest distance that subtracting the sum of all masks adds, but for 1 / t."""


@dataclass(frozen=True)
class ParameterSet:
    """One BFV parameter set; SEAL checks it against its 128-bit tables when the context is built.

    `coeff_modulus` must be t j - 1 for the plain modulus t and an integer j: only then is SEAL's encoding exactly
    linear on value slots, so that the noise of a sum tells nothing of a single update (above).
    Raises ValueError where it is not, for a degree that is no power of two, a prime without a negacyclic transform, or
    a plain modulus that is even or leaves no margin.

    >>> SETS[0].step
    16754278
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
        if self.plain_modulus.bit_length() > 50 or self.plain_modulus % 2 == 0:
            raise ValueError(f"plain_modulus must be odd and below 2^50, not {self.plain_modulus}")
        if (self.coeff_modulus + 1) % self.plain_modulus:
            raise ValueError(
                f"coeff_modulus must be -1 modulo plain_modulus {self.plain_modulus}, not {self.coeff_modulus}: else "
                "rounded encodings show single updates in a sum's noise"
            )
        if self.most_summands < 1:
            raise ValueError(f"plain_modulus {self.plain_modulus} leaves no margin")

    @property
    def slots(self) -> int:
        """Integers modulo `plain_modulus` in one whole ciphertext."""
        return self.poly_modulus_degree

    @property
    def step(self) -> int:
        """How far the encodings of m and m + 1 lie apart: j = (q + 1) / t."""
        return (self.coeff_modulus + 1) // self.plain_modulus

    @property
    def most_summands(self) -> int:
        """The most contributions of weight 1 with which a sum decrypts exactly."""
        return self.most_weight(1)

    def most_weight(self, heaviest: int) -> int:
        """The largest sum of weights, none above `heaviest`, with which a sum decrypts exactly."""
        # With no bit dropped each summand takes 43 t + 1 of the room.
        flooded = self.plain_modulus * (2 * LEAST_FLOOD * heaviest + _MASK)
        return max(0, (self._room - flooded) // (self.plain_modulus * _FRESH + 1))

    @property
    def _room(self) -> int:
        """The most that t (W (43 + 2^d) + 2^d + 2 F + 1) + W may be, to stay below q (1 - 2^-58) - 1."""
        return self.coeff_modulus - (self.coeff_modulus >> 58) - 2

    def flood(self, total_weight: int, dropped: int) -> int:
        """The largest F for which sums of that total weight decrypt exactly when `dropped` low bits are not sent and an
        integer in [-F, F] is added to each of their words. Negative where they might not even without.
        """
        rounding = 1 << dropped if dropped else 0
        left = (self._room - total_weight) // self.plain_modulus
        return (left - total_weight * (_FRESH + rounding) - rounding - _MASK) // 2

    def carries(self, total_weight: int, dropped: int = 0, heaviest: int = 1) -> bool:
        """Whether sums of that total weight, flooded by at least LEAST_FLOOD times the `heaviest` weight in it, decrypt
        exactly when `dropped` low bits are not sent.
        """
        return self.flood(total_weight, dropped) >= LEAST_FLOOD * heaviest

    def dropped_bits(self, total_weight: int, heaviest: int = 1) -> int:
        """The most low bits of each word that may stay unsent. Raises ValueError where none can be summed at all."""
        if not self.carries(total_weight, heaviest=heaviest):
            raise ValueError(f"total_weight must be at most {self.most_weight(heaviest)}, not {total_weight}")
        bits = range(self.coeff_modulus.bit_length())
        return next(count for count in bits if not self.carries(total_weight, count + 1, heaviest))


DEGREE: Final = 4096
"""Of every ring here."""


def _set(name: str, plain_modulus: int, step: int) -> ParameterSet:
    return ParameterSet(name, DEGREE, plain_modulus * step - 1, plain_modulus)


SETS: Final[tuple[ParameterSet, ...]] = (
    _set("sum36", 2**36 - 5, 16_754_278),
    _set("sum40", 2**40 - 203, 1_021_498),
    _set("sum44", 2**44 - 3_479, 64_434),
    _set("sum48", 2**48 - 17_847, 4_082),
    _set("sum50", 2**50 - 78_021, 998),
)
"""For sums. t and q = t j - 1 are prime, q is 1 modulo 8192. Each t is the largest of its length for which such a j
exists with q of 60 bits: prime for the tag, near a power of two so that uniform values are drawn with hardly a
rejection.
"""


def check_set(parameters: ParameterSet) -> None:
    """Raises ValueError for a parameter set outside SETS: no key is made for it."""
    if parameters not in SETS:
        raise ValueError(f"no key for parameter set {parameters.name!r}")


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
                f"{self.parameters.name!r} (at most {self.parameters.most_weight(self.heaviest)} summands, slots below "
                f"{self.parameters.plain_modulus}): {remedy}"
            )

    def _fits(self, parameters: ParameterSet) -> bool:
        carried = parameters.carries(self.total_weight, heaviest=self.heaviest)
        return carried and self.base <= parameters.plain_modulus

    @property
    def heaviest(self) -> int:
        """The largest weight that all contributions may have at once."""
        return -(-self.total_weight // self.clients)

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
        return self.parameters.dropped_bits(self.total_weight, self.heaviest)

    @property
    def flood(self) -> int:
        """The largest size of an integer that may be added to each word of a sum."""
        return self.parameters.flood(self.total_weight, self.dropped_bits)

    @property
    def word_bits(self) -> int:
        """Bits of each word that are sent."""
        return self.parameters.coeff_modulus.bit_length() - self.dropped_bits

    @property
    def upload_bytes(self) -> int:
        """Bytes of one encrypted contribution, one seed and tightly packed words, without envelope: what layouts are
        chosen by.
        """
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
    ('sum50', 4, 2502, 16921)
    """
    if clients < 1 or max_weight < 1 or not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(f"clients {clients}, max_weight {max_weight} must be at least 1, bits {bits} in [2, 24]")
    total = clients * max_weight
    base = total * top_level(bits) + 1
    fitting = [s for s in SETS if s.carries(total, heaviest=max_weight) and base <= s.plain_modulus]
    if fitting:
        return min((Layout(s, values, bits, total, clients) for s in fitting), key=lambda layout: layout.upload_bytes)
    most = max(min(s.most_weight(max_weight), (s.plain_modulus - 1) // top_level(bits)) for s in SETS)
    raise ConfigError(
        f"{clients} hospitals of weight up to {max_weight} make {total} summands of {bits} bits, but sums are exact "
        f"only up to {most}; use fewer hospitals, lower weights or fewer bits"
    )
