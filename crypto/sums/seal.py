"""The only file of sums that touches tenseal.sealapi: bytes and word arrays in, bytes and word arrays out.

SEAL makes the key, encrypts, adds, multiplies and decrypts. Its own containers never leave this machine
(containers.py): keys and ciphertexts travel as seeds and tightly packed words of known length, and what SEAL loads is
rebuilt here around them: lengths, fields and the kind of seed are fixed, and words below the prime, before SEAL sees a
byte. SEAL draws its randomness from the OS; no generator is ever set.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from itertools import islice
from typing import Any, Final, Self

import numpy as np
from tenseal import sealapi
from tenseal.sealapi import util

from securepfl.crypto.sums import versions
from securepfl.crypto.sums.containers import (
    ARRAY_FIELDS,
    CIPHERTEXT_FIELDS,
    PLAINTEXT_FIELDS,
    SEED_BYTES,
    array,
    framed,
    load,
    read_seed,
    read_words,
    resized,
    save,
    seed_info,
)
from securepfl.crypto.sums.parameters import SETS, ParameterSet
from securepfl.crypto.sums.ring import pack_key, unpack_key
from securepfl.crypto.sums.words import CHUNK, Words

_COEFFICIENTS: Final = struct.Struct("<32xQd")
"""The fields of a plaintext that is not in NTT form: no parms_id, coefficient count, scale."""

_BATCH: Final = 15
"""Polynomials that are multiplied by the secret key at once: SEAL allows 16 in a ciphertext, and the first must stay
zero, or a single one would count as a transparent ciphertext.
"""


@dataclass(frozen=True)
class _Context:
    """SEAL's context for a parameter set, and the fixed first bytes of each kind of object under it."""

    parameters: ParameterSet
    seal: Any
    version: tuple[int, int]
    secret: bytes
    fresh: bytes

    def load(self, target: Any, fields: bytes, words: Words, tail: bytes = b"") -> Any:
        """Fill a SEAL object from its fields, its words and what follows them."""
        return load(self.seal, target, framed(self.version, fields + array(self.version, words) + tail))

    def ciphertext(self, words: Words) -> Any:
        """A SEAL ciphertext of polynomials, shape (size, degree)."""
        return self.load(sealapi.Ciphertext(), resized(self.fresh, len(words)), words)

    def seeded_ciphertext(self, first: Words, seed: bytes) -> Any:
        """A SEAL ciphertext from its first polynomial, shape (degree,), and the seed from which SEAL expands the
        second.
        """
        return self.load(sealapi.Ciphertext(), self.fresh, first, seed_info(self.version, seed))

    def seed_and_words(self, fresh: Any) -> tuple[bytes, Words]:
        """Of what SEAL encrypted and did not expand: the seed and the first polynomial, shape (degree,)."""
        _, body = save(fresh)
        return read_seed(body), read_words(body, CIPHERTEXT_FIELDS, (self.parameters.poly_modulus_degree,))

    def plaintext(self, coefficients: Words) -> Any:
        """A SEAL plaintext of coefficients modulo t, shape (degree,)."""
        return self.load(sealapi.Plaintext(), _COEFFICIENTS.pack(coefficients.size, 1.0), coefficients)

    def words(self, ciphertext: Any, size: int) -> Words:
        """Polynomials of a ciphertext, shape (size, degree)."""
        _, body = save(ciphertext)
        return read_words(body, CIPHERTEXT_FIELDS, (size, self.parameters.poly_modulus_degree))

    def coefficients(self, plaintext: Any) -> Words:
        """All coefficients, or values in NTT form, of a plaintext, shape (degree,); SEAL leaves out leading zeros."""
        _, body = save(plaintext)
        found = np.frombuffer(body, "<u8", offset=PLAINTEXT_FIELDS + ARRAY_FIELDS)
        whole = np.zeros(self.parameters.poly_modulus_degree, dtype=np.uint64)
        whole[: found.size] = found
        return whole


