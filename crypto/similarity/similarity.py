"""Cosines and norms between hospitals: the coordinator multiplies sketches under one-time pads and reads nothing.

Labelled homomorphic encryption (Catalano and Fiore, CCS 2015; Barbosa, Catalano and Fiore, ESORICS 2017) of degree 2,
modulo the prime p = 2^31 - 1. Hospitals share a key that the coordinator lacks. It and a `context` (federation,
epoch, round, attempt) give each hospital j one-time pads, and all of them two scalars s_1, s_2 in [1, p); s_0 = 1. With
a_j the sketch, v_j the norm in log scale and r_j^l the pads, l = 0, 1, 2, hospital j uploads modulo p

    A_j^l = s_l a_j + r_j^l                  d words each
    U_ji^l = s_l <r_i^0, a_j> + pad_ji^l     for every other hospital i
    V_j^l = s_l v_j + pad_jj^l

The coordinator answers i with x^l = <A_i^0, A_j^l> - U_ji^l and V_j^l, six words. As A_i^0 = a_i + r_i^0,
x^l = s_l <a_i, a_j> + <A_i^0, r_j^l> - pad_ji^l, and i knows all but the first term. The words for l = 1, 2 are a MAC
(Bendlin, Damgård, Orlandi and Zakarias, EUROCRYPT 2011): whatever the coordinator answers differs from the right
answer by words e^l, and passes only with e^1 = s_1 e^0 and e^2 = s_2 e^0.

**The coordinator** sees each word under a pad of its own: all it ever sees is uniform, and independent of sketches,
norms and s. So a wrong answer, be it swapped, scaled, combined or from another context, passes with probability
(p - 1)^-2, about 2^-62, and whether it is refused tells nothing about a sketch. It still chooses whom to leave out of
a row.

**A hospital** could compute its six words from its own sketch, the key, <a_i, a_j> and v_j: it learns those two and
nothing else, however many contexts it compares. A dishonest one can upload c + r_i^0 for a c that is no sketch of its
update: it then learns <c, a_j> modulo p, a linear functional of its choice: 31 bits, some three entries of the sketch.
One number for each j and context, never more, as only one comes back. It can also claim any cosine and norm towards
each receiver: the MAC binds the coordinator, not those who hold the key.

**The coordinator with a hospital's key** reads all sketches and norms of that federation key, and can forge.

**One context serves for one sketch and norm of a hospital.** Two uploads under one context differ by the difference of
the two sketches, which the coordinator would read, and s_1, s_2 with it. So each hospital's pads also depend on a nonce
of its own, fresh from the OS, which the others know beforehand: in a round, from the contribution before. A hospital
uploads only where the nonce that it is told to be its own is the one it sent; so another run under the same key and
settings has other pads, whatever the coordinator tells whom, and who was told otherwise has other s_1, s_2 too. And a
contribution is stored before it is sent.

Against the product of two BFV ciphertexts that stood here before: exact, with no noise that tells of the other sketch
and so no flooding margin (2^-38 there); tagged; 24 bytes a pair where there were 47 kB, a fraction of a millisecond
where there were 30; no public key, no SEAL; and AES-256 and HMAC-SHA-256 are its only assumptions (post-quantum).
"""

import hmac
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from securepfl.crypto.sums.words import Words, pack_words, packed_bytes, unpack_words
from securepfl.errors import AggregateError, MessageError
from securepfl.randomness import KEY_BYTES, RandomStream, derive_key

_BITS: Final = 31
_MODULUS: Final = 2**_BITS - 1
_P: Final = np.uint64(_MODULUS)

_LANES: Final = 3
"""Copies of every number: itself and its two tags."""

MAX_DIMENSIONS: Final = 8192
"""The longest sketch. `_dot` sums so many products of 31 and 16 bits within 60 bits."""

SKETCH_NORM: Final = 32_000
"""Norm of every sketch before rounding. Rounding adds at most sqrt(MAX_DIMENSIONS) / 2, and
(32,000 + 45.3)^2 < p/2, so that no inner product wraps.
"""

LARGEST_PRODUCT: Final = math.floor((SKETCH_NORM + math.sqrt(MAX_DIMENSIONS) / 2) ** 2)
"""The most that the inner product of a sketch with itself, hence (Cauchy-Schwarz) of any two, can be."""

