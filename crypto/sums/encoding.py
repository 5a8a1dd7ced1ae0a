"""How a plaintext word stands among a sum's words: q m / t, rounded as SEAL rounds it. numpy only."""

import numpy as np

from securepfl.crypto.sums.words import Words


def encoded(words: Words, plain_modulus: int, modulus: int) -> Words:
    """floor((q m + (t + 1) / 2) / t), for words m below the odd plain modulus t and q the modulus that sums are under.

    q must be t j - 1; then this is j m for m <= (t + 1) / 2 and j m - 1 above (parameters.py has the proof). Where q is
    t itself, words stay as they are. Raises ValueError for another q.

    >>> encoded(np.array([0, 1, 3, 4], dtype=np.uint64), plain_modulus=5, modulus=99).tolist()
    [0, 20, 60, 79]
    """
    if modulus == plain_modulus:
        return words
    step, rest = divmod(modulus + 1, plain_modulus)
    if rest:
        raise ValueError(f"modulus must be -1 modulo {plain_modulus}, not {modulus}")
    scaled: Words = words * np.uint64(step) - (words > np.uint64((plain_modulus + 1) // 2))
    return scaled
