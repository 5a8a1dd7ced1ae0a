"""TenSEAL as it is mostly used, which the benchmark compares with: `ckks_vector`, `bfv_vector`; nothing else uses them.

Sums use NVFlare's parameters: N = 8192, primes of 60, 40 and 40 bits, scale 2^40, 4,096 numbers a ciphertext. Inner
products need one more prime of 60 bits, TenSEAL's usual set: without it key switching drowns them in noise. Integers
are one a slot, at the smallest degree that TenSEAL's own primes have at 128 bits with such a plain modulus.
"""

import io
import os
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any, Final, Self

import numpy as np
import tenseal
from tenseal import sealapi

from securepfl.bench.case import LIMIT, Case, Values
from securepfl.crypto.sums.packing import dequantise_sum, quantise
from securepfl.crypto.sums.parameters import top_level
from securepfl.errors import ConfigError
from securepfl.randomness import RandomStream, fresh_key

_DEGREE: Final = 8192
_PRIME_BITS: Final = [60, 40, 40]
_DOT_PRIME_BITS: Final = [60, 40, 40, 60]
_SCALE: Final = 2.0**40
_SLOTS: Final = _DEGREE // 2
_INTEGER_DEGREE: Final = 4096
_PLAIN_MODULUS: Final = 1_032_193
"""Prime and 1 modulo 2 x 4,096, so that integers stand in slots. Sums of levels must stay below half of it."""


def _tenseal_context(prime_bits: list[int]) -> Any:
    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, _DEGREE, coeff_mod_bit_sizes=prime_bits)
    context.global_scale = _SCALE
    return context


class BfvVector:
    """`bfv_vector` of the levels under the public key."""

    sparse = True

    def __init__(self, case: Case) -> None:
        if case.hospitals * top_level(case.bits) > _PLAIN_MODULUS // 2:
            raise ConfigError(f"--hospitals {case.hospitals} --bits {case.bits}: bfv_vector would wrap; use fewer bits")
        self._case, self._stream = case, RandomStream(fresh_key())
        self._context = tenseal.context(tenseal.SCHEME_TYPE.BFV, _INTEGER_DEGREE, _PLAIN_MODULUS)
        self.public: bytes = self._context.serialize(save_secret_key=False, save_relin_keys=False)

    def encrypt(self, index: int, values: Values) -> Any:
        """Quantise, then a `bfv_vector`; `index` plays no part."""
        levels = quantise(values, self._case.bits, LIMIT, self._stream).levels
        with redirect_stdout(io.StringIO()):
            return tenseal.bfv_vector(self._context, levels.tolist())

    def serialize(self, encrypted: Any) -> bytes:
        """TenSEAL's own form."""
        return bytes(encrypted.serialize())

    def decrypt(self, answer: bytes) -> Values:
        """Load, decrypt, scale back."""
        levels = np.array(tenseal.bfv_vector_from(self._context, answer).decrypt(), dtype=np.uint64)
        return dequantise_sum(levels, self._case.hospitals, self._case.bits, LIMIT) / self._case.hospitals


class VectorCoordinator:
    """The coordinator's half of `Ckks` and of `BfvVector`."""

    def __init__(self, public: bytes, load: Callable[[Any, bytes], Any]) -> None:
        self._context, self._load = tenseal.context_from(public), load
        self._sum: Any = None

    @classmethod
    def of_reals(cls, public: bytes) -> Self:
        """Of `ckks_vector`."""
        return cls(public, tenseal.ckks_vector_from)

    @classmethod
    def of_integers(cls, public: bytes) -> Self:
        """Of `bfv_vector`."""
        return cls(public, tenseal.bfv_vector_from)

    def load(self, data: bytes) -> Any:
        """A vector."""
        return self._load(self._context, data)

    def add(self, loaded: Any) -> None:
        """Add in place to the first."""
        if self._sum is None:
            self._sum = loaded
        else:
            self._sum += loaded

    def answer(self) -> bytes:
        """TenSEAL's own form."""
        return bytes(self._sum.serialize())


class Ckks:
    """`ckks_vector` of the whole update under the public key, as NVFlare does it: it knows no sparse updates."""

    sparse = False

    def __init__(self, case: Case) -> None:
        self._hospitals, self._context = case.hospitals, _tenseal_context(_PRIME_BITS)
        self.public: bytes = self._context.serialize(save_secret_key=False, save_relin_keys=False)

    def encrypt(self, index: int, values: Values) -> Any:
        """A `ckks_vector`; `index` plays no part."""
        # TenSEAL warns on stdout of vectors longer than a ciphertext; stdout is for results.
        with redirect_stdout(io.StringIO()):
            return tenseal.ckks_vector(self._context, values)

    def serialize(self, encrypted: Any) -> bytes:
        """TenSEAL's own form."""
        return bytes(encrypted.serialize())

    def decrypt(self, answer: bytes) -> Values:
        """Load, decrypt, divide."""
        total = tenseal.ckks_vector_from(self._context, answer).decrypt()
        return np.array(total, dtype=np.float64) / self._hospitals


