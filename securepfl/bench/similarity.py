"""Every hospital's row of cosines, encrypted: ours against pairwise `ckks_vector.dot`, from the same sketches."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from securepfl.bench.case import Updates, Values
from securepfl.bench.ckks import CkksDot, CkksDotMultiplier
from securepfl.crypto.similarity.precision import COARSE
from securepfl.crypto.similarity.scheme import Shape, similarity_scheme
from securepfl.crypto.similarity.sketches import sketch
from securepfl.crypto.sums.ring import generate_ring_key
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


class OwnSimilarity:
    """As one of our ways compares hospitals, by its name. `context_bytes` are a hospital's evaluation keys."""

    def __init__(self, name: str, hospitals: int) -> None:
        self._way, self._shape = similarity_scheme(name), Shape(hospitals, _DIMENSIONS, COARSE)
        self._cipher = self._way.cipher(fresh_key(), generate_ring_key(), self._shape)
        self._nonces = {index: fresh_key() for index in range(hospitals)}
        self._sketches: Sequence[Sketch] = ()
        made = {index: self._cipher.evaluation_keys() for index in range(hospitals)}
        self._keys = {index: keys for index, keys in made.items() if keys is not None}
        self.context_bytes = self._way.evaluation_bytes

    def uploads(self, sketches: Sequence[Sketch]) -> list[bytes]:
        """One sketch each, with what corrects or checks it."""
        self._sketches = sketches
        return [self._cipher.encrypt(own, 1.0, index, _CONTEXT, self._nonces) for index, own in enumerate(sketches)]

    def rows(self, uploads: Sequence[bytes]) -> Values:
        """Every row, decrypted and checked."""
        table, rows = self._way.table(self._shape, self._keys), np.eye(len(uploads))
        for index, upload in enumerate(uploads):
            table.add(index, upload)
        for receiver, own in enumerate(self._sketches):
            opened = self._cipher.open_row(table.row(receiver), own, receiver, _CONTEXT, self._nonces)
            for other, similarity in opened.items():
                rows[receiver, other] = similarity.cosine
        return rows


class DotSimilarity:
    """`ckks_vector.dot`: n (n - 1) / 2 products, as both hospitals may have the same answer; both decrypt it."""

    def __init__(self) -> None:
        self._hospital = CkksDot()
        self._coordinator = CkksDotMultiplier(self._hospital.public)
        self.context_bytes = len(self._hospital.public)

    def uploads(self, sketches: Sequence[Sketch]) -> list[bytes]:
        """One ciphertext each, of the sketch at norm 1."""
        return [self._hospital.encrypt(values / COARSE.norm) for values in sketches]

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
    sketches = [sketch(vector, _DIMENSIONS, key, precision=COARSE, rounding=fresh_key()) for vector in whole]
    exact = updates.cosines()
    schemes: dict[str, SimilarityScheme] = {
        "products": OwnSimilarity("products", updates.case.hospitals),
        "pads": OwnSimilarity("pads", updates.case.hospitals),
        "ckks-dot": DotSimilarity(),
    }
    return [_measure(name, scheme, sketches, exact) for name, scheme in schemes.items()]
