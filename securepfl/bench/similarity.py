"""Every hospital's row of cosines, encrypted: ours against pairwise `ckks_vector.dot`, from the same sketches."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from securepfl.bench.case import Updates, Values
from securepfl.bench.ckks import CkksDot, CkksDotMultiplier
from securepfl.crypto.similarity.scheme import similarity_scheme
from securepfl.crypto.similarity.sketches import SKETCH_NORM, sketch
from securepfl.crypto.sums.scheme import find_scheme
from securepfl.randomness import fresh_key

_DIMENSIONS: Final = 4096
"""Of a sketch: the default of [similarity] dimensions, and as many numbers as a CKKS ciphertext holds."""

_CONTEXT: Final = b"bench"

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
    """As one of our schemes compares hospitals, by its name."""

    context_bytes = 0

    def __init__(self, name: str, hospitals: int) -> None:
        self._way, self._hospitals = similarity_scheme(find_scheme(name).similarity), hospitals
        self._cipher = self._way.cipher(fresh_key(), hospitals, _DIMENSIONS)
        self._nonces = {index: fresh_key() for index in range(hospitals)}
        self._sketches: Sequence[Sketch] = ()

    def uploads(self, sketches: Sequence[Sketch]) -> list[bytes]:
        """One padded sketch each, with its corrections."""
        self._sketches = sketches
        return [self._cipher.encrypt(own, 1.0, index, _CONTEXT, self._nonces) for index, own in enumerate(sketches)]

    def rows(self, uploads: Sequence[bytes]) -> Values:
        """n (n - 1) products and decryptions."""
        table, rows = self._way.table(_DIMENSIONS, self._hospitals), np.eye(len(uploads))
        for index, upload in enumerate(uploads):
            table.add(index, upload)
        for receiver, own in enumerate(self._sketches):
            for other, answer in table.row(receiver).items():
                opened = self._cipher.decrypt(answer, own, receiver, other, _CONTEXT, self._nonces)
                rows[receiver, other] = opened.cosine
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
    sketches = [sketch(vector, _DIMENSIONS, key) for vector in whole]
    exact = updates.cosines()
    schemes: dict[str, SimilarityScheme] = {
        "packed": PackedSimilarity("bfv", updates.case.hospitals),
        "ckks-dot": DotSimilarity(),
    }
    return [_measure(name, scheme, sketches, exact) for name, scheme in schemes.items()]
