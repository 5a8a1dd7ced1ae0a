"""How finely vectors are compared: the norm of a sketch, and the moduli in which its inner products are exact."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from securepfl.crypto.similarity.field import MODULUS, centred
from securepfl.crypto.sums.words import Words


@dataclass(frozen=True)
class Precision:
    """Sketches have norm `norm` before rounding, and at most the square root of `largest` after it: so `largest` is
    also the most that an inner product of two can be (Cauchy-Schwarz). Products are exact modulo that of `moduli`.

    `dithered`: entries are rounded up or down at random, so that inner products stay unbiased where entries are small.
    Raises ValueError where inner products could wrap, in any way to compare.
    """

    norm: int
    largest: int
    moduli: tuple[int, ...]
    dithered: bool

    def __post_init__(self) -> None:
        if not self.norm**2 < self.largest <= min(math.prod(self.moduli), MODULUS) // 2:
            raise ValueError(f"inner products up to {self.largest} wrap modulo {self.moduli} or {MODULUS}")


COARSE: Final = Precision(norm=300, largest=94_208, moduli=(188_417,), dithered=True)
"""For updates. One plain modulus, the largest whose noise is hidden well enough (parameters.py). Rounding makes a
cosine err by about .002, a sixth of what the sketch itself does; more where vectors travel scaled down.
"""

FINE: Final = Precision(norm=32_000, largest=1_026_898_357, moduli=(40_961, 65_537), dithered=False)
"""For personal parameters, whose distances the network lasso needs: rounding errs by 1e-5. Two ciphertexts. Rounding
8,192 entries adds at most sqrt(8192) / 2 to a norm.
"""


def combined(residues: Sequence[Words], moduli: Sequence[int]) -> NDArray[np.int64]:
    """The numbers of least size with these residues (Chinese remainders), for moduli prime to each other whose product
    has at most 32 bits.

    >>> combined([np.array([2, 4], dtype=np.uint64), np.array([3, 6], dtype=np.uint64)], [5, 7]).tolist()
    [17, -1]
    """
    whole = math.prod(moduli)
    total = np.zeros_like(residues[0])
    for residue, modulus in zip(residues, moduli, strict=True):
        rest = whole // modulus
        total += residue * np.uint64(rest * pow(rest, -1, modulus) % whole)
    return centred(total % np.uint64(whole), whole)
