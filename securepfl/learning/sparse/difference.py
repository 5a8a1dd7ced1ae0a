"""The difference-sparse step: neighbouring coordinates of an update become equal, small ones at the end 0.

It is one-dimensional total-variation denoising whose last value is tied to 0, from the regulariser of Zhao, Liu, Liu
and He (arXiv 2306.14483), solved exactly.
"""

from collections.abc import Callable
from math import frexp, ldexp

import numpy as np
from numpy.typing import NDArray

from securepfl.errors import ConfigError

Solver = Callable[[NDArray[np.float64], float, float], NDArray[np.float64]]


def difference_sparse(g: NDArray[np.floating], gamma: float) -> NDArray[np.float64]:
    """The v [d] that minimises gamma (sum |v_i - v_{i+1}| + |v_d|) + ||v - g||^2 / 2, for g [d]; gamma in units of g.

    O(d) time and memory in the worst case; rounding is relative to the largest |g_i|. gamma = 0 gives g; v = 0
    from gamma = max_k |g_1 + ... + g_k| on. The first call compiles for some seconds. `g` is left as it is.

    Raises ValueError where g is no finite vector or gamma is negative or not a number, ConfigError without numba.
    """
    values = np.asarray(g, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"g must be a vector, not of shape {values.shape}")
    if not gamma >= 0.0:
        raise ValueError(f"gamma must be at least 0, not {gamma}")
    solve = load_solver()
    largest = max(abs(float(values.max(initial=0.0))), abs(float(values.min(initial=0.0))))
    if not np.isfinite(largest):
        raise ValueError("g must be finite, but holds NaN or infinity")
    if gamma == 0.0 or largest == 0.0:
        return values.copy()
    # A power of two, so that scaling rounds nothing: sums of values in [-2, 2] can't overflow.
    scale = ldexp(1.0, frexp(largest)[1] - 1)
    # No sum can pass 2 d, so a larger gamma, even an infinite one, gives the same 0.
    radius = min(gamma / scale, 2.0 * values.size)
    return solve(np.ascontiguousarray(values), radius, scale) if radius > 0.0 else values.copy()


def load_solver() -> Solver:
    """The compiled loop. Call it before a budget is spent on an update that could not be regularised afterwards.

    Raises ConfigError where numba is not installed or does not load.
    """
    try:
        from securepfl.learning.sparse.taut_string import taut_string  # noqa: PLC0415 - optional
    except ImportError as error:
        raise ConfigError(
            f"the difference-sparse step needs numba ({error}): pip install 'securepfl[sparse]'"
        ) from None
    solver: Solver = taut_string
    return solver
