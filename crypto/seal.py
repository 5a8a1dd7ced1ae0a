"""The only file that touches tenseal.sealapi: bytes and word arrays in, bytes and word arrays out.

Everything passes through memory files, never disk. SEAL's own container (compressed, self-describing) never
leaves this file: keys and ciphertexts travel as seeds and tightly packed words of known length, and what SEAL
loads is rebuilt here around them. SEAL draws its randomness from the OS; no generator is ever set.
"""

import os
import secrets
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from math import prod
from typing import Any, Final

import numpy as np
import zstandard
from tenseal import sealapi

from securepfl.crypto import versions
from securepfl.crypto.parameters import SEED_BYTES, ParameterSet
from securepfl.crypto.words import Words, pack_words, packed_bytes, unpack_words
from securepfl.errors import MessageError

# How SEAL 4 lays out what it saves: a 16-byte header (magic, size, version, compression, length), then the
# body.
_HEADER: Final = struct.Struct("<HBBBBHQ")
_MAGIC: Final = 0xA15E
_UNCOMPRESSED, _ZSTD = 0, 2
# A ciphertext's body: parms_id, NTT flag, then size, degree, primes, scale and correction of 8 bytes each.
_CIPHERTEXT_FIELDS: Final = 73
_SIZE_OFFSET: Final = 33
# A plaintext's (and so a secret key's) body: parms_id, coefficient count, scale.
_PLAINTEXT_FIELDS: Final = 48
_ARRAY_HEADER: Final = _HEADER.size + 8


@contextmanager
def _memory_file() -> Iterator[tuple[int, str]]:
    descriptor = os.memfd_create("securepfl", os.MFD_CLOEXEC)
    try:
        yield descriptor, f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _save(thing: Any) -> tuple[tuple[int, int], bytes]:
    """SEAL's (major, minor) version and the uncompressed body of what it saves."""
    with _memory_file() as (descriptor, path):
        thing.save(path)
        data = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    _, _, major, minor, compression, _, _ = _HEADER.unpack_from(data)
    body = data[_HEADER.size :]
    if compression == _ZSTD:
        body = zstandard.ZstdDecompressor().decompressobj().decompress(body)
    elif compression != _UNCOMPRESSED:
        raise RuntimeError(f"SEAL saved with compression {compression}; built differently from the TenSEAL wheels")
    return (major, minor), body


