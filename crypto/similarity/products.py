"""Cosines and norms between hospitals as products of TenSEAL ciphertexts: exact inner products under BFV.

**What is multiplied.** Entries of a sketch stand in the N = 4096 slots of a BFV plaintext: a polynomial whose values at
the N-th roots of -1 modulo t they are. Coefficient 0 of a product of two is their inner product over N modulo t, since
the sum of any other power over those roots is 0. So one ciphertext, seeded, serves as either factor. Where one plain
modulus is too small, a second runs beside it, and remainders combine.

**What leaves the coordinator** of the product of i and j, for i: it is relinearised by j's key, a fresh encryption of
zero under j's public key is added, a number uniform in [-B, B] is added to coefficient 0, SEAL switches to the smallest
modulus, and coefficient 0 of the first polynomial leaves with the whole second polynomial. All other coefficients of
the first stay.

**The coordinator** sees RLWE ciphertexts with more than 128 bits of security, classical and quantum by SEAL's tables.
**An honest hospital that looks at all it gets** holds the secret: the second polynomial is uniform to it but for an
RLWE assumption about j's public key (whose randomness for the encryption of zero it lacks), and coefficient 0 is the
inner product, and a noise whose distribution moves by less than 2^-38 with all else about j's sketch (parameters.py).
**A dishonest one** can upload another ciphertext than of a sketch. It then reads one number of its choice, linear in
what j encrypted, to at most 18 bits, for each j and context: as many as the inner product would have been.
**Altered, swapped, scaled or missing answers** are refused with the whole row, but with chance 1/t (row_check.py). The
coordinator still chooses whom to leave out of a row. It may also try a change whose effect depends on an encrypted
number being zero: an undetected try tells it that the number was zero, any other ends in a refused row.
**Norms** travel beside the products, sealed among hospitals (sealed_norms.py).
"""

import hmac
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from securepfl.crypto.similarity.answers import refused, similarity_of
from securepfl.crypto.similarity.norms import NORM_LEVELS
from securepfl.crypto.similarity.parameters import DEGREE
from securepfl.crypto.similarity.precision import combined
from securepfl.crypto.similarity.product_wire import (
    EVALUATION_BYTES,
    EvaluationKeys,
    Lanes,
    ProductAnswer,
    SketchUpload,
)
from securepfl.crypto.similarity.row_check import RowCheck
from securepfl.crypto.similarity.scheme import (
    NO_NONCES,
    Nonces,
    Shape,
    Similarity,
    SimilarityCipher,
    SimilarityScheme,
    SimilarityTable,
)
from securepfl.crypto.similarity.sealed_norms import open_norm, seal_norm
from securepfl.crypto.similarity.sketches import check_sketch, fits
from securepfl.crypto.sums.ring import stamp
from securepfl.crypto.sums.words import Words
from securepfl.errors import AggregateError, MessageError
from securepfl.randomness import KEY_BYTES

if TYPE_CHECKING:
    from securepfl.crypto.similarity.seal import SecretRing


