"""Several yes-or-no questions at once: an output and a label of 0 or 1 for each."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from securepfl.tasks.labels import first_bad, shape_text
from securepfl.tasks.metrics import auprc, auroc, balanced_accuracy, check_probabilities, mean, mean_known
from securepfl.tasks.prediction import bounded
from securepfl.tasks.resampling import score
from securepfl.tasks.task import Illegal, Labels, Metric, Metrics, OperatingPoint, Predictions, Shape, no_labels


@dataclass(frozen=True)
class Multilabel:
    """Labels [n, k] of 0 and 1 in any type, outputs [n, k]: the logit of each label's 1.

    `labels`: their names, in order; without them k is what the model gives. Raises ValueError for one label (that is
    a binary task), or a name that comes twice.

    >>> Multilabel().illegal(torch.tensor([[0, 1], [1, 2]]), (2,)).problem
    'label holds 2: each entry of a multilabel label is 0 or 1; map them'
    """

    labels: tuple[str, ...] = ()

    name: ClassVar[str] = "multilabel"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("label_accuracy", "label accuracy"),
        Metric("exact_match", "exact match"),
        Metric("mean_auroc", "mean AUROC"),
        Metric("mean_auprc", "mean AUPRC", detail=True),
        Metric("mean_balanced_accuracy", "mean balanced accuracy", detail=True),
        Metric("brier", "Brier score", higher_is_better=False, detail=True),
    )
    deciding: ClassVar[str] = "mean_auroc"
    baseline_title: ClassVar[str] = "majority"

    def __post_init__(self) -> None:
        if len(self.labels) == 1 or len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels = {list(self.labels)}: name at least two, each once; one label is a binary task")

    @property
    def outputs(self) -> int:
        """As many as labels. Raises ValueError where none is named."""
        if not self.labels:
            raise ValueError("name the labels: how many there are is not known without")
        return len(self.labels)

    def misfit(self, output: Shape) -> str:
        """One output a label."""
        if len(output) != 1:
            return f"a multilabel task needs [labels] outputs a record, not {shape_text(output)}"
        if self.labels and output[0] != len(self.labels):
            return f"{len(self.labels)} labels are declared, and the model has {output[0]} outputs"
        return ""

    def illegal(self, labels: Tensor, output: Shape | None) -> Illegal | None:
        """Shapes other than the output's, and entries other than 0 and 1."""
        shape = tuple(labels.shape[1:])
        if len(shape) != 1 or output not in (None, shape):
            wanted = "[labels]" if output is None else shape_text(output)
            return Illegal(0, f"label is {shape_text(shape)}, and a multilabel label here is {wanted} of 0 and 1")
        bad = (labels != 0) & (labels != 1)
        return first_bad(labels, bad, "label holds {}: each entry of a multilabel label is 0 or 1; map them".format)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Binary cross-entropy, the mean over labels, in nats. Raises ValueError where the shapes differ."""
        if outputs.shape != labels.shape:
            raise ValueError(f"outputs {tuple(outputs.shape)} and labels {tuple(labels.shape)} differ in shape")
        targets = labels.to(outputs.dtype)
        return functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none").mean(dim=1)

    def predict(self, outputs: Tensor) -> Predictions:
        """Each label's probability of 1, [n, k]."""
        if problem := self.misfit(tuple(outputs.shape[1:])):
            raise ValueError(problem)
        found: Predictions = bounded(outputs).sigmoid().cpu().numpy()
        return found

    def choices(self, outputs: Tensor) -> Tensor:
        """No or yes for each label, [n, k, 2]."""
        return torch.stack([torch.zeros_like(outputs), outputs], dim=2)

    def decide(self, predictions: Predictions, point: OperatingPoint = ()) -> NDArray[np.int64]:
        """1 from each label's threshold up (one for all where there is one).

        >>> Multilabel().decide(np.array([[0.2, 0.2]]), (0.1, 0.5)).tolist()
        [[1, 0]]
        """
        return (predictions >= (np.array(point) if point else 0.5)).astype(np.int64)

    def measure(
        self, predictions: Predictions, decided: NDArray[np.generic], labels: Labels, weights: NDArray[np.float64]
    ) -> dict[str, NDArray[np.float64]]:
        """Means are over the labels of which both answers occur, the Brier score's over all."""
        if predictions.ndim != 2 or labels.shape != predictions.shape:
            raise ValueError(f"probabilities {predictions.shape} and labels {labels.shape} must both be [n, k]")
        check_probabilities(predictions)
        truth, answers, resamples = labels.astype(np.int64), decided.astype(np.int64), len(weights)
        right, each = truth == answers, list(zip(truth.T, predictions.T, answers.T, strict=True))
        return {
            "label_accuracy": mean(right.mean(axis=1), weights),
            "exact_match": mean(right.all(axis=1), weights),
            "mean_auroc": mean_known([auroc(of, chance, weights) for of, chance, _ in each], resamples),
            "mean_auprc": mean_known([auprc(of, chance, weights) for of, chance, _ in each], resamples),
            "mean_balanced_accuracy": mean_known([balanced_accuracy(of, an, weights) for of, _, an in each], resamples),
            "brier": mean(np.square(predictions - truth).mean(axis=1), weights),
        }

    def evaluate(self, predictions: Predictions, labels: Labels, point: OperatingPoint = ()) -> Metrics:
        """See measure; decided at the labels' thresholds (default 1/2)."""
        return score(self, predictions, labels, point).point

    def baseline(self, labels: Labels, rows: int) -> Predictions:
        """Each label's commoner answer, 1 on a tie."""
        no_labels(labels)
        return np.tile((labels.astype(np.float64).mean(axis=0) >= 0.5).astype(np.float64), (rows, 1))

    def lacking(self, labels: Labels) -> str:
        """Both answers of each label."""
        named = enumerate(self._names(labels.shape[1]))
        constant = [name for at, name in named if len(np.unique(labels[:, at])) < 2]
        return f"hold one answer only of {', '.join(constant)}" if constant else ""

    def columns(self, predictions: Predictions, point: OperatingPoint = ()) -> dict[str, NDArray[np.generic]]:
        """Each label's probability and, from its threshold up, 1."""
        found, decided = dict[str, NDArray[np.generic]](), self.decide(predictions, point)
        for at, name in enumerate(self._names(predictions.shape[1])):
            found[f"probability {name}"] = predictions[:, at]
            found[f"prediction {name}"] = decided[:, at]
        return found

    def _names(self, count: int) -> tuple[str, ...]:
        return self.labels or tuple(str(at) for at in range(count))
