"""The coordinator's half of a sum: numpy on packed words, no key, and no SEAL (seal_sum.py is the one with SEAL).

Words are added modulo the wire's modulus as contributions arrive; of uniform halves only the seeds are kept, which
receivers expand. Memory is one aggregate and the seeds.
"""

import numpy as np

from securepfl.crypto.sums.encoding import encoded
from securepfl.crypto.sums.wire import Wire
from securepfl.crypto.sums.words import Buffer, Words, add, scale, subtract


class Aggregate:
    """A running weighted sum of contributions of one form. `add` what arrives, then `answer`.

    | what arrives                                    | what happens                                     |
    |-------------------------------------------------|--------------------------------------------------|
    | another length, version stamp or range of words | MessageError; nothing is added                   |
    | weight below 1, or past the layout's total      | ValueError; nothing is added                     |
    | more contributions than the layout's clients    | ValueError; nothing is added                     |
    | altered words of the right form                 | added: only hospitals can tell (contribution.py) |
    | `answer` before anything was added              | ValueError                                       |
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._sum: Words = np.zeros(wire.layout.slots, dtype=np.uint64)
        self._seeds: list[bytes] = []
        self._weights: list[int] = []

    @property
    def contributions(self) -> int:
        """How many have been added."""
        return len(self._weights)

    def add(self, contribution: Buffer, weight: int = 1) -> None:
        """Add authenticated bytes, `weight` times.

        Raises MessageError for bytes that do not fit the layout, or were made with another SEAL; ValueError for a
        weight below 1, or more contributions or weight than the layout was proven for.
        """
        layout = self._wire.layout
        if weight < 1 or sum(self._weights) + weight > layout.total_weight:
            raise ValueError(f"weight {weight} must be at least 1 and the total at most {layout.total_weight}")
        if self.contributions == layout.clients:
            raise ValueError(f"contributions must be at most {layout.clients}")
        self.check(contribution)
        seeds, chunks = self._wire.contribution_chunks(contribution)
        for start, words in chunks:
            self._take(seeds, words, weight, start)
        self._weights.append(weight)

    def check(self, contribution: Buffer) -> None:
        """Raises MessageError for what `add` would refuse, and adds nothing."""
        for _ in self._wire.contribution_chunks(contribution)[1]:
            pass

    def answer(self, mask: Words | None = None) -> bytes:
        """Stamp, count, weights, what decryption needs and the packed sum, less the sum of all masks, shape (slots,),
        if there are any.

        Raises ValueError where nothing was added.
        """
        if not self._weights:
            raise ValueError("contributions must be at least 1 to form a sum, not 0")
        return self._wire.answer(self._weights, *self._summed(mask))

    def _take(self, seeds: bytes, words: Words, weight: int, start: int = 0) -> None:
        """Add words of a contribution that was checked, from slot `start` on. `seeds` are all of its."""
        modulus, place = self._wire.modulus, self._sum[start : start + words.size]
        place[:] = add(place, scale(words, weight, modulus), modulus)
        if start == 0:
            self._seeds.append(seeds)

    def _summed(self, mask: Words | None) -> tuple[bytes, Words]:
        """What an answer carries for decryption, and the sum's words."""
        words, modulus = self._sum, self._wire.modulus
        if mask is not None:
            words = subtract(words, encoded(mask, self._wire.layout.parameters.plain_modulus, modulus), modulus)
        return b"".join(self._seeds), words
