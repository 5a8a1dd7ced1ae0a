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
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from securepfl.crypto.similarity.answers import answer_bytes, check_client, refused, similarity_of, unpack_answer
from securepfl.crypto.similarity.field import BITS, MODULUS, P, dot, residues
from securepfl.crypto.similarity.norms import encode_norm
from securepfl.crypto.similarity.scheme import NO_NONCES, Nonces, Similarity, SimilarityScheme
from securepfl.crypto.similarity.sketches import check_dimensions, check_sketch
from securepfl.crypto.similarity.table import ProductTable, Upload
from securepfl.crypto.sums.words import Words, pack_words, packed_bytes, unpack_words
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

    `clients` is the length of the roster. Every context must be used for one upload of a hospital only: see above.
    Raises ValueError for a key of another length or dimensions not in [1, MAX_DIMENSIONS].

    | what the coordinator answers                                 | what a hospital makes of it                   |
    |--------------------------------------------------------------|-----------------------------------------------|
    | the right words                                              | the exact inner product, the norm within 1e-7 |
    | words altered, swapped, scaled, combined, of another context | AggregateError but with chance 2^-62          |
    | another length, words not below p                            | MessageError                                  |
    | words for hospitals that were told different nonces          | AggregateError                                |
    | words forged by who holds the key                            | are taken: the MAC binds the coordinator      |
    """

    def __init__(self, key: bytes, clients: int, dimensions: int) -> None:
        check_dimensions(dimensions)
        if len(key) != KEY_BYTES:
            raise ValueError(f"similarity key must be {KEY_BYTES} bytes, not {len(key)}")
        self._key, self._clients, self._dimensions = key, clients, dimensions

    def pads(self, context: bytes, nonces: Nonces = NO_NONCES) -> Pads:
        """The pads of a context: hospitals only."""
        return Pads(self._key, self._clients, self._dimensions, context, nonces)

    def encrypt(
        self, sketch_vector: NDArray[np.int64], norm: float, client: int, context: bytes, nonces: Nonces = NO_NONCES
    ) -> bytes:
        """Packed words, upload_bytes(dimensions, clients) long: the sketch and its two tags, then three words for each
        hospital in the roster's order; in one's own place stands the norm.

        Raises ValueError for a sketch of another shape or too large a norm, a norm that is negative or not finite, or
        an index outside the roster.
        """
        check_sketch(sketch_vector, self._dimensions)
        check_client(client, self._clients)
        pads, values = self.pads(context, nonces), residues(sketch_vector)
        scalars = pads.scalars()
        untagged = [
            encode_norm(norm) if i == client else int(dot(pads.of(i, self._dimensions), values))
            for i in range(self._clients)
        ]
        lanes, slots = np.outer(scalars, values), np.outer(np.array(untagged, dtype=np.uint64), scalars)
        message = np.concatenate([lanes.reshape(-1), slots.reshape(-1)])
        return pack_words((message % P + pads.of(client, message.size)) % P, BITS)

    def decrypt(
        self,
        answer: bytes,
        sketch_vector: NDArray[np.int64],
        client: int,
        other: int,
        context: bytes,
        nonces: Nonces = NO_NONCES,
    ) -> Similarity:
        """The exact inner product of the two sketches as a cosine, and the other's norm.

        Raises MessageError for a wrong length or range, AggregateError for words that fail the MAC, ValueError where
        the arguments would fail `encrypt` or `other` is `client`.
        """
        check_sketch(sketch_vector, self._dimensions)
        check_client(client, self._clients)
        check_client(other, self._clients)
        if other == client:
            raise ValueError(f"other must be another hospital, not {client} itself")
        words, size, context_pads = unpack_answer(answer, _LANES), _LANES * self._dimensions, self.pads(context, nonces)
        pads = context_pads.of(other, size + _LANES * self._clients)
        lanes, slots = pads[:size].reshape(_LANES, -1), pads[size:].reshape(-1, _LANES)
        own = (residues(sketch_vector) + context_pads.of(client, self._dimensions)) % P
        products = (words[0] + slots[client] + P - dot(lanes, own)) % P
        values = np.stack([products, (words[1] + P - slots[other]) % P])
        expected = values[:, :1] * context_pads.scalars() % P
        if not hmac.compare_digest(expected.tobytes(), values.tobytes()):
            raise refused()
        return similarity_of(int(values[0, 0]), int(values[1, 0]))


def _read(dimensions: int, clients: int, _: int, upload: bytes) -> Upload:
    size = _LANES * dimensions
    words = unpack_words(upload, size + _LANES * clients, BITS, MODULUS)
    return Upload(words[:size].reshape(_LANES, -1), words[size:].reshape(-1, _LANES).copy())


class PaddedSketches:
    """Compares under pads: no SEAL, and no key at the coordinator."""

    answer_bytes = answer_bytes(_LANES)

    def upload_bytes(self, dimensions: int, clients: int) -> int:
        """Three packed words for each dimension and each hospital."""
        return packed_bytes(_LANES * (dimensions + clients), BITS)

    def cipher(self, key: bytes, clients: int, dimensions: int) -> PadSimilarity:
        """Under the hospitals' similarity key."""
        return PadSimilarity(key, clients, dimensions)

    def table(self, dimensions: int, clients: int) -> ProductTable:
        """Products of padded words."""
        check_dimensions(dimensions)
        return ProductTable(clients, self.upload_bytes(dimensions, clients), partial(_read, dimensions, clients))


SIMILARITY: Final[SimilarityScheme] = PaddedSketches()
