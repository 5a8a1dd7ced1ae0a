"""Canaries: records of a rehearsal whose gradients are set instead of computed, so that an audit can see them.

They measure the leak of the code that real rounds run: drawing, batching, clipping, summing and noise are that
code, and only the gradients handed to it are overwritten. Canaries of orthogonal coordinates in one run:
Nasr et al. 2023 (arXiv 2302.07956); Steinke et al. 2023 (arXiv 2305.08846).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Canaries:
    """Items of a rehearsal whose gradients are set: orthogonal, each along one coordinate. Raises ValueError.

    first: index in the data set of the first canary item; items before it are ordinary, and item first + j is
    canary j (a patient is one item). coordinates: int64 [m], the position of each canary that is in the data set,
    in item order, within the concatenation of all trained parameters in named_parameters() order; all different.
    zeroed: int64 [k], the positions of all canaries, present or not, at which the gradients of the other items
    are zeroed, so what is seen there is canary and noise only. scale: norm of each canary's gradient, in clips.

    >>> Canaries(first=20, coordinates=np.array([3]), zeroed=np.array([3, 8])).scale
    1.0
    >>> Canaries(first=20, coordinates=np.array([4]), zeroed=np.array([3, 8]))
    Traceback (most recent call last):
    ValueError: coordinates must all be in zeroed: other items would be seen there too
    """

    first: int
    coordinates: NDArray[np.int64]
    zeroed: NDArray[np.int64]
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.first < 0:
            raise ValueError(f"first must not be negative, not {self.first!r}")
        for name in ("coordinates", "zeroed"):
            positions = getattr(self, name)
            if positions.dtype != np.int64 or positions.ndim != 1 or (positions < 0).any():
                raise ValueError(f"{name} must be a vector of int64 positions of at least 0")
            if len(np.unique(positions)) != len(positions):
                raise ValueError(f"{name} must all be different")
        if not np.isin(self.coordinates, self.zeroed).all():
            raise ValueError("coordinates must all be in zeroed: other items would be seen there too")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"scale must be positive and finite, not {self.scale!r}")
