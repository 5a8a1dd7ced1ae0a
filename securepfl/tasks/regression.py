"""A number in a declared range: trained on (label - centre) / spread, predicted in the label's own unit."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from securepfl.tasks.labels import first_bad, other_shape, shape_text
from securepfl.tasks.prediction import bounded
from securepfl.tasks.task import Illegal, Labels, Metric, Metrics, Predictions, Shape, no_labels


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

    def evaluate(self, predictions: Predictions, labels: Labels) -> Metrics:
        """None where a prediction is not finite or there is no row; R2 also where all labels are equal."""
        if predictions.ndim != 1 or predictions.shape != labels.shape:
            raise ValueError(
                f"predictions {predictions.shape} and labels {labels.shape} must be one vector each, alike"
            )
        if not len(labels) or not np.isfinite(predictions).all():
            return dict.fromkeys(metric.name for metric in self.metrics)
        truth = labels.astype(np.float64)
        # In spreads, so that no square overflows before its root is taken.
        errors, spread = np.abs(predictions - truth), np.abs(truth - truth.mean())
        largest = max(float(errors.max()), math.ulp(0.0))
        squared = float(np.square(errors / largest).mean())
        return {
            "mean_absolute_error": float(errors.mean()),
            "root_mean_squared_error": largest * math.sqrt(squared),
            "r2": _r2(errors, spread),
        }

    def baseline(self, labels: Labels, rows: int) -> Predictions:
        """The training labels' mean."""
        no_labels(labels)
        return np.full(rows, labels.astype(np.float64).mean())

    def lacking(self, labels: Labels) -> str:
        """Two different labels."""
        return "hold one value only" if len(np.unique(labels)) < 2 else ""

    def columns(self, predictions: Predictions) -> dict[str, NDArray[np.generic]]:
        """The number, its unit beside the name."""
        return {f"prediction ({self.unit})" if self.unit else "prediction": predictions}


def _r2(errors: Predictions, spread: Predictions) -> float | None:
    total = float(np.square(spread).sum())
    with np.errstate(over="ignore"):
        found = 1.0 - float(np.square(errors).sum()) / total if total else -math.inf
    return found if math.isfinite(found) else None
