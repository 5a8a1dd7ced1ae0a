"""Cosines between hospitals from encrypted inner products, without the coordinator or a neighbour seeing a
vector.

A sketch a of d <= N/2 integers is encoded as a palindrome, sum_k a_k (x^k + x^(N-1-k)). In the product of
two such polynomials modulo x^N + 1 only the mixed terms reach x^(N-1), so that coefficient is exactly 2 <a,
b>: each hospital uploads one ciphertext that serves on either side of a product. Only that coefficient is
returned, re-randomised and flooded, because a BFV product's noise would give the other sketch away (see
seal.PublicContext). A stored sketch may enter one product per receiver per upload, not more.
"""

from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from securepfl.crypto import seal
from securepfl.crypto.parameters import SEED_BYTES, SIMILARITY
from securepfl.crypto.versions import STAMP_BYTES, without_stamp
from securepfl.crypto.words import Words
from securepfl.errors import AggregateError, MessageError
from securepfl.randomness import RandomStream, derive_key

_DEGREE: Final = SIMILARITY.poly_modulus_degree
_MODULUS: Final = SIMILARITY.plain_modulus
_WANTED: Final = _DEGREE - 1

MAX_DIMENSIONS: Final = _DEGREE // 2
"""The longest sketch: a palindrome of it fills the polynomial."""

SKETCH_NORM: Final = 232
"""Norm of every sketch before rounding: 2 (232 + sqrt(2048)/2)^2 < t/2, so a product never wraps."""


def sketch(vector: NDArray[np.float64], dimensions: int, key: bytes) -> NDArray[np.int64]:
    """Integers, shape (dimensions,), of norm about SKETCH_NORM, whose inner products estimate cosines.

    A vector no longer than `dimensions` is kept, padded with zeros: then only rounding errs (about 0.002).
    A longer one is count-sketched (Charikar, Chen and Farach-Colton 2002): each coordinate adds with a
    random sign to a random bucket, both drawn from `key`, which all hospitals share. The zero vector stays
    zero.
    Raises ValueError for NaN or infinity, a vector that is not flat, or dimensions not in [1,
    MAX_DIMENSIONS].
    """
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise ValueError(f"dimensions must be in [1, {MAX_DIMENSIONS}], not {dimensions}")
    if vector.ndim != 1 or not np.isfinite(vector).all():
        raise ValueError(f"vector must be flat and finite: shape {vector.shape}")
    largest = float(np.max(np.abs(vector), initial=0.0))
    if largest == 0.0:
        return np.zeros(dimensions, dtype=np.int64)
    # Dividing by the largest entry first keeps the norm from overflowing or vanishing.
    short = _project(vector / largest, dimensions, key)
    norm = float(np.linalg.norm(short))
    return np.rint(short * (SKETCH_NORM / max(norm, 1e-300))).astype(np.int64)


def _project(vector: NDArray[np.float64], dimensions: int, key: bytes) -> NDArray[np.float64]:
    if vector.size <= dimensions:
        return np.pad(vector, (0, dimensions - vector.size))
    stream = RandomStream(derive_key(key, "sketch", vector.size, dimensions))
    signs = stream.integers(vector.size, 2).astype(np.float64) * 2.0 - 1.0
    buckets = stream.integers(vector.size, dimensions).astype(np.int64)
    return np.bincount(buckets, weights=vector * signs, minlength=dimensions).astype(np.float64)


def cosine(product: int) -> float:
    """The cosine that an inner product of two sketches stands for, held to [-1, 1]; 0 where either was
    zero.
    """
    return max(-1.0, min(1.0, product / SKETCH_NORM**2))


class SimilarityCipher(Protocol):
    """What a hospital does with its sketch; the federation chooses which."""

    def encrypt_sketch(self, sketch: NDArray[np.int64]) -> bytes:
        """The one upload that serves every product."""
        ...

    def decrypt_product(self, answer: bytes) -> int:
        """The inner product of two sketches."""
        ...


class Multiplier(Protocol):
    """What the coordinator does with two uploads."""

    def check(self, upload: bytes) -> None:
        """Refuse what no product could take, as it arrives. Raises MessageError."""
        ...

    def product(self, receiver_upload: bytes, other_upload: bytes) -> bytes:
        """The answer for one pair, made afresh for each receiver."""
        ...


def _check_sketch(values: NDArray[np.int64]) -> None:
    if values.ndim != 1 or not 1 <= values.size <= MAX_DIMENSIONS:
        raise ValueError(f"sketch must have 1 to {MAX_DIMENSIONS} entries, not shape {values.shape}")
    if 4 * int(values @ values) >= _MODULUS:
        raise ValueError(f"sketch must have a norm of about {SKETCH_NORM}: its product would wrap")


def _palindrome(values: NDArray[np.int64]) -> Words:
    polynomial = np.zeros(_DEGREE, dtype=np.int64)
    polynomial[: values.size] = values
    polynomial[_DEGREE - values.size :] = values[::-1]
    return (polynomial % _MODULUS).astype(np.uint64)


