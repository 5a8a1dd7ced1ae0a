"""Regularising an update before it is sent, so that it takes fewer bytes. Strengths are relative to the update."""

from math import isfinite
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from securepfl.learning.sparse.difference import difference_sparse

Regulariser = Literal["soft", "difference"]


def regularise(update: NDArray[np.floating], kind: Regulariser, strength: float) -> NDArray[np.float64]:
    """The proximal step of "soft" (sum |v_i|) or "difference" (`difference_sparse`) on an update [d].

    `strength` is in units of the update's root mean square, so a scaled update gives the scaled result. 0 stays 0.
    Raises ValueError for an unknown kind, a strength that is negative or not finite, or an update that is no
    finite vector; ConfigError where "difference" is asked for without numba.
    """
    if kind not in ("soft", "difference"):
        raise ValueError(f'kind must be "soft" or "difference", not {kind!r}')
    if not (isfinite(strength) and strength >= 0.0):
        raise ValueError(f"strength must be finite and at least 0, not {strength}")
    if update.ndim != 1 or not np.isfinite(update).all():
        raise ValueError(f"update must be a finite vector; its shape is {update.shape}")
    step = soft_threshold if kind == "soft" else difference_sparse
    return step(update, strength * _root_mean_square(update))


def soft_threshold(g: NDArray[np.floating], threshold: float) -> NDArray[np.float64]:
    """sign(g) max(|g| - threshold, 0) for each value of g, in the shape of g.

    It is the v that minimises threshold sum |v_i| + ||v - g||^2 / 2 (Donoho 1995, IEEE Transactions on Information
    Theory 41(3)). Raises ValueError where threshold is negative or not a number, or g is not finite.
    """
    if not threshold >= 0.0:
        raise ValueError(f"threshold must be at least 0, not {threshold}")
    values = np.asarray(g, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("g must be finite, but holds NaN or infinity")
    # |g| - threshold where that is positive and 0 elsewhere, without a branch a value.
    return values - np.clip(values, -threshold, threshold)


def _root_mean_square(update: NDArray[np.floating]) -> float:
    """Relative to the largest value, whose square could overflow or vanish."""
    values = np.abs(update, dtype=np.float64)
    largest = float(values.max(initial=0.0))
    if largest == 0.0:
        return 0.0
    return largest * float(np.sqrt(np.mean(np.square(values / largest))))
