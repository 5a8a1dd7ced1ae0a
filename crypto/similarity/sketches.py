"""Sketches: short vectors of integers whose inner products estimate cosines, and never wrap."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from securepfl.crypto.similarity.precision import FINE, Precision
from securepfl.randomness import RandomStream, derive_key

MAX_DIMENSIONS: Final = 8192
"""The longest sketch: field.dot is exact up to it."""


def sketch(
    vector: NDArray[np.float64],
    dimensions: int,
    key: bytes,
    scale: float = 1.0,
    precision: Precision = FINE,
    rounding: bytes | None = None,
) -> NDArray[np.int64]:
    """Integers, shape (dimensions,), of norm about scale x precision.norm, whose inner products estimate cosines, times
    both scales.

    A vector no longer than `dimensions` is kept, padded with zeros: then only rounding errs.
    A longer one is count-sketched (Charikar, Chen and Farach-Colton 2002): each coordinate adds with a random sign
    to a random bucket, both drawn from `key`, which all hospitals share; a random order deals the buckets out evenly,
    which saves collisions while the vector is only a few times longer. For dense vectors the cosine's mean absolute
    error is about 0.8 (1 - cosine^2) / sqrt(dimensions): 0.0125 at cosine 0 in 4,096 dimensions. Vectors of a few
    large entries err less on average, but much where two of these meet in a bucket. The zero vector stays zero.

    Where the precision is dithered, entries are rounded up or down at random, by what is drawn from `rounding`, a key
    (32 bytes) that is another for each hospital: were it the same, rounding would make hospitals look alike.
    Raises ValueError for NaN or infinity, a vector that is not flat, dimensions not in [1, MAX_DIMENSIONS], a scale
    not in (0, 1], or no key to round by.

    >>> sketch(np.array([3.0, -4.0]), 4, key=bytes(32)).tolist()
    [19200, -25600, 0, 0]
    """
    check_dimensions(dimensions)
    if not 0 < scale <= 1:
        raise ValueError(f"scale must be in (0, 1], not {scale}")
    if vector.ndim != 1 or not np.isfinite(vector).all():
        raise ValueError(f"vector must be flat and finite: shape {vector.shape}")
    largest = float(np.max(np.abs(vector), initial=0.0))
    if largest == 0.0:
        return np.zeros(dimensions, dtype=np.int64)
    # Dividing by the largest entry first keeps the norm from overflowing or vanishing.
    short = _project(vector / largest, dimensions, key)
    norm = float(np.linalg.norm(short))
    return _rounded(short * (scale * precision.norm / max(norm, 1e-300)), precision, rounding)


def _rounded(values: NDArray[np.float64], precision: Precision, key: bytes | None) -> NDArray[np.int64]:
    """To integers that fit: to the nearest, or at random and without bias."""
    if not precision.dithered:
        return np.rint(values).astype(np.int64)
    if key is None:
        raise ValueError("a dithered precision needs a key to round by")
    drawn = np.floor(values + RandomStream(key).uniform(values.size)).astype(np.int64)
    # Rounding adds little to a norm, but could add too much. Towards zero it adds nothing.
    return drawn if fits(drawn, precision) else np.trunc(values).astype(np.int64)


def _project(vector: NDArray[np.float64], dimensions: int, key: bytes) -> NDArray[np.float64]:
    if vector.size <= dimensions:
        return np.pad(vector, (0, dimensions - vector.size))
    stream = RandomStream(derive_key(key, "sketch", vector.size, dimensions))
    signs = stream.integers(vector.size, 2).astype(np.float64) * 2.0 - 1.0
    buckets = stream.permutation(vector.size) % dimensions
    return np.bincount(buckets, weights=vector * signs, minlength=dimensions).astype(np.float64)


def check_dimensions(dimensions: int) -> None:
    """Raises ValueError for dimensions not in [1, MAX_DIMENSIONS]."""
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise ValueError(f"dimensions must be in [1, {MAX_DIMENSIONS}], not {dimensions}")


def fits(values: NDArray[np.int64], precision: Precision) -> bool:
    """Whether integers are small enough for a sketch: no inner product with another sketch can wrap."""
    # Floats don't overflow, and are exact where it matters, below 2^53.
    wide = values.astype(np.float64)
    return bool(wide @ wide <= precision.largest)


def check_sketch(values: NDArray[np.int64], dimensions: int, precision: Precision) -> None:
    """Raises ValueError for a sketch of another shape than (dimensions,), or too large a norm."""
    if values.shape != (dimensions,):
        raise ValueError(f"sketch must have shape ({dimensions},), not {values.shape}")
    if not fits(values, precision):
        raise ValueError(f"sketch must have a norm of about {precision.norm}: its product would wrap")
