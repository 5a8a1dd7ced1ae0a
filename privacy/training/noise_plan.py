"""How much noise each hospital adds where all share it: planned once, and part of what all parties compare."""

import math

from securepfl.errors import ConfigError
from securepfl.privacy.accounting.calibration import shared_scale_for
from securepfl.privacy.training.discrete import LARGEST_SCALE
from securepfl.privacy.training.shared_noise import TAIL, SharedNoise, rounded_norm

_GRIDS = [2**power for power in range(12, 3, -1)]
"""Grid steps in a clip, the finest first."""

_MOST_ROUNDING = 1.5
"""Rounding may lengthen a unit's gradient this much, and all noise with it; past that local noise serves better."""


def plan_shared_noise(
    *, epsilon: float, delta: float, steps: int, hospitals: int, absent: int, dimension: int, units: int, limit: int
) -> SharedNoise:
    """The finest grid on which the sums fit, and the least noise for it, of `hospitals` - `absent` shares.

    absent: hospitals whose noise does not count, colluders and dropouts together. units: the declared number of all
    hospitals' units. limit: the largest value that a hospital can send. Raises ConfigError where none fits.

    >>> plan = plan_shared_noise(
    ...     epsilon=4.0, delta=1e-5, steps=10, hospitals=4, absent=1, dimension=100, units=400, limit=2**30
    ... )
    >>> plan.grid, plan.shares
    (4096, 3)
    """
    shares = hospitals - absent
    for grid in _GRIDS:
        norm = rounded_norm(grid, dimension)
        if norm > _MOST_ROUNDING * grid:
            break
        scale = shared_scale_for(epsilon, delta, steps, shares, norm, dimension, TAIL)
        most = units * grid + _reach(scale, dimension * steps * hospitals)
        if scale <= LARGEST_SCALE and most <= limit:
            return SharedNoise(grid=grid, scale=scale, shares=shares, dimension=dimension, limit=limit)
    raise ConfigError(
        f"[shared_noise]: {dimension} values summed over the {units} units that hospitals declare, with noise for "
        f"epsilon {epsilon:g}, do not fit {limit.bit_length() + 1} bits on a grid that is fine enough; remove "
        "[shared_noise], or use a larger epsilon, fewer units or a smaller density"
    )


def _reach(scale: int, draws: int) -> int:
    """None of `draws` noise values is beyond it but with chance TAIL (discrete.tail_bound, and a union bound)."""
    return math.ceil(scale * math.sqrt(2 * math.log(2 * draws / TAIL)))