ANSWER_BYTES: Final = packed_bytes(2 * _LANES, _BITS)
"""An encrypted answer about one other hospital: 24."""

PLAIN_ANSWER_BYTES: Final = packed_bytes(2, _BITS)
"""The same under `--plaintext`: 8."""

# Norms from 2^-128 to 2^128 in steps of a factor of 2^(2^-22), 1.7e-7; 0 stands for the zero vector.
_NORM_OFFSET: Final = 2**7
_NORM_STEPS: Final = 2**22
_NORM_MAX: Final = 2**30

# Uploads multiplied at once: the words of so many, at 64 bits, stay in the cache.
_CHUNK: Final = 8

_FAILED: Final = "an encrypted similarity failed its check; ask the coordinator to repeat it"


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
    """
    # This form doesn't cancel where the norms are alike.
    return math.sqrt((own_norm - other.norm) ** 2 + 2.0 * own_norm * other.norm * (1.0 - other.cosine))


def sketch(vector: NDArray[np.float64], dimensions: int, key: bytes, scale: float = 1.0) -> NDArray[np.int64]:
    """Integers, shape (dimensions,), of norm about scale x SKETCH_NORM, whose inner products estimate cosines, times
    both scales.

    A vector no longer than `dimensions` is kept, padded with zeros: then only rounding errs (about 1e-5).
    A longer one is count-sketched (Charikar, Chen and Farach-Colton 2002): each coordinate adds with a random sign
    to a random bucket, both drawn from `key`, which all hospitals share; a random order deals the buckets out evenly,
    which saves collisions while the vector is only a few times longer. For dense vectors the cosine's mean absolute
    error is about 0.8 (1 - cosine^2) / sqrt(dimensions): 0.0125 at cosine 0 in 4,096 dimensions. Vectors of a few
    large entries err less on average, but much where two of these meet in a bucket. The zero vector stays zero.
    Raises ValueError for NaN or infinity, a vector that is not flat, dimensions not in [1, MAX_DIMENSIONS], or a scale
    not in (0, 1].
    """
    _check_dimensions(dimensions)
    if not 0 < scale <= 1:
        raise ValueError(f"scale must be in (0, 1], not {scale}")
    if vector.ndim != 1 or not np.isfinite(vector).all():
        raise ValueError(f"vector must be flat and finite: shape {vector.shape}")
    largest = float(np.max(np.abs(vector), initial=0.0))
    if largest == 0.0:
        return np.zeros(dimensions, dtype=np.int64)
    # Dividing by the largest entry first keeps the norm from overflowing or vanishing.
    short = _project(vector / largest, dimensions, key)
    norm = float(np.linalg.norm(short))
    return np.rint(short * (scale * SKETCH_NORM / max(norm, 1e-300))).astype(np.int64)


def _project(vector: NDArray[np.float64], dimensions: int, key: bytes) -> NDArray[np.float64]:
    if vector.size <= dimensions:
        return np.pad(vector, (0, dimensions - vector.size))
    stream = RandomStream(derive_key(key, "sketch", vector.size, dimensions))
    signs = stream.integers(vector.size, 2).astype(np.float64) * 2.0 - 1.0
    buckets = stream.permutation(vector.size) % dimensions
    return np.bincount(buckets, weights=vector * signs, minlength=dimensions).astype(np.float64)


def upload_bytes(dimensions: int, clients: int, *, encrypted: bool = True) -> int:
    """Length of one hospital's upload among `clients` hospitals; without encryption their number doesn't matter."""
    return packed_bytes(_LANES * (dimensions + clients), _BITS) if encrypted else 4 * (dimensions + 1)


Nonces = Mapping[int, bytes]
"""Fresh bytes by hospital. Where a context can come again, they alone keep pads from coming again."""

_NO_NONCES: Final[Nonces] = MappingProxyType({})


class SimilarityCipher(Protocol):
    """What a hospital does with its sketch; the federation chooses which. Hospitals are roster indexes."""

    def encrypt(
        self, sketch_vector: NDArray[np.int64], norm: float, client: int, context: bytes, nonces: Nonces = _NO_NONCES
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
        nonces: Nonces = _NO_NONCES,
    ) -> Similarity:
        """What the answer to `client` says of `other`, given the sketch that `client` uploaded in this context."""
        ...


def _check_dimensions(dimensions: int) -> None:
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise ValueError(f"dimensions must be in [1, {MAX_DIMENSIONS}], not {dimensions}")


def _check_client(client: int, clients: int) -> None:
    if not 0 <= client < clients:
        raise ValueError(f"client must be in [0, {clients}), not {client}")


def _fits(values: NDArray[np.int64]) -> bool:
    # Floats don't overflow, and are exact where it matters, below 2^53.
    wide = values.astype(np.float64)
    return bool(wide @ wide <= LARGEST_PRODUCT)


def _check_sketch(values: NDArray[np.int64], dimensions: int) -> None:
    if values.shape != (dimensions,):
        raise ValueError(f"sketch must have shape ({dimensions},), not {values.shape}")
    if not _fits(values):
        raise ValueError(f"sketch must have a norm of about {SKETCH_NORM}: its product would wrap")


def _encode_norm(norm: float) -> int:
    if not (math.isfinite(norm) and norm >= 0):
        raise ValueError(f"norm must be finite and at least 0, not {norm}")
    if norm == 0:
        return 0
    return min(max(round((math.log2(norm) + _NORM_OFFSET) * _NORM_STEPS), 1), _NORM_MAX)


def travelled_norm(norm: float) -> float:
    """A norm as it arrives: on the logarithmic grid, so that both ends of a distance compute with the same numbers."""
    return _decode_norm(_encode_norm(norm))


def _decode_norm(level: int) -> float:
    return 2.0 ** (level / _NORM_STEPS - _NORM_OFFSET) if level else 0.0


def _similarity(product: int, level: int) -> Similarity:
    """From an inner product modulo p and a norm in log scale."""
    product -= _MODULUS if product > _MODULUS // 2 else 0
    # No honest hospital's sketch or norm leads outside.
    if abs(product) > LARGEST_PRODUCT or level > _NORM_MAX:
        raise AggregateError(_FAILED)
    return Similarity(max(-1.0, min(1.0, product / SKETCH_NORM**2)), _decode_norm(level))


def _dot(rows: NDArray[np.uint64] | NDArray[np.uint32], vector: Words) -> Words:
    """Inner products modulo p of `rows` (..., d) with `vector` (d,), exactly, for words below 2^31."""
    wide = rows.astype(np.uint64, copy=False)
    low, high = wide @ (vector & np.uint64(0xFFFF)), wide @ (vector >> np.uint64(16))
    total: Words = (low + (high % _P << np.uint64(16))) % _P
    return total


def _residues(values: NDArray[np.int64]) -> Words:
    return (values % _MODULUS).astype(np.uint64)


def _unpack_answer(answer: bytes, lanes: int) -> Words:
    """An answer's words [2, lanes]: inner product, norm. Raises MessageError."""
    if len(answer) != packed_bytes(2 * lanes, _BITS):
        expected = packed_bytes(2 * lanes, _BITS)
        raise MessageError(f"similarity answer of {len(answer)} bytes where {expected} belong; ask again")
    return unpack_words(answer, 2 * lanes, _BITS, _MODULUS).reshape(2, lanes)


