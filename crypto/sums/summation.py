"""The coordinator's half of an encrypted sum: numpy on packed words, no key, and no SEAL.

The words of the first polynomials are added modulo the prime as contributions arrive; of the uniform halves only the
32-byte seeds are kept, which receivers expand. Memory is one aggregate and the seeds.
"""

import struct
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from securepfl.crypto.sums.encoding import encoded
from securepfl.crypto.sums.parameters import SEED_BYTES, Layout
from securepfl.crypto.sums.versions import STAMP_BYTES, without_stamp
from securepfl.crypto.sums.words import Words, add, pack_words, packed_bytes, scale, subtract, unpack_words
from securepfl.errors import MessageError

Scheme = Literal["bfv", "none"]
"""Encrypted, or `--plaintext`: slots travel in clear, packed alike."""

_WEIGHT: Final = struct.Struct(">I")


@dataclass(frozen=True)
class Wire:
    """The fixed form of contributions and answers for a layout: which bits of how many words, modulo what."""

    layout: Layout
    scheme: Scheme

    def __post_init__(self) -> None:
        if self.scheme not in ("bfv", "none"):
            raise ValueError(f"scheme must be 'bfv' or 'none', not {self.scheme!r}")

    @property
    def encrypted(self) -> bool:
        """Whether there are seeds and a version stamp."""
        return self.scheme == "bfv"

    @property
    def modulus(self) -> int:
        """What words are added under: the ciphertext prime, or the plain modulus."""
        parameters = self.layout.parameters
        return parameters.coeff_modulus if self.encrypted else parameters.plain_modulus

    @property
    def dropped_bits(self) -> int:
        """Low bits of each word that are not sent."""
        return self.layout.dropped_bits if self.encrypted else 0

    @property
    def word_bits(self) -> int:
        """Bits of each word that are sent."""
        return self.modulus.bit_length() - self.dropped_bits

    @property
    def word_bytes(self) -> int:
        """Bytes of one contribution's words, packed."""
        return packed_bytes(self.layout.slots, self.word_bits)

    @property
    def stamp_bytes(self) -> int:
        """Bytes of the version stamp."""
        return STAMP_BYTES if self.encrypted else 0

    @property
    def seed_bytes(self) -> int:
        """Bytes of one contribution's seed."""
        return SEED_BYTES if self.encrypted else 0

    @property
    def contribution_bytes(self) -> int:
        """Exact length of every contribution."""
        return self.stamp_bytes + self.seed_bytes + self.word_bytes

    def answer_bytes(self, contributions: int) -> int:
        """Exact length of an answer with that many contributions in it."""
        return self.stamp_bytes + _WEIGHT.size + contributions * (_WEIGHT.size + self.seed_bytes) + self.word_bytes

    def pack(self, words: Words) -> bytes:
        """Words, shape (slots,), to bytes, without their dropped bits."""
        return pack_words(words >> np.uint64(self.dropped_bits), self.word_bits)

    def unpack(self, data: bytes) -> Words:
        """Bytes to words, dropped bits 0. Raises MessageError for a wrong length or words out of range."""
        largest = (self.modulus - 1) >> self.dropped_bits
        return unpack_words(data, self.layout.slots, self.word_bits, largest + 1) << np.uint64(self.dropped_bits)


class Aggregate:
    """A running weighted sum of contributions. `add` what arrives, then `answer`.

    `stamp` is the version stamp that every contribution must carry (see versions.py): empty unless encrypted.
    """

    def __init__(self, layout: Layout, scheme: Scheme, stamp: bytes = b"") -> None:
        self._wire = Wire(layout, scheme)
        if len(stamp) != self._wire.stamp_bytes:
            raise ValueError(f"stamp must have {self._wire.stamp_bytes} bytes, not {len(stamp)}")
        self._sum: Words = np.zeros(layout.slots, dtype=np.uint64)
        self._stamp = stamp
        self._seeds: list[bytes] = []
        self._weights: list[int] = []

    @property
    def contributions(self) -> int:
        """How many have been added."""
        return len(self._weights)

    def add(self, contribution: bytes, weight: int = 1) -> None:
        """Add authenticated bytes, `weight` times.

        Raises MessageError for bytes that do not fit the layout, or were made with another SEAL than the
        first's; ValueError for a weight below 1, or more contributions or weight than the layout was proven
        for.
        """
        layout, wire = self._wire.layout, self._wire
        if weight < 1 or sum(self._weights) + weight > layout.total_weight:
            raise ValueError(f"weight {weight} must be at least 1 and the total at most {layout.total_weight}")
        if self.contributions == layout.clients:
            raise ValueError(f"contributions must be at most {layout.clients}")
        seed, words = self._read(contribution)
        self._sum = add(self._sum, scale(words, weight, wire.modulus), wire.modulus)
        self._seeds.append(seed)
        self._weights.append(weight)

    def check(self, contribution: bytes) -> None:
        """Raises MessageError for what `add` would refuse, and adds nothing."""
        self._read(contribution)

    def _read(self, contribution: bytes) -> tuple[bytes, Words]:
        wire = self._wire
        if len(contribution) != wire.contribution_bytes:
            raise MessageError(
                f"contribution of {len(contribution)} bytes where {wire.contribution_bytes} belong; "
                "all parties must run the same settings"
            )
        body = without_stamp(contribution, self._stamp, "contribution") if wire.encrypted else contribution
        return body[: wire.seed_bytes], wire.unpack(body[wire.seed_bytes :])

    def answer(self, mask: Words | None = None) -> bytes:
        """Stamp, count, weights, seeds and the packed sum, less the sum of all masks, shape (slots,), if there are any.

        Raises ValueError where nothing was added.
        """
        if not self._weights:
            raise ValueError("contributions must be at least 1 to form a sum, not 0")
        numbers = [len(self._weights), *self._weights]
        head = self._stamp + b"".join(_WEIGHT.pack(number) for number in numbers)
        return head + b"".join(self._seeds) + self._wire.pack(self._sum if mask is None else self._unmasked(mask))

    def _unmasked(self, mask: Words) -> Words:
        taken = encoded(mask, self._wire.layout.parameters) if self._wire.encrypted else mask
        return subtract(self._sum, taken, self._wire.modulus)


def read_answer(data: bytes, wire: Wire, stamp: bytes) -> tuple[list[int], list[bytes], Words]:
    """Weights, each contribution's seed, and the summed words. The inverse of `Aggregate.answer`.

    `stamp` is this machine's. Raises MessageError for a wrong length, version, weight or count.
    """
    body = without_stamp(data, stamp, "answer") if wire.encrypted else data
    count = _WEIGHT.unpack_from(body)[0] if len(body) >= _WEIGHT.size else 0
    if not 1 <= count <= wire.layout.clients or len(data) != wire.answer_bytes(count):
        raise MessageError(f"answer of {len(data)} bytes does not fit {count} contributions; ask for it again")
    weights = [number for (number,) in _WEIGHT.iter_unpack(body[_WEIGHT.size : _WEIGHT.size * (count + 1)])]
    if min(weights) < 1 or sum(weights) > wire.layout.total_weight:
        raise MessageError(f"answer with total weight {sum(weights)}, at most {wire.layout.total_weight} was agreed")
    seeds_at = _WEIGHT.size * (count + 1)
    words_at = seeds_at + count * wire.seed_bytes
    seeds = [body[at : at + wire.seed_bytes] for at in range(seeds_at, words_at, wire.seed_bytes or 1)]
    return weights, seeds, wire.unpack(body[words_at:])
