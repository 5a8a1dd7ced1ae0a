"""What wrong declarations cost: measured once, on tables whose truth was known (docs/planning.md)."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Wrong:
    """Loss of AUROC and of balanced accuracy on the mean of sixteen tables at epsilon 1, and on the worst of them.

    `factor` is the declared number over the true one; None where nothing is declared.
    """

    what: str
    factor: float | None
    auroc: float
    worst_auroc: float
    balanced_accuracy: float
    worst_balanced_accuracy: float


WRONG: Final = (
    Wrong("every prevalence", 0.5, 0.015, 0.075, 0.063, 0.137),
    Wrong("every prevalence", 2.0, 0.019, 0.143, 0.078, 0.159),
    Wrong("every prevalence", None, 0.004, 0.026, 0.029, 0.113),
    Wrong("the hospitals' own prevalences", None, 0.000, 0.004, 0.001, 0.012),
    Wrong("every hospital's units", 0.5, 0.019, 0.085, 0.017, 0.067),
    Wrong("every hospital's units", 2.0, 0.001, 0.010, 0.000, 0.010),
)
