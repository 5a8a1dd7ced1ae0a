"""Our encrypted sums in the benchmark, through the classes that a round uses."""

from typing import Final

from securepfl.bench.case import LIMIT, Case, Values
from securepfl.crypto.sums.contribution import check_and_unpack, prepare
from securepfl.crypto.sums.packing import dequantise_sum, quantise
from securepfl.crypto.sums.parameters import choose_layout
from securepfl.crypto.sums.ring import generate_ring_key
from securepfl.crypto.sums.scheme import find_scheme
from securepfl.randomness import RandomStream, fresh_key

CONTEXT: Final = b"bench"


class Packed:
    """One of our schemes by name, or the same integers in clear, through the classes that a round uses.

    Those encrypt straight to bytes and add straight from them: `serialize` and `load` cost nothing of their own.
    """

    sparse = True
    public = b""

    def __init__(self, case: Case, name: str) -> None:
        self._case = case
        self.layout = choose_layout(case.sent, case.bits, case.hospitals)
        self.tag_key, self.stream = fresh_key(), RandomStream(fresh_key())
        scheme = find_scheme(name)
        self.cipher = scheme.cipher(generate_ring_key() if scheme.encrypted else b"", self.layout)

    def encrypt(self, index: int, values: Values) -> bytes:
        """Quantise, pack, tag, encrypt."""
        levels = quantise(values, self._case.bits, LIMIT, self.stream).levels
        return self.cipher.encrypt(prepare(levels, self.layout, index, self.tag_key, CONTEXT), self.layout)

    def serialize(self, encrypted: bytes) -> bytes:
        """As it is."""
        return encrypted

    def decrypt(self, answer: bytes) -> Values:
        """Decrypt, check the tag, unpack, divide. Raises AggregateError for another sum than was asked for."""
        hospitals, slots = self._case.hospitals, self.cipher.decrypt(answer, self.layout)
        weights = dict.fromkeys(range(hospitals), 1)
        sums = check_and_unpack(slots, self.layout, weights, self.tag_key, CONTEXT)
        return dequantise_sum(sums, hospitals, self._case.bits, LIMIT) / hospitals


class PackedCoordinator:
    """The coordinator's half of `Packed`."""

    def __init__(self, case: Case, name: str) -> None:
        self._total = find_scheme(name).total(choose_layout(case.sent, case.bits, case.hospitals))

    def load(self, data: bytes) -> bytes:
        """As it is."""
        return data

    def add(self, loaded: bytes) -> None:
        """Read and add."""
        self._total.add(loaded)

    def answer(self) -> bytes:
        """Seeds and the packed sum."""
        return self._total.answer()
