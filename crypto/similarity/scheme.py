"""How hospitals are compared under encryption: what each way answers, and the ways by name.

A way is one file of this folder with a `SIMILARITY` in it; a scheme of sums names it (sums/scheme.py).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Similarity:
    """Another hospital's update, seen from one's own: `cosine` in [-1, 1] (0 where either is zero), and its Euclidean
    `norm`, within a factor of 1e-7.
    """

    cosine: float
    norm: float


def distance(own_norm: float, other: Similarity) -> float:
    """Euclidean distance between one's own vector, of norm `own_norm`, and the other's: the law of cosines.

    A cosine's error e makes one of sqrt(2 e own_norm other.norm) at worst, where the two are nearly equal.

    >>> distance(3.0, Similarity(cosine=0.0, norm=4.0))
    5.0
    """
    # This form doesn't cancel where the norms are alike.
    return math.sqrt((own_norm - other.norm) ** 2 + 2.0 * own_norm * other.norm * (1.0 - other.cosine))


Nonces = Mapping[int, bytes]
"""Fresh bytes by hospital. Where a context can come again, they alone keep pads from coming again."""

NO_NONCES: Final[Nonces] = MappingProxyType({})


class SimilarityCipher(Protocol):
    """What a hospital does with its sketch. Hospitals are roster indexes."""

    def encrypt(
        self, sketch_vector: NDArray[np.int64], norm: float, client: int, context: bytes, nonces: Nonces = NO_NONCES
    ) -> bytes:
        """The one upload that serves every product; `norm` is that of the vector which was sketched."""
        ...

    def decrypt(
        self,
        answer: bytes,
        sketch_vector: NDArray[np.int64],
        client: int,
        other: int,
        context: bytes,
        nonces: Nonces = NO_NONCES,
    ) -> Similarity:
        """What the answer to `client` says of `other`, given the sketch that `client` uploaded in this context."""
        ...


class SimilarityTable(Protocol):
    """What the coordinator holds of a round: uploads, and rows of answers from them. No key."""

    def check(self, client: int, upload: bytes) -> None:
        """Raises MessageError for what `add` would refuse, and keeps nothing."""
        ...

    def add(self, client: int, upload: bytes) -> None:
        """Take a hospital's upload. Raises MessageError for bytes that do not fit, ValueError for a second one."""
        ...

    def row(self, client: int) -> dict[int, bytes]:
        """The answers to one hospital by the other's index; none for a hospital that uploaded nothing."""
        ...


class SimilarityScheme(Protocol):
    """One way to compare: its lengths, a hospital's half and the coordinator's."""

    @property
    def answer_bytes(self) -> int:
        """Exact length of an answer about one other hospital."""
        ...

    def upload_bytes(self, dimensions: int, clients: int) -> int:
        """Exact length of one hospital's upload among `clients` hospitals."""
        ...

    def cipher(self, key: bytes, clients: int, dimensions: int) -> SimilarityCipher:
        """A hospital's half, under the hospitals' common similarity key (32 bytes)."""
        ...

    def table(self, dimensions: int, clients: int) -> SimilarityTable:
        """The coordinator's half: an empty table."""
        ...


def similarity_scheme(name: str) -> SimilarityScheme:
    """The way that a scheme names. Raises ModuleNotFoundError for a name that no file has.

    >>> pads = similarity_scheme("pads")
    >>> pads.upload_bytes(dimensions=4096, clients=16), pads.answer_bytes
    (47802, 24)
    """
    found: SimilarityScheme = import_module(f"{__package__}.{name}").SIMILARITY
    return found