class SealSimilarity:
    """Sketches under the hospitals' common similarity key."""

    UPLOAD_BYTES: Final = STAMP_BYTES + SEED_BYTES + seal.rns_bytes(1, _DEGREE, SIMILARITY.data_primes)
    ANSWER_BYTES: Final = STAMP_BYTES + seal.rns_bytes(2, _DEGREE, SIMILARITY.data_primes[:1]) + 8

    def __init__(self, he_key: bytes) -> None:
        self._secret = seal.SecretContext(SIMILARITY, he_key)

    def encrypt_sketch(self, sketch: NDArray[np.int64]) -> bytes:
        """Version stamp, seed and packed words: UPLOAD_BYTES. Raises ValueError for a sketch that could
        wrap.
        """
        _check_sketch(sketch)
        seed, words = self._secret.encrypt_coefficients(_palindrome(sketch))
        return seal.stamp() + seed + seal.pack_rns(words[np.newaxis], SIMILARITY.data_primes)

    def decrypt_product(self, answer: bytes) -> int:
        """The exact inner product.

        Raises MessageError for a wrong length or SEAL version, AggregateError for what no product decrypts
        to.
        """
        if len(answer) != self.ANSWER_BYTES:
            raise MessageError(f"similarity answer of {len(answer)} bytes where {self.ANSWER_BYTES} belong; ask again")
        body, primes = without_stamp(answer, seal.stamp(), "similarity answer"), SIMILARITY.data_primes[:1]
        words = np.zeros((3, 1, _DEGREE), dtype=np.uint64)
        coefficient = int.from_bytes(body[:8], "big")
        if coefficient >= primes[0]:
            raise MessageError("similarity answer out of range; the sender is damaged or dishonest")
        words[0, 0, _WANTED] = coefficient
        words[1:] = seal.unpack_rns(body[8:], 2, _DEGREE, primes)
        doubled = self._secret.decrypt_coefficient(words, _WANTED)
        doubled -= _MODULUS if doubled >= _MODULUS // 2 else 0
        if doubled % 2:
            raise AggregateError("an encrypted similarity failed its check; ask the coordinator to repeat it")
        return doubled // 2


class SealMultiplier:
    """Forms answers with the public key alone."""

    def __init__(self, public_key: bytes) -> None:
        self._public = seal.PublicContext(SIMILARITY, public_key)

    def check(self, upload: bytes) -> None:
        """Raises MessageError for an upload of a wrong length, SEAL version or range."""
        self._operand(upload)

    def product(self, receiver_upload: bytes, other_upload: bytes) -> bytes:
        """Stamp, one flooded coefficient, and the two re-randomised polynomials under one prime:
        ANSWER_BYTES.

        Raises MessageError for uploads of a wrong length, SEAL version or range.
        """
        words = self._public.product(self._operand(receiver_upload), self._operand(other_upload), _WANTED)
        coefficient = int(words[0, 0, _WANTED]).to_bytes(8, "big")
        return seal.stamp() + coefficient + seal.pack_rns(words[1:], SIMILARITY.data_primes[:1])

    @staticmethod
    def _operand(upload: bytes) -> tuple[bytes, Words]:
        if len(upload) != SealSimilarity.UPLOAD_BYTES:
            raise MessageError(
                f"sketch of {len(upload)} bytes where {SealSimilarity.UPLOAD_BYTES} belong; "
                "all parties must run the same settings"
            )
        body = without_stamp(upload, seal.stamp(), "sketch")
        words = seal.unpack_rns(body[SEED_BYTES:], 1, _DEGREE, SIMILARITY.data_primes)
        return body[:SEED_BYTES], words[0]


class PlainSimilarity:
    """`--plaintext`: sketches travel as 32-bit integers, readable by the coordinator."""

    def encrypt_sketch(self, sketch: NDArray[np.int64]) -> bytes:
        """The integers, not encrypted. Raises ValueError for a sketch that could wrap under encryption."""
        _check_sketch(sketch)
        return sketch.astype("<i4").tobytes()

    def decrypt_product(self, answer: bytes) -> int:
        """The inner product. Raises MessageError for a wrong length."""
        if len(answer) != 8:
            raise MessageError(f"similarity answer of {len(answer)} bytes where 8 belong; ask again")
        return int.from_bytes(answer, "big", signed=True)


class PlainMultiplier:
    """The same products on sketches of `dimensions` entries in clear."""

    def __init__(self, dimensions: int) -> None:
        self._bytes = 4 * dimensions

    def check(self, upload: bytes) -> None:
        """Raises MessageError for an upload of another length."""
        if len(upload) != self._bytes:
            raise MessageError(
                f"sketch of {len(upload)} bytes where {self._bytes} belong; all parties must run the same settings"
            )

    def product(self, receiver_upload: bytes, other_upload: bytes) -> bytes:
        """The inner product in 8 bytes. Raises MessageError for uploads of another length."""
        self.check(receiver_upload)
        self.check(other_upload)
        left, right = (np.frombuffer(upload, "<i4").astype(np.int64) for upload in (receiver_upload, other_upload))
        return int(left @ right).to_bytes(8, "big", signed=True)
