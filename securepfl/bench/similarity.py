"""Every hospital's row of cosines, encrypted: ours against pairwise `ckks_vector.dot`, from the same sketches."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from securepfl.bench.case import Updates, Values
from securepfl.bench.ckks import CkksDot, CkksDotMultiplier
from securepfl.crypto.similarity.field import centred
from securepfl.crypto.similarity.parameters import PRIMES, flood
from securepfl.crypto.similarity.precision import COARSE
from securepfl.crypto.similarity.product_wire import EVALUATION_BYTES, EvaluationKeys, Fresh, Hidden
from securepfl.crypto.similarity.scheme import Shape, similarity_scheme
from securepfl.crypto.similarity.seal import Keys, PublicRing, SecretRing
from securepfl.crypto.similarity.sketches import sketch
from securepfl.crypto.sums.ring import generate_ring_key, stamp
from securepfl.randomness import fresh_key

_DIMENSIONS: Final = 4096
"""Of a sketch: the default of [similarity] dimensions, and as many numbers as a CKKS ciphertext holds."""

_CONTEXT: Final = b"bench"

Sketch = NDArray[np.int64]


@dataclass(frozen=True)
class SimilaritySeconds:
    """Of the processor: `upload` of all hospitals, `answer` of the coordinator, `decrypt` of all hospitals."""

    upload: float
    answer: float
    decrypt: float


@dataclass(frozen=True)
class SimilarityRow:
    """One scheme: bytes a hospital uploads, bytes down for each pair, bytes of keys that the coordinator must hold (of
    one hospital, or of all together); seconds of hospitals to upload, of the coordinator for all rows, and of hospitals
    to decrypt them (without keys and sketching); mean absolute error of the cosines.
    """

    scheme: str
    upload_bytes: int
    pair_bytes: float
    context_bytes: int
    seconds: SimilaritySeconds
    error: float


Row = Mapping[int, bytes]
"""A hospital's answers by the other's index."""


class SimilarityScheme(Protocol):
    """All parties of one scheme, keys made."""

    context_bytes: int

    def uploads(self, sketches: Sequence[Sketch]) -> list[bytes]:
        """What each hospital sends."""
        ...

    def rows(self, uploads: Sequence[bytes]) -> list[Row]:
        """What the coordinator answers to each."""
        ...

    def cosines(self, receiver: int, row: Row) -> dict[int, float]:
        """What a hospital decrypts."""
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

    def rows(self, uploads: Sequence[bytes]) -> list[Row]:
        """From a table."""
        table = self._way.table(self._shape, self._keys)
        for index, upload in enumerate(uploads):
            table.add(index, upload)
        return [table.row(receiver) for receiver in range(len(uploads))]

    def cosines(self, receiver: int, row: Row) -> dict[int, float]:
        """Decrypted and checked."""
        opened = self._cipher.open_row(row, self._sketches[receiver], receiver, _CONTEXT, self._nonces)
        return {other: similarity.cosine for other, similarity in opened.items()}


class BareProducts:
    """Products of ciphertexts without their check; hidden (re-randomised and flooded) only if `hidden`. Not a way to
    compare: it shows what the two cost.
    """

    def __init__(self, hospitals: int, *, hidden: bool) -> None:
        (self._modulus,) = COARSE.moduli
        self._hospital, self._coordinator = SecretRing(generate_ring_key(), self._modulus), PublicRing(self._modulus)
        self._keys = [self._hospital.evaluation_keys().to_bytes(stamp()) for _ in range(hospitals)]
        self._flood = flood(self._modulus, hospitals) if hidden else None
        self.context_bytes = EVALUATION_BYTES

    def uploads(self, sketches: Sequence[Sketch]) -> list[bytes]:
        """One ciphertext each."""
        return [
            self._hospital.encrypt((values % self._modulus).astype(np.uint64)).to_bytes(PRIMES) for values in sketches
        ]

    def rows(self, uploads: Sequence[bytes]) -> list[Row]:
        """Each pair is multiplied once."""
        ring, count = self._coordinator, len(uploads)
        keys = [ring.keys(EvaluationKeys.from_bytes(sent, stamp())) for sent in self._keys]
        values = [ring.upload(Fresh.from_bytes(upload, PRIMES)) for upload in uploads]
        rows: list[dict[int, bytes]] = [{} for _ in uploads]
        for one, two in combinations(range(count), 2):
            product = ring.multiply(values[one], values[two])
            rows[one][two], rows[two][one] = (self._answer(product, keys[other]) for other in (two, one))
        return list(rows)

    def _answer(self, product: Any, keys: Keys) -> bytes:
        ring = self._coordinator
        if self._flood is None:
            return ring.cut(ring.relinearised(product, keys.relinearising)).to_bytes()
        return ring.hidden(product, keys.relinearising, [keys.encryptor], self._flood).to_bytes()

    def cosines(self, receiver: int, row: Row) -> dict[int, float]:
        """Decrypted, unchecked."""
        found = {other: self._hospital.opened(Hidden.from_bytes(answer)) for other, answer in row.items()}
        signed = centred(np.array(list(found.values()), dtype=np.uint64), self._modulus)
        return dict(zip(found, (signed / COARSE.norm**2).tolist(), strict=True))


class DotSimilarity:
    """`ckks_vector.dot`: n (n - 1) / 2 products, as both hospitals may have the same answer; both decrypt it."""

    def __init__(self) -> None:
        self._hospital = CkksDot()
        self._coordinator = CkksDotMultiplier(self._hospital.public)
        self.context_bytes = len(self._hospital.public)

    def uploads(self, sketches: Sequence[Sketch]) -> list[bytes]:
        """One ciphertext each, of the sketch at norm 1."""
        return [self._hospital.encrypt(values / COARSE.norm) for values in sketches]

    def rows(self, uploads: Sequence[bytes]) -> list[Row]:
        """Each upload is loaded once."""
        vectors, rows = [self._coordinator.load(upload) for upload in uploads], [dict[int, bytes]() for _ in uploads]
        for left in range(len(vectors)):
            for right in range(left):
                answer = self._coordinator.product(vectors[left], vectors[right])
                rows[left][right] = rows[right][left] = answer
        return list(rows)

    def cosines(self, receiver: int, row: Row) -> dict[int, float]:
        """Approximate numbers."""
        return {other: self._hospital.decrypt(answer) for other, answer in row.items()}


def _measure(name: str, scheme: SimilarityScheme, sketches: Sequence[Sketch], exact: Values) -> SimilarityRow:
    times = [time.process_time()]
    uploads = scheme.uploads(sketches)
    times.append(time.process_time())
    rows = scheme.rows(uploads)
    times.append(time.process_time())
    found = [scheme.cosines(receiver, row) for receiver, row in enumerate(rows)]
    times.append(time.process_time())
    errors = [abs(cosine - exact[one, two]) for one, row in enumerate(found) for two, cosine in row.items()]
    down = sum(len(answer) for row in rows for answer in row.values()) / len(errors)
    seconds = SimilaritySeconds(*(end - start for start, end in pairwise(times)))
    return SimilarityRow(name, len(uploads[0]), down, scheme.context_bytes, seconds, float(np.mean(errors)))


def measure_similarity(updates: Updates) -> list[SimilarityRow]:
    """One row a scheme. "unchecked" are products without their row check, "unhidden" neither checked nor hidden: they
    show what both cost.
    """
    key, hospitals = fresh_key(), updates.case.hospitals
    whole = (updates.dense(updates.values(hospital)) for hospital in range(hospitals))
    sketches = [sketch(vector, _DIMENSIONS, key, precision=COARSE, rounding=fresh_key()) for vector in whole]
    exact = updates.cosines()
    schemes: dict[str, SimilarityScheme] = {
        "products": OwnSimilarity("products", hospitals),
        "unchecked": BareProducts(hospitals, hidden=True),
        "unhidden": BareProducts(hospitals, hidden=False),
        "pads": OwnSimilarity("pads", hospitals),
        "ckks-dot": DotSimilarity(),
    }
    return [_measure(name, scheme, sketches, exact) for name, scheme in schemes.items()]
