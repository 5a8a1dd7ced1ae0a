"""What is declared, in the terms that the rule and the forecast need."""

import math
from dataclasses import dataclass

SHARED_NOISE = 0.84
"""Of sqrt(hospitals - absent), by which shared noise is less than everybody's own: its accounting costs the rest
(docs/results/shared_noise.md has .78 to .90).
"""


@dataclass(frozen=True)
class Share:
    """A hospital: its declared `units`, its share `weight` of the mean over hospitals, and the Poisson `rate` at which
    it draws units (1: all of them in every step). Raises ValueError out of range.
    """

    units: int
    weight: float
    rate: float = 1.0

    def __post_init__(self) -> None:
        if self.units < 1:
            raise ValueError(f"units = {self.units}: must be at least 1")
        if not 0 < self.weight <= 1:
            raise ValueError(f"weight = {self.weight}: a share, above 0 and at most 1")
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate = {self.rate}: must be in (0, 1]")


@dataclass(frozen=True)
class Facts:
    """A federation before any row is read.

    `mu`: by how many standard deviations of all noise one unit may move what a hospital sends (gaussian.py).
    `residual`: how large a unit's gradient by the model's outputs may typically be; `curvature`: the loss's second
    derivative by an output; `row`: the typical squared norm of an output's gradient by the parameters. `hidden` is
    whether there are hidden layers, `steps` the local steps a round, `density` the share of coordinates that a round
    trains. `absent` (under shared noise alone) is how many hospitals' noise does not count. `beside`: steps of the same
    noise that the same `mu` pays for and that train no round: those of further releases.
    Raises ValueError where a number is out of range.
    """

    hospitals: tuple[Share, ...]
    mu: float
    residual: float
    curvature: float
    row: float
    hidden: bool = False
    steps: int = 1
    density: float = 1.0
    absent: int | None = None
    beside: int = 0

    def __post_init__(self) -> None:
        if not self.hospitals:
            raise ValueError("no hospitals: declare [sites]")
        for name in ("mu", "residual", "curvature", "row", "steps", "density"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} = {value}: must be positive and finite")
        if self.absent is not None and not 0 <= self.absent < len(self.hospitals):
            raise ValueError(f"absent = {self.absent}: must be fewer than the {len(self.hospitals)} hospitals")
        if self.beside < 0 or (self.beside and self.absent is not None):
            raise ValueError(f"beside = {self.beside}: must be 0 or more, and 0 under shared noise")

    @property
    def units(self) -> int:
        """All hospitals' together."""
        return sum(hospital.units for hospital in self.hospitals)

    def noise(self, steps: int) -> float:
        """Standard deviation, of a number in the mean over hospitals, of all the noise that the rounds' `steps` steps
        add at learning rate 1 / `steps` and clip 1.

        >>> four = (Share(100, 0.25),) * 4
        >>> round(Facts(four, mu=0.5, residual=0.5, curvature=0.25, row=9.0).noise(10), 4)
        0.01
        >>> round(Facts(four, mu=0.5, residual=0.5, curvature=0.25, row=9.0, beside=30).noise(10), 4)
        0.02
        """
        if self.absent is not None:
            counted = len(self.hospitals) - self.absent
            return math.sqrt(len(self.hospitals) / counted) / (SHARED_NOISE * self.mu * self.units)
        paid = steps + self.beside
        parts = (hospital.weight / (_mu(self.mu, hospital.rate, paid) * hospital.units) for hospital in self.hospitals)
        return math.hypot(*parts) * math.sqrt(paid / steps)

    def multiplier(self, hospital: Share, steps: int) -> float:
        """Noise of one step at `hospital`, over its clip, where rounds take `steps`. Where batches are drawn it is the
        limit of many steps.

        >>> facts = Facts((Share(5000, 1.0, rate=0.1),), mu=0.5, residual=0.5, curvature=0.25, row=9.0)
        >>> round(facts.multiplier(facts.hospitals[0], 20), 2)
        1.11
        """
        paid = steps + self.beside
        return hospital.rate * math.sqrt(paid) / _mu(self.mu, hospital.rate, paid)


def _mu(mu: float, rate: float, steps: int) -> float:
    """What is left of `mu` for a mean over drawn batches: by mu^2 = steps rate^2 (exp(1 / noise^2) - 1), the central
    limit of many steps (Bu et al. 2020, arXiv 1911.11607). A full batch keeps all of it.
    """
    drawn = rate * math.sqrt(steps)
    return mu if rate == 1 else drawn * math.sqrt(math.log1p((mu / drawn) ** 2))
