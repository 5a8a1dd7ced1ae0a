"""Random streams for privacy noise, rounding and public choices.

Noise that protects patients must be unpredictable. torch's CPU generator (mt19937) keeps 32 bits of its
seed, which can be searched in minutes, so noise is drawn from AES-256 in counter mode under a 256-bit key.
The key comes from the OS; a seeded simulation derives it from the seed instead and is marked as such.
Keys, SEAL's randomness, masks and nonces never come from here: they are the OS's.
"""

import hashlib
import hmac
import os
import secrets

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

KEY_BYTES = 32
_CHUNK = 1 << 14
"""Normal numbers made at once: few enough to stay in the cache."""
_WORDS = 1 << 16
"""Words encrypted at once, from zeros that are made once: memory of this size is given back and asked for each time."""
_ZEROS = memoryview(bytes(8 * _WORDS))
_BITS_OF_ONE = np.float64(1).view(np.uint64)
_SPARE = 2
"""Words that the cipher wants to see behind those it writes."""


def derive_key(key: bytes, *labels: str | int) -> bytes:
    """A 32-byte key bound to `labels`: HMAC-SHA-256 of their unambiguous encoding under `key`."""
    message = b"".join(len(part).to_bytes(4, "big") + part for part in (str(label).encode() for label in labels))
    return hmac.new(key, message, hashlib.sha256).digest()


def fresh_key() -> bytes:
    """32 bytes from the operating system."""
    return secrets.token_bytes(KEY_BYTES)


class RandomStream:
    """AES-256-CTR keystream read as numbers. The same key always gives the same stream.

    Raises ValueError where `key` is not 32 bytes. The key never shows in the repr. It can be neither
    pickled nor deep-copied, and a forked process that reads it on gets a RuntimeError: its numbers would come twice.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"key must be {KEY_BYTES} bytes, not {len(key)}")
        # The nonce is constant because every key is used for one stream only.
        self._encryptor = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
        self._process = os.getpid()

    def bytes(self, count: int) -> bytes:
        """The next `count` bytes of the stream."""
        self._check_process()
        return self._encryptor.update(bytes(count))

    def words(self, count: int) -> NDArray[np.uint64]:
        """`count` uniform 64-bit words."""
        self._check_process()
        words = np.empty(count + _SPARE, dtype="<u8")
        for start in range(0, count, _WORDS):
            part = words[start : start + min(_WORDS, count - start) + _SPARE]
            self._encryptor.update_into(_ZEROS[: 8 * (len(part) - _SPARE)], part.view(np.uint8).data)
        return words[:count].astype(np.uint64, copy=False)

    def uniform(self, count: int) -> NDArray[np.float64]:
        """`count` uniform numbers in the open interval (0, 1): the middles of 2^52 equal cells, each exact."""
        words = self.words(count)
        words >>= np.uint64(12)
        words |= _BITS_OF_ONE  # now the double 1 + cell * 2^-52
        numbers = words.view(np.float64)
        numbers -= 1 - 2.0**-53
        return numbers

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise RuntimeError("a random stream was read on in a forked process: make it in the process that reads it")

    def gaussian(self, count: int) -> NDArray[np.float64]:
        """`count` standard normal numbers, each the scaled sum of four independent ones.

        One double-precision normal leaves gaps that tell neighbouring inputs apart (Mironov 2012); a sum of
        2n of them with n = 2 closes the known attack (Holohan and Braghin 2021, arXiv 2107.10138).
        """
        # Only hospitals draw noise: the coordinator's streams need no SciPy, which takes a quarter of a second to load.
        from scipy.special import ndtri  # noqa: PLC0415

        total = np.empty(count)
        for start in range(0, count, _CHUNK):
            size = min(_CHUNK, count - start)
            numbers = self.uniform(4 * size)
            np.sum(ndtri(numbers, out=numbers).reshape(4, size), axis=0, out=total[start : start + size])
        total /= 2.0
        return total

    def integers(self, count: int, modulus: int) -> NDArray[np.uint64]:
        """`count` integers uniform on [0, modulus), by rejection: no modulo bias.

        Raises ValueError where `modulus` is not in [1, 2^63].
        """
        if not 1 <= modulus <= 2**63:
            raise ValueError(f"modulus must be in [1, 2^63], not {modulus}")
        limit = np.uint64((2**64 // modulus) * modulus - 1)
        kept = np.empty(0, dtype=np.uint64)
        while kept.size < count:
            words = self.words(count - kept.size)
            kept = np.concatenate([kept, words[words <= limit] % np.uint64(modulus)])
        return kept

    def permutation(self, count: int) -> NDArray[np.int64]:
        """A random order of range(count): the ranks of 64-bit keys, ties (chance count^2 / 2^65) by index."""
        return np.argsort(self.words(count), kind="stable").astype(np.int64)
