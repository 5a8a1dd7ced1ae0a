"""What shows an altered row: one more product, which must be a secret combination of all the others.

Beside its sketch a_j hospital j uploads, encrypted, l_j a_j + u_j modulo t. l_j, one number, and u_j, a vector, are
uniform modulo t and follow from a key that only hospitals hold, the context and j. The coordinator adds what the row's
others uploaded and multiplies the sum by i's own sketch: with p_ij = <a_i, a_j>, the row is right only if

    <a_i, sum_j (l_j a_j + u_j)> = sum_j l_j p_ij + <a_i, sum_j u_j>

To i all but the left side is known, once it has decrypted the p_ij. To the coordinator l and u are hidden under
encryption. Whatever it does to answers changes the two sides by e and sum_j l_j d_j, where the d_j are not all zero:
equal with chance 1/t, as one l_j is uniform and independent of what it did. Other products, another sketch of i, other
hospitals in the sum, or a scaled check change <a_i, sum_j u_j> as well: uniform again, unless a_i is zero.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from securepfl.crypto.similarity.parameters import DEGREE
from securepfl.crypto.sums.uniform import uniform_words
from securepfl.crypto.sums.words import Words, dot
from securepfl.randomness import derive_key


@dataclass(frozen=True)
class RowCheck:
    """The secrets of one context modulo `modulus`. `labels` say what else they are bound to.

    What may never change: the labels of the derived keys, and the order of what is drawn.
    """

    key: bytes = field(repr=False)
    modulus: int
    context: bytes
    labels: tuple[int, ...]

    def _drawn(self, client: int) -> tuple[int, Words]:
        """l and u [DEGREE] of a hospital."""
        numbers = (*self.labels, self.modulus, client)
        key = derive_key(self.key, "similarity", "row check", self.context.hex(), *numbers)
        words = uniform_words(key, DEGREE + 1, self.modulus)
        return int(words[0]), words[1:]

    def lane(self, slots: Words, client: int) -> Words:
        """What a hospital uploads beside the slots [DEGREE] of its sketch."""
        factor, shift = self._drawn(client)
        lane: Words = (slots * np.uint64(factor) + shift) % np.uint64(self.modulus)
        return lane

    def expected(self, products: Mapping[int, int], slots: Words) -> int:
        """The check of a row, from its inner products by other hospital and one's own slots."""
        drawn = {other: self._drawn(other) for other in products}
        combined = sum(drawn[other][0] * product for other, product in products.items())
        return (combined + dot(slots, _total(shift for _, shift in drawn.values()), self.modulus)) % self.modulus


def _total(vectors: Iterable[Words]) -> Words:
    """Sums of words far below 2^64; `dot` takes them not reduced."""
    total = np.zeros(DEGREE, dtype=np.uint64)
    for vector in vectors:
        total += vector
    return total
