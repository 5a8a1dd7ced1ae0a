"""A hospital's half of a sum by SEAL: slots to a contribution's bytes, an answer's bytes to sums of slots."""

import numpy as np
from numpy.typing import NDArray

from securepfl.crypto.sums import seal
from securepfl.crypto.sums.packing import check_slots
from securepfl.crypto.sums.parameters import Layout, ParameterSet
from securepfl.crypto.sums.wire import Wire


class SealCipher:
    """SEAL's Encryptor and Decryptor under the hospitals' common secret key (from `ring.generate_ring_key`) and one
    parameter set.
    """

    def __init__(self, ring_key: bytes, parameters: ParameterSet) -> None:
        self._secret = seal.SecretContext(parameters, ring_key)

    def _wire(self, layout: Layout) -> Wire:
        return Wire.with_halves(layout, seal.stamp()).of_set(self._secret.parameters)

    def encrypt(self, slots: NDArray[np.uint64], layout: Layout) -> bytes:
        """One contribution: version stamp, a seed for each ciphertext, the first polynomials' words packed.

        Raises ValueError for slots that do not fit the layout, or a layout of another parameter set.
        """
        wire = self._wire(layout)
        check_slots(slots, layout)
        return wire.contribution(*self._secret.encrypt(slots))

    def decrypt(self, answer: bytes, layout: Layout) -> NDArray[np.uint64]:
        """The sums of slots.

        Raises MessageError for bytes that do not fit the layout or come from another SEAL, ValueError for a
        layout of another parameter set.
        """
        wire = self._wire(layout)
        weights, chunks = wire.answer_chunks(answer)
        slots, degree = np.empty(layout.slots, dtype=np.uint64), layout.parameters.poly_modulus_degree
        for start, halves, words in chunks:
            opened = self._secret.decrypt(wire.with_middles(words, sum(weights)), halves.reshape(-1, degree))
            slots[start : start + opened.size] = opened
        return slots
