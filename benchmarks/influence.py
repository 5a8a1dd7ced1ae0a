"""How far one dishonest hospital can move a sum that every other hospital accepts: the table of docs/threat-model.md.

python benchmarks/influence.py

Default settings, one local step, 400 training units a hospital, gradients at the clip, real rounding, packing and
check, no encryption. The dishonest hospital sends v, of equal size in all coordinates (which the check on single values
lets grow furthest) and of random signs, or against what the others agree on, whichever goes further: the largest that
passes, found by halving. It knows the others' gradients, and not their noise.
"""

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from torch import nn

from securepfl import Federation
from securepfl.crypto.sums.packing import quantise
from securepfl.crypto.sums.parameters import top_level
from securepfl.errors import AggregateError
from securepfl.privacy.accounting.calibration import noise_multiplier_for
from securepfl.protocol.bounds import SumBound
from securepfl.randomness import RandomStream, fresh_key

UNITS = 400
MODELS = {"logistic, 14": 14, "10,000": 10_000, "1,000,000": 1_000_000}
HOSPITALS = (4, 8, 16)


@dataclass(frozen=True)
class Influence:
    """The longest v that passes: over the longest vector on the grid, and over the longest update that passes alone."""

    grid: float
    legal: float


def federation_of(hospitals: int, values: int) -> Federation:
    """A bound federation of one shared vector of `values`."""
    names = [f"h{number:02}" for number in range(hospitals)]
    settings = {"model": {"kind": "own", "personal": []}}
    return Federation.from_mapping(settings).bound(names, lambda: nn.Linear(values, 1, bias=False), units=UNITS)


def honest_levels(federation: Federation, signal: NDArray[np.float64]) -> NDArray[np.int64]:
    """The sum of what all hospitals but one send, in steps of the grid."""
    grid, privacy, rounds = federation.encryption, federation.privacy, federation.rounds
    deviation = noise_multiplier_for(privacy.epsilon, privacy.delta, 1.0, rounds) * privacy.clip / UNITS
    total, draw = np.zeros(signal.size, dtype=np.int64), RandomStream(fresh_key())
    for _ in federation.roster[1:]:
        update = federation.training.learning_rate * (signal + deviation * draw.gaussian(signal.size))
        total += quantise(update, grid.bits, grid.limit, draw).levels.astype(np.int64) - top_level(grid.bits) // 2
    return total


def longest(bound: SumBound, honest: NDArray[np.int64], direction: NDArray[np.float64]) -> float:
    """The norm, in steps, of the longest multiple of `direction` that passes."""
    low, high = 0.0, 1e9
    while high - low > 1e-3 * low + 1e-6:
        middle = (low + high) / 2
        try:
            bound.check(honest + np.rint(middle * direction).astype(np.int64), weight=0, top=0)
        except AggregateError:
            high = middle
        else:
            low = middle
    return float(np.linalg.norm(np.rint(low * direction)))


def influence(hospitals: int, values: int) -> Influence:
    """The further of the two ways."""
    federation = federation_of(hospitals, values)
    signs = np.where(RandomStream(fresh_key()).uniform(values) < 0.5, -1.0, 1.0)
    grid, roster = federation.encryption, federation.roster
    # The grid's own check comes first: no value of a sum is beyond what all hospitals' levels add up to.
    step, most = 2 * grid.limit / top_level(grid.bits), hospitals * (top_level(grid.bits) // 2)
    bound = SumBound.over(federation, roster, round_=2, values=values, largest=1.0)
    bound = SumBound(values, min(bound.field, most), bound.square)
    alone = SumBound.over(federation, roster[:1], round_=2, values=values, largest=1.0)
    legal = min(alone.norm * step, grid.limit * sqrt(values))
    ways = []
    for size in (0.0, 1.0):
        honest = honest_levels(federation, -size * signs / sqrt(values))
        ways.append(longest(bound, honest, signs) * step)
    return Influence(max(ways) / (grid.limit * sqrt(values)), max(ways) / legal)


def main() -> None:
    """Print the table in Markdown."""
    print("| shared parameters | hospitals | x limit everywhere | x longest legal |")
    print("|---|---|---|---|")
    for model, values in MODELS.items():
        for hospitals in HOSPITALS:
            found = influence(hospitals, values)
            print(f"| {model} | {hospitals} | {found.grid:.2f} | {found.legal:.2f} |", flush=True)


if __name__ == "__main__":
    main()
