"""The bytes of uploads, answers and evaluation keys where sketches are multiplied as ciphertexts. No SEAL.

All lengths are fixed and checked before anything is read, all words are checked to lie below their prime. A version
stamp comes first wherever SEAL takes in what another machine's SEAL made.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from securepfl.crypto.similarity.parameters import DEGREE, DROPPED_BITS, KEY_PRIMES, PRIMES
from securepfl.crypto.similarity.scheme import Shape
from securepfl.crypto.similarity.sealed_norms import SEALED_NORM_BYTES
from securepfl.crypto.sums.containers import SEED_BYTES
from securepfl.crypto.sums.versions import STAMP_BYTES, without_stamp
from securepfl.crypto.sums.words import Words, pack_words, packed_bytes, unpack_words
from securepfl.errors import MessageError


def _polynomial_bytes(primes: Sequence[int]) -> int:
    return sum(packed_bytes(DEGREE, prime.bit_length()) for prime in primes)


def _pack(words: Words, primes: Sequence[int]) -> bytes:
    return b"".join(pack_words(row, prime.bit_length()) for row, prime in zip(words, primes, strict=True))


def _unpack(data: bytes, primes: Sequence[int]) -> Words:
    """Words [primes, DEGREE]. Raises MessageError for words out of range."""
    lengths = [packed_bytes(DEGREE, prime.bit_length()) for prime in primes]
    parts = _cut(data, lengths)
    rows = [unpack_words(part, DEGREE, prime.bit_length(), prime) for part, prime in zip(parts, primes, strict=True)]
    return np.stack(rows)


def _cut(data: bytes, lengths: Sequence[int]) -> Iterator[bytes]:
    start = 0
    for length in lengths:
        yield data[start : start + length]
        start += length


def _checked(data: bytes, expected: int, what: str) -> bytes:
    if len(data) != expected:
        raise MessageError(
            f"{what} of {len(data)} bytes where {expected} belong; all parties must run the same settings"
        )
    return data


@dataclass(frozen=True)
class Fresh:
    """A symmetric encryption by SEAL: the seed of its second polynomial, and the first's words [primes, DEGREE]."""

    seed: bytes
    words: Words

    @staticmethod
    def length(primes: Sequence[int]) -> int:
        """Bytes under these primes."""
        return SEED_BYTES + _polynomial_bytes(primes)

    def to_bytes(self, primes: Sequence[int]) -> bytes:
        """Seed, then the packed words."""
        return self.seed + _pack(self.words, primes)

    @classmethod
    def from_bytes(cls, data: bytes, primes: Sequence[int]) -> Self:
        """The inverse, for as many bytes as belong. Raises MessageError for words out of range."""
        return cls(data[:SEED_BYTES], _unpack(data[SEED_BYTES:], primes))


@dataclass(frozen=True)
class Lanes:
    """A hospital's two ciphertexts for one plain modulus: its sketch, and what the row check adds."""

    value: Fresh
    check: Fresh


@dataclass(frozen=True)
class SketchUpload:
    """What a hospital uploads: its norm, sealed, and two lanes for each plain modulus."""

    norm: bytes
    lanes: tuple[Lanes, ...]

    @staticmethod
    def length(shape: Shape) -> int:
        """Bytes, stamp included."""
        return STAMP_BYTES + SEALED_NORM_BYTES + 2 * len(shape.precision.moduli) * Fresh.length(PRIMES)

    def to_bytes(self, stamp: bytes) -> bytes:
        """Stamp, norm, then value and check for each plain modulus."""
        parts = [fresh.to_bytes(PRIMES) for lane in self.lanes for fresh in (lane.value, lane.check)]
        return b"".join((stamp, self.norm, *parts))

    @classmethod
    def from_bytes(cls, data: bytes, shape: Shape, stamp: bytes) -> Self:
        """The inverse. Raises MessageError for another length, another SEAL, or words out of range."""
        body = without_stamp(_checked(data, cls.length(shape), "sketch"), stamp, "sketch")
        lengths = [SEALED_NORM_BYTES] + [Fresh.length(PRIMES)] * (2 * len(shape.precision.moduli))
        norm, *parts = _cut(body, lengths)
        fresh = [Fresh.from_bytes(part, PRIMES) for part in parts]
        return cls(norm, tuple(Lanes(*pair) for pair in zip(fresh[::2], fresh[1::2], strict=True)))