@dataclass(frozen=True)
class _Context:
    """SEAL's context for a parameter set, and the fixed first bytes of each kind of object under it."""

    parameters: ParameterSet
    seal: Any
    version: tuple[int, int]
    secret: bytes
    public: bytes
    fresh: bytes
    switched: bytes

    def _array(self, data: bytes) -> bytes:
        header = _HEADER.pack(_MAGIC, _HEADER.size, *self.version, _UNCOMPRESSED, 0, _ARRAY_HEADER + len(data))
        return header + struct.pack("<Q", len(data) // 8) + data

    def load(self, target: Any, fields: bytes, words: Words, seed: bytes = b"") -> Any:
        """Fill a SEAL object from its fields, its words and, for the seeded form, the seed."""
        body = fields + self._array(words.astype("<u8").tobytes())
        if seed:
            # SEAL's record of a generator: a nested header, the type (1: BLAKE2xb), the seed.
            size = _HEADER.size + 1 + SEED_BYTES
            body += _HEADER.pack(_MAGIC, _HEADER.size, *self.version, _UNCOMPRESSED, 0, size) + b"\x01" + seed
        data = _HEADER.pack(_MAGIC, _HEADER.size, *self.version, _UNCOMPRESSED, 0, _HEADER.size + len(body)) + body
        with _memory_file() as (descriptor, path):
            os.write(descriptor, data)
            target.load(self.seal, path)
        return target

    def ciphertext(self, fields: bytes, words: Words, seed: bytes = b"", size: int = 2) -> Any:
        """A SEAL ciphertext of `size` polynomials; with a seed, `words` are the first and SEAL expands the
        second.
        """
        sized = bytearray(fields)
        struct.pack_into("<Q", sized, _SIZE_OFFSET, size)
        return self.load(sealapi.Ciphertext(), bytes(sized), words, seed)

    def words(self, ciphertext: Any, size: int, primes: int) -> Words:
        """Words of a saved ciphertext or public key, shape (size, primes, degree)."""
        _, body = _save(ciphertext)
        shape = (size, primes, self.parameters.poly_modulus_degree)
        flat = np.frombuffer(body, "<u8", int(np.prod(shape)), _CIPHERTEXT_FIELDS + _ARRAY_HEADER)
        return flat.astype(np.uint64).reshape(shape)

    def plaintext(self, coefficients: Words) -> Any:
        """A SEAL plaintext from its coefficients, lowest first."""
        fields = bytes(32) + struct.pack("<Qd", coefficients.size, 1.0)
        return self.load(sealapi.Plaintext(), fields, coefficients)


@lru_cache(maxsize=16)
def _context(parameters: ParameterSet) -> _Context:
    settings = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.BFV)
    settings.set_poly_modulus_degree(parameters.poly_modulus_degree)
    degree, bits = parameters.poly_modulus_degree, list(parameters.coeff_modulus_bits)
    settings.set_coeff_modulus(sealapi.CoeffModulus.Create(degree, bits))
    settings.set_plain_modulus(parameters.plain_modulus)
    primes = tuple(prime.value() for prime in settings.coeff_modulus())
    if primes != parameters.coeff_modulus:
        raise ValueError(f"SEAL's primes {primes} differ from those of parameter set {parameters}")
    context = sealapi.SEALContext(settings, True, sealapi.SEC_LEVEL_TYPE.TC128)
    if not context.parameters_set():
        raise ValueError(f"SEAL refuses parameter set {parameters}: {context.parameters_error_message()}")
    return _with_templates(parameters, context)


def _with_templates(parameters: ParameterSet, context: Any) -> _Context:
    # The fixed bytes come from objects under a key that is thrown away at once.
    generator = sealapi.KeyGenerator(context)
    public = sealapi.PublicKey()
    generator.create_public_key(public)
    zero = sealapi.Ciphertext()
    sealapi.Encryptor(context, public).encrypt_zero(zero)
    version, secret = _save(generator.secret_key())
    fresh = _save(zero)[1][:_CIPHERTEXT_FIELDS]
    switched = fresh
    if len(parameters.data_primes) > 1:
        sealapi.Evaluator(context).mod_switch_to_next_inplace(zero)
        switched = _save(zero)[1][:_CIPHERTEXT_FIELDS]
    return _Context(
        parameters,
        context,
        version,
        secret[:_PLAINTEXT_FIELDS],
        _save(public)[1][:_CIPHERTEXT_FIELDS],
        fresh,
        switched,
    )


@lru_cache(maxsize=1)
def stamp() -> bytes:
    """The version stamp of this machine: SEAL's from what it saves, TenSEAL's from its package."""
    major, minor = _save(sealapi.Plaintext("0"))[0]
    release = [int(part) for part in metadata.version("tenseal").split(".")[:3]]
    return versions.make_stamp((major, minor), (release[0], release[1], release[2]))


def pack_rns(words: Words, primes: Sequence[int]) -> bytes:
    """Words of shape (polynomials, primes, degree), each at the bit length of its prime."""
    return b"".join(pack_words(row, p.bit_length()) for poly in words for row, p in zip(poly, primes, strict=True))


def rns_bytes(polynomials: int, degree: int, primes: Sequence[int]) -> int:
    """Length of what `pack_rns` returns."""
    return polynomials * sum(packed_bytes(degree, prime.bit_length()) for prime in primes)


