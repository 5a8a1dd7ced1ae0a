"""Clip, learning rate, rounds and the grid's limit from declared facts, in closed form.

Noise in an output that has been trained at rate r for n steps has standard deviation r n clip noise sqrt(row): only r n
counts, so it is chosen by how much noise an output may hold, and the number of steps by how far one step may go.
Constants were fitted on nine tables and then tried on eight others (docs/planning.md).
"""

import math
from dataclasses import dataclass

from securepfl.learning.declared.facts import Facts

LEAST_NOISE, MOST_NOISE = 1 / 5, 1 / 2
"""Noise in a typical patient's output (log-odds) at the end of training, in standard deviations: more where there is
little, since then the weaker directions can be learned as well.
"""
_FULL = 300.0
"""1 / noise over this is the noise that an output may hold, between those two."""
LEAST_STEPS, MOST_STEPS = 5, 40
_STEP = 5.0
"""A step's rate times the curvature is at most 1 / _STEP: more overshoots along the widest columns."""
_DEVIATIONS = 5.0
"""Of noise that the grid's limit lets through: one value in two million is beyond."""
LEAST_ROUNDS = 10
"""Where hospitals are compared, which takes rounds of its own, or a round trains or sends a part of the model."""


@dataclass(frozen=True)
class Given:
    """What a federation set itself, None where it is to be chosen, and whether it needs several rounds anyhow."""

    rounds: int | None = None
    learning_rate: float | None = None
    clip: float | None = None
    limit: float | None = None
    several: bool = False


@dataclass(frozen=True)
class Choice:
    """What stands in the digest. `travel` is learning rate x steps, of a coordinate; `output_noise` the noise in a
    typical output at the end, and `wanted` what the rule aims at: less where the most steps don't get there.
    """

    rounds: int
    learning_rate: float
    clip: float
    limit: float
    travel: float
    output_noise: float
    wanted: float


def choose(facts: Facts, given: Given = Given()) -> Choice:
    """The rule: clip where nobody is shortened, travel until an output holds the noise that it may, as few steps as go
    safely. Rounded to three digits. What is `given` stays, and the rest follows it.

    >>> from securepfl.learning.declared.facts import Share
    >>> units = (199, 172, 30, 85)  # heart disease at epsilon 1, delta 1e-5
    >>> hospitals = tuple(Share(n, n / sum(units)) for n in units)
    >>> chosen = choose(Facts(hospitals, mu=0.268, residual=0.508, curvature=0.25, row=8.75))
    >>> chosen.rounds, chosen.learning_rate, chosen.clip
    (5, 0.637, 1.5)
    """
    root = math.sqrt(facts.row)
    clip = _rounded(facts.residual * root * math.sqrt(facts.density)) if given.clip is None else given.clip
    whole = clip / math.sqrt(facts.density)
    steps = LEAST_STEPS
    for _ in range(3):  # where batches are drawn, noise depends a little on the number of steps
        noise = facts.noise(steps)
        wanted = _wanted(facts, noise)
        travel = wanted / (whole * noise * root)
        steps = _steps(facts, travel, given)
    travel = min(travel, steps / (_STEP * facts.curvature))
    rounds, rate = steps // facts.steps, given.learning_rate
    if rate is None:
        rate = _rounded(travel / (steps * facts.density))
    travel = rate * steps * facts.density
    limit = _rounded(_limit(facts, rate, clip, steps)) if given.limit is None else given.limit
    return Choice(rounds, rate, clip, limit, travel, travel * whole * facts.noise(steps) * root, wanted)


def _wanted(facts: Facts, noise: float) -> float:
    """A network starts from random weights that it must first unlearn, so it may always hold the most."""
    return MOST_NOISE if facts.hidden else min(max(1 / (_FULL * noise), LEAST_NOISE), MOST_NOISE)


def _steps(facts: Facts, travel: float, given: Given) -> int:
    """A whole number of rounds' steps."""
    if given.rounds is not None:
        return given.rounds * facts.steps
    if given.learning_rate is None:
        needed = _STEP * travel * facts.curvature
    else:
        needed = travel / (given.learning_rate * facts.density)
    rounds = math.ceil(min(max(needed, LEAST_STEPS), MOST_STEPS) / facts.steps)
    return max(rounds, LEAST_ROUNDS if given.several or facts.density < 1 else 1) * facts.steps


def _limit(facts: Facts, rate: float, clip: float, steps: int) -> float:
    """The largest value of an update: the signal of outputs that are all off alike, and the noise of any hospital."""
    largest = max(hospital.weight for hospital in facts.hospitals)
    values = (
        hospital.weight
        / largest
        * (
            facts.steps * min(facts.residual, clip)
            + _DEVIATIONS
            * math.sqrt(facts.steps)
            * clip
            * facts.multiplier(hospital, steps)
            / (hospital.rate * hospital.units)
        )
        for hospital in facts.hospitals
    )
    return rate * max(values)


def _rounded(value: float) -> float:
    """Three digits: what people read is what the digest holds."""
    return float(f"{value:.3g}")
