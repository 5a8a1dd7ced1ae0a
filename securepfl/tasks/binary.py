"""Yes or no: one output, labels 0 and 1, the probability of 1."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score
from torch import Tensor
from torch.nn import functional

from securepfl.tasks.labels import first_bad, other_shape, shape_text
from securepfl.tasks.metrics import auroc, binary_balanced_accuracy, check_probabilities
from securepfl.tasks.prediction import probabilities
from securepfl.tasks.task import Illegal, Labels, Metric, Metrics, Predictions, Shape, no_labels


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

    def evaluate(self, predictions: NDArray[np.floating], labels: Labels) -> Metrics:
        """Accuracy and balanced accuracy at 1/2, and AUROC; the last two need both classes, all need a row."""
        _check(predictions, labels)
        truth, decided = labels.astype(np.int64), (predictions >= 0.5).astype(np.int64)
        return {
            "accuracy": float(accuracy_score(truth, decided)) if truth.size else None,
            "balanced_accuracy": binary_balanced_accuracy(truth, decided),
            "auroc": auroc(truth, predictions),
        }

    def baseline(self, labels: Labels, rows: int) -> Predictions:
        """The commoner class, 1 on a tie."""
        _check(np.zeros(labels.shape), labels)
        no_labels(labels)
        return np.full(rows, float(labels.astype(np.float64).mean() >= 0.5))

    def lacking(self, labels: Labels) -> str:
        """Both classes."""
        return "hold one class" if len(np.unique(labels)) < 2 else ""

    def columns(self, predictions: Predictions) -> dict[str, NDArray[np.generic]]:
        """The probability of 1, and 1 from a half up."""
        return {"probability": predictions, "prediction": (predictions >= 0.5).astype(np.int64)}


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
