"""Every hospital's row of cosines, encrypted: ours against pairwise `ckks_vector.dot`, from the same sketches."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from securepfl.bench.case import Updates, Values
from securepfl.bench.ckks import CkksDot, CkksDotMultiplier
from securepfl.crypto import seal
from securepfl.crypto.parameters import SIMILARITY
from securepfl.crypto.similarity import MAX_DIMENSIONS, SKETCH_NORM, SealMultiplier, SealSimilarity, cosine, sketch
from securepfl.randomness import fresh_key

Sketch = NDArray[np.int64]


@dataclass(frozen=True)
class SimilarityRow:
    """One scheme: bytes a hospital uploads, bytes of what the coordinator must hold besides, seconds from sketches to
    every hospital's row (all parties together, without keys and sketching), mean absolute error of the cosines.
    """

    scheme: str
    upload_bytes: int
    context_bytes: int
    seconds: float
    error: float


class SimilarityScheme(Protocol):
    """All parties of one scheme, keys made."""

    context_bytes: int

    def uploads(self, sketches: Sequence[Sketch]) -> list[bytes]:
        """What each hospital sends."""
        ...

    def rows(self, uploads: Sequence[bytes]) -> Values:
        """The cosines that hospitals decrypt, row by row; the diagonal is 1."""
        ...


class PackedSimilarity:
    """Ours: a product made afresh for each receiver."""

    def __init__(self) -> None:
        secret = seal.generate_secret_key(SIMILARITY)
        public = seal.make_public_key(SIMILARITY, secret)
        self.context_bytes = len(public)
        self._hospital, self._coordinator = SealSimilarity(secret), SealMultiplier(public)

    def uploads(self, sketches: Sequence[Sketch]) -> list[bytes]:
        """One ciphertext each."""
        return [self._hospital.encrypt_sketch(values) for values in sketches]

    def rows(self, uploads: Sequence[bytes]) -> Values:
        """n (n - 1) products and decryptions."""
        rows = np.eye(len(uploads))
        for receiver, own in enumerate(uploads):
            for other, upload in enumerate(uploads):
                if other != receiver:
                    product = self._coordinator.product(own, upload)
                    rows[receiver, other] = cosine(self._hospital.decrypt_product(product))
        return rows


class DotSimilarity:
    """`ckks_vector.dot`: n (n - 1) / 2 products, as both hospitals may have the same answer; both decrypt it."""

    def __init__(self) -> None:
        self._hospital = CkksDot()
        self._coordinator = CkksDotMultiplier(self._hospital.public)
        self.context_bytes = len(self._hospital.public)

    def uploads(self, sketches: Sequence[Sketch]) -> list[bytes]:
        """One ciphertext each, of the sketch at norm 1."""
        return [self._hospital.encrypt(values / SKETCH_NORM) for values in sketches]

    def rows(self, uploads: Sequence[bytes]) -> Values:
        """Each upload is loaded once."""
        vectors, rows = [self._coordinator.load(upload) for upload in uploads], np.eye(len(uploads))
        for left in range(len(vectors)):
            for right in range(left):
                answer = self._coordinator.product(vectors[left], vectors[right])
                rows[left, right] = self._hospital.decrypt(answer)
                rows[right, left] = self._hospital.decrypt(answer)
        return rows


def _measure(name: str, scheme: SimilarityScheme, sketches: Sequence[Sketch], exact: Values) -> SimilarityRow:
    start = time.perf_counter()
    uploads = scheme.uploads(sketches)
    rows = scheme.rows(uploads)
    seconds = time.perf_counter() - start
    others = ~np.eye(len(sketches), dtype=np.bool_)
    error = float(np.abs(rows - exact)[others].mean())
    return SimilarityRow(name, len(uploads[0]), scheme.context_bytes, seconds, error)


def measure_similarity(updates: Updates) -> list[SimilarityRow]:
    """One row a scheme."""
    key = fresh_key()
    whole = (updates.dense(updates.values(hospital)) for hospital in range(updates.case.hospitals))
    sketches = [sketch(vector, MAX_DIMENSIONS, key) for vector in whole]
    exact = updates.cosines()
    schemes: dict[str, SimilarityScheme] = {"packed": PackedSimilarity(), "ckks-dot": DotSimilarity()}
    return [_measure(name, scheme, sketches, exact) for name, scheme in schemes.items()]
