"""The ring that all parameter sets share: its secret key, and the stamp of the SEAL that works in it.

SEAL is loaded by the first call that needs it, never by importing this: a coordinator and a plaintext run do without.
"""

from typing import Final

from securepfl.crypto.sums.parameters import SETS
from securepfl.crypto.sums.words import packed_bytes

RING_KEY_BYTES: Final = packed_bytes(SETS[0].poly_modulus_degree, SETS[0].coeff_modulus.bit_length())
"""Length of a secret key: one packed word a coefficient."""


def generate_ring_key() -> bytes:
    """A fresh secret key from the OS's randomness, RING_KEY_BYTES long: it serves every parameter set.

    >>> len(generate_ring_key()) == RING_KEY_BYTES
    True
    """
    from securepfl.crypto.sums import seal

    return seal.generate_secret_key(SETS[0])


def stamp() -> bytes:
    """The version stamp of this machine, 8 bytes: SEAL's version and TenSEAL's (versions.py).

    >>> stamp()[:2]
    b'SB'
    """
    from securepfl.crypto.sums import seal

    return seal.stamp()
