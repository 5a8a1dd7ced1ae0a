"""How a plaintext word stands in a ciphertext: q m / t, rounded. numpy only."""

import numpy as np

from securepfl.crypto.sums.parameters import ParameterSet
from securepfl.crypto.sums.words import Words


def encoded(words: Words, parameters: ParameterSet) -> Words:
    """round(q m / t), exactly, for words m below the odd plain modulus t < 2^51."""
    whole, rest = divmod(parameters.coeff_modulus, parameters.plain_modulus)
    modulus = np.int64(parameters.plain_modulus)
    signed = words.view(np.int64)
    # In doubles m rest / t < 2^51 errs by less than 1/2, so the rounded part is at most one off. What it leaves over
    # lies within 3 t / 2 of 0, so it is right modulo 2^64, and tells.
    part = np.rint(words.astype(np.float64) * (rest / parameters.plain_modulus)).astype(np.int64)
    over = signed * np.int64(rest) - part * modulus
    part += (2 * over > modulus).astype(np.int64) - (2 * over < -modulus)
    scaled: Words = words * np.uint64(whole) + part.view(np.uint64)
    return scaled
