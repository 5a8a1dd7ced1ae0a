"""ROC and calibration of answers at the operating point: what a page draws of models on some test rows."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from securepfl.tasks.binary import Binary
from securepfl.tasks.multiclass import Multiclass
from securepfl.tasks.multilabel import Multilabel
from securepfl.tasks.task import Labels, Predictions, Task

_MOST_POINTS: Final = 101
_MOST_GROUPS: Final = 10
_LEAST_IN_GROUP: Final = 8
MOST_PARTS: Final = 12
"""Classes or labels that have curves: the first."""
_Z: Final = 1.959964
"""Of a 95 % interval."""


@dataclass(frozen=True)
class CalibrationGroup:
    """Rows of about the same prediction: its mean, what was observed with its 95 % interval by row, and their number.
    Of probabilities that is the share of yes (Wilson), of numbers the mean (normal).
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
    return tuple(_group(truth[part], predictions[part]) for part in _grouped(predictions))


def _group(truth: NDArray[np.bool_], predictions: Predictions) -> CalibrationGroup:
    rows, observed = len(truth), float(truth.mean())
    spread = _Z**2 / rows
    centre = (observed + spread / 2) / (1 + spread)
    half = float(np.sqrt(observed * (1 - observed) * spread + spread**2 / 4)) / (1 + spread)
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return CalibrationGroup(
        round(float(predictions.mean()), 4), round(observed, 4), round(low, 4), round(high, 4), rows
    )


@dataclass(frozen=True)
class Drawn:
    """All that is drawn of models on some test rows: of yes or no `curves` by model; of classes, each against the rest,
    and of several labels `by_part`, by class or label and model; of numbers `numbers`, observed beside predicted.
    """

    curves: Mapping[str, Curves] = field(default_factory=dict)
    by_part: Mapping[str, Mapping[str, Curves]] = field(default_factory=dict)
    numbers: Mapping[str, tuple[CalibrationGroup, ...]] = field(default_factory=dict)

    def to_mapping(self) -> dict[str, Any]:
        """As result.json has them; what there is none of is left out but for `curves`."""
        found: dict[str, Any] = {"curves": {model: dataclasses.asdict(its) for model, its in self.curves.items()}}
        if self.by_part:
            found["curves_by_part"] = {
                part: {model: dataclasses.asdict(its) for model, its in of.items()} for part, of in self.by_part.items()
            }
        if self.numbers:
            found["predicted_and_observed"] = {
                model: [dataclasses.asdict(group) for group in groups] for model, groups in self.numbers.items()
            }
        return found


class Question(NamedTuple):
    """A yes or no about rows: its name ("" for the only one), the truth, the chance of yes, and the answer."""

    name: str
    truth: Labels
    chances: Predictions
    decided: NDArray[np.generic]


def questions_of(task: Task, labels: Labels, predictions: Predictions, decided: NDArray[np.generic]) -> list[Question]:
    """What a task asks of each row, at most MOST_PARTS; none of a number or a mask.

    >>> chances = np.array([[0.7, 0.3], [0.2, 0.8]])
    >>> asked = questions_of(Multiclass(("mild", "severe")), np.array([0, 1]), chances, np.array([0, 0]))
    >>> [(one.name, one.truth.tolist(), one.decided.tolist()) for one in asked]
    [('mild', [True, False], [True, True]), ('severe', [False, True], [False, False])]
    """
    return list(islice(_questions(task, labels, predictions, decided), MOST_PARTS))


def _questions(
    task: Task, labels: Labels, predictions: Predictions, decided: NDArray[np.generic]
) -> Iterator[Question]:
    match task:
        case Binary():
            yield Question("", labels, predictions, decided)
        case Multiclass():
            for at in range(predictions.shape[1]):
                name = task.classes[at] if task.classes else str(at)
                yield Question(name, labels == at, predictions[:, at], decided == at)
        case Multilabel():
            for at in range(predictions.shape[1]):
                name = task.labels[at] if task.labels else str(at)
                yield Question(name, labels[:, at], predictions[:, at], decided[:, at])


def observed_numbers(labels: Labels, predictions: Predictions) -> tuple[CalibrationGroup, ...]:
    """Numbers [n] beside what was predicted [n], in groups of like predictions; none of fewer than two groups' rows.

    >>> found = observed_numbers(np.arange(16.0), np.arange(16.0) + 1)
    >>> [(group.predicted, group.observed, group.rows) for group in found]
    [(4.5, 3.5, 8), (12.5, 11.5, 8)]
    """
    groups = (part for part in _grouped(predictions) if len(part) > 1)
    return tuple(_number(labels[part].astype(np.float64), predictions[part]) for part in groups)


def _number(labels: NDArray[np.float64], predictions: Predictions) -> CalibrationGroup:
    observed = float(labels.mean())
    half = _Z * float(labels.std(ddof=1)) / len(labels) ** 0.5
    predicted, low, high = float(predictions.mean()), observed - half, observed + half
    return CalibrationGroup(_digits(predicted), _digits(observed), _digits(low), _digits(high), len(labels))


def _digits(value: float) -> float:
    return float(f"{value:.6g}")


def _grouped(predictions: Predictions) -> list[NDArray[np.intp]]:
    """Places of rows of like predictions."""
    count = min(_MOST_GROUPS, len(predictions) // _LEAST_IN_GROUP)
    if count < 2:
        return []
    order = np.argsort(predictions, kind="stable")
    # Rows of one prediction stay together: parted, the order of the file would decide what is observed of each part.
    starts = np.array([len(part) for part in np.array_split(order, count)]).cumsum()[:-1]
    starts = np.unique(np.searchsorted(predictions[order], predictions[order][starts]))
    return np.split(order, starts[starts > 0])
