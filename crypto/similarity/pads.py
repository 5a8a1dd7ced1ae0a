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

Against products of BFV ciphertexts (products.py): exact without any noise to flood; a pair costs 24 bytes and a
fraction of a millisecond; AES-256 and HMAC-SHA-256 are the only assumptions (post-quantum). But a pad that comes twice
shows the difference of two sketches, and the arithmetic is ours.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from securepfl.crypto.similarity.answers import answer_bytes, refused, similarity_of, unpack_answer
from securepfl.crypto.similarity.field import BITS, MODULUS, P, centred, dot, residues
from securepfl.crypto.similarity.norms import NORM_LEVELS, encode_norm
from securepfl.crypto.similarity.scheme import NO_NONCES, Nonces, Shape, Similarity, SimilarityScheme
from securepfl.crypto.similarity.sketches import check_dimensions, check_sketch, fits
from securepfl.crypto.similarity.table import ProductTable, Upload, refuse_keys
from securepfl.crypto.sums.words import Words, pack_words, packed_bytes, unpack_words
from securepfl.errors import MessageError
from securepfl.randomness import KEY_BYTES, RandomStream, derive_key

_LANES: Final = 3
"""Copies of every number: itself and its two tags."""


@dataclass(frozen=True)
class Pads:
    """All that hides and tags in one context: other pads for every key, roster, sketch length, context and hospital.

    What decides which word a pad covers is in its stream's key. What may never change: `stream` and its labels.
    """

    key: bytes = field(repr=False)
    clients: int
    dimensions: int
    context: bytes
    nonces: Nonces = field(repr=False)

    def stream(self, purpose: str, *labels: str | int) -> RandomStream:
        """The keystream of "pads" or "scalars"."""
        context = self.context.hex()
        return RandomStream(
            derive_key(self.key, "similarity", purpose, context, self.clients, self.dimensions, *labels)
        )

    def scalars(self) -> Words:
        """1, s_1, s_2: others for other nonces, or telling hospitals different ones would pass the MAC."""
        told = [part for client, nonce in sorted(self.nonces.items()) for part in (client, nonce.hex())]
        drawn = self.stream("scalars", *told).integers(_LANES - 1, MODULUS - 1)
        return np.concatenate([np.ones(1, dtype=np.uint64), drawn + np.uint64(1)])

    def of(self, client: int, count: int) -> Words:
        """The first `count` pads of a hospital's upload, word for word: uniform on [0, p), by rejection."""
        stream = self.stream("pads", client, self.nonces.get(client, b"").hex())
        kept = np.empty(0, dtype=np.uint32)
        while kept.size < count:
            words = np.frombuffer(stream.bytes(4 * (count - kept.size)), dtype="<u4") & np.uint32(MODULUS)
            kept = np.concatenate([kept, words[words != MODULUS]])
        return kept.astype(np.uint64)


