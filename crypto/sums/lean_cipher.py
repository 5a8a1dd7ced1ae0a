"""A hospital's half of a sum that it encrypts by itself, with SEAL for the key, the products by it, and decryption.

Encryption is textbook RLWE: c0 = round(q m / t) - a s + e, with SEAL's ternary key s, noise e of SEAL's distribution
(centred binomial, 42 bits, from the OS), and a expanded from 32 bytes by AES-256 in counter mode, as FrodoKEM and
Kyber-90s expand their public matrices. SEAL's own encryption expands a by BLAKE2xb; here whoever decrypts the sum of n
hospitals expands n of them, ten times faster.

That receivers know each contribution's a is why slots must be masked: a s and the words of a sum show how the low bits
of single contributions carried.
"""

import secrets
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from securepfl.crypto.sums import seal
from securepfl.crypto.sums.encoding import encoded
from securepfl.crypto.sums.packing import check_slots
from securepfl.crypto.sums.parameters import SEED_BYTES, Layout, ParameterSet
from securepfl.crypto.sums.uniform import uniform_chunks, uniform_words
from securepfl.crypto.sums.wire import Wire
from securepfl.crypto.sums.words import Words, add, scale, subtract
from securepfl.randomness import RandomStream, fresh_key

_NOISE_BITS: Final = 21


class LeanCipher:
    """Our own encryption under the hospitals' common secret key (ring.py) and one parameter set."""

    def __init__(self, ring_key: bytes, parameters: ParameterSet) -> None:
        self._secret = seal.SecretContext(parameters, ring_key)

    def _wire(self, layout: Layout) -> Wire:
        return Wire.with_seeds(layout, seal.stamp()).of_set(self._secret.parameters)

    def encrypt(self, slots: NDArray[np.uint64], layout: Layout) -> bytes:
        """One contribution: version stamp, the seed, the first polynomials' words packed.

        Raises ValueError for slots that do not fit the layout, or a layout of another parameter set.
        """
        wire = self._wire(layout)
        check_slots(slots, layout)
        return wire.contribution(*encrypted(self._secret, slots))

    def decrypt(self, answer: bytes, layout: Layout) -> NDArray[np.uint64]:
        """The sums of slots.

        Raises MessageError for bytes that do not fit the layout or come from another SEAL, ValueError for a
        layout of another parameter set.
        """
        wire = self._wire(layout)
        weights, seeds, words = wire.read_answer(answer)
        uniform = _uniform_sum(list(_split(seeds)), weights, layout)
        return self._secret.decrypt(wire.with_middles(words, sum(weights)), uniform)


def encrypted(secret: seal.SecretContext, slots: Words) -> tuple[bytes, Words]:
    """A fresh encryption of `slots`, shape (n,), each below the plain modulus: the seed of its uniform halves, and the
    first polynomials' words, shape (n,), of as many ciphertexts as that takes, the last one cut.
    """
    parameters, seed = secret.parameters, secrets.token_bytes(SEED_BYTES)
    degree, prime = parameters.poly_modulus_degree, parameters.coeff_modulus
    uniform = uniform_words(seed, -(-slots.size // degree) * degree, prime)
    product = secret.times_secret(uniform.reshape(-1, degree)).reshape(-1)[: slots.size]
    hidden = subtract(encoded(slots, parameters.plain_modulus, prime), product, prime)
    return seed, add(hidden, centred_noise(slots.size, prime), prime)


def _split(seeds: bytes) -> Iterator[bytes]:
    return (seeds[start : start + SEED_BYTES] for start in range(0, len(seeds), SEED_BYTES))


def centred_noise(count: int, prime: int) -> Words:
    """Centred binomial noise modulo the prime, shape (count,): the difference of two counts of 21 random bits."""
    bits = RandomStream(fresh_key()).words(count)
    mask, half = np.uint64((1 << _NOISE_BITS) - 1), np.uint64(32)
    plus, minus = np.bitwise_count(bits & mask), np.bitwise_count(bits >> half & mask)
    return subtract(plus.astype(np.uint64), minus.astype(np.uint64), prime)


def _uniform_sum(seeds: Sequence[bytes], weights: Sequence[int], layout: Layout) -> NDArray[np.uint64]:
    """The weighted sum of the uniform halves that seeds stand for, shape (ciphertexts, degree)."""
    parameters = layout.parameters
    shape, prime = (layout.ciphertexts, parameters.poly_modulus_degree), parameters.coeff_modulus
    total = np.zeros(shape[0] * shape[1], dtype=np.uint64)
    # So many words below the prime, and what is there already, fit in 64 bits: the rest is reduced once for all.
    room = 2**64 // prime - 1
    for start in range(0, len(seeds), room):
        for seed, weight in zip(seeds[start : start + room], weights[start : start + room], strict=True):
            at = 0
            for chunk in uniform_chunks(seed, total.size, prime):
                total[at : at + chunk.size] += scale(chunk, weight, prime)
                at += chunk.size
        total %= np.uint64(prime)
    return total.reshape(shape)