@dataclass(frozen=True)
class _Labels:
    context: bytes
    nonces: Nonces


class PadSimilarity:
    """Sketches under one-time pads from the hospitals' common similarity key (32 bytes), which never shows in the
    repr.

    `clients` is the length of the roster. Every context must be used for one upload of a hospital only: see above.
    Raises ValueError for a key of another length or dimensions not in [1, MAX_DIMENSIONS].
    """

    def __init__(self, key: bytes, clients: int, dimensions: int) -> None:
        _check_dimensions(dimensions)
        if len(key) != KEY_BYTES:
            raise ValueError(f"similarity key must be {KEY_BYTES} bytes, not {len(key)}")
        self._key, self._clients, self._dimensions = key, clients, dimensions

    def encrypt(
        self, sketch_vector: NDArray[np.int64], norm: float, client: int, context: bytes, nonces: Nonces = _NO_NONCES
    ) -> bytes:
        """Packed words, upload_bytes(dimensions, clients) long: the sketch and its two tags, then three words for each
        hospital in the roster's order; in one's own place stands the norm.

        Raises ValueError for a sketch of another shape or too large a norm, a norm that is negative or not finite, or
        an index outside the roster.
        """
        _check_sketch(sketch_vector, self._dimensions)
        _check_client(client, self._clients)
        labels = _Labels(context, nonces)
        values, scalars = _residues(sketch_vector), self._scalars(labels)
        untagged = [
            _encode_norm(norm) if i == client else int(_dot(self._pads(labels, i, self._dimensions), values))
            for i in range(self._clients)
        ]
        lanes, slots = np.outer(scalars, values), np.outer(np.array(untagged, dtype=np.uint64), scalars)
        message = np.concatenate([lanes.reshape(-1), slots.reshape(-1)])
        return pack_words((message % _P + self._pads(labels, client, message.size)) % _P, _BITS)

    def decrypt(
        self,
        answer: bytes,
        sketch_vector: NDArray[np.int64],
        client: int,
        other: int,
        context: bytes,
        nonces: Nonces = _NO_NONCES,
    ) -> Similarity:
        """The exact inner product of the two sketches as a cosine, and the other's norm.

        Raises MessageError for a wrong length or range, AggregateError for words that fail the MAC, ValueError where
        the arguments would fail `encrypt` or `other` is `client`.
        """
        _check_sketch(sketch_vector, self._dimensions)
        _check_client(client, self._clients)
        _check_client(other, self._clients)
        if other == client:
            raise ValueError(f"other must be another hospital, not {client} itself")
        words, size, labels = _unpack_answer(answer, _LANES), _LANES * self._dimensions, _Labels(context, nonces)
        pads = self._pads(labels, other, size + _LANES * self._clients)
        lanes, slots = pads[:size].reshape(_LANES, -1), pads[size:].reshape(-1, _LANES)
        own = (_residues(sketch_vector) + self._pads(labels, client, self._dimensions)) % _P
        products = (words[0] + slots[client] + _P - _dot(lanes, own)) % _P
        values = np.stack([products, (words[1] + _P - slots[other]) % _P])
        expected = values[:, :1] * self._scalars(labels) % _P
        if not hmac.compare_digest(expected.tobytes(), values.tobytes()):
            raise AggregateError(_FAILED)
        return _similarity(int(values[0, 0]), int(values[1, 0]))

    def _stream(self, purpose: str, context: bytes, *labels: str | int) -> RandomStream:
        # Everything that decides which word a pad covers is in its key.
        return RandomStream(
            derive_key(self._key, "similarity", purpose, context.hex(), self._clients, self._dimensions, *labels)
        )

    def _scalars(self, labels: _Labels) -> Words:
        """1, s_1, s_2: others for other nonces, or telling hospitals different ones would pass the MAC."""
        told = [part for client, nonce in sorted(labels.nonces.items()) for part in (client, nonce.hex())]
        drawn = self._stream("scalars", labels.context, *told).integers(_LANES - 1, _MODULUS - 1)
        return np.concatenate([np.ones(1, dtype=np.uint64), drawn + np.uint64(1)])

    def _pads(self, labels: _Labels, client: int, count: int) -> Words:
        """The first `count` pads of a hospital's upload, word for word: uniform on [0, p), by rejection."""
        stream = self._stream("pads", labels.context, client, labels.nonces.get(client, b"").hex())
        kept = np.empty(0, dtype=np.uint32)
        while kept.size < count:
            words = np.frombuffer(stream.bytes(4 * (count - kept.size)), dtype="<u4") & np.uint32(_MODULUS)
            kept = np.concatenate([kept, words[words != _MODULUS]])
        return kept.astype(np.uint64)


