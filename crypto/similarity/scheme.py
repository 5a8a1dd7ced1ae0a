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

from securepfl.crypto.similarity.precision import Precision


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


@dataclass(frozen=True)
class Shape:
    """What all parties of a comparison have in common: how many hospitals the roster has, how many entries a sketch,
    and how finely they are compared. Raises ValueError for numbers below 1.
    """

    clients: int
    dimensions: int
    precision: Precision

    def __post_init__(self) -> None:
        if min(self.clients, self.dimensions) < 1:
            raise ValueError(f"a comparison needs hospitals and dimensions, not {self.clients} and {self.dimensions}")

    def check_client(self, client: int) -> None:
        """Raises ValueError for an index outside the roster."""
        if not 0 <= client < self.clients:
            raise ValueError(f"client must be in [0, {self.clients}), not {client}")


class SimilarityCipher(Protocol):
    """What a hospital does with its sketch. Hospitals are roster indexes."""

    def evaluation_keys(self) -> bytes | None:
        """Fresh public keys for the coordinator to multiply with, once a run; None where it needs none."""
        ...

    def encrypt(
        self, sketch_vector: NDArray[np.int64], norm: float, client: int, context: bytes, nonces: Nonces = NO_NONCES
    ) -> bytes:
        """The one upload that serves every product; `norm` is that of the vector which was sketched."""
        ...

    def open_row(
        self,
        row: Mapping[int, bytes],
        sketch_vector: NDArray[np.int64],
        client: int,
        context: bytes,
        nonces: Nonces = NO_NONCES,
    ) -> dict[int, Similarity]:
        """What a row of answers to `client` says of each other hospital, given the sketch that `client` uploaded in
        this context. Raises MessageError for bytes that do not fit, AggregateError where anything in it was altered.
        """
        ...

    def check_upload(self, upload: bytes, client: int, context: bytes, nonces: Nonces = NO_NONCES) -> bool:
        """Whether `client`, another hospital, uploaded by the rules: for the opening of a round whose row failed."""
        ...

    def check_keys(self, keys: bytes) -> bool:
        """Whether another hospital's evaluation keys are by the rules: for the same."""
        ...


class SimilarityTable(Protocol):
    """What the coordinator holds of a round: uploads, and rows of answers from them. No secret key."""

    def check(self, client: int, upload: bytes) -> None:
        """Raises MessageError for what `add` would refuse, and keeps nothing."""
        ...

    def add(self, client: int, upload: bytes) -> None:
        """Take a hospital's upload. Raises MessageError for bytes that do not fit, ValueError for a second one."""
        ...

    def leave_out(self, client: int) -> None:
        """Speak of a hospital in no row from now on, nor to it."""
        ...

    def row(self, client: int) -> dict[int, bytes]:
        """The answers to one hospital by the other's index, and under its own what checks them all, if the way has
        that; none for a hospital that uploaded nothing. The same bytes however often they are asked for.
        """
        ...


class SimilarityScheme(Protocol):
    """One way to compare: its lengths, a hospital's half and the coordinator's."""

    @property
    def evaluation_bytes(self) -> int:
        """Exact length of a hospital's evaluation keys; 0 where there are none."""
        ...

    def answer_bytes(self, shape: Shape) -> int:
        """Exact length of an answer about one other hospital, at most that of a row's check."""
        ...

    def upload_bytes(self, shape: Shape) -> int:
        """Exact length of one hospital's upload."""
        ...

    def cipher(self, key: bytes, ring_key: bytes, shape: Shape) -> SimilarityCipher:
        """A hospital's half, under the hospitals' common keys: 32 bytes, and the secret key of the ring in which
        sketches are multiplied (empty where there is none).
        """
        ...

    def check_keys(self, keys: bytes) -> None:
        """Raises MessageError for evaluation keys of a wrong form."""
        ...

    def table(self, shape: Shape, keys: Mapping[int, bytes]) -> SimilarityTable:
        """The coordinator's half: an empty table. `keys` are the evaluation keys that it holds by hospital; others may
        be added to the mapping later.
        """
        ...


def similarity_scheme(name: str) -> SimilarityScheme:
    """The way that a scheme names. Raises ModuleNotFoundError for a name that no file has.

    >>> from securepfl.crypto.similarity.precision import COARSE
    >>> pads, shape = similarity_scheme("pads"), Shape(clients=16, dimensions=4096, precision=COARSE)
    >>> pads.upload_bytes(shape), pads.answer_bytes(shape)
    (47802, 24)
    """
    found: SimilarityScheme = import_module(f"{__package__}.{name}").SIMILARITY
    return found
