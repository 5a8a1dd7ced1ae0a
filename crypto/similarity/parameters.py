"""The ring in which sketches are multiplied, and in closed form what its noise is and what hides it.

Degree N = 4096, data primes p_0 p_1 = Q and a special prime P for keys: 101 bits in all, the most that SEAL's table for
128 bits of security against a quantum computer allows. Answers are brought down to p_0, less their lowest bits.

**What a product's noise holds.** An upload is c_0 + c_1 s = Q k + v over the integers: v its small noise, and k, a
number with a fraction, holds message and carries, with the fraction m/t. Of two uploads, i the receiver's own and j the
other's, a product's noise is t (v_i k_j + k_i v_j), and what multiplying and relinearising add, which depends on the
seeded halves c_1 alone. The receiver knows v_i and k_i, so this says something of j's sketch. Take another sketch of j,
with the same c_1 and the same draw of noise: k_j moves by f or f - 1 where m moves by f Q/t, with chances 1 - f and f,
so its variance is at most 1/4 a coefficient; v_j moves by the difference of two roundings, at most 1. So one
coefficient of the noise moves by `noise_shift` on average, or less: t sqrt(N (Var(v) / 4 + Var(k))).

**What hides it.** The coordinator adds a number uniform in [-B, B], B = `flood`, to the one coefficient that leaves.
Two answers for two sketches with the same inner product then differ in distribution by the mean shift over 2 B + 1 at
most (any coupling bounds a statistical distance): `distance`, below 2^-38.

**Decryption** is exact while the flood, the worst noise (`largest_noise`) and what rounding adds stay under p_0 / 2t.
Rounding is a sum of N + 1 terms uniform in an interval of 2^DROPPED_BITS + 1: it passes `_rounding` with chance 2^-71
(Hoeffding), whatever the key. Tests measure all of it.
"""

import math
from typing import Final

DEGREE: Final = 4096
"""Also the longest sketch: its entries stand in the slots of one ciphertext."""

PRIMES: Final = (4_398_046_486_529, 4_398_046_240_769)
"""p_0, p_1: the largest below 2^42 that are 1 modulo 2 N. SEAL drops the second."""

SPECIAL: Final = 114_689
KEY_PRIMES: Final = (*PRIMES, SPECIAL)
MODULUS: Final = math.prod(PRIMES)

DROPPED_BITS: Final = 12
"""Low bits of an answer's words that are not sent."""

FRESH_NOISE: Final = 21
"""The most that SEAL's centred binomial noise of 42 bits is."""

_NOISE_VARIANCE: Final = 42 / 4 + 1 / 12
"""Of v: SEAL's noise, and the rounding of (Q/t) m."""

_CARRY_VARIANCE: Final = (DEGREE + 2) / 12
"""Of k, at most: a sum of N + 1 terms uniform in [-1/2, 1/2], for any key."""


def noise_shift(plain_modulus: int) -> float:
    """The most by which a product's noise in one coefficient moves on average where j's sketch is another.

    >>> round(math.log2(noise_shift(188_417)), 1)
    27.7
    """
    return plain_modulus * math.sqrt(DEGREE * (_NOISE_VARIANCE / 4 + _CARRY_VARIANCE))


def largest_noise(plain_modulus: int, uploads: int = 1) -> int:
    """The most that the noise of a product of honest ciphertexts can be, the second of them the sum of `uploads`, with
    all that multiplying, relinearising and the encryption of zero under `uploads` keys add.
    """
    fresh, carry = FRESH_NOISE + 1, (DEGREE + 4) // 2
    product = plain_modulus * DEGREE * fresh * carry * (1 + uploads)
    keys = len(PRIMES) * DEGREE * PRIMES[0] * FRESH_NOISE // SPECIAL
    hidden = uploads * 2 * DEGREE * fresh
    rounding = 8 * (1 + DEGREE + DEGREE**2)
    return product + keys + hidden + rounding


def _rounding() -> int:
    """What dropping p_1 and the low bits adds to an answer at most, but with chance 2^-71."""
    return 320 * (2**DROPPED_BITS + 1)


def flood(plain_modulus: int, clients: int) -> int:
    """B: as much as decryption bears in a roster of that many.

    >>> round(math.log2(flood(188_417, clients=16)), 1)
    65.3
    """
    spare = MODULUS * (PRIMES[0] - 2 * plain_modulus * _rounding()) // (2 * plain_modulus * PRIMES[0])
    return spare - largest_noise(plain_modulus, clients)


def distance(plain_modulus: int, clients: int) -> float:
    """The statistical distance between a receiver's answers for any two sketches of another hospital with the same
    inner product, at most, on average over its own honest upload.

    >>> all(distance(t, clients=10_000) < 2**-38 for t in (40_961, 65_537, 188_417))
    True
    """
    return noise_shift(plain_modulus) / (2 * flood(plain_modulus, clients) + 1)


def most_bits_read(plain_modulus: int, clients: int) -> float:
    """Bits that an answer tells a receiver who uploaded no honest ciphertext, at most: log2 of Q / (2 B + 1). They are
    of one number, of its choice.

    >>> round(most_bits_read(188_417, clients=16), 1)
    17.7
    """
    return math.log2(MODULUS / (2 * flood(plain_modulus, clients) + 1))