@lru_cache(maxsize=16)
def _context(parameters: ParameterSet) -> _Context:
    degree, prime = parameters.poly_modulus_degree, parameters.coeff_modulus
    if prime.bit_length() > util.seal_he_std_parms_128_tq(degree):
        raise ValueError(f"parameter set {parameters} has less than 128 bits against a quantum computer")
    settings = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.BFV)
    settings.set_poly_modulus_degree(degree)
    settings.set_coeff_modulus([sealapi.Modulus(prime)])
    settings.set_plain_modulus(parameters.plain_modulus)
    if not settings.plain_modulus().is_prime():
        raise ValueError(f"plain_modulus of parameter set {parameters} must be prime, for the tag")
    context = sealapi.SEALContext(settings, True, sealapi.SEC_LEVEL_TYPE.TC128)
    if not context.parameters_set():
        raise ValueError(f"SEAL refuses parameter set {parameters}: {context.parameters_error_message()}")
    # The fixed bytes come from objects under a key that is thrown away at once.
    key = sealapi.KeyGenerator(context).secret_key()
    version, secret = save(key)
    _, seeded = save(sealapi.Encryptor(context, key).encrypt_symmetric(sealapi.Plaintext("0")))
    return _Context(parameters, context, version, secret[:PLAINTEXT_FIELDS], seeded[:CIPHERTEXT_FIELDS])


@lru_cache(maxsize=1)
def stamp() -> bytes:
    """The version stamp of this machine: SEAL's from what it saves, TenSEAL's from its package."""
    major, minor = save(sealapi.Plaintext("0"))[0]
    release = [int(part) for part in metadata.version("tenseal").split(".")[:3]]
    return versions.make_stamp((major, minor), (release[0], release[1], release[2]))


def generate_secret_key() -> bytes:
    """A fresh secret key from the OS's randomness (ring.py), for every set."""
    parameters = SETS[0]
    _, body = save(sealapi.KeyGenerator(_context(parameters).seal).secret_key())
    values = read_words(body, PLAINTEXT_FIELDS, (parameters.poly_modulus_degree,))
    tables = util.NTTTables(parameters.poly_modulus_degree.bit_length() - 1, sealapi.Modulus(parameters.coeff_modulus))
    coefficients = util.inverse_ntt_negacyclic_harvey(values.tolist(), tables)
    # SEAL leaves some of these not below the prime.
    prime = parameters.coeff_modulus
    return pack_key(np.array(coefficients, dtype=np.uint64) % np.uint64(prime), prime)


class SecretContext:
    """Encrypts and decrypts under one secret key (from `generate_secret_key`). Hospitals only."""

    def __init__(self, parameters: ParameterSet, secret: bytes) -> None:
        self.parameters = parameters
        self._context = context = _context(parameters)
        self._evaluator = sealapi.Evaluator(context.seal)
        # SEAL keeps a secret key as a plaintext in NTT form, so it can stand in a product as it is.
        self._key = context.plaintext(unpack_key(secret, parameters.plain_modulus))
        self._evaluator.transform_to_ntt_inplace(self._key, context.seal.first_parms_id())
        key = context.load(sealapi.SecretKey(), context.secret, context.coefficients(self._key))
        self._encryptor, self._decryptor = sealapi.Encryptor(context.seal, key), sealapi.Decryptor(context.seal, key)

    def __repr__(self) -> str:
        return f"SecretContext({self.parameters.name!r})"

    def encrypt(self, slots: Words) -> tuple[bytes, Words]:
        """SEAL's own fresh encryption of `slots`, shape (n,), each below the plain modulus: a seed of SEED_BYTES
        for each of as many ciphertexts as that takes, and the first polynomials' words, shape (n,), the last one cut.
        """
        degree, seeds, words = self.parameters.poly_modulus_degree, list[bytes](), np.empty(slots.size, dtype=np.uint64)
        for start in range(0, slots.size, degree):
            (row,) = _rows(slots[start : start + degree], degree)
            fresh = self._encryptor.encrypt_symmetric(self._context.plaintext(row))
            seed, first = self._context.seed_and_words(fresh)
            seeds.append(seed)
            words[start : start + degree] = first[: slots.size - start]
        return b"".join(seeds), words

    def times_secret(self, rows: Words) -> Words:
        """Each row, a polynomial modulo the prime, times the secret key."""
        batches = [self._times_secret(rows[start : start + _BATCH]) for start in range(0, len(rows), _BATCH)]
        return np.concatenate(batches)

    def _times_secret(self, rows: Words) -> Words:
        product = self._context.ciphertext(np.vstack([np.zeros_like(rows[:1]), rows]))
        self._evaluator.transform_to_ntt_inplace(product)
        self._evaluator.multiply_plain_inplace(product, self._key)
        self._evaluator.transform_from_ntt_inplace(product)
        return self._context.words(product, len(rows) + 1)[1:]

    def decrypt(self, first: Words, uniform: Words) -> Words:
        """Slots, shape (n,), from the first polynomials' words, shape (n,), and the uniform halves, shape (ciphertexts,
        degree). What lies behind the last slot is not known, and decrypts to nothing of meaning.
        """
        rows = _rows(first, self.parameters.poly_modulus_degree)
        return np.concatenate([self._decrypt(*pair) for pair in zip(rows, uniform, strict=True)])[: first.size]

    def _decrypt(self, first: Words, uniform: Words) -> Words:
        plaintext = sealapi.Plaintext()
        self._decryptor.decrypt(self._context.ciphertext(np.stack([first, uniform])), plaintext)
        return self._context.coefficients(plaintext)


