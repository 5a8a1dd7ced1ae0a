"""How a plaintext word stands among a sum's words: q m / t, rounded. numpy only."""

import numpy as np

from securepfl.crypto.sums.words import Words


def encoded(words: Words, plain_modulus: int, modulus: int) -> Words:
    """round(q m / t), exactly, for words m below the odd plain modulus t < 2^51 and q the modulus that sums are under.

    Where both are the same, words stay as they are.

    >>> encoded(np.array([0, 1, 4], dtype=np.uint64), plain_modulus=5, modulus=101).tolist()
    [0, 20, 81]
    """
    whole, rest = divmod(modulus, plain_modulus)
    t = np.int64(plain_modulus)
    signed = words.view(np.int64)
    # In doubles m rest / t < 2^51 errs by less than 1/2, so the rounded part is at most one off. What it leaves over
    # lies within 3 t / 2 of 0, so it is right modulo 2^64, and tells.
    part = np.rint(words.astype(np.float64) * (rest / plain_modulus)).astype(np.int64)
    over = signed * np.int64(rest) - part * t
    part += (2 * over > t).astype(np.int64) - (2 * over < -t)
    scaled: Words = words * np.uint64(whole) + part.view(np.uint64)
    return scaled