class PadSimilarity:
    """Sketches under one-time pads from the hospitals' common similarity key (32 bytes), which never shows in the
    repr.

    Every context must be used for one upload of a hospital only: see above.
    Raises ValueError for a key of another length or dimensions not in [1, MAX_DIMENSIONS].

    | what the coordinator answers                                 | what a hospital makes of it                   |
    |--------------------------------------------------------------|-----------------------------------------------|
    | the right words                                              | the exact inner product, the norm within 1e-7 |
    | words altered, swapped, scaled, combined, of another context | AggregateError but with chance 2^-62          |
    | another length, words not below p                            | MessageError                                  |
    | words for hospitals that were told different nonces          | AggregateError                                |
    | words forged by who holds the key                            | are taken: the MAC binds the coordinator      |
    """

    def __init__(self, key: bytes, shape: Shape) -> None:
        check_dimensions(shape.dimensions)
        if len(key) != KEY_BYTES:
            raise ValueError(f"similarity key must be {KEY_BYTES} bytes, not {len(key)}")
        self._key, self._shape = key, shape

    def pads(self, context: bytes, nonces: Nonces = NO_NONCES) -> Pads:
        """The pads of a context: hospitals only."""
        return Pads(self._key, self._shape.clients, self._shape.dimensions, context, nonces)

    def evaluation_keys(self) -> None:
        """The coordinator multiplies without keys."""

    def check_keys(self, keys: bytes) -> bool:
        """There are none."""
        return not keys

    def encrypt(
        self, sketch_vector: NDArray[np.int64], norm: float, client: int, context: bytes, nonces: Nonces = NO_NONCES
    ) -> bytes:
        """Packed words, upload_bytes(shape) long: the sketch and its two tags, then three words for each hospital in
        the roster's order; in one's own place stands the norm.

        Raises ValueError for a sketch of another shape or too large a norm, a norm that is negative or not finite, or
        an index outside the roster.
        """
        check_sketch(sketch_vector, self._shape.dimensions, self._shape.precision)
        self._shape.check_client(client)
        pads = self.pads(context, nonces)
        message = self._message(pads, residues(sketch_vector), encode_norm(norm), client)
        return pack_words((message + pads.of(client, message.size)) % P, BITS)

    def _message(self, pads: Pads, values: Words, level: int, client: int) -> Words:
        """What an upload holds under its pads."""
        scalars = pads.scalars()
        untagged = [
            level if i == client else int(dot(pads.of(i, self._shape.dimensions), values))
            for i in range(self._shape.clients)
        ]
        lanes, slots = np.outer(scalars, values), np.outer(np.array(untagged, dtype=np.uint64), scalars)
        return np.concatenate([lanes.reshape(-1), slots.reshape(-1)]) % P

    def check_upload(self, upload: bytes, client: int, context: bytes, nonces: Nonces = NO_NONCES) -> bool:
        """Whether the upload is a sketch of a norm that fits, with its own tags and corrections, and a norm.

        Raises ValueError for an index outside the roster.
        """
        self._shape.check_client(client)
        dimensions, count = self._shape.dimensions, _LANES * (self._shape.dimensions + self._shape.clients)
        try:
            words = unpack_words(upload, count, BITS, MODULUS)
        except MessageError:
            return False
        pads = self.pads(context, nonces)
        message = (words + P - pads.of(client, count)) % P
        values, level = message[:dimensions], int(message[_LANES * (dimensions + client)])
        right = self._message(pads, values, level, client)
        same = hmac.compare_digest(right.tobytes(), message.tobytes())
        return same and fits(centred(values, MODULUS), self._shape.precision) and level <= NORM_LEVELS

    def open_row(
        self,
        row: Mapping[int, bytes],
        sketch_vector: NDArray[np.int64],
        client: int,
        context: bytes,
        nonces: Nonces = NO_NONCES,
    ) -> dict[int, Similarity]:
        """The exact inner products of one's own sketch with the others' as cosines, and the others' norms.

        Raises MessageError for a wrong length or range, AggregateError for words that fail the MAC, ValueError where
        the arguments would fail `encrypt` or an answer is about `client`.
        """
        check_sketch(sketch_vector, self._shape.dimensions, self._shape.precision)
        self._shape.check_client(client)
        pads = self.pads(context, nonces)
        own = (residues(sketch_vector) + pads.of(client, self._shape.dimensions)) % P
        return {other: self._opened(answer, pads, own, client, other) for other, answer in sorted(row.items())}

    def _opened(self, answer: bytes, context_pads: Pads, own: Words, client: int, other: int) -> Similarity:
        self._shape.check_client(other)
        if other == client:
            raise ValueError(f"other must be another hospital, not {client} itself")
        words, size = unpack_answer(answer, _LANES), _LANES * self._shape.dimensions
        pads = context_pads.of(other, size + _LANES * self._shape.clients)
        lanes, slots = pads[:size].reshape(_LANES, -1), pads[size:].reshape(-1, _LANES)
        products = (words[0] + slots[client] + P - dot(lanes, own)) % P
        values = np.stack([products, (words[1] + P - slots[other]) % P])
        expected = values[:, :1] * context_pads.scalars() % P
        if not hmac.compare_digest(expected.tobytes(), values.tobytes()):
            raise refused()
        return similarity_of(int(centred(values[:1, 0], MODULUS)[0]), int(values[1, 0]), self._shape.precision)


def _read(shape: Shape, _: int, upload: bytes) -> Upload:
    size = _LANES * shape.dimensions
    words = unpack_words(upload, size + _LANES * shape.clients, BITS, MODULUS)
    return Upload(words[:size].reshape(_LANES, -1), words[size:].reshape(-1, _LANES).copy())


class PaddedSketches:
    """Compares under pads: no SEAL, and no key at the coordinator."""

    evaluation_bytes = 0

    def answer_bytes(self, shape: Shape) -> int:
        """Six packed words, whatever the shape."""
        return answer_bytes(_LANES)

    def upload_bytes(self, shape: Shape) -> int:
        """Three packed words for each dimension and each hospital."""
        return packed_bytes(_LANES * (shape.dimensions + shape.clients), BITS)

    def cipher(self, key: bytes, ring_key: bytes, shape: Shape) -> PadSimilarity:
        """Under the hospitals' similarity key."""
        return PadSimilarity(key, shape)

    def check_keys(self, keys: bytes) -> None:
        """Refuses any."""
        refuse_keys(keys)

    def table(self, shape: Shape, keys: Mapping[int, bytes]) -> ProductTable:
        """Products of padded words."""
        check_dimensions(shape.dimensions)
        return ProductTable(shape, self.upload_bytes(shape), partial(_read, shape))


SIMILARITY: Final[SimilarityScheme] = PaddedSketches()
