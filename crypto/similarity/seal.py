"""The only file here that touches tenseal.sealapi: sketches in the slots of BFV ciphertexts, and products of them.

SEAL makes the keys (from the hospitals' common secret), encrypts, multiplies, relinearises, encrypts zero, adds,
switches primes and decrypts, with randomness from the OS. Ours is what stands around it: which words travel, and the
one number that is added to hide a product's noise. Why this is safe and exact: parameters.py and products.py.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from tenseal import sealapi
from tenseal.sealapi import util

from securepfl.crypto.similarity.field import centred
from securepfl.crypto.similarity.parameters import DEGREE, FRESH_NOISE, KEY_PRIMES, PRIMES, SPECIAL
from securepfl.crypto.similarity.product_wire import EvaluationKeys, Fresh, Hidden
from securepfl.crypto.sums.containers import (
    CIPHERTEXT_FIELDS,
    HEADER_BYTES,
    PLAINTEXT_FIELDS,
    array,
    framed,
    load,
    read_seed,
    read_words,
    resized,
    save,
    seed_info,
)
from securepfl.crypto.sums.ring import unpack_key
from securepfl.crypto.sums.words import Words, add, scale, subtract

_PARMS_ID_BYTES: Final = 32
_KEY_ROWS: Final = len(PRIMES)
"""Ciphertexts in a relinearisation key: one for each data prime."""

_COUNTS: Final = (1).to_bytes(8, "little") + _KEY_ROWS.to_bytes(8, "little")


@dataclass(frozen=True)
class _Ring:
    """SEAL's context for one plain modulus, and the fixed first bytes of each kind of object under it."""

    seal: Any
    version: tuple[int, int]
    secret: bytes
    fresh: bytes
    last: bytes
    key: bytes
    relinearising: bytes

    def ciphertext(self, fields: bytes, words: Words) -> Any:
        """From polynomials [size, primes, DEGREE]."""
        body = resized(fields, len(words)) + array(self.version, words.reshape(-1))
        return load(self.seal, sealapi.Ciphertext(), framed(self.version, body))

    def seeded(self, fields: bytes, fresh: Fresh) -> bytes:
        """The body of a fresh ciphertext."""
        return fields + array(self.version, fresh.words.reshape(-1)) + seed_info(self.version, fresh.seed)


@lru_cache(maxsize=8)
def _ring(plain_modulus: int) -> _Ring:
    settings = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.BFV)
    settings.set_poly_modulus_degree(DEGREE)
    settings.set_coeff_modulus([sealapi.Modulus(prime) for prime in KEY_PRIMES])
    settings.set_plain_modulus(plain_modulus)
    context = sealapi.SEALContext(settings, True, sealapi.SEC_LEVEL_TYPE.TC128)
    if not context.parameters_set():
        raise ValueError(f"SEAL refuses plain modulus {plain_modulus}: {context.parameters_error_message()}")
    # The fixed bytes come from objects under a key that is thrown away at once.
    generator = sealapi.KeyGenerator(context)
    public, relin, zero, last = sealapi.PublicKey(), sealapi.RelinKeys(), sealapi.Ciphertext(), sealapi.Ciphertext()
    generator.create_public_key(public)
    generator.create_relin_keys(relin)
    sealapi.Encryptor(context, public).encrypt_zero(zero)
    sealapi.Evaluator(context).mod_switch_to(zero, context.last_parms_id(), last)
    version, secret = save(generator.secret_key())
    fields = {"fresh": zero, "last": last, "key": public}
    return _Ring(
        context,
        version,
        secret[:PLAINTEXT_FIELDS],
        relinearising=save(relin)[1][:_PARMS_ID_BYTES],
        **{name: save(thing)[1][:CIPHERTEXT_FIELDS] for name, thing in fields.items()},
    )


def _key_rows(relinearising: Any) -> list[bytes]:
    """The bodies of the ciphertexts in a relinearisation key, each of which SEAL gives a header of its own."""
    body = save(relinearising)[1][_PARMS_ID_BYTES + len(_COUNTS) :]
    size = len(body) // _KEY_ROWS
    return [body[size * row + HEADER_BYTES : size * (row + 1)] for row in range(_KEY_ROWS)]


def _read_fresh(body: bytes, primes: int) -> Fresh:
    return Fresh(read_seed(body), read_words(body, CIPHERTEXT_FIELDS, (primes, DEGREE)))


def _transformed(values: Words, prime: int, *, back: bool = False) -> list[int]:
    """Coefficients modulo a prime to NTT form, or back."""
    tables = util.NTTTables(DEGREE.bit_length() - 1, sealapi.Modulus(prime))
    transform = util.inverse_ntt_negacyclic_harvey if back else util.ntt_negacyclic_harvey
    found: list[int] = transform(values.tolist(), tables)
    return found


