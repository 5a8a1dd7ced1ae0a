"""The secret key of the rings that all parameter sets are made of, and the stamp of the SEAL that works in them.

A key is a ternary polynomial: coefficients -1, 0 and 1, whatever prime a ring has. It is kept as it is, two bits a
coefficient (0, 1, and 2 for -1), and SEAL brings it to each ring's own form.

SEAL is loaded by the first call that needs it, never by importing this: a coordinator and a plaintext run do without.
"""

from typing import Final

import numpy as np

from securepfl.crypto.sums.parameters import DEGREE
from securepfl.crypto.sums.words import Words, pack_words, packed_bytes, unpack_words
from securepfl.errors import ConfigError

_BITS: Final = 2

RING_KEY_BYTES: Final = packed_bytes(DEGREE, _BITS)
"""Length of a secret key."""


def pack_key(residues: Words, modulus: int) -> bytes:
    """A key, RING_KEY_BYTES long, from its coefficients modulo any modulus, shape (DEGREE,).

    Raises ValueError for another shape, or coefficients other than -1, 0 and 1.

    >>> coefficients = np.resize(np.array([0, 1, 96], dtype=np.uint64), DEGREE)
    >>> bool((unpack_key(pack_key(coefficients, 97), 97) == coefficients).all())
    True
    """
    codes = np.where(residues == np.uint64(modulus - 1), np.uint64(2), residues)
    if residues.shape != (DEGREE,) or codes.max() > 2:
        raise ValueError(f"a ring's key must have {DEGREE} coefficients, each -1, 0 or 1")
    return pack_words(codes, _BITS)


def unpack_key(key: bytes, modulus: int) -> Words:
    """The coefficients modulo any modulus above 2, shape (DEGREE,). Raises MessageError for bytes that are no key."""
    residues = np.array([0, 1, modulus - 1], dtype=np.uint64)
    return residues[unpack_words(key, DEGREE, _BITS, residues.size)]


def check_key(key: bytes, *, needed: bool) -> None:
    """Raise ConfigError where a federation's key, perhaps empty, was made for a scheme of the other kind."""
    if bool(key) != needed:
        made, here = ("without", "needs") if needed else ("with", "has no")
        raise ConfigError(
            f"the federation key was made {made} encryption keys, and this [encryption] scheme {here} "
            f"{'them' if needed else 'use for them'}; ask the steward for this federation's key"
        )


def generate_ring_key() -> bytes:
    """A fresh secret key, made by SEAL from the OS's randomness, RING_KEY_BYTES long: it serves every parameter set.

    >>> len(generate_ring_key()) == RING_KEY_BYTES
    True
    """
    from securepfl.crypto.sums import seal

    return seal.generate_secret_key()


def stamp() -> bytes:
    """The version stamp of this machine, 8 bytes: SEAL's version and TenSEAL's (versions.py).

    >>> stamp()[:2]
    b'SB'
    """
    from securepfl.crypto.sums import seal

    return seal.stamp()
