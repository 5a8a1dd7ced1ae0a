"""How large a row typically is once scaled, and how large its gradient: from columns' kinds and prevalences alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

NUMBER = 0.7
"""Typical square of a number scaled by its declared centre and spread. Measured squares are 1 to 2, as declared spreads
are often narrow; the smaller one gave the better clips.
"""
YES_OR_NO = 1.0
"""Of a column that is -1 or 1."""
LEVEL, MOST_LEVELS = 0.25, 1.0
"""Of each column that is 0 or 1, and the most of all levels of one category together, of which a row has one."""


@dataclass(frozen=True)
class Columns:
    """How many columns there are of each kind, and how many levels each category has. A missing value's own feature
    counts as none: it takes the place of a number that is 0 then. Raises ValueError for a negative count, or no column.

    >>> Columns(numbers=5, yes_or_no=3, categories=(4, 3)).row  # heart disease, as declared in the example
    8.75
    """

    numbers: int = 0
    yes_or_no: int = 0
    categories: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        counts = (self.numbers, self.yes_or_no, *self.categories)
        if min(counts) < 0 or not any(counts):
            raise ValueError(f"columns {counts}: count at least one, and none below 0")

    @property
    def row(self) -> float:
        """Typical squared norm of a row with the 1 of the intercept: an output's gradient in a linear model."""
        levels = sum(min(LEVEL * (count - 1), MOST_LEVELS) for count in self.categories)
        return 1 + NUMBER * self.numbers + YES_OR_NO * self.yes_or_no + levels


def row_of_mlp(row: float, hidden: int) -> float:
    """Typical squared norm of an output's gradient in a network of one hidden layer of tanh at its start.

    1 for the bias, about .2 for each hidden unit, and .2 of `row` for the weights before them.

    >>> round(row_of_mlp(8.75, 8), 2)
    4.35
    """
    return 1 + 0.2 * hidden + 0.2 * row


@dataclass(frozen=True)
class Outputs:
    """Of the loss by the outputs: a unit's `residual` (Euclidean) and the `curvature` by one output."""

    residual: float
    curvature: float


def binary(prevalence: float) -> Outputs:
    """Started at `prevalence`, the rarer outcome's residual is the larger share: with it as a clip nobody is shortened.

    >>> binary(0.25)
    Outputs(residual=0.75, curvature=0.1875)
    """
    return Outputs(max(prevalence, 1 - prevalence), prevalence * (1 - prevalence))


def multiclass(shares: Sequence[float]) -> Outputs:
    """Started at the classes' `shares`: the residual of the rarest class.

    >>> multiclass((0.5, 0.5)) == Outputs(math.sqrt(0.5), 0.25)
    True
    """
    squares = math.fsum(share * share for share in shares)
    return Outputs(math.sqrt(1 - 2 * min(shares) + squares), max(share * (1 - share) for share in shares))


def multilabel(shares: Sequence[float]) -> Outputs:
    """Started at the labels' `shares`; the loss is their mean. One label with its rarer outcome, the others typical.

    >>> multilabel((0.2,)) == binary(0.2)
    True
    """
    typical = [share * (1 - share) for share in shares]
    rare = max(max(share, 1 - share) ** 2 - own for share, own in zip(shares, typical, strict=True))
    return Outputs(math.sqrt(math.fsum(typical) + rare) / len(shares), max(typical) / len(shares))


def regression() -> Outputs:
    """Squared error in declared spreads, of a label about one spread off.

    >>> regression()
    Outputs(residual=2.0, curvature=2.0)
    """
    return Outputs(2.0, 2.0)
