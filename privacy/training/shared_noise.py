"""Noise that all hospitals share: integers to sum, and how much of the noise each hospital adds.

One optimisation step is one sum over hospitals, and only that sum is released. Each unit's clipped gradient is
rounded to an integer grid before it is added (Kairouz, Liu and Steinke 2021, arXiv 2102.06387), and each hospital adds
its share of discrete Gaussian noise. Personal gradients are never summed over hospitals: their noise has its full size.
"""

import math
from dataclasses import dataclass

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from securepfl.errors import ConfigError
from securepfl.privacy.accounting.accounting import shared_scale_for
from securepfl.privacy.accounting.events import SharedRelease, Unit
from securepfl.privacy.training.discrete import LARGEST_SCALE, discrete_gaussian
from securepfl.randomness import RandomStream

TAIL = 2.0**-40
"""The chance that any hospital's noise leaves its field in a whole run. It is added to delta."""

_GRIDS = [2**power for power in range(12, 3, -1)]
"""Grid steps in a clip, the finest first."""

_MOST_ROUNDING = 1.5
"""Rounding may lengthen a unit's gradient this much, and all noise with it; past that local noise serves better."""

_RARE = 3.0
"""sqrt(2 ln(1 / beta)): about one rounding in 90 is too long and is rounded towards zero instead."""


class SharedNoise(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one step's gradients become integers. Part of the settings that all parties compare.

    grid: steps in a clip. scale: parameter of each hospital's discrete Gaussian, in steps. shares: the hospitals whose
    noise counts. dimension: values in a sum. limit: no hospital's value of a sum is beyond it, in steps.
    """

    grid: int
    scale: int
    shares: int
    dimension: int
    limit: int

    @property
    def sensitivity(self) -> float:
        """Largest norm of one unit's rounded shared and unrounded personal gradient together, in steps."""
        return _rounded_norm(self.grid, self.dimension)

    @property
    def noise_multiplier(self) -> float:
        """Standard deviation of the noise that counts over the clip, in a sum and on personal gradients alike."""
        return math.sqrt(self.shares) * self.scale / self.grid

    def release(self, unit: Unit, steps: int, run_steps: int) -> SharedRelease:
        """The event of `steps` sums out of a run's `run_steps`."""
        return SharedRelease(
            scale=self.scale,
            sensitivity=self.sensitivity,
            shares=self.shares,
            dimension=self.dimension,
            steps=steps,
            tail=TAIL * steps / run_steps,
            unit=unit,
        )


def plan_shared_noise(
    *, epsilon: float, delta: float, steps: int, hospitals: int, absent: int, dimension: int, units: int, limit: int
) -> SharedNoise:
    """The finest grid on which the sums fit, and the least noise for it, of `hospitals` - `absent` shares.

    absent: hospitals whose noise does not count, colluders and dropouts together. units: the declared number of all
    hospitals' units. limit: the largest value that a hospital can send. Raises ConfigError where none fits.
    """
    shares = hospitals - absent
    for grid in _GRIDS:
        norm = _rounded_norm(grid, dimension)
        if norm > _MOST_ROUNDING * grid:
            break
        scale = shared_scale_for(epsilon, delta, steps, shares, norm, dimension, TAIL)
        most = units * grid + _reach(scale, dimension * steps * hospitals)
        if scale <= LARGEST_SCALE and most <= limit:
            return SharedNoise(grid=grid, scale=scale, shares=shares, dimension=dimension, limit=limit)
    raise ConfigError(
        f"[privacy] noise = 'shared': {dimension} values summed over normaliser = {units} units with noise for epsilon "
        f"{epsilon:g} do not fit {limit.bit_length() + 1} bits on a grid that is fine enough; use noise = 'local', a "
        "larger epsilon, fewer units or a smaller density"
    )


def _rounded_norm(grid: int, dimension: int) -> float:
    """Bound on a rounded unit's norm, in steps, for a clip of `grid` steps (there, section 4.1)."""
    spread = _RARE * (grid + math.sqrt(dimension) / 2)
    return math.sqrt(grid**2 + dimension / 4 + spread)


def _reach(scale: int, draws: int) -> int:
    """None of `draws` noise values is beyond it but with chance TAIL (discrete.tail_bound, and a union bound)."""
    return math.ceil(scale * math.sqrt(2 * math.log(2 * draws / TAIL)))


@dataclass
class IntegerSum:
    """The sum of one step at one hospital: rounded gradients as they come, then noise. Values are grid steps."""

    noise: SharedNoise
    stream: RandomStream
    total: NDArray[np.int64]

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
        """The sum with this hospital's share of the noise, each value within the limit. To be called once."""
        noised = self.total + discrete_gaussian(self.total.size, self.noise.scale, self.stream)
        within: NDArray[np.int64] = np.clip(noised, -self.noise.limit, self.noise.limit)
        return within
