"""A number in a declared range: trained on (label - centre) / spread, predicted in the label's own unit."""

import math
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from securepfl.tasks.labels import first_bad, other_shape, shape_text
from securepfl.tasks.metrics import mean
from securepfl.tasks.prediction import bounded
from securepfl.tasks.resampling import score
from securepfl.tasks.task import Illegal, Labels, Metric, Metrics, OperatingPoint, Predictions, Shape, no_labels

_EQUAL: Final = 1e-12
"""Of the largest squared distance from the mean: a variance below is rounding."""


@dataclass(frozen=True)
class Regression:
    """Labels [n] in their own unit; outputs [n] or [n, 1] (and labels alike) in spreads around the centre.

    A label more than `limit` spreads from the centre is refused: a typing error, or a code for "unknown". All hospitals
    must declare the same, from public knowledge. By default labels are trained on as they are.
    Raises ValueError for a value out of range.

    >>> pressure = Regression(centre=120, spread=20, limit=10, unit="mmHg")
    >>> pressure.predict(torch.tensor([0.5])).tolist()
    [130.0]
    >>> pressure.illegal(torch.tensor([118.0, 999.0]), ()).place
    1
    """

    centre: float = 0.0
    spread: float = 1.0
    limit: float = math.inf
    unit: str = ""

    name: ClassVar[str] = "regression"
    deciding: ClassVar[str] = "mean_absolute_error"
    outputs: ClassVar[int] = 1
    baseline_title: ClassVar[str] = "training mean"

    def __post_init__(self) -> None:
        if not math.isfinite(self.centre) or not 0 < self.spread < math.inf or not self.limit > 0:
            raise ValueError("a regression needs a finite centre, a positive finite spread and a positive limit")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Errors are in the label's unit."""
        unit = f", {self.unit}" if self.unit else ""
        return (
            Metric("mean_absolute_error", f"mean absolute error{unit}", higher_is_better=False),
            Metric("root_mean_squared_error", f"root mean squared error{unit}", higher_is_better=False),
            Metric("r2", "R2"),
            Metric("mean_error", f"mean error{unit}", detail=True),
        )

    def misfit(self, output: Shape) -> str:
        """One output a record."""
        return "" if output in ((), (1,)) else f"a regression needs one output a record, not {shape_text(output)}"

    def illegal(self, labels: Tensor, output: Shape | None) -> Illegal | None:
        """Shapes other than the output's, what is not finite, and what lies outside the limit."""
        shape = tuple(labels.shape[1:])
        if shape not in ((), (1,)) or output not in (None, shape):
            return other_shape(shape, output)
        bad, legal = ~torch.isfinite(labels), "labels are finite numbers; leave the record out"
        if self.limit < math.inf:
            low, high = self.centre - self.limit * self.spread, self.centre + self.limit * self.spread
            bad = bad | (labels < low) | (labels > high)
            legal = f"labels are declared to lie from {low:g} to {high:g}; mend it, or declare more"
        return first_bad(labels, bad, f"label is {{}}: {legal}".format)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Squared error, in spreads. Raises ValueError where the shapes differ."""
        if outputs.shape != labels.shape:
            raise ValueError(f"outputs {tuple(outputs.shape)} and labels {tuple(labels.shape)} differ in shape")
        scaled = ((labels - self.centre) / self.spread).to(outputs.dtype)
        return (outputs - scaled).square().reshape(len(outputs))

    def predict(self, outputs: Tensor) -> Predictions:
        """[n], in the label's unit."""
        if problem := self.misfit(tuple(outputs.shape[1:])):
            raise ValueError(problem)
        found: Predictions = (self.centre + self.spread * bounded(outputs).reshape(-1)).cpu().numpy()
        return found

    def choices(self, outputs: Tensor) -> None:
        """None: a number is no choice, and says nothing of how sure it is."""
        return

    def decide(self, predictions: Predictions, point: OperatingPoint = ()) -> Predictions:
        """The number as it is."""
        return predictions

    def measure(
        self, predictions: Predictions, decided: NDArray[np.generic], labels: Labels, weights: NDArray[np.float64]
    ) -> dict[str, NDArray[np.float64]]:
        """None where a prediction is not finite or there is no row; R2 also where all labels are equal. The mean error
        is above 0 where predictions are too high.
        """
        if predictions.ndim != 1 or predictions.shape != labels.shape:
            raise ValueError(
                f"predictions {predictions.shape} and labels {labels.shape} must be one vector each, alike"
            )
        if not len(labels) or not np.isfinite(predictions).all():
            return {metric.name: np.full(len(weights), np.nan) for metric in self.metrics}
        truth = labels.astype(np.float64)
        errors = predictions - truth
        # In parts of the largest, so that no square overflows before its root is taken.
        largest = max(float(np.abs(errors).max()), math.ulp(0.0))
        squared = mean(np.square(errors / largest), weights)
        return {
            "mean_absolute_error": mean(np.abs(errors), weights),
            "root_mean_squared_error": largest * np.sqrt(squared),
            "r2": _r2(squared, largest, truth, weights),
            "mean_error": mean(errors, weights),
        }

    def evaluate(self, predictions: Predictions, labels: Labels, point: OperatingPoint = ()) -> Metrics:
        """See measure."""
        return score(self, predictions, labels).point

    def baseline(self, labels: Labels, rows: int) -> Predictions:
        """The training labels' mean."""
        no_labels(labels)
        return np.full(rows, labels.astype(np.float64).mean())

    def lacking(self, labels: Labels) -> str:
        """Two different labels."""
        return "hold one value only" if len(np.unique(labels)) < 2 else ""

    def columns(self, predictions: Predictions, point: OperatingPoint = ()) -> dict[str, NDArray[np.generic]]:
        """The number, its unit beside the name."""
        return {f"prediction ({self.unit})" if self.unit else "prediction": predictions}


def _r2(
    squared: NDArray[np.float64], largest: float, truth: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """`squared` [R]: mean squared error in parts of `largest` squared. NaN where all labels of a resample are equal."""
    away = truth - truth.mean()
    variance = mean(np.square(away), weights) - np.square(mean(away, weights))
    variance = np.where(variance > _EQUAL * np.square(np.abs(away).max()), variance, np.nan)
    with np.errstate(over="ignore"):
        found: NDArray[np.float64] = 1.0 - squared * largest / variance * largest
    return found