class CiphertextSum:
    """SEAL's sum of as many ciphertexts as `slots` slots take, with no key: the coordinator's.

    What it is given must have been checked: words below the prime, seeds of SEED_BYTES for each ciphertext.
    """

    def __init__(self, parameters: ParameterSet, slots: int) -> None:
        self._context, self._slots, self._sum = _context(parameters), slots, list[Any]()
        self._evaluator = sealapi.Evaluator(self._context.seal)

    def __deepcopy__(self, memo: object) -> Self:
        found = type(self)(self._context.parameters, self._slots)
        found._sum = [self._context.ciphertext(self._context.words(ciphertext, 2)) for ciphertext in self._sum]
        return found

    def add(self, seeds: bytes, words: Words, weight: int, start: int = 0) -> None:
        """Add words of one contribution's ciphertexts, `weight` times (at least 1), from slot `start` on, which is a
        ciphertext's first. `seeds` are those of all.
        """
        degree = self._context.parameters.poly_modulus_degree
        for index, row in enumerate(_rows(words, degree), start // degree):
            seed = seeds[SEED_BYTES * index : SEED_BYTES * (index + 1)]
            ciphertext = self._context.seeded_ciphertext(row, seed)
            if weight > 1:
                # A constant polynomial: both halves are scaled, exactly and without more noise than that.
                self._evaluator.multiply_plain_inplace(ciphertext, sealapi.Plaintext(f"{weight:X}"))
            if index < len(self._sum):
                self._evaluator.add_inplace(self._sum[index], ciphertext)
            else:
                self._sum.append(ciphertext)

    def words(self, mask: Words | None = None) -> tuple[Words, Words]:
        """The first polynomials' words, shape (slots,), and the uniform halves, shape (ciphertexts, degree), of the sum
        less plain slots, shape (slots,), each below the plain modulus.
        """
        _, words, halves = zip(*self.chunks(mask), strict=True)
        return np.concatenate(words), np.concatenate(halves).reshape(-1, self._context.parameters.poly_modulus_degree)

    def chunks(self, mask: Words | None = None) -> Iterator[tuple[int, Words, Words]]:
        """What `words` gives, by CHUNK words: (place, words, uniform halves)."""
        found, place = iter(self._sum if mask is None else self._less(mask)), 0
        while batch := list(islice(found, CHUNK // self._context.parameters.poly_modulus_degree)):
            pairs = np.stack([self._context.words(ciphertext, 2) for ciphertext in batch])
            yield place, pairs[:, 0].reshape(-1)[: self._slots - place], pairs[:, 1].reshape(-1)
            place += CHUNK

    def _less(self, mask: Words) -> Iterator[Any]:
        for ciphertext, row in zip(self._sum, _rows(mask, self._context.parameters.poly_modulus_degree), strict=True):
            rest = sealapi.Ciphertext()
            self._evaluator.sub_plain(ciphertext, self._context.plaintext(row), rest)
            yield rest


def _rows(words: Words, degree: int) -> Words:
    """Words padded with zeros to whole polynomials, shape (ciphertexts, degree)."""
    rows = np.zeros((-(-words.size // degree), degree), dtype=np.uint64)
    rows.reshape(-1)[: words.size] = words
    return rows
