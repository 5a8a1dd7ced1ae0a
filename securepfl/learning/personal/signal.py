"""How much of a vector is signal, where the size of the noise in it is known.

Gaussian noise of variance s^2 on d coordinates adds d s^2 to a squared norm, give or take sqrt(2 d) s^2. A
hospital knows its own noise, so it takes that off before anybody compares it (METHODS of the design, part C).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class KnownNoise:
    """Independent Gaussian noise that was added to a vector.

    `energy`: its expected squared norm. `peak`: at least the variance of every coordinate. Raises ValueError where
    either is negative or not finite.
    """

    energy: float = 0.0
    peak: float = 0.0

    def __post_init__(self) -> None:
        for name in ("energy", "peak"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be finite and at least 0, not {value!r}")

    def plus(self, coordinates: int, variance: float) -> "KnownNoise":
        """With more noise of `variance` on `coordinates` coordinates."""
        return KnownNoise(self.energy + coordinates * variance, self.peak + variance)

    @property
    def spread(self) -> float:
        """What the noise's squared norm strays by: at least sqrt(d) s^2, which is its deviation over sqrt(2)."""
        return math.sqrt(self.energy * self.peak)


@dataclass(frozen=True)
class Signal:
    """`norm`: the vector's without its noise, 0 where the noise explains it all. `ratio`: that norm squared over the
    noise's spread, infinite without noise.
    """

    norm: float
    ratio: float

    @classmethod
    def of(cls, vector: NDArray[np.float64], noise: KnownNoise) -> "Signal":
        """The signal in `vector` [d]."""
        squared = float(vector @ vector) - noise.energy
        if squared <= 0:
            return cls(0.0, 0.0)
        ratio = squared / noise.spread if noise.spread > 0 else math.inf
        return cls(math.sqrt(squared), ratio)


def largest_excess(coordinates: int, gate: float) -> float:
    """The most that a vector's norm can be over its signal's where the ratio passes `gate`: a public number.

    The noise's energy is at most sqrt(d) spreads (Cauchy-Schwarz), the signal's at least `gate` of them.
    """
    return math.sqrt(1.0 + math.sqrt(coordinates) / gate)