def unpack_rns(data: bytes, polynomials: int, degree: int, primes: Sequence[int]) -> Words:
    """The inverse of `pack_rns`. Raises MessageError for a wrong length or words out of range."""
    if len(data) != rns_bytes(polynomials, degree, primes):
        raise MessageError(f"{len(data)} bytes where {rns_bytes(polynomials, degree, primes)} belong; send again")
    rows, start = np.empty((polynomials, len(primes), degree), dtype=np.uint64), 0
    for poly in range(polynomials):
        for index, prime in enumerate(primes):
            size = packed_bytes(degree, prime.bit_length())
            rows[poly, index] = unpack_words(data[start : start + size], degree, prime.bit_length(), prime)
            start += size
    return rows


def secret_key_bytes(parameters: ParameterSet) -> int:
    """Length of a secret key."""
    return rns_bytes(1, parameters.poly_modulus_degree, parameters.coeff_modulus)


def public_key_bytes(parameters: ParameterSet) -> int:
    """Length of a public key."""
    return rns_bytes(2, parameters.poly_modulus_degree, parameters.coeff_modulus)


def generate_secret_key(parameters: ParameterSet) -> bytes:
    """A fresh secret key from the OS's randomness, as packed words."""
    context = _context(parameters)
    _, body = _save(sealapi.KeyGenerator(context.seal).secret_key())
    shape = (1, len(parameters.coeff_modulus), parameters.poly_modulus_degree)
    words = np.frombuffer(body, "<u8", int(np.prod(shape)), _PLAINTEXT_FIELDS + _ARRAY_HEADER).astype(np.uint64)
    return pack_rns(words.reshape(shape), parameters.coeff_modulus)


def _load_secret(context: _Context, secret: bytes) -> Any:
    parameters = context.parameters
    words = unpack_rns(secret, 1, parameters.poly_modulus_degree, parameters.coeff_modulus)
    return context.load(sealapi.SecretKey(), context.secret, words)


def make_public_key(parameters: ParameterSet, secret: bytes) -> bytes:
    """A fresh public key of `secret`, as packed words: what the coordinator re-randomises with."""
    context = _context(parameters)
    public = sealapi.PublicKey()
    sealapi.KeyGenerator(context.seal, _load_secret(context, secret)).create_public_key(public)
    return pack_rns(context.words(public, 2, len(parameters.coeff_modulus)), parameters.coeff_modulus)


class SecretContext:
    """Encrypts and decrypts under one secret key (from `generate_secret_key`). Hospitals only."""

    def __init__(self, parameters: ParameterSet, secret: bytes) -> None:
        self.parameters = parameters
        self._context = _context(parameters)
        key = _load_secret(self._context, secret)
        self._encryptor = sealapi.Encryptor(self._context.seal, key)
        self._decryptor = sealapi.Decryptor(self._context.seal, key)
        self._evaluator = sealapi.Evaluator(self._context.seal)

    def __repr__(self) -> str:
        return f"SecretContext({self.parameters.name!r})"

    def _encrypt(self, plaintext: Any) -> tuple[bytes, Words]:
        _, body = _save(self._encryptor.encrypt_symmetric(plaintext))
        primes, degree = len(self.parameters.data_primes), self.parameters.poly_modulus_degree
        words = np.frombuffer(body, "<u8", primes * degree, _CIPHERTEXT_FIELDS + _ARRAY_HEADER)
        return body[-SEED_BYTES:], words.astype(np.uint64).reshape(primes, degree)

    def encrypt_slots(self, slots: Words) -> tuple[bytes, Words]:
        """Seed and first polynomial, shape (primes, degree), of a fresh encryption of batched slots."""
        plaintext = sealapi.Plaintext()
        sealapi.BatchEncoder(self._context.seal).encode(slots.tolist(), plaintext)
        return self._encrypt(plaintext)

    def encrypt_coefficients(self, coefficients: Words) -> tuple[bytes, Words]:
        """Seed and first polynomial, shape (primes, degree), of a fresh encryption of a polynomial modulo
        t.
        """
        return self._encrypt(self._context.plaintext(coefficients))

    def decrypt_sum(self, first: Words, seeds: Sequence[bytes], weights: Sequence[int]) -> Words:
        """Slots of a weighted sum, given the summed first polynomials, shape (1, degree), and each
        summand's seed.

        SEAL expands the seeds: each stands for a ciphertext whose first polynomial is 0.
        """
        context, zero = self._context, np.zeros_like(first)
        total = context.ciphertext(context.fresh, np.stack([first, zero]))
        for seed, weight in zip(seeds, weights, strict=True):
            summand = context.ciphertext(context.fresh, zero, seed)
            if weight != 1:
                self._evaluator.multiply_plain_inplace(summand, sealapi.Plaintext(f"{weight:X}"))
            self._evaluator.add_inplace(total, summand)
        plaintext = sealapi.Plaintext()
        self._decryptor.decrypt(total, plaintext)
        return np.array(sealapi.BatchEncoder(context.seal).decode_uint64(plaintext), dtype=np.uint64)

    def decrypt_coefficient(self, words: Words, index: int) -> int:
        """One coefficient modulo t of a ciphertext, shape (polynomials, 1, degree), under the first prime."""
        ciphertext = self._context.ciphertext(self._context.switched, words, size=words.shape[0])
        plaintext = sealapi.Plaintext()
        self._decryptor.decrypt(ciphertext, plaintext)
        return int(plaintext.data(index)) if index < plaintext.coeff_count() else 0


