"""What can be released about a data set: one frozen event a kind. What they cost is in accounting.py.

Ledger lines hold events as they are: canonical JSON in which `mechanism` names the kind.
"""

import math
from typing import Literal, get_args

import msgspec

Unit = Literal["record", "patient"]

MOST_STEPS = 10**9
MOST_SHARES = 10**6
MOST_DIMENSIONS = 10**12
LEAST_SCALE, MOST_SCALE = 8, 2**53
LEAST_NOISE = 1e-4  # what a noise multiplier below this would cost, no accountant computes; it protects nobody
POISSON = "poisson"


class Event(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="mechanism"):
    """Something released `steps` times. steps may be 0: reserved, but nothing was released.

    Events persist: ledger lines hold them as JSON, and every ledger is read again with each later run. So of a kind
    that was ever released, neither its tag, a field's name, its meaning nor its unit may change, no field may be added
    without a default that means what there was before, and no check may become stricter. A new mechanism is a new kind.
    """

    steps: int

    def __post_init__(self) -> None:
        _check_whole("steps", self.steps, 0, MOST_STEPS)


class Release(Event, frozen=True, kw_only=True, tag="gaussian"):
    """`steps` releases of a noisy sum of clipped gradients.

    noise_multiplier: standard deviation of the noise over the clip, at least LEAST_NOISE. sample_rate: chance of each
    unit to be in a step, independent of the others; 1.0 is the full batch. unit: what one clip bounds.

    Raises ValueError, naming the field.

    >>> reserved = Release(noise_multiplier=5.0, sample_rate=1.0, steps=8)
    >>> reserved.covers(Release(noise_multiplier=5.0, sample_rate=1.0, steps=3))
    True
    >>> reserved.covers(Release(noise_multiplier=4.0, sample_rate=1.0, steps=3))
    False
    """

    noise_multiplier: float
    sample_rate: float
    unit: Unit = "record"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not LEAST_NOISE <= self.noise_multiplier < math.inf:
            raise ValueError(f"noise_multiplier must be in [{LEAST_NOISE}, inf), not {self.noise_multiplier!r}")
        if not 0 < self.sample_rate <= 1:
            raise ValueError(f"sample_rate must be in (0, 1], not {self.sample_rate!r}")
        _check_unit(self.unit)

    def covers(self, other: "AnyRelease") -> bool:
        """Whether `other` costs no more, field by field, and so whatever both are composed with."""
        return (
            isinstance(other, Release)
            and other.unit == self.unit
            and other.noise_multiplier >= self.noise_multiplier
            and other.sample_rate <= self.sample_rate
            and other.steps <= self.steps
        )


class SharedRelease(Event, frozen=True, kw_only=True, tag="shared-discrete-gaussian"):
    """`steps` sums over hospitals, in each of which at least `shares` honest ones added their part of the noise.

    scale: each share's discrete Gaussian N_Z(0, scale^2) on every coordinate, in grid units. sensitivity: largest
    L2 norm of one unit's contribution in grid units, shared and personal parameters together; personal ones carry
    local Gaussian noise of at least sqrt(shares) * scale. It is at least 1: a shorter integer vector is zero.
    dimension: coordinates of the sum. tail: chance, over all `steps`, that a value left its field; it adds to delta.
    Every unit is in every step (full batch).

    Raises ValueError, naming the field.

    >>> SharedRelease(scale=4, sensitivity=300.0, shares=3, dimension=100, tail=0.0, steps=1)
    Traceback (most recent call last):
    ValueError: scale must be in [8, 9007199254740992], not 4
    """

    scale: int
    sensitivity: float
    shares: int
    dimension: int
    tail: float
    unit: Unit = "record"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_whole("scale", self.scale, LEAST_SCALE, MOST_SCALE)
        _check_whole("shares", self.shares, 1, MOST_SHARES)
        _check_whole("dimension", self.dimension, 1, MOST_DIMENSIONS)
        if not (math.isfinite(self.sensitivity) and self.sensitivity >= 1):
            raise ValueError(f"sensitivity must be finite and at least 1 grid unit, not {self.sensitivity!r}")
        if not 0 <= self.tail < 1:
            raise ValueError(f"tail must be in [0, 1), not {self.tail!r}")
        _check_unit(self.unit)

    def covers(self, other: "AnyRelease") -> bool:
        """Whether `other` costs no more, field by field, and so whatever both are composed with.

        More shares cost less: the sum's distance from one discrete Gaussian, which grows, stays far below that
        at scales of 8 and more.
        """
        return (
            isinstance(other, SharedRelease)
            and other.unit == self.unit
            and other.scale >= self.scale
            and other.sensitivity <= self.sensitivity
            and other.shares >= self.shares
            and other.dimension <= self.dimension
            and other.tail <= self.tail
            and other.steps <= self.steps
        )


class Selection(Event, frozen=True, kw_only=True, tag="repeat-and-select"):
    """The best of a random number of candidates, by a score computed on private data; only the best is released.

    candidate: all that ONE candidate's training and scoring release about one unit: of releases about different units,
    the dearest (parallel composition). mean, shape: of the number of candidates, as
    dp_accounting.RepeatAndSelectDpEvent defines them: truncated negative binomial, with shape 1 geometric and shape 0
    logarithmic, or "poisson". Draw it with selection.candidate_count. steps: how often this is done.
    Source: Papernot and Steinke 2021, arXiv 2110.03620, Theorems 2 and 6.

    Raises ValueError, naming the field.

    >>> one = Release(noise_multiplier=9.0, sample_rate=1.0, steps=20, unit="patient")
    >>> Selection(candidate=(one,), mean=4.0, shape=1.0).unit
    'patient'
    """

    candidate: tuple[Release, ...]
    mean: float
    shape: float | Literal["poisson"]
    steps: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.candidate or not all(isinstance(release, Release) for release in self.candidate):
            raise ValueError("candidate must be a tuple of at least one Release")
        if len({release.unit for release in self.candidate}) > 1:
            raise ValueError("candidate must be releases of one unit")
        if not (math.isfinite(self.mean) and self.mean >= 1):
            raise ValueError(f"mean must be finite and at least 1, not {self.mean!r}")
        if self.shape != POISSON and not (isinstance(self.shape, float | int) and 0 <= self.shape < math.inf):
            raise ValueError(f"shape must be finite and at least 0, or 'poisson', not {self.shape!r}")

    @property
    def unit(self) -> Unit:
        """What one clip of its candidates bounds."""
        return self.candidate[0].unit

    def covers(self, other: "AnyRelease") -> bool:
        """Whether `other` costs no more: the same draw of as many or fewer, cheaper candidates."""
        return (
            isinstance(other, Selection)
            and (other.mean, other.shape) == (self.mean, self.shape)
            and len(other.candidate) == len(self.candidate)
            and all(mine.covers(theirs) for mine, theirs in zip(self.candidate, other.candidate, strict=True))
            and other.steps <= self.steps
        )


AnyRelease = Release | SharedRelease | Selection
"""What a ledger line can hold, told apart by `mechanism`."""


def _check_whole(name: str, value: object, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be a whole number, not {value!r}")
    if not least <= value <= most:
        raise ValueError(f"{name} must be in [{least}, {most}], not {value!r}")


def _check_unit(unit: str) -> None:
    if unit not in get_args(Unit):
        raise ValueError(f"unit must be one of {get_args(Unit)}, not {unit!r}")
