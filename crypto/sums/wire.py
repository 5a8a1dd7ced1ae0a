"""The bytes of a sum: one contribution, and the answer that carries the sum of many. numpy only, no key.

    contribution   stamp | seeds | words
    answer         stamp | count | count weights | carried | words        numbers of 4 bytes, big-endian

What an answer carries for decryption is every contribution's seeds in their order, or else the summed uniform halves,
whole words, packed. A scheme says which, how long stamp and seeds are and modulo what words stand; where it has none,
they take no bytes. What may never change: this order, and how words.py packs.
"""

import io
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from securepfl.crypto.sums.containers import SEED_BYTES as SEAL_SEED_BYTES
from securepfl.crypto.sums.parameters import SEED_BYTES, Layout, ParameterSet
from securepfl.crypto.sums.versions import STAMP_BYTES, without_stamp
from securepfl.crypto.sums.words import (
    CHUNK,
    Buffer,
    Words,
    add,
    pack_words,
    packed_bytes,
    unpack_words,
    unpacked_chunks,
)
from securepfl.errors import MessageError

_NUMBER: Final = struct.Struct(">I")


@dataclass(frozen=True)
class Wire:
    """The fixed form of contributions and answers for a layout: which bits of how many words, modulo what.

    `dropped_bits` low bits of each word are not sent. `stamp` is the version stamp of this machine (versions.py) where
    SEAL makes what travels, else empty. `seed_bytes` is the length of a contribution's seeds; answers carry them too,
    or with `sums_halves` the sum of the uniform halves in their place. Raises ValueError for bits that a word does not
    have, or a stamp of another length.

    >>> from securepfl.crypto.sums.parameters import choose_layout
    >>> wire = Wire.of_slots(choose_layout(values=100, bits=10, clients=5))
    >>> wire.contribution_bytes, wire.answer_bytes(5)
    (169, 193)
    """

    layout: Layout
    modulus: int
    dropped_bits: int = 0
    stamp: bytes = b""
    seed_bytes: int = 0
    sums_halves: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.dropped_bits < self.modulus.bit_length() or self.seed_bytes < 0:
            raise ValueError(f"dropped_bits {self.dropped_bits} and seed_bytes {self.seed_bytes} do not fit a word")
        if len(self.stamp) not in (0, STAMP_BYTES):
            raise ValueError(f"stamp must have {STAMP_BYTES} bytes or none, not {len(self.stamp)}")

    @classmethod
    def with_seeds(cls, layout: Layout, stamp: bytes) -> Self:
        """First polynomials modulo the ring's prime, cut after the last slot and without the bits that the margin does
        not need; of the second only one seed a contribution, in answers too.
        """
        return cls._of_ciphertexts(layout, stamp, SEED_BYTES, sums_halves=False)

    @classmethod
    def with_halves(cls, layout: Layout, stamp: bytes) -> Self:
        """As `with_seeds`, but one seed a ciphertext, SEAL's, and none in answers: they carry the sum of what SEAL
        expanded the seeds to.
        """
        return cls._of_ciphertexts(layout, stamp, SEAL_SEED_BYTES * layout.ciphertexts, sums_halves=True)

    @classmethod
    def _of_ciphertexts(cls, layout: Layout, stamp: bytes, seed_bytes: int, *, sums_halves: bool) -> Self:
        if len(stamp) != STAMP_BYTES:
            raise ValueError(f"stamp must have {STAMP_BYTES} bytes, not {len(stamp)}")
        modulus = layout.parameters.coeff_modulus
        return cls(layout, modulus, layout.dropped_bits, stamp, seed_bytes, sums_halves)

    @classmethod
    def of_slots(cls, layout: Layout) -> Self:
        """The slots themselves, modulo the plain modulus."""
        return cls(layout, layout.parameters.plain_modulus)

    def of_set(self, parameters: ParameterSet) -> Self:
        """This form. Raises ValueError where its layout has another parameter set."""
        if self.layout.parameters != parameters:
            raise ValueError(f"layout is for {self.layout.parameters.name!r}, cipher for {parameters.name!r}")
        return self

    @property
    def word_bits(self) -> int:
        """Bits of each word that are sent."""
        return self.modulus.bit_length() - self.dropped_bits

    @property
    def word_bytes(self) -> int:
        """Bytes of one contribution's words, packed."""
        return packed_bytes(self.layout.slots, self.word_bits)

    @property
    def contribution_bytes(self) -> int:
        """Exact length of every contribution."""
        return len(self.stamp) + self.seed_bytes + self.word_bytes

    def answer_bytes(self, contributions: int) -> int:
        """Exact length of an answer with that many contributions in it."""
        numbers = _NUMBER.size * (contributions + 1)
        return len(self.stamp) + numbers + self._carried_bytes(contributions) + self.word_bytes

    def _carried_bytes(self, contributions: int) -> int:
        if not self.sums_halves:
            return contributions * self.seed_bytes
        return packed_bytes(self._half_words, self.modulus.bit_length())

    @property
    def _half_words(self) -> int:
        return self.layout.ciphertexts * self.layout.parameters.poly_modulus_degree

    def pack(self, words: Words) -> bytes:
        """Words, shape (slots,), to bytes, without their dropped bits."""
        return b"".join(self._packed(words))

    def _packed(self, words: Words) -> Iterator[bytes]:
        for start in range(0, words.size, CHUNK):
            yield pack_words(words[start : start + CHUNK] >> np.uint64(self.dropped_bits), self.word_bits)

    def unpack(self, data: Buffer) -> Words:
        """Bytes to words, dropped bits 0. Raises MessageError for a wrong length or words out of range."""
        words = np.empty(self.layout.slots, dtype=np.uint64)
        for start, chunk in self._unpacked(data):
            words[start : start + chunk.size] = chunk
        return words

    def _unpacked(self, data: Buffer) -> Iterator[tuple[int, Words]]:
        """(place, words), CHUNK words at a time."""
        largest = (self.modulus - 1) >> self.dropped_bits
        for start, words in unpacked_chunks(data, self.layout.slots, self.word_bits, largest + 1):
            np.left_shift(words, np.uint64(self.dropped_bits), out=words)
            yield start, words

    def pack_halves(self, halves: Words) -> bytes:
        """Summed uniform halves, shape (ciphertexts, degree), to bytes."""
        return pack_words(halves, self.modulus.bit_length())

    def read_halves(self, data: Buffer) -> Words:
        """The inverse of `pack_halves`. Raises MessageError for a wrong length or words out of range."""
        found = unpack_words(data, self._half_words, self.modulus.bit_length(), self.modulus)
        return found.reshape(self.layout.ciphertexts, -1)

    def with_middles(self, words: Words, total_weight: int) -> Words:
        """The words of a sum with the middle of its dropped bits: once for each summand, once for the answer."""
        middle = (1 << self.dropped_bits >> 1) * (total_weight + 1) % self.modulus
        return add(words, np.uint64(middle), self.modulus)

    def contribution(self, seeds: bytes, words: Words) -> bytes:
        """One contribution from its seeds and its words, shape (slots,)."""
        return _gathered((self.stamp, seeds), self._packed(words))

    def read_contribution(self, data: Buffer) -> tuple[bytes, Words]:
        """The seeds and the words. Raises MessageError for a wrong length, another version or words out of range."""
        seeds, packed = self._contributed(data)
        return seeds, self.unpack(packed)

    def contribution_chunks(self, data: Buffer) -> tuple[bytes, Iterator[tuple[int, Words]]]:
        """The seeds, and (place, words) in chunks of CHUNK. Raises as `read_contribution`, for words out of range when
        they are reached.
        """
        seeds, packed = self._contributed(data)
        return seeds, self._unpacked(packed)

    def _contributed(self, data: Buffer) -> tuple[bytes, memoryview]:
        if len(data) != self.contribution_bytes:
            raise MessageError(
                f"contribution of {len(data)} bytes where {self.contribution_bytes} belong; "
                "all parties must run the same settings"
            )
        body = self._unstamped(data, "contribution")
        return bytes(body[: self.seed_bytes]), body[self.seed_bytes :]

    def answer(self, weights: list[int], carried: bytes, words: Words) -> bytes:
        """The answer with each contribution's weight, what it carries for decryption, and the sum's words, shape
        (slots,).
        """
        return _gathered((self.stamp, _numbers(weights), carried), self._packed(words))

    def answer_of_chunks(self, weights: list[int], chunks: Iterable[tuple[int, Words, Words]]) -> bytes:
        """As `answer`, from (place, uniform halves, words) by CHUNK words: none is held longer than it takes."""
        answer, bits = io.BytesIO(), self.modulus.bit_length()
        answer.write(self.stamp + _numbers(weights))
        halves_at = answer.tell()
        words_at = halves_at + self._carried_bytes(len(weights))
        for start, halves, words in chunks:
            for at, packed in (
                (halves_at + start * bits // 8, pack_words(halves, bits)),
                (words_at + start * self.word_bits // 8, self.pack(words)),
            ):
                answer.seek(at)
                answer.write(packed)
        return answer.getvalue()

    def read_answer(self, data: Buffer) -> tuple[list[int], bytes, Words]:
        """Weights, what it carries for decryption, and the summed words. The inverse of `answer`.

        Raises MessageError for a wrong length, version, weight or count.
        """
        weights, carried, packed = self._answered(data)
        return weights, bytes(carried), self.unpack(packed)

    def answer_chunks(self, data: Buffer) -> tuple[list[int], Iterator[tuple[int, Words, Words]]]:
        """Weights, and (place, uniform halves, words) by CHUNK words. Raises as `read_answer`, for words out of range
        when they are reached.
        """
        weights, carried, packed = self._answered(data)
        halves = unpacked_chunks(carried, self._half_words, self.modulus.bit_length(), self.modulus)
        pairs = zip(halves, self._unpacked(packed), strict=True)
        return weights, ((start, its, words) for (start, its), (_, words) in pairs)

    def _answered(self, data: Buffer) -> tuple[list[int], memoryview, memoryview]:
        body, layout, size = self._unstamped(data, "answer"), self.layout, _NUMBER.size
        count = _NUMBER.unpack_from(body)[0] if len(body) >= size else 0
        if not 1 <= count <= layout.clients or len(data) != self.answer_bytes(count):
            raise MessageError(f"answer of {len(data)} bytes does not fit {count} contributions; ask for it again")
        carried_at = size * (count + 1)
        weights = [number for (number,) in _NUMBER.iter_unpack(body[size:carried_at])]
        if min(weights) < 1 or sum(weights) > layout.total_weight:
            raise MessageError(f"answer with total weight {sum(weights)}, at most {layout.total_weight} was agreed")
        words_at = carried_at + self._carried_bytes(count)
        return weights, body[carried_at:words_at], body[words_at:]

    def _unstamped(self, data: Buffer, what: str) -> memoryview:
        view = memoryview(data)
        if not self.stamp:
            return view
        without_stamp(bytes(view[: len(self.stamp)]), self.stamp, what)
        return view[len(self.stamp) :]


def _numbers(weights: list[int]) -> bytes:
    return b"".join(_NUMBER.pack(number) for number in (len(weights), *weights))


def _gathered(beginning: Iterable[bytes], rest: Iterable[bytes]) -> bytes:
    """All of it, held once."""
    whole = io.BytesIO()
    whole.writelines(beginning)
    whole.writelines(rest)
    return whole.getvalue()
