"""ROC and calibration of yes/no answers at the operating point: what a page draws of one model on some test rows."""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from securepfl.tasks.task import Labels, Predictions

_MOST_POINTS: Final = 101
_MOST_GROUPS: Final = 10
_LEAST_IN_GROUP: Final = 8
_Z: Final = 1.959964
"""Of a 95 % interval."""


@dataclass(frozen=True)
class CalibrationGroup:
    """Rows of about the same predicted probability: its mean, the share of yes among them with its 95 % interval
    (Wilson, by row), and their number.
    """

    predicted: float
    observed: float
    low: float
    high: float
    rows: int


@dataclass(frozen=True)
class Curves:
    """Of one model on some test rows. `roc`: (1 - specificity, sensitivity) from (0, 0) to (1, 1), thinned to at most
    101 points; empty where the rows hold one class. The four counts are those of the answers at each row's own
    operating point.

    >>> found = Curves.of(np.array([0, 1, 1]), np.array([0.2, 0.4, 0.9]), np.array([0, 1, 1]))
    >>> found.roc[-1], found.true_yes, found.yes, found.rows
    ((1.0, 1.0), 2, 2, 3)
    """

    rows: int
    yes: int
    true_yes: int
    false_yes: int
    roc: tuple[tuple[float, float], ...]
    calibration: tuple[CalibrationGroup, ...]

    @classmethod
    def of(cls, labels: Labels, predictions: Predictions, decided: NDArray[np.generic]) -> Self:
        """From labels [n] of 0 and 1, probabilities of 1 [n], and answers [n] of 0 and 1."""
        truth, said = labels.astype(bool), decided.astype(bool)
        return cls(
            rows=len(truth),
            yes=int(truth.sum()),
            true_yes=int((truth & said).sum()),
            false_yes=int((~truth & said).sum()),
            roc=_roc(truth, predictions),
            calibration=_calibration(truth, predictions),
        )


def _roc(truth: NDArray[np.bool_], predictions: Predictions) -> tuple[tuple[float, float], ...]:
    if truth.all() or not truth.any():
        return ()
    order = np.argsort(-predictions, kind="stable")
    last = np.append(np.flatnonzero(np.diff(predictions[order])), len(order) - 1)
    caught, alarms = np.cumsum(truth[order])[last], np.cumsum(~truth[order])[last]
    points = np.vstack([[0.0, 0.0], np.column_stack([alarms / alarms[-1], caught / caught[-1]])])
    if len(points) > _MOST_POINTS:
        points = points[np.linspace(0, len(points) - 1, _MOST_POINTS).round().astype(int)]
    return tuple((round(float(x), 4), round(float(y), 4)) for x, y in points)


def _calibration(truth: NDArray[np.bool_], predictions: Predictions) -> tuple[CalibrationGroup, ...]:
    count = min(_MOST_GROUPS, len(truth) // _LEAST_IN_GROUP)
    if count < 2:
        return ()
    order = np.argsort(predictions, kind="stable")
    # Rows of one prediction stay together: parted, the order of the file would decide what is observed of each part.
    starts = np.array([len(part) for part in np.array_split(order, count)]).cumsum()[:-1]
    starts = np.unique(np.searchsorted(predictions[order], predictions[order][starts]))
    parts = np.split(order, starts[starts > 0])
    return tuple(_group(truth[part], predictions[part]) for part in parts)


def _group(truth: NDArray[np.bool_], predictions: Predictions) -> CalibrationGroup:
    rows, observed = len(truth), float(truth.mean())
    spread = _Z**2 / rows
    centre = (observed + spread / 2) / (1 + spread)
    half = float(np.sqrt(observed * (1 - observed) * spread + spread**2 / 4)) / (1 + spread)
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return CalibrationGroup(
        round(float(predictions.mean()), 4), round(observed, 4), round(low, 4), round(high, 4), rows
    )
