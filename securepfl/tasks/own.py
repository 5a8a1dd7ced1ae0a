"""A pipeline's own loss without a task: what outputs and labels mean is not known, so nothing is done to them."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from securepfl.tasks.labels import first_bad
from securepfl.tasks.task import Illegal, Labels, Metric, Metrics, OperatingPoint, Predictions, Shape


@dataclass(frozen=True)
class OwnLoss:
    """Labels of any shape that are finite; `predict` gives the model's raw outputs."""

    name: ClassVar[str] = "own loss"
    metrics: ClassVar[tuple[Metric, ...]] = ()
    deciding: ClassVar[str] = ""
    outputs: ClassVar[int] = 1
    baseline_title: ClassVar[str] = ""

    def misfit(self, output: Shape) -> str:
        """Any output."""
        return ""

    def illegal(self, labels: Tensor, output: Shape | None) -> Illegal | None:
        """What is not finite."""
        return first_bad(labels, ~torch.isfinite(labels), "label holds {}: leave the record out".format)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """There is none but the pipeline's own. Raises ValueError."""
        raise ValueError("a loss of one's own stands in the place of a task's: hand it in")

    def predict(self, outputs: Tensor) -> Predictions:
        """The outputs as they are, in double precision."""
        found: Predictions = outputs.double().cpu().numpy()
        return found

    def choices(self, outputs: Tensor) -> None:
        """Unknown."""
        return

    def decide(self, predictions: Predictions, point: OperatingPoint = ()) -> Predictions:
        """As they are."""
        return predictions

    def measure(
        self, predictions: Predictions, decided: NDArray[np.generic], labels: Labels, weights: NDArray[np.float64]
    ) -> dict[str, NDArray[np.float64]]:
        """No metrics."""
        return {}

    def evaluate(self, predictions: Predictions, labels: Labels, point: OperatingPoint = ()) -> Metrics:
        """No metrics."""
        return {}

    def baseline(self, labels: Labels, rows: int) -> Predictions:
        """Nothing."""
        return np.empty(0)

    def lacking(self, labels: Labels) -> str:
        """Unknown."""
        return ""

    def columns(self, predictions: Predictions, point: OperatingPoint = ()) -> dict[str, NDArray[np.generic]]:
        """Outputs by number."""
        flat = predictions.reshape(len(predictions), -1)
        return {f"output {at}": flat[:, at] for at in range(flat.shape[1])}