def _seal_context() -> Any:
    settings = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.CKKS)
    settings.set_poly_modulus_degree(_DEGREE)
    settings.set_coeff_modulus(sealapi.CoeffModulus.Create(_DEGREE, _PRIME_BITS))
    return sealapi.SEALContext(settings, True, sealapi.SEC_LEVEL_TYPE.TC128)


def _saved(things: list[Any]) -> bytes:
    """Each thing as SEAL saves it, after its length in four bytes."""
    parts = []
    for thing in things:
        descriptor = os.memfd_create("bench", os.MFD_CLOEXEC)
        try:
            thing.save(f"/proc/self/fd/{descriptor}")
            data = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        finally:
            os.close(descriptor)
        parts += [len(data).to_bytes(4, "big"), data]
    return b"".join(parts)


def _loaded(context: Any, data: bytes) -> list[Any]:
    """The ciphertexts that `_saved` wrote."""
    ciphertexts, start = [], 0
    while start < len(data):
        end = start + 4 + int.from_bytes(data[start : start + 4], "big")
        ciphertexts.append(sealapi.Ciphertext())
        descriptor = os.memfd_create("bench", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, data[start + 4 : end])
            ciphertexts[-1].load(context, f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
        start = end
    return ciphertexts


class SeededCkks:
    """Symmetric seeded CKKS through sealapi: half the upload. It is given the agreed support, as ours is."""

    sparse = True
    public = b""

    def __init__(self, case: Case) -> None:
        self._case, self._context = case, _seal_context()
        key = sealapi.KeyGenerator(self._context).secret_key()
        self._encoder = sealapi.CKKSEncoder(self._context)
        self._encryptor = sealapi.Encryptor(self._context, key)
        self._decryptor = sealapi.Decryptor(self._context, key)

    def encrypt(self, index: int, values: Values) -> list[Any]:
        """One seeded ciphertext for each 4,096 values; `index` plays no part."""
        return [self._encrypt(values[start : start + _SLOTS]) for start in range(0, values.size, _SLOTS)]

    def _encrypt(self, values: Values) -> Any:
        plaintext = sealapi.Plaintext()
        self._encoder.encode(values.tolist(), _SCALE, plaintext)
        return self._encryptor.encrypt_symmetric(plaintext)

    def serialize(self, encrypted: list[Any]) -> bytes:
        """SEAL's own form."""
        return _saved(encrypted)

    def decrypt(self, answer: bytes) -> Values:
        """Load, decrypt, decode, divide."""
        sums = np.concatenate([self._decrypt(ciphertext) for ciphertext in _loaded(self._context, answer)])
        return sums[: self._case.sent] / self._case.hospitals

    def _decrypt(self, ciphertext: Any) -> Values:
        plaintext = sealapi.Plaintext()
        self._decryptor.decrypt(ciphertext, plaintext)
        return np.array(self._encoder.decode_double(plaintext), dtype=np.float64)


class SeededCkksCoordinator:
    """The coordinator's half of `SeededCkks`: sums are no longer seeded, so the answer is of full size."""

    def __init__(self) -> None:
        self._context = _seal_context()
        self._evaluator = sealapi.Evaluator(self._context)
        self._sum: list[Any] = []

    def load(self, data: bytes) -> list[Any]:
        """Ciphertexts; SEAL expands the seeds."""
        return _loaded(self._context, data)

    def add(self, loaded: list[Any]) -> None:
        """Add in place to the first."""
        for total, ciphertext in zip(self._sum, loaded, strict=False):
            self._evaluator.add_inplace(total, ciphertext)
        self._sum = self._sum or loaded

    def answer(self) -> bytes:
        """SEAL's own form."""
        return _saved(self._sum)


class CkksDot:
    """`ckks_vector.dot` of short vectors, for similarity: it needs Galois and relinearisation keys."""

    def __init__(self) -> None:
        self._context = _tenseal_context(_DOT_PRIME_BITS)
        self._context.generate_galois_keys()
        self.public: bytes = self._context.serialize(save_secret_key=False, save_galois_keys=True)

    def encrypt(self, vector: Values) -> bytes:
        """One upload, for at most 4,096 entries."""
        return bytes(tenseal.ckks_vector(self._context, vector).serialize())

    def decrypt(self, answer: bytes) -> float:
        """The inner product."""
        return float(tenseal.ckks_vector_from(self._context, answer).decrypt()[0])


class CkksDotMultiplier:
    """The coordinator's half of `CkksDot`."""

    def __init__(self, public: bytes) -> None:
        self._context = tenseal.context_from(public)

    def load(self, upload: bytes) -> Any:
        """A `ckks_vector`."""
        return tenseal.ckks_vector_from(self._context, upload)

    def product(self, left: Any, right: Any) -> bytes:
        """The answer for one pair; either hospital may have it."""
        return bytes(left.dot(right).serialize())