class PlainSimilarity:
    """`--plaintext`: sketches and norms travel as 32-bit integers, readable by the coordinator; the same results bit
    for bit.
    """

    def __init__(self, clients: int, dimensions: int) -> None:
        _check_dimensions(dimensions)
        self._clients, self._dimensions = clients, dimensions

    def encrypt(
        self, sketch_vector: NDArray[np.int64], norm: float, client: int, context: bytes, nonces: Nonces = _NO_NONCES
    ) -> bytes:
        """The integers, not encrypted. Raises ValueError where encryption would."""
        _check_sketch(sketch_vector, self._dimensions)
        _check_client(client, self._clients)
        return np.append(sketch_vector, _encode_norm(norm)).astype("<i4").tobytes()

    def decrypt(
        self,
        answer: bytes,
        sketch_vector: NDArray[np.int64],
        client: int,
        other: int,
        context: bytes,
        nonces: Nonces = _NO_NONCES,
    ) -> Similarity:
        """The same. Raises MessageError for a wrong length or range, AggregateError for what no sketches lead to."""
        product, level = _unpack_answer(answer, 1)[:, 0].tolist()
        return _similarity(product, level)


class SimilarityTable:
    """The coordinator's side: one round's uploads, and rows of answers from them. It holds no key, and 12 bytes a
    dimension for every upload (4 without encryption).
    """

    def __init__(self, dimensions: int, clients: int, encrypted: bool) -> None:
        _check_dimensions(dimensions)
        self._dimensions, self._clients, self._encrypted = dimensions, clients, encrypted
        self._vectors: dict[int, NDArray[np.uint32]] = {}
        self._slots: dict[int, Words] = {}

    def check(self, client: int, upload: bytes) -> None:
        """Raises MessageError for what `add` would refuse, and keeps nothing."""
        self._read(client, upload)

    def add(self, client: int, upload: bytes) -> None:
        """Take a hospital's upload.

        Raises MessageError for a wrong length or range, ValueError for an index outside the roster or one that has
        uploaded.
        """
        if client in self._vectors:
            raise ValueError(f"client {client} has uploaded its sketch already")
        vectors, slots = self._read(client, upload)
        self._vectors[client], self._slots[client] = vectors.astype(np.uint32), slots

    def _read(self, client: int, upload: bytes) -> tuple[Words, Words]:
        _check_client(client, self._clients)
        expected = upload_bytes(self._dimensions, self._clients, encrypted=self._encrypted)
        if len(upload) != expected:
            raise MessageError(
                f"sketch of {len(upload)} bytes where {expected} belong; all parties must run the same settings"
            )
        return self._padded(upload) if self._encrypted else self._plain(upload, client)

    def row(self, client: int) -> dict[int, bytes]:
        """The answers to one hospital by the other's index, ANSWER_BYTES each (PLAIN_ANSWER_BYTES without encryption);
        none for a hospital that uploaded nothing.
        """
        if client not in self._vectors:
            return {}
        own = self._vectors[client][0].astype(np.uint64)
        others = [other for other in sorted(self._vectors) if other != client]
        answers: dict[int, bytes] = {}
        for start in range(0, len(others), _CHUNK):
            chunk = others[start : start + _CHUNK]
            products = _dot(np.stack([self._vectors[other] for other in chunk]), own)
            for other, product in zip(chunk, products, strict=True):
                slots = self._slots[other]
                words = np.concatenate([(product + _P - slots[client]) % _P, slots[other]])
                answers[other] = pack_words(words, _BITS)
        return answers

    def _padded(self, upload: bytes) -> tuple[Words, Words]:
        """Vectors [lanes, dimensions] and slots [clients, lanes]."""
        size = _LANES * self._dimensions
        words = unpack_words(upload, size + _LANES * self._clients, _BITS, _MODULUS)
        return words[:size].reshape(_LANES, -1), words[size:].reshape(-1, _LANES).copy()

    def _plain(self, upload: bytes, client: int) -> tuple[Words, Words]:
        """The same with one lane, and nothing in the slots but the norm."""
        numbers = np.frombuffer(upload, dtype="<i4").astype(np.int64)
        values, level = numbers[:-1], int(numbers[-1])
        if not (_fits(values) and 0 <= level <= _NORM_MAX):
            raise MessageError("sketch out of range; the sender is damaged or dishonest")
        slots = np.zeros((self._clients, 1), dtype=np.uint64)
        slots[client] = level
        return _residues(values)[np.newaxis], slots