def flood_bits(parameters: ParameterSet) -> int:
    """Flooding noise is uniform within 2^this: about a quarter of what decrypts; the product's own noise
    has the rest.
    """
    return (prod(parameters.data_primes) // (2 * parameters.plain_modulus)).bit_length() - 2


class PublicContext:
    """Multiplies ciphertexts under a public key and makes the product safe to show. Coordinator only."""

    def __init__(self, parameters: ParameterSet, public: bytes) -> None:
        self.parameters = parameters
        self._context = _context(parameters)
        words = unpack_rns(public, 2, parameters.poly_modulus_degree, parameters.coeff_modulus)
        key = self._context.load(sealapi.PublicKey(), self._context.public, words)
        self._encryptor = sealapi.Encryptor(self._context.seal, key)
        self._evaluator = sealapi.Evaluator(self._context.seal)

    def _zero(self) -> Any:
        ciphertext = sealapi.Ciphertext()
        self._encryptor.encrypt_zero(ciphertext)
        return ciphertext

    def _randomised_product(self, left: Any, right: Any) -> Any:
        # A product's noise carries both messages. A fresh encryption of zero hides c0 and c1, the product
        # of two more hides c2.
        product, mask = sealapi.Ciphertext(), sealapi.Ciphertext()
        self._evaluator.multiply(left, right, product)
        self._evaluator.multiply(self._zero(), self._zero(), mask)
        self._evaluator.add_inplace(product, mask)
        self._evaluator.add_inplace(product, self._zero())
        return product

    def product(self, left: tuple[bytes, Words], right: tuple[bytes, Words], index: int) -> Words:
        """Words, shape (3, 1, degree), of left * right under the first prime, decryptable at `index` only.

        Operands are (seed, first polynomial). The result is re-randomised, coefficient `index` of its first
        polynomial is flooded, and the other coefficients there are erased.
        """
        context, primes = self._context, self.parameters.data_primes
        operands = [context.ciphertext(context.fresh, words, seed) for seed, words in (left, right)]
        words = context.words(self._randomised_product(*operands), 3, len(primes))
        reach = 1 << flood_bits(self.parameters)
        flood = secrets.randbelow(2 * reach) - reach
        kept = [(int(row[index]) + flood) % prime for row, prime in zip(words[0], primes, strict=True)]
        words[0] = 0
        words[0, :, index] = kept
        ciphertext = context.ciphertext(context.fresh, words, size=3)
        self._evaluator.mod_switch_to_next_inplace(ciphertext)
        return context.words(ciphertext, 3, 1)
