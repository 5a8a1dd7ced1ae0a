"""What an epsilon can be expected to buy: the area under the ROC curve beside the one assumed without privacy.

Noise and early stopping widen the logits within each class: AUROC = Phi(z0 / sqrt(1 + k nu / z0^2)), z0 = Phi^-1(the
AUROC without privacy), nu = clip noise / curvature. k was fitted on nine tables at six epsilons each, the range so that
it held 96 % of these and all of seven others' (docs/planning.md). Linear models alone were measured.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

from securepfl.learning.declared.facts import Facts
from securepfl.learning.declared.rule import LEAST_STEPS

ASSUMED_AUROC = 0.85
"""Without privacy, where nobody declared another: what clinical tables of a dozen columns often reach."""
_MIDDLE, _BEST, _WORST = 1.7, 0.4, 4.0
_WIDER = 0.01
"""Added to either end of the range: patients' luck."""


@dataclass(frozen=True)
class Forecast:
    """An expected AUROC and its range."""

    low: float
    middle: float
    high: float


def forecast(facts: Facts, auroc: float = ASSUMED_AUROC, steps: int = LEAST_STEPS) -> Forecast:
    """The AUROC to expect of a linear model with these facts, where `auroc` is what it would have without privacy.

    `steps`, the rounds' own, count where the same epsilon pays for others beside them, or batches are drawn.

    Raises ValueError unless `auroc` is above .5 and below 1.

    >>> from securepfl.learning.declared.facts import Share
    >>> units = (199, 172, 30, 85)  # heart disease at epsilon 1, delta 1e-5: .860 measured, .862 without privacy
    >>> hospitals = tuple(Share(n, n / sum(units)) for n in units)
    >>> found = forecast(Facts(hospitals, mu=0.268, residual=0.508, curvature=0.25, row=8.75), auroc=0.862)
    >>> round(found.low, 2), round(found.middle, 2), round(found.high, 2)
    (0.82, 0.85, 0.87)
    """
    if not 0.5 < auroc < 1:
        raise ValueError(f"the AUROC assumed without privacy is {auroc}: give one above 0.5 and below 1, e.g. 0.85")
    noise = facts.residual * math.sqrt(facts.row) * facts.noise(steps) / facts.curvature
    low, middle, high = (_blurred(auroc, factor * noise) for factor in (_WORST, _MIDDLE, _BEST))
    return Forecast(max(low - _WIDER, 0.5), middle, min(high + _WIDER, 1.0))


def _blurred(auroc: float, noise: float) -> float:
    normal = NormalDist()
    z = normal.inv_cdf(auroc)
    return normal.cdf(z / math.sqrt(1 + noise / z**2))
