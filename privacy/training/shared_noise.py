"""Noise that all hospitals share: the grid of the integers to sum, and how much of the noise each hospital adds.

One optimisation step is one sum over hospitals, and only that sum is released. Each unit's clipped gradient is
rounded to an integer grid before it is added (Kairouz, Liu and Steinke 2021, arXiv 2102.06387), and each hospital adds
its share of discrete Gaussian noise. Personal gradients are never summed over hospitals: their noise has its full size.
"""

import math

from msgspec import Struct

from securepfl.privacy.accounting.events import SharedRelease, Unit

TAIL = 2.0**-40
"""The chance that any hospital's noise leaves its field in a whole run. It is added to delta."""

_RARE = 3.0
"""sqrt(2 ln(1 / beta)): about one rounding in 90 is too long and is rounded towards zero instead."""


class SharedNoise(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one step's gradients become integers. Part of the settings that all parties compare.

    grid: steps in a clip. scale: parameter of each hospital's discrete Gaussian, in steps. shares: the hospitals whose
    noise counts. dimension: values in a sum. limit: no hospital's value of a sum is beyond it, in steps.

    It stands in what all parties of a run compare: another name or field is another agreement.

    >>> noise = SharedNoise(grid=16, scale=40, shares=4, dimension=3, limit=2**20)
    >>> noise.noise_multiplier
    5.0
    >>> noise.release("record", steps=1, run_steps=10).scale
    40
    """

    grid: int
    scale: int
    shares: int
    dimension: int
    limit: int

    @property
    def sensitivity(self) -> float:
        """Largest norm of one unit's rounded shared and unrounded personal gradient together, in steps."""
        return rounded_norm(self.grid, self.dimension)

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


def rounded_norm(grid: int, dimension: int) -> float:
    """Bound on a rounded unit's norm, in steps, for a clip of `grid` steps (there, section 4.1)."""
    spread = _RARE * (grid + math.sqrt(dimension) / 2)
    return math.sqrt(grid**2 + dimension / 4 + spread)