class ProductSimilarity:
    """A hospital's half: sketches encrypted by SEAL under the hospitals' common ring secret, rows decrypted.

    Neither key shows in the repr. Raises ValueError for a key of another length or too long a sketch, MessageError for
    bytes that are no ring secret.

    | what the coordinator answers                            | what a hospital makes of the row                |
    |---------------------------------------------------------|-------------------------------------------------|
    | the right row                                           | exact inner products, norms within 1e-7         |
    | an answer altered, swapped, scaled, of another context  | AggregateError but with chance 1/t              |
    | a norm altered, swapped, of another context             | AggregateError                                  |
    | another length, words not below p_0, no check           | MessageError                                    |
    | a row made by who holds the keys                        | is taken: the check binds the coordinator       |
    """

    def __init__(self, key: bytes, ring_key: bytes, shape: Shape) -> None:
        # Only hospitals' and the coordinator's halves need SEAL, which takes a while to load.
        from securepfl.crypto.similarity.seal import SecretRing

        check_shape(shape)
        if len(key) != KEY_BYTES:
            raise ValueError(f"similarity key must be {KEY_BYTES} bytes, not {len(key)}")
        self._key, self._shape = key, shape
        self._rings = [SecretRing(ring_key, modulus) for modulus in shape.precision.moduli]

    def evaluation_keys(self) -> bytes:
        """A fresh public key and relinearisation key, EVALUATION_BYTES long."""
        return self._rings[0].evaluation_keys().to_bytes(stamp())

    def check_keys(self, keys: bytes) -> bool:
        """Whether another hospital's evaluation keys are encryptions of what they should be, under the common secret
        and with noise that SEAL could have drawn: others spoil the rows of all.
        """
        try:
            return self._rings[0].sound(EvaluationKeys.from_bytes(keys, stamp()))
        except MessageError:
            return False

    def encrypt(
        self, sketch_vector: NDArray[np.int64], norm: float, client: int, context: bytes, nonces: Nonces = NO_NONCES
    ) -> bytes:
        """Stamp, sealed norm, two ciphertexts for each plain modulus. `nonces` have no use here: every encryption is
        fresh.

        Raises ValueError for a sketch of another shape or too large a norm, a norm that is negative or not finite, or
        an index outside the roster.
        """
        check_sketch(sketch_vector, self._shape.dimensions, self._shape.precision)
        self._shape.check_client(client)
        lanes = []
        for ring in self._rings:
            slots = _slots(sketch_vector, ring.plain_modulus)
            check = self._row_check(ring.plain_modulus, context).lane(slots, client)
            lanes.append(Lanes(ring.encrypt(slots), ring.encrypt(check)))
        return SketchUpload(seal_norm(norm, self._key, context, client), tuple(lanes)).to_bytes(stamp())

    def open_row(
        self,
        row: Mapping[int, bytes],
        sketch_vector: NDArray[np.int64],
        client: int,
        context: bytes,
        nonces: Nonces = NO_NONCES,
    ) -> dict[int, Similarity]:
        """The exact inner products of one's own sketch with the others' as cosines, and the others' norms. All of the
        row or nothing: `row` holds its check under `client`.

        Raises MessageError for a wrong length or range or a row without its check, AggregateError where the row fails
        it, ValueError where the arguments would fail `encrypt`.
        """
        check_sketch(sketch_vector, self._shape.dimensions, self._shape.precision)
        for other in (client, *row):
            self._shape.check_client(other)
        if not row:
            return {}
        if client not in row or len(row) == 1:
            raise MessageError("a row of similarities without its check, or with nothing else; ask again")
        answers = {
            other: ProductAnswer.from_bytes(data, self._shape, about_all=other == client)
            for other, data in sorted(row.items())
        }
        products = self._products(answers, sketch_vector, client, context)
        levels = {other: open_norm(answers[other].norm, self._key, context, other) for other in products}
        return {
            other: similarity_of(product, levels[other], self._shape.precision) for other, product in products.items()
        }

    def _products(
        self, answers: Mapping[int, ProductAnswer], sketch_vector: NDArray[np.int64], client: int, context: bytes
    ) -> dict[int, int]:
        """The inner products by other hospital, checked modulo each plain modulus. Raises AggregateError."""
        others, found = [other for other in answers if other != client], []
        for index, ring in enumerate(self._rings):
            modulus = ring.plain_modulus
            residues = {other: ring.opened(answer.products[index]) for other, answer in answers.items()}
            right = residues.pop(client)
            expected = self._row_check(modulus, context).expected(residues, _slots(sketch_vector, modulus))
            if not hmac.compare_digest(right.to_bytes(8), expected.to_bytes(8)):
                raise refused()
            found.append(np.array(list(residues.values()), dtype=np.uint64))
        return dict(zip(others, combined(found, self._shape.precision.moduli).tolist(), strict=True))

    def check_upload(self, upload: bytes, client: int, context: bytes, nonces: Nonces = NO_NONCES) -> bool:
        """Whether the upload is fresh encryptions of one sketch of a norm that fits and of its check lanes, and a norm.

        Raises ValueError for an index outside the roster.
        """
        self._shape.check_client(client)
        try:
            read = SketchUpload.from_bytes(upload, self._shape, stamp())
            level = open_norm(read.norm, self._key, context, client)
        except (MessageError, AggregateError):
            return False
        lanes = [self._value(ring, parts, client, context) for ring, parts in zip(self._rings, read.lanes, strict=True)]
        values = [lane for lane in lanes if lane is not None]
        if len(values) < len(lanes) or level > NORM_LEVELS:
            return False
        return fits(combined(values, self._shape.precision.moduli), self._shape.precision)

    def _value(self, ring: "SecretRing", parts: Lanes, client: int, context: bytes) -> Words | None:
        """One plain modulus's slots, None where its ciphertexts are not by the rules."""
        value, check = ring.decrypt(parts.value), ring.decrypt(parts.check)
        if value is None or check is None or value[self._shape.dimensions :].any():
            return None
        expected = self._row_check(ring.plain_modulus, context).lane(value, client)
        return value if np.array_equal(check, expected) else None

    def _row_check(self, modulus: int, context: bytes) -> RowCheck:
        return RowCheck(self._key, modulus, context, (self._shape.clients, self._shape.dimensions))


def _slots(values: NDArray[np.int64], modulus: int) -> Words:
    slots = np.zeros(DEGREE, dtype=np.uint64)
    slots[: values.size] = values % modulus
    return slots


def check_shape(shape: Shape) -> None:
    """Raises ValueError for a sketch that is longer than a ciphertext has slots."""
    if shape.dimensions > DEGREE:
        raise ValueError(f"dimensions must be in [1, {DEGREE}], not {shape.dimensions}")


class Products:
    """Compares by products of ciphertexts: SEAL on both sides, and public keys at the coordinator."""

    evaluation_bytes = EVALUATION_BYTES

    def answer_bytes(self, shape: Shape) -> int:
        """A sealed norm, and a product for each plain modulus."""
        return ProductAnswer.length(shape)

    def upload_bytes(self, shape: Shape) -> int:
        """A sealed norm, and two ciphertexts for each plain modulus."""
        return SketchUpload.length(shape)

    def cipher(self, key: bytes, ring_key: bytes, shape: Shape) -> SimilarityCipher:
        """Under the hospitals' similarity key and the secret of the similarities' ring."""
        return ProductSimilarity(key, ring_key, shape)

    def check_keys(self, keys: bytes) -> None:
        """Raises MessageError for another length, another SEAL, or words out of range."""
        EvaluationKeys.from_bytes(keys, stamp())

    def table(self, shape: Shape, keys: Mapping[int, bytes]) -> SimilarityTable:
        """Products of ciphertexts."""
        from securepfl.crypto.similarity.product_table import CiphertextTable

        check_shape(shape)
        return CiphertextTable(shape, keys)


SIMILARITY: Final[SimilarityScheme] = Products()
