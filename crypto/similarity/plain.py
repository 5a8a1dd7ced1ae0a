"""`--plaintext`: sketches and norms travel as 32-bit integers, readable by the coordinator; the same results bit for
bit.
"""

from collections.abc import Mapping
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from securepfl.crypto.similarity.answers import answer_bytes, similarity_of, unpack_answer
from securepfl.crypto.similarity.field import MODULUS, centred, residues
from securepfl.crypto.similarity.norms import NORM_LEVELS, encode_norm
from securepfl.crypto.similarity.scheme import NO_NONCES, Nonces, Shape, Similarity, SimilarityScheme
from securepfl.crypto.similarity.sketches import check_dimensions, check_sketch, fits
from securepfl.crypto.similarity.table import ProductTable, Upload, refuse_keys
from securepfl.errors import MessageError

_LANES: Final = 1
"""The number itself, with no tags."""


class PlainSimilarity:
    """A hospital's half without a key. Raises ValueError for dimensions not in [1, MAX_DIMENSIONS]."""

    def __init__(self, shape: Shape) -> None:
        check_dimensions(shape.dimensions)
        self._shape = shape

    def evaluation_keys(self) -> None:
        """The coordinator multiplies in clear."""

    def check_keys(self, keys: bytes) -> bool:
        """There are none."""
        return not keys

    def encrypt(
        self, sketch_vector: NDArray[np.int64], norm: float, client: int, context: bytes, nonces: Nonces = NO_NONCES
    ) -> bytes:
        """The integers, not encrypted. Raises ValueError where encryption would."""
        check_sketch(sketch_vector, self._shape.dimensions, self._shape.precision)
        self._shape.check_client(client)
        return np.append(sketch_vector, encode_norm(norm)).astype("<i4").tobytes()

    def check_upload(self, upload: bytes, client: int, context: bytes, nonces: Nonces = NO_NONCES) -> bool:
        """Whether the upload is a sketch of a norm that fits, and a norm. Raises ValueError as `encrypt`."""
        self._shape.check_client(client)
        try:
            _read(self._shape, client, upload)
        except (MessageError, ValueError):
            return False
        return len(upload) == SIMILARITY.upload_bytes(self._shape)

    def open_row(
        self,
        row: Mapping[int, bytes],
        sketch_vector: NDArray[np.int64],
        client: int,
        context: bytes,
        nonces: Nonces = NO_NONCES,
    ) -> dict[int, Similarity]:
        """The same. Raises MessageError for a wrong length or range, AggregateError for what no sketches lead to."""
        return {other: self._opened(answer) for other, answer in sorted(row.items())}

    def _opened(self, answer: bytes) -> Similarity:
        words = unpack_answer(answer, _LANES)
        return similarity_of(int(centred(words[0], MODULUS)[0]), int(words[1, 0]), self._shape.precision)


def _read(shape: Shape, client: int, upload: bytes) -> Upload:
    """One lane, and nothing in the slots but the norm."""
    numbers = np.frombuffer(upload, dtype="<i4").astype(np.int64)
    values, level = numbers[:-1], int(numbers[-1])
    if not (fits(values, shape.precision) and 0 <= level <= NORM_LEVELS):
        raise MessageError("sketch out of range; the sender is damaged or dishonest")
    slots = np.zeros((shape.clients, _LANES), dtype=np.uint64)
    slots[client] = level
    return Upload(residues(values)[np.newaxis], slots)


class Plain:
    """Compares in clear."""

    evaluation_bytes = 0

    def answer_bytes(self, shape: Shape) -> int:
        """Two packed words, whatever the shape."""
        return answer_bytes(_LANES)

    def upload_bytes(self, shape: Shape) -> int:
        """Four bytes a number; how many hospitals there are doesn't matter."""
        return 4 * (shape.dimensions + 1)

    def cipher(self, key: bytes, ring_key: bytes, shape: Shape) -> PlainSimilarity:
        """No key is used."""
        return PlainSimilarity(shape)

    def check_keys(self, keys: bytes) -> None:
        """Refuses any."""
        refuse_keys(keys)

    def table(self, shape: Shape, keys: Mapping[int, bytes]) -> ProductTable:
        """Products of what hospitals sent in clear."""
        check_dimensions(shape.dimensions)
        return ProductTable(shape, self.upload_bytes(shape), partial(_read, shape))


SIMILARITY: Final[SimilarityScheme] = Plain()
