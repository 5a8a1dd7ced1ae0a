"""A hospital's half of an encrypted sum: slots to a contribution's bytes, an answer's bytes to sums of slots."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from securepfl.crypto.sums import seal
from securepfl.crypto.sums.packing import check_slots
from securepfl.crypto.sums.parameters import Layout, ParameterSet
from securepfl.crypto.sums.uniform import uniform_chunks
from securepfl.crypto.sums.wire import Wire
from securepfl.crypto.sums.words import add, scale


class SealCipher:
    """BFV under the hospitals' common secret key (from `ring.generate_ring_key`) and one parameter set."""

    def __init__(self, ring_key: bytes, parameters: ParameterSet) -> None:
        self._secret = seal.SecretContext(parameters, ring_key)

    def _wire(self, layout: Layout) -> Wire:
        if layout.parameters != self._secret.parameters:
            raise ValueError(f"layout is for {layout.parameters.name!r}, cipher for {self._secret.parameters.name!r}")
        return Wire.of_ciphertexts(layout, seal.stamp())

    def encrypt(self, slots: NDArray[np.uint64], layout: Layout) -> bytes:
        """One contribution: version stamp, the seed, the first polynomials' words packed.

        Raises ValueError for slots that do not fit the layout, or a layout of another parameter set.
        """
        wire = self._wire(layout)
        check_slots(slots, layout)
        seed, words = self._secret.encrypt(slots)
        return wire.stamp + seed + wire.pack(words)

    def decrypt(self, answer: bytes, layout: Layout) -> NDArray[np.uint64]:
        """The sums of slots.

        Raises MessageError for bytes that do not fit the layout or come from another SEAL, ValueError for a
        layout of another parameter set.
        """
        wire = self._wire(layout)
        weights, seeds, words = wire.read_answer(answer)
        # Dropped bits come back as their middle: once for each summand, once for the answer.
        middle = (1 << wire.dropped_bits >> 1) * (sum(weights) + 1) % wire.modulus
        first = add(words, np.uint64(middle), wire.modulus)
        return self._secret.decrypt(first, _uniform_sum(seeds, weights, layout))


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