class SecretRing:
    """A hospital's side for one plain modulus, under the hospitals' common secret (ring.py of sums).

    Raises MessageError for bytes that are no such secret.
    """

    def __init__(self, secret: bytes, plain_modulus: int) -> None:
        self.plain_modulus = plain_modulus
        self._ring = ring = _ring(plain_modulus)
        rows = [_transformed(unpack_key(secret, prime), prime) for prime in KEY_PRIMES]
        self._key_words = np.array(rows, dtype=np.uint64)
        body = ring.secret + array(ring.version, self._key_words.reshape(-1))
        key = load(ring.seal, sealapi.SecretKey(), framed(ring.version, body))
        self._generator, self._encoder = sealapi.KeyGenerator(ring.seal, key), sealapi.BatchEncoder(ring.seal)
        self._encryptor, self._decryptor = sealapi.Encryptor(ring.seal, key), sealapi.Decryptor(ring.seal, key)
        self._evaluator = sealapi.Evaluator(ring.seal)
        self._secret = self._key_as_plaintext(secret)

    def __repr__(self) -> str:
        return f"SecretRing({self.plain_modulus})"

    def _key_as_plaintext(self, secret: bytes) -> Any:
        """The secret as a factor of ciphertexts: SEAL lifts what lies above t/2 to negative numbers."""
        coefficients = unpack_key(secret, self.plain_modulus)
        fields = bytes(_PARMS_ID_BYTES) + DEGREE.to_bytes(8, "little") + np.float64(1.0).tobytes()
        body = fields + array(self._ring.version, coefficients)
        plaintext = load(self._ring.seal, sealapi.Plaintext(), framed(self._ring.version, body))
        self._evaluator.transform_to_ntt_inplace(plaintext, self._ring.seal.first_parms_id())
        return plaintext

    def _encoded(self, slots: Words) -> Any:
        plaintext = sealapi.Plaintext()
        self._encoder.encode(slots.tolist(), plaintext)
        return plaintext

    def encrypt(self, slots: Words) -> Fresh:
        """A fresh encryption of slots modulo the plain modulus, shape (DEGREE,)."""
        _, body = save(self._encryptor.encrypt_symmetric(self._encoded(slots)))
        return _read_fresh(body, len(PRIMES))

    def evaluation_keys(self) -> EvaluationKeys:
        """Fresh ones. They are the same words whatever the plain modulus."""
        public = sealapi.PublicKey()
        self._generator.create_public_key(public)
        words = read_words(save(public)[1], CIPHERTEXT_FIELDS, (2, len(KEY_PRIMES), DEGREE))
        rows = _key_rows(self._generator.create_relin_keys())
        return EvaluationKeys(words, tuple(_read_fresh(row, len(KEY_PRIMES)) for row in rows))

    def opened(self, hidden: Hidden) -> int:
        """Coefficient 0 of a product's plaintext, times DEGREE: the inner product of its factors' slots."""
        words, plaintext = np.zeros((2, 1, DEGREE), dtype=np.uint64), sealapi.Plaintext()
        words[0, 0, 0], words[1, 0] = hidden.first, hidden.second
        self._decryptor.decrypt(self._ring.ciphertext(self._ring.last, words), plaintext)
        return int(plaintext.data(0)) * DEGREE % self.plain_modulus

    def decrypt(self, upload: Fresh) -> Words | None:
        """The slots of a fresh encryption, shape (DEGREE,); None where its noise is more than SEAL's can be."""
        ring, plaintext, rest = self._ring, sealapi.Plaintext(), sealapi.Ciphertext()
        body = framed(ring.version, ring.seeded(ring.fresh, upload))
        ciphertext = load(ring.seal, sealapi.Ciphertext(), body)
        self._decryptor.decrypt(ciphertext, plaintext)
        self._evaluator.sub_plain(ciphertext, plaintext, rest)
        if not _small(self._phase(rest), PRIMES, FRESH_NOISE):
            return None
        return np.array(self._encoder.decode_uint64(plaintext), dtype=np.uint64)

    def _phase(self, ciphertext: Any) -> Words:
        """c_0 + c_1 s, words [primes, DEGREE]."""
        ring = self._ring
        words = read_words(save(ciphertext)[1], CIPHERTEXT_FIELDS, (2, len(PRIMES), DEGREE))
        factor = ring.ciphertext(ring.fresh, np.stack([np.zeros_like(words[1]), words[1]]))
        self._evaluator.transform_to_ntt_inplace(factor)
        self._evaluator.multiply_plain_inplace(factor, self._secret)
        self._evaluator.transform_from_ntt_inplace(factor)
        product = read_words(save(factor)[1], CIPHERTEXT_FIELDS, (2, len(PRIMES), DEGREE))[1]
        total: Words = (words[0] + product) % np.array(PRIMES, dtype=np.uint64)[:, np.newaxis]
        return total

    def sound(self, keys: EvaluationKeys) -> bool:
        """Whether evaluation keys are encryptions under the common secret of what they should be, with SEAL's noise."""
        rows = _key_rows(PublicRing(self.plain_modulus).keys(keys).relinearising)
        shape = (2, len(KEY_PRIMES), DEGREE)
        pairs = [(keys.public, -1)]
        pairs += [(read_words(row, CIPHERTEXT_FIELDS, shape), index) for index, row in enumerate(rows)]
        return all(_small(self._rest(words, row), KEY_PRIMES, FRESH_NOISE) for words, row in pairs)

    def _rest(self, words: Words, row: int) -> Words:
        """What a key's ciphertext in NTT form, words [2, 3, DEGREE], decrypts to, less P s^2 under prime `row`."""
        rest = []
        for index, (prime, key) in enumerate(zip(KEY_PRIMES, self._key_words, strict=True)):
            found = add(words[0, index], _times(words[1, index], key, prime), prime)
            if index == row:
                found = subtract(found, scale(_times(key, key, prime), SPECIAL, prime), prime)
            rest.append(_transformed(found, prime, back=True))
        return np.array(rest, dtype=np.uint64)