@dataclass(frozen=True)
class EvaluationKeys:
    """What the coordinator needs of a hospital, once a run: `public`, an encryption of zero, words [2, 3, DEGREE];
    `relinearising`, one fresh ciphertext under the key's primes for each data prime.
    """

    public: Words
    relinearising: tuple[Fresh, ...]

    def to_bytes(self, stamp: bytes) -> bytes:
        """Stamp, both polynomials of the public key, then the relinearisation key."""
        parts = [_pack(words, KEY_PRIMES) for words in self.public]
        return b"".join((stamp, *parts, *(fresh.to_bytes(KEY_PRIMES) for fresh in self.relinearising)))

    @classmethod
    def from_bytes(cls, data: bytes, stamp: bytes) -> Self:
        """The inverse. Raises MessageError for another length, another SEAL, or words out of range."""
        body = without_stamp(_checked(data, EVALUATION_BYTES, "evaluation keys"), stamp, "evaluation keys")
        parts = list(_cut(body, _KEY_LENGTHS))
        public = np.stack([_unpack(part, KEY_PRIMES) for part in parts[:2]])
        return cls(public, tuple(Fresh.from_bytes(part, KEY_PRIMES) for part in parts[2:]))


_KEY_LENGTHS: Final = [_polynomial_bytes(KEY_PRIMES)] * 2 + [Fresh.length(KEY_PRIMES)] * len(PRIMES)
EVALUATION_BYTES: Final = STAMP_BYTES + sum(_KEY_LENGTHS)
"""Of one hospital's evaluation keys."""


@dataclass(frozen=True)
class Hidden:
    """What leaves of a product: coefficient 0 of its first polynomial, and the second's words [DEGREE], modulo p_0.

    It travels without its lowest bits, which come back as their middle.
    """

    first: int
    second: Words

    def to_bytes(self) -> bytes:
        """The packed words, the first polynomial's last."""
        words = np.append(self.second, np.uint64(self.first))
        return pack_words(words >> np.uint64(DROPPED_BITS), _HIDDEN_BITS)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse, for as many bytes as belong. Raises MessageError for words out of range."""
        words = unpack_words(data, DEGREE + 1, _HIDDEN_BITS, (PRIMES[0] >> DROPPED_BITS) + 1)
        middle = np.uint64(1 << DROPPED_BITS >> 1)
        restored = np.minimum((words << np.uint64(DROPPED_BITS)) + middle, np.uint64(PRIMES[0] - 1))
        return cls(int(restored[-1]), restored[:-1])


_HIDDEN_BITS: Final = PRIMES[0].bit_length() - DROPPED_BITS
_HIDDEN_BYTES: Final = packed_bytes(DEGREE + 1, _HIDDEN_BITS)


@dataclass(frozen=True)
class ProductAnswer:
    """An answer about one other hospital: its sealed norm and a product for each plain modulus. A row's check has no
    norm.
    """

    norm: bytes
    products: tuple[Hidden, ...]

    @staticmethod
    def length(shape: Shape) -> int:
        """Bytes of an answer about a hospital."""
        return SEALED_NORM_BYTES + len(shape.precision.moduli) * _HIDDEN_BYTES

    def to_bytes(self) -> bytes:
        """Norm, then the packed words of each product."""
        return b"".join((self.norm, *(hidden.to_bytes() for hidden in self.products)))

    @classmethod
    def from_bytes(cls, data: bytes, shape: Shape, *, about_all: bool = False) -> Self:
        """The inverse; `about_all` for a row's check. Raises MessageError for another length or words out of range."""
        norm_bytes = 0 if about_all else SEALED_NORM_BYTES
        _checked(data, cls.length(shape) - SEALED_NORM_BYTES + norm_bytes, "similarity answer")
        norm, *parts = _cut(data, [norm_bytes] + [_HIDDEN_BYTES] * len(shape.precision.moduli))
        return cls(norm, tuple(Hidden.from_bytes(part) for part in parts))
