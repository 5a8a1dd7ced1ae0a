"""How a vector's norm travels: on a logarithmic grid, as one integer below 2^31."""

import math
from typing import Final

# Norms from 2^-128 to 2^128 in steps of a factor of 2^(2^-22), 1.7e-7; 0 stands for the zero vector.
_OFFSET: Final = 2**7
_STEPS: Final = 2**22
NORM_LEVELS: Final = 2**30
"""The highest level."""


def encode_norm(norm: float) -> int:
    """The level nearest to a norm, 0 for 0. Raises ValueError for one that is negative or not finite."""
    if not (math.isfinite(norm) and norm >= 0):
        raise ValueError(f"norm must be finite and at least 0, not {norm}")
    if norm == 0:
        return 0
    return min(max(round((math.log2(norm) + _OFFSET) * _STEPS), 1), NORM_LEVELS)


def decode_norm(level: int) -> float:
    """The norm that a level stands for."""
    return 2.0 ** (level / _STEPS - _OFFSET) if level else 0.0


def travelled_norm(norm: float) -> float:
    """A norm as it arrives: on the logarithmic grid, so that both ends of a distance compute with the same numbers.

    >>> travelled_norm(0.0), travelled_norm(2.0), abs(travelled_norm(3.0) - 3.0) < 3e-7
    (0.0, 2.0, True)
    """
    return decode_norm(encode_norm(norm))
