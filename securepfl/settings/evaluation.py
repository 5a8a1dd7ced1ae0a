"""Released metrics (`[release] metrics`): what is counted, how it becomes integers, and the noise that they carry.

All of it follows from the settings, so it is the same at every hospital. What counts goes by
learning/released/histogram.py; here it gets its place in a sum of updates. Their grid has few levels, so each integer
is written in digits of a balanced base: digits are summed as values are, and the sum is put together again.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import numpy as np
from numpy.typing import NDArray

from securepfl.crypto.sums.parameters import MAX_BITS, top_level
from securepfl.errors import ConfigError
from securepfl.learning.declared.facts import SHARED_NOISE
from securepfl.learning.released.histogram import Histogram
from securepfl.privacy.training.shared_noise import SharedNoise
from securepfl.tasks.names import DEFAULT_TASK

if TYPE_CHECKING:
    from securepfl.settings.federation import Federation

_GRID: Final = 64
"""Integer steps in a patient, where each hospital adds its own noise: rounding adds a 64th of a patient."""
_MOST: Final = 4
"""A hospital's counts are cut at this many times the training units that any hospital declares."""
_TAIL: Final = 12.0
"""Deviations of noise beyond which no value is but with chance below 2^-100."""
_EVEN: Final = 0.5


@dataclass(frozen=True)
class Evaluation:
    """The shape of a bound federation's released metrics.

    `steps`: noisy steps that they count as. `scale`: integers in a patient. `most`: counts are cut there, in patients.
    `levels`: half of the levels of a value of a sum, 0 left out. `reach`: no integer is beyond it.
    """

    histogram: Histogram
    steps: int
    scale: float
    most: int
    levels: int
    reach: int

    @classmethod
    def of(cls, federation: "Federation") -> Self:
        """Raises ConfigError where the task's outcomes aren't declared, or the federation is not bound."""
        histogram, steps, noise = histogram_of(federation), federation.evaluation_steps, _shared_noise(federation)
        most = _MOST * max(map(federation.units_of, federation.roster))
        if noise is None:
            scale, levels = float(_GRID), top_level(federation.encryption.bits) // 2
            deviations = [own_deviation(federation, histogram, name) for name in federation.roster]
            reach = scale * (most + _TAIL * max(deviations))
        else:
            scale, levels = steps * noise.grid / histogram.bound, top_level(MAX_BITS) // 2
            reach = steps * (most * noise.grid + _TAIL * noise.scale)
        return cls(histogram, steps, scale, most, levels, math.ceil(reach))

    @property
    def values(self) -> int:
        """Values of a sum that it takes."""
        return self.histogram.size * self._digits

    @property
    def _digits(self) -> int:
        return math.ceil(math.log(2 * self.reach + 1) / math.log(self._base))

    @property
    def _base(self) -> int:
        return 2 * self.levels + 1

    def digits_of(self, integers: NDArray[np.int64]) -> NDArray[np.int64]:
        """`integers` [size] as [values], each from -levels to levels; what is beyond `reach` is cut there."""
        rest, digits = np.clip(integers, -self.reach, self.reach), np.empty((self._digits, integers.size), np.int64)
        for digit in digits:
            rest, remainder = np.divmod(rest + self.levels, self._base)
            digit[:] = remainder - self.levels
        return digits.reshape(-1)

    def integers_of(self, digits: NDArray[np.int64]) -> NDArray[np.int64]:
        """The inverse of digits_of, of sums of digits too, [values] -> [size]."""
        powers = self._base ** np.arange(self._digits, dtype=np.int64)
        found: NDArray[np.int64] = powers @ digits.reshape(self._digits, -1)
        return found

    def deviation(self, federation: "Federation", names: Collection[str]) -> float:
        """Of the noise in each released number of the sum over `names`, in patients."""
        noise = _shared_noise(federation)
        if noise is not None:
            return math.sqrt(len(names) * self.steps) * noise.scale / self.scale
        return math.hypot(*(own_deviation(federation, self.histogram, name) for name in names))

    def spread(self, federation: "Federation", names: Collection[str]) -> float:
        """By how much the variance of a count over `names` is above a sample's, where units are drawn at a rate: at
        most, of hospitals that draw at several rates.
        """
        rates = [federation.sample_rate_for(federation.units_of(name)) for name in names]
        return 1 + max((1 - rate) / (self.steps * rate) for rate in rates)


def own_deviation(federation: "Federation", histogram: Histogram, name: str) -> float:
    """Of the noise that hospital `name` adds to each of its numbers where noise is its own, in patients."""
    from securepfl.privacy.accounting.calibration import noise_multiplier_for  # noqa: PLC0415 (loads dp_accounting)

    privacy, rate = federation.privacy, federation.sample_rate_for(federation.units_of(name))
    noise = noise_multiplier_for(privacy.epsilon, privacy.delta, rate, federation.run_steps)
    return noise * histogram.bound / (math.sqrt(federation.evaluation_steps) * rate)


def planned_deviation(federation: "Federation", histogram: Histogram) -> float:
    """Of the noise in the sum over all hospitals, in patients, before the model is known: under shared noise about."""
    names = tuple(federation.sites)
    own = [own_deviation(federation, histogram, name) for name in names]
    if federation.shared_noise is None:
        return math.hypot(*own)
    counted = len(names) - federation.shared_noise.absent
    return max(own) * math.sqrt(len(names) / counted) / SHARED_NOISE


def histogram_of(federation: "Federation") -> Histogram:
    """What is counted, around the operating points of a federation with a roster. Raises ConfigError where outcomes are
    not declared.
    """
    task = federation.model.task or DEFAULT_TASK
    names, point = outcomes_of(federation), federation.operating_point_of()
    if task == "multiclass":
        return Histogram.around(point or (1 / len(names),) * len(names), None)
    points = [federation.operating_point_of(site) or (_EVEN,) for site in federation.sites]
    each = list(zip(*(_for_all(one, len(names)) for one in points), strict=True))
    return Histogram.around(_for_all(point or (_EVEN,), len(names)), [(min(its), max(its)) for its in each])


def outcomes_of(federation: "Federation") -> tuple[str, ...]:
    """The names of what is counted. Raises ConfigError where the task's aren't declared."""
    task, options = federation.model.task or DEFAULT_TASK, federation.label_options
    if task == "binary":
        return ("outcome",)
    names = tuple(map(str, options.get("classes") or options.get("labels") or ()))
    if not names:
        raise ConfigError(f"[release] metrics: declare what a {task} tells apart in [data] (classes, or label)")
    return names


def _for_all(point: tuple[float, ...], outcomes: int) -> tuple[float, ...]:
    return point * outcomes if len(point) == 1 else point


def _shared_noise(federation: "Federation") -> SharedNoise | None:
    if not federation.shares_noise:
        return None
    if federation.shape is None or federation.shape.noise is None:
        raise ConfigError("the federation is not bound to hospitals and a model: call Federation.bound first")
    return federation.shape.noise
