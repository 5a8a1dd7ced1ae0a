"""One hospital's part of a sum whose noise all hospitals share: gradients rounded to integers, then its own noise."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from securepfl.privacy.training.discrete import discrete_gaussian
from securepfl.privacy.training.shared_noise import SharedNoise
from securepfl.randomness import RandomStream


@dataclass
class IntegerSum:
    """The sum of one step at one hospital: rounded gradients as they come, then noise. Values are grid steps.

    | guaranteed | unless |
    |---|---|
    | a unit moves the sum by at most `noise.sensitivity`, its personal part included | `add` raises |
    | each rounding is unbiased | the rounded gradient is too long: it is rounded towards zero |
    | noise is exact on the integers, and each value within the limit | |

    >>> noise = SharedNoise(grid=16, scale=40, shares=2, dimension=3, limit=2**20)
    >>> sums = IntegerSum.empty(noise, RandomStream(bytes(32)), 3)
    >>> sums.add(np.array([[0.5, 0.0, -0.25]]), np.zeros(1))
    >>> sums.total
    array([ 8,  0, -4])
    """

    noise: SharedNoise
    stream: RandomStream
    total: NDArray[np.int64]
    drawn: bool = False

    @classmethod
    def empty(cls, noise: SharedNoise, stream: RandomStream, size: int) -> "IntegerSum":
        """Nothing added yet to `size` values, at most the dimension. `stream` rounds and draws noise, nothing else."""
        if not 1 <= size <= noise.dimension:
            raise ValueError(f"size must be in [1, {noise.dimension}], not {size!r}")
        return cls(noise, stream, np.zeros(size, dtype=np.int64))

    def add(self, gradients: NDArray[np.float64], personal_norms: NDArray[np.float64]) -> None:
        """Add units, shapes [units, size] and [units], both in clips, already clipped together.

        Rounding is unbiased, but for the rare unit whose rounded gradient is longer than the sensitivity allows: that
        one is rounded towards zero, which never makes it longer. Raises ValueError where even that is too long.
        """
        rounded = self._rounded(gradients * self.noise.grid)
        rest = (personal_norms * self.noise.grid) ** 2
        long = (rounded**2).sum(axis=1) + rest > self.noise.sensitivity**2
        rounded[long] = np.trunc(gradients[long] * self.noise.grid)
        if ((rounded[long] ** 2).sum(axis=1) + rest[long] > self.noise.sensitivity**2).any():
            raise ValueError("gradients must be clipped to norm 1, personal part included, before they are rounded")
        self.total += rounded.sum(axis=0).astype(np.int64)

    def _rounded(self, scaled: NDArray[np.float64]) -> NDArray[np.float64]:
        """Each value to one of its two neighbours, unbiased. Integers up to 2^53 are exact in doubles."""
        floors = np.floor(scaled)
        floors += self.stream.uniform(scaled.size).reshape(scaled.shape) < scaled - floors
        return floors

    def noisy(self) -> NDArray[np.int64]:
        """The sum with this hospital's share of the noise, each value within the limit.

        Raises ValueError the second time: the mean of two noisy sums of one step would have half the noise.
        """
        if self.drawn:
            raise ValueError("the noise of this sum was drawn before: keep what noisy() gave")
        self.drawn = True
        noised = self.total + discrete_gaussian(self.total.size, self.noise.scale, self.stream)
        within: NDArray[np.int64] = np.clip(noised, -self.noise.limit, self.noise.limit)
        return within
