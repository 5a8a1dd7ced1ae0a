"""`--plaintext`: sketches and norms travel as 32-bit integers, readable by the coordinator; the same results bit for
bit.
"""

from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from securepfl.crypto.similarity.answers import answer_bytes, check_client, similarity_of, unpack_answer
from securepfl.crypto.similarity.field import residues
from securepfl.crypto.similarity.norms import NORM_LEVELS, encode_norm
from securepfl.crypto.similarity.scheme import NO_NONCES, Nonces, Similarity, SimilarityScheme
from securepfl.crypto.similarity.sketches import check_dimensions, check_sketch, fits
from securepfl.crypto.similarity.table import ProductTable, Upload
from securepfl.errors import MessageError

_LANES: Final = 1
"""The number itself, with no tags."""


class PlainSimilarity:
    """A hospital's half without a key. Raises ValueError for dimensions not in [1, MAX_DIMENSIONS]."""

    def __init__(self, clients: int, dimensions: int) -> None:
        check_dimensions(dimensions)
        self._clients, self._dimensions = clients, dimensions

    def encrypt(
        self, sketch_vector: NDArray[np.int64], norm: float, client: int, context: bytes, nonces: Nonces = NO_NONCES
    ) -> bytes:
        """The integers, not encrypted. Raises ValueError where encryption would."""
        check_sketch(sketch_vector, self._dimensions)
        check_client(client, self._clients)
        return np.append(sketch_vector, encode_norm(norm)).astype("<i4").tobytes()

    def decrypt(
        self,
        answer: bytes,
        sketch_vector: NDArray[np.int64],
        client: int,
        other: int,
        context: bytes,
        nonces: Nonces = NO_NONCES,
    ) -> Similarity:
        """The same. Raises MessageError for a wrong length or range, AggregateError for what no sketches lead to."""
        product, level = unpack_answer(answer, _LANES)[:, 0].tolist()
        return similarity_of(product, level)


def _read(clients: int, client: int, upload: bytes) -> Upload:
    """One lane, and nothing in the slots but the norm."""
    numbers = np.frombuffer(upload, dtype="<i4").astype(np.int64)
    values, level = numbers[:-1], int(numbers[-1])
    if not (fits(values) and 0 <= level <= NORM_LEVELS):
        raise MessageError("sketch out of range; the sender is damaged or dishonest")
    slots = np.zeros((clients, _LANES), dtype=np.uint64)
    slots[client] = level
    return Upload(residues(values)[np.newaxis], slots)


class Plain:
    """Compares in clear."""

    answer_bytes = answer_bytes(_LANES)

    def upload_bytes(self, dimensions: int, clients: int) -> int:
        """Four bytes a number; how many hospitals there are doesn't matter."""
        return 4 * (dimensions + 1)

    def cipher(self, key: bytes, clients: int, dimensions: int) -> PlainSimilarity:
        """No key is used."""
        return PlainSimilarity(clients, dimensions)

    def table(self, dimensions: int, clients: int) -> ProductTable:
        """Products of what hospitals sent in clear."""
        check_dimensions(dimensions)
        return ProductTable(clients, self.upload_bytes(dimensions, clients), partial(_read, clients))


SIMILARITY: Final[SimilarityScheme] = Plain()
