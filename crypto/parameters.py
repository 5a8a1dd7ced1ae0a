"""Vetted BFV parameter sets, their proven noise margin, and how values are laid out in slots.

A fresh symmetric SEAL ciphertext has phase round(q m / t) + e with |e| <= 21 (centred binomial noise of 42
bits), so its distance from q m / t is at most 21.5. A sum with total weight W therefore decrypts exactly
whenever 21.5 W < q / (2 t). Nothing here is estimated: a roster past that bound is refused.
"""

from dataclasses import dataclass
from math import log2, prod
from typing import Final

from securepfl.errors import ConfigError

SEED_BYTES: Final = 64
"""SEAL's seed for the uniform half of a symmetric ciphertext."""

FORGERY_BITS: Final = 64
"""An altered sum passes its tag with probability at most 2^-64."""

MIN_BITS: Final = 2
MAX_BITS: Final = 24


@dataclass(frozen=True)
class ParameterSet:
    """One BFV parameter set; SEAL checks it against its 128-bit table when the context is built.

    `coeff_modulus` lists the primes; where there are several, the last is SEAL's key-level prime and
    carries no data.
    Raises ValueError for a degree that is no power of two or primes without a negacyclic transform.
    """

    name: str
    poly_modulus_degree: int
    coeff_modulus: tuple[int, ...]
    plain_modulus: int

    def __post_init__(self) -> None:
        degree = self.poly_modulus_degree
        if degree < 1024 or degree & (degree - 1):
            raise ValueError(f"poly_modulus_degree must be a power of two of at least 1024, not {degree}")
        if any(prime % (2 * degree) != 1 for prime in self.coeff_modulus):
            raise ValueError(f"coeff_modulus primes must be 1 modulo {2 * degree}, not {self.coeff_modulus}")

    @property
    def coeff_modulus_bits(self) -> tuple[int, ...]:
        """Bit length of each prime."""
        return tuple(prime.bit_length() for prime in self.coeff_modulus)

    @property
    def data_primes(self) -> tuple[int, ...]:
        """The primes under which fresh ciphertexts live."""
        return self.coeff_modulus[:-1] if len(self.coeff_modulus) > 1 else self.coeff_modulus

    @property
    def slots(self) -> int:
        """Integers modulo `plain_modulus` in one ciphertext."""
        return self.poly_modulus_degree

    @property
    def most_summands(self) -> int:
        """The largest sum of weights W with 21.5 W < q / (2 t), in exact integers: 43 W t < q."""
        return (prod(self.data_primes) - 1) // (43 * self.plain_modulus)

    @property
    def security(self) -> int:
        """Classical bits of security: SEAL's TC128 table, which the context enforces."""
        return 128


SETS: Final[tuple[ParameterSet, ...]] = (
    ParameterSet("small", 1024, (134215681,), 12289),
    ParameterSet("standard", 2048, (18014398509404161,), 137438822401),
    ParameterSet("few", 2048, (18014398509404161,), 35184372060161),
)
"""For sums: prime plain moduli that batch. `few` trades summands for fields per slot."""

SIMILARITY: Final = ParameterSet("similarity", 4096, (70368743669761, 140737488273409, 40961), 2**18)
"""For inner products: two data primes to multiply once, a plain modulus wide enough for a signed product."""

BY_NAME: Final = {parameters.name: parameters for parameters in (*SETS, SIMILARITY)}


def top_level(bits: int) -> int:
    """The highest quantisation level: 2^bits - 2, so that the grid is symmetric and 0 lies on it."""
    return 2**bits - 2  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Layout:
    """How `values` quantised numbers of one contribution fill the slots of its ciphertexts.

    Mixed radix: a slot holds as many base-`base` digits ("fields") as fit under the plain modulus, where
    `base` exceeds the largest possible sum of levels, so no sum overflows. Tag slots follow the value slots.
    `total_weight` is the largest sum of weights one sum may have; `clients` the most contributions in it.
    Raises ValueError for sizes that make no sense, ConfigError for ones the parameter set cannot carry.
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
        if self.total_weight > self.parameters.most_summands:
            raise ConfigError(
                f"a sum of total weight {self.total_weight} may not decrypt exactly under parameter set "
                f"{self.parameters.name!r} (limit {self.parameters.most_summands}); "
                "use fewer hospitals or lower weights"
            )
        if not self.fields:
            raise ConfigError(
                f"a sum of {self.bits}-bit values with total weight {self.total_weight} overflows a slot "
                f"of parameter set {self.parameters.name!r}; lower [encryption] bits"
            )

    @property
    def base(self) -> int:
        """One more than the largest sum of levels."""
        return self.total_weight * top_level(self.bits) + 1

    @property
    def fields(self) -> int:
        """Values in one slot: the largest k with base^k <= plain modulus."""
        count = 0
        while self.base ** (count + 1) <= self.parameters.plain_modulus:
            count += 1
        return count

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
        """Value and tag slots together."""
        return self.value_slots + self.tag_slots

    @property
    def ciphertexts(self) -> int:
        """Ciphertexts of one contribution."""
        return -(-self.slots // self.parameters.slots)

    @property
    def upload_bytes(self) -> int:
        """Bytes of one encrypted contribution: seed and tightly packed words of each ciphertext, without
        envelope.
        """
        words = self.parameters.poly_modulus_degree * sum(p.bit_length() for p in self.parameters.data_primes) // 8
        return self.ciphertexts * (SEED_BYTES + words)

    @property
    def forgery_bits(self) -> float:
        """-log2 of the chance that an altered sum passes its tag."""
        return self.tag_slots * log2(self.parameters.plain_modulus)


def _carries(parameters: ParameterSet, bits: int, total_weight: int) -> bool:
    fits = total_weight * top_level(bits) + 1 <= parameters.plain_modulus
    return fits and total_weight <= parameters.most_summands


def choose_layout(values: int, bits: int, clients: int, max_weight: int = 1) -> Layout:
    """The layout with the fewest upload bytes for sums of up to `clients` contributions of weight <=
    `max_weight`.

    Raises ConfigError where no parameter set carries it, saying what would fit; ValueError for nonsense
    sizes.
    """
    if clients < 1 or max_weight < 1 or not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(f"clients {clients}, max_weight {max_weight} must be at least 1, bits {bits} in [2, 24]")
    total = clients * max_weight
    candidates = [
        Layout(parameters, values, bits, total, clients) for parameters in SETS if _carries(parameters, bits, total)
    ]
    if candidates:
        return min(candidates, key=lambda layout: layout.upload_bytes)
    # With MAX_BITS, whatever sums within the bound also fits a slot of the standard set.
    most = max(parameters.most_summands for parameters in SETS)
    raise ConfigError(
        f"{clients} hospitals of weight up to {max_weight} make {total} summands, but sums decrypt "
        f"exactly only up to {most}; use fewer hospitals or lower weights"
    )
