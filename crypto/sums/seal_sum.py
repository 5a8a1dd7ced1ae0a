"""The coordinator's half of a sum by SEAL: no key, and SEAL loads only containers rebuilt around checked words."""

from collections.abc import Iterator

import numpy as np

from securepfl.crypto.sums.seal import CiphertextSum
from securepfl.crypto.sums.summation import Aggregate
from securepfl.crypto.sums.uniform import uniform_words
from securepfl.crypto.sums.wire import Wire
from securepfl.crypto.sums.words import Words, add, subtract
from securepfl.randomness import fresh_key


class SealAggregate(Aggregate):
    """As `Aggregate`, with SEAL's Evaluator: the answer holds the sum of the uniform halves in place of their seeds,
    and a flood over the words.

    So a hospital gets what it needs of all contributions together, and the half of none: given that sum, the words of
    each other hospital are uniform to it, low bits and all, while there are two of them.
    """

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire)
        self._ciphertexts = CiphertextSum(wire.layout.parameters, wire.layout.slots)

    def answer(self, mask: Words | None = None) -> bytes:
        """As Aggregate says."""
        if not self._weights:
            raise ValueError("contributions must be at least 1 to form a sum, not 0")
        return self._wire.answer_of_chunks(self._weights, self._chunks(mask))

    def _take(self, seeds: bytes, words: Words, weight: int, start: int = 0) -> None:
        self._ciphertexts.add(seeds, words, weight, start)

    def _summed(self, mask: Words | None) -> tuple[bytes, Words]:
        _, halves, words = zip(*self._chunks(mask), strict=True)
        return self._wire.pack_halves(np.concatenate(halves)), np.concatenate(words)

    def _chunks(self, mask: Words | None) -> Iterator[tuple[int, Words, Words]]:
        """(place, uniform halves, flooded words)."""
        for start, words, halves in self._ciphertexts.chunks(mask):
            yield start, halves, add(words, self._flood(words.size), self._wire.modulus)

    def _flood(self, count: int) -> Words:
        """Uniform in [-F, F] modulo the prime, shape (count,), with F all the room that the margin leaves."""
        layout = self._wire.layout
        drawn = uniform_words(fresh_key(), count, 2 * layout.flood + 1)
        return subtract(drawn, np.full_like(drawn, layout.flood), self._wire.modulus)