def _times(left: Words, right: Words, prime: int) -> Words:
    """Products modulo a prime below 2^43, exactly: the right factor in two halves of 21 and 22 bits."""
    modulus, half = np.uint64(prime), np.uint64(21)
    high = left * (right >> half) % modulus
    low = left * (right & np.uint64((1 << 21) - 1)) % modulus
    product: Words = ((high << half) % modulus + low) % modulus
    return product


def _small(words: Words, primes: Sequence[int], limit: int) -> bool:
    """Whether residues [primes, n] are those of numbers of size at most `limit`."""
    signed = [centred(row, prime) for row, prime in zip(words, primes, strict=True)]
    return all(np.array_equal(signed[0], row) for row in signed) and bool((np.abs(signed[0]) <= limit).all())


@dataclass(frozen=True)
class Keys:
    """A hospital's evaluation keys, loaded."""

    relinearising: Any
    encryptor: Any


class PublicRing:
    """The coordinator's side for one plain modulus: no secret."""

    def __init__(self, plain_modulus: int) -> None:
        self.plain_modulus = plain_modulus
        self._ring = _ring(plain_modulus)
        self._evaluator = sealapi.Evaluator(self._ring.seal)

    def upload(self, fresh: Fresh) -> Any:
        """An upload as SEAL's ciphertext."""
        ring = self._ring
        return load(ring.seal, sealapi.Ciphertext(), framed(ring.version, ring.seeded(ring.fresh, fresh)))

    def keys(self, keys: EvaluationKeys) -> Keys:
        """Evaluation keys as SEAL's."""
        ring = self._ring
        rows = b"".join(framed(ring.version, ring.seeded(ring.key, row)) for row in keys.relinearising)
        body = framed(ring.version, ring.relinearising + _COUNTS + rows)
        return Keys(load(ring.seal, sealapi.RelinKeys(), body), self.encryptor(keys.public))

    def encryptor(self, public: Words) -> Any:
        """What encrypts under a public key, words [2, 3, DEGREE]."""
        ring = self._ring
        body = framed(ring.version, ring.key + array(ring.version, public.reshape(-1)))
        return sealapi.Encryptor(ring.seal, load(ring.seal, sealapi.PublicKey(), body))

    def add(self, left: Any, right: Any) -> Any:
        """The sum of two ciphertexts."""
        total = sealapi.Ciphertext()
        self._evaluator.add(left, right, total)
        return total

    def subtract(self, left: Any, right: Any) -> Any:
        """Their difference."""
        difference = sealapi.Ciphertext()
        self._evaluator.sub(left, right, difference)
        return difference

    def multiply(self, left: Any, right: Any) -> Any:
        """Their product, of three polynomials."""
        product = sealapi.Ciphertext()
        self._evaluator.multiply(left, right, product)
        return product

    def hidden(self, product: Any, relinearising: Any, encryptors: Sequence[Any], flood: int) -> Hidden:
        """What leaves of a product: relinearised, re-randomised by a fresh encryption of zero from each encryptor,
        flooded by a fresh number uniform in [-flood, flood] on the coefficient that leaves, and cut.
        """
        answer = self.relinearised(product, relinearising)
        self._hide(answer, encryptors, flood)
        return self.cut(answer)

    def relinearised(self, product: Any, relinearising: Any) -> Any:
        """A product as two polynomials."""
        answer = sealapi.Ciphertext()
        self._evaluator.relinearize(product, relinearising, answer)
        return answer

    def _hide(self, answer: Any, encryptors: Sequence[Any], flood: int) -> None:
        for encryptor in encryptors:
            zero = sealapi.Ciphertext()
            encryptor.encrypt_zero(zero)
            self._evaluator.add_inplace(answer, zero)
        self._evaluator.add_inplace(answer, self._constant(secrets.randbelow(2 * flood + 1) - flood))

    def cut(self, answer: Any) -> Hidden:
        """Coefficient 0 of the first polynomial and the second, modulo p_0. Nothing is hidden here."""
        self._evaluator.mod_switch_to_inplace(answer, self._ring.seal.last_parms_id())
        words = read_words(save(answer)[1], CIPHERTEXT_FIELDS, (2, DEGREE))
        return Hidden(int(words[0, 0]), words[1])

    def _constant(self, number: int) -> Any:
        """A ciphertext whose first polynomial is that number, and whose second is zero."""
        words = np.zeros((2, len(PRIMES), DEGREE), dtype=np.uint64)
        words[0, :, 0] = [number % prime for prime in PRIMES]
        return self._ring.ciphertext(self._ring.fresh, words)
