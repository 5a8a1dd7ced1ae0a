"""Yes or no: one output, labels 0 and 1, the probability of 1."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from securepfl.tasks.labels import first_bad, other_shape, shape_text
from securepfl.tasks.metrics import auprc, auroc, balanced_accuracy, calibration, check_probabilities, mean, recall
from securepfl.tasks.prediction import probabilities
from securepfl.tasks.resampling import score
from securepfl.tasks.task import Illegal, Labels, Metric, Metrics, OperatingPoint, Predictions, Shape, no_labels


@dataclass(frozen=True)
class Binary:
    """Labels [n] of 0 and 1 in any type; outputs [n] or [n, 1] (and labels alike): the logit of 1.

    A label that is NaN or infinite is none of its business: its record's gradient is not finite and counts as zero.

    >>> Binary().illegal(torch.tensor([0.0, 1.0, 2.0]), ()).place
    2
    >>> Binary().predict(torch.tensor([0.0])).tolist()
    [0.5]
    """

    name: ClassVar[str] = "binary"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("accuracy", "accuracy"),
        Metric("balanced_accuracy", "balanced accuracy"),
        Metric("auroc", "AUROC"),
        Metric("auprc", "AUPRC", detail=True),
        Metric("sensitivity", "sensitivity", detail=True),
        Metric("specificity", "specificity", detail=True),
        Metric("brier", "Brier score", higher_is_better=False, detail=True),
        Metric("calibration_slope", "calibration slope", detail=True),
        Metric("calibration_intercept", "calibration intercept", detail=True),
    )
    deciding: ClassVar[str] = "balanced_accuracy"
    outputs: ClassVar[int] = 1
    baseline_title: ClassVar[str] = "majority"

    def misfit(self, output: Shape) -> str:
        """One output a record."""
        return "" if output in ((), (1,)) else f"a binary task needs one output a record, not {shape_text(output)}"

    def illegal(self, labels: Tensor, output: Shape | None) -> Illegal | None:
        """Shapes other than the output's, and finite values other than 0 and 1."""
        shape = tuple(labels.shape[1:])
        if shape not in ((), (1,)) or output not in (None, shape):
            return other_shape(shape, output)
        bad = (labels != 0) & (labels != 1) & torch.isfinite(labels)
        return first_bad(labels, bad, "label is {}: binary labels are 0 and 1; map them, or set another task".format)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """See bce."""
        return bce(outputs, labels)

    def predict(self, outputs: Tensor) -> Predictions:
        """The probability of 1, [n]."""
        if self.misfit(tuple(outputs.shape[1:])):
            raise ValueError(f"binary outputs must be [n] or [n, 1], not {list(outputs.shape)}")
        return probabilities(_pairs(outputs))[:, 1]

    def choices(self, outputs: Tensor) -> Tensor:
        """No or yes, [n, 1, 2]."""
        return _pairs(outputs)[:, None, :]

    def decide(self, predictions: Predictions, point: OperatingPoint = ()) -> NDArray[np.int64]:
        """1 from the threshold up.

        >>> Binary().decide(np.array([0.2, 0.4]), (0.3,)).tolist()
        [0, 1]
        """
        return (predictions >= (point[0] if point else 0.5)).astype(np.int64)

    def measure(
        self, predictions: Predictions, decided: NDArray[np.generic], labels: Labels, weights: NDArray[np.float64]
    ) -> dict[str, NDArray[np.float64]]:
        """All need a row; all but accuracy and Brier score both classes, sensitivity and specificity the one each."""
        _check(predictions, labels)
        truth, answer = labels.astype(np.int64), decided.astype(np.int64)
        slope, intercept = calibration(truth, predictions, weights)
        return {
            "accuracy": mean(truth == answer, weights),
            "balanced_accuracy": balanced_accuracy(truth, answer, weights),
            "auroc": auroc(truth, predictions, weights),
            "auprc": auprc(truth, predictions, weights),
            "sensitivity": recall(truth, answer, 1, weights),
            "specificity": recall(truth, answer, 0, weights),
            "brier": mean(np.square(predictions - truth), weights),
            "calibration_slope": slope,
            "calibration_intercept": intercept,
        }

    def evaluate(self, predictions: Predictions, labels: Labels, point: OperatingPoint = ()) -> Metrics:
        """See measure; decided at the threshold (default 1/2)."""
        return score(self, predictions, labels, point).point

    def baseline(self, labels: Labels, rows: int) -> Predictions:
        """The commoner class, 1 on a tie."""
        _check(np.zeros(labels.shape), labels)
        no_labels(labels)
        return np.full(rows, float(labels.astype(np.float64).mean() >= 0.5))

    def lacking(self, labels: Labels) -> str:
        """Both classes."""
        return "hold one class" if len(np.unique(labels)) < 2 else ""

    def columns(self, predictions: Predictions, point: OperatingPoint = ()) -> dict[str, NDArray[np.generic]]:
        """The probability of 1, and 1 from the threshold up."""
        return {"probability": predictions, "prediction": self.decide(predictions, point)}


BINARY = Binary()


def bce(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of each record: logits [B] or [B, 1] and labels alike (0 or 1) -> losses [B], in nats.

    Raises ValueError where the shapes differ, which torch would otherwise broadcast into B x B losses.
    """
    if logits.shape != labels.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} differ in shape")
    losses = functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none")
    return losses.reshape(len(losses))


def _pairs(logits: Tensor) -> Tensor:
    """[n] or [n, 1] as [n, 2], with 0 for the negative class."""
    positive = logits.reshape(-1)
    return torch.stack([torch.zeros_like(positive), positive], dim=1)


def _check(predictions: NDArray[np.floating], labels: Labels) -> None:
    if predictions.ndim != 1 or predictions.shape != labels.shape:
        raise ValueError(f"probabilities {predictions.shape} and labels {labels.shape} must be one vector each, alike")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels must be 0 or 1, not {np.unique(labels)[:5]}")
    check_probabilities(predictions)
