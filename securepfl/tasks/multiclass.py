"""One of several classes: an output a class, labels that are the class's number, probabilities that sum to 1."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from securepfl.tasks.labels import first_bad, not_whole, shape_text
from securepfl.tasks.metrics import auprc, auroc, balanced_accuracy, check_probabilities, mean, mean_known
from securepfl.tasks.prediction import probabilities
from securepfl.tasks.resampling import score
from securepfl.tasks.task import Illegal, Labels, Metric, Metrics, OperatingPoint, Predictions, Shape, no_labels


@dataclass(frozen=True)
class Multiclass:
    """Labels [n]: the number of the class, from 0, in any type; outputs [n, k], k >= 2: the classes' logits.

    `classes`: their names, in order; without them k is what the model gives. Raises ValueError for one class, or a
    name that comes twice.

    >>> import torch
    >>> task = Multiclass(("mild", "severe", "critical"))
    >>> task.illegal(torch.tensor([0, 3]), (3,)).problem
    'label is 3: with 3 classes labels are whole numbers from 0 to 2; map them'
    >>> task.predict(torch.zeros(1, 3)).round(3).tolist()
    [[0.333, 0.333, 0.333]]
    """

    classes: tuple[str, ...] = ()

    name: ClassVar[str] = "multiclass"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("accuracy", "accuracy"),
        Metric("balanced_accuracy", "balanced accuracy"),
        Metric("mean_auroc", "mean AUROC"),
        Metric("mean_auprc", "mean AUPRC", detail=True),
        Metric("brier", "Brier score", higher_is_better=False, detail=True),
    )
    deciding: ClassVar[str] = "balanced_accuracy"
    baseline_title: ClassVar[str] = "majority"

    def __post_init__(self) -> None:
        if len(self.classes) == 1 or len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes = {list(self.classes)}: name at least two, each once")

    @property
    def outputs(self) -> int:
        """As many as classes. Raises ValueError where none is named."""
        if not self.classes:
            raise ValueError("name the classes: how many there are is not known without")
        return len(self.classes)

    def misfit(self, output: Shape) -> str:
        """One output a class."""
        if len(output) != 1 or output[0] < 2:
            return f"a multiclass task needs [classes] outputs a record, at least 2, not {shape_text(output)}"
        if self.classes and output[0] != len(self.classes):
            return f"{len(self.classes)} classes are declared, and the model has {output[0]} outputs"
        return ""

    def illegal(self, labels: Tensor, output: Shape | None) -> Illegal | None:
        """One-hot labels, and what is no whole number from 0 to the last class."""
        if labels.ndim != 1:
            shape = shape_text(tuple(labels.shape[1:]))
            return Illegal(0, f"label is {shape}, and a class is one number: hand in its number, as y.argmax(-1)")
        bad, count = not_whole(labels) | (labels < 0), len(self.classes) or (output[0] if output else 0)
        legal = "labels are whole numbers from 0"
        if count:
            bad, legal = bad | (labels >= count), f"with {count} classes labels are whole numbers from 0 to {count - 1}"
        return first_bad(labels, bad, f"label is {{}}: {legal}; map them".format)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy in nats."""
        return functional.cross_entropy(outputs, labels.long(), reduction="none")

    def predict(self, outputs: Tensor) -> Predictions:
        """Probabilities, [n, k]."""
        if problem := self.misfit(tuple(outputs.shape[1:])):
            raise ValueError(problem)
        return probabilities(outputs)

    def choices(self, outputs: Tensor) -> Tensor:
        """One class of k, [n, 1, k]."""
        return outputs[:, None, :]

    def decide(self, predictions: Predictions, point: OperatingPoint = ()) -> NDArray[np.int64]:
        """The most probable class; with declared shares, the one most probable for its share.

        Of two classes that is the one whose probability passes its share, as in a binary task.

        >>> Multiclass().decide(np.array([[0.7, 0.2, 0.1]]), (0.8, 0.1, 0.1)).tolist()
        [1]
        """
        held: Predictions = predictions / np.array(point) if point else predictions
        chosen: NDArray[np.int64] = held.argmax(axis=1).astype(np.int64)
        return chosen

    def measure(
        self, predictions: Predictions, decided: NDArray[np.generic], labels: Labels, weights: NDArray[np.float64]
    ) -> dict[str, NDArray[np.float64]]:
        """AUROC and AUPRC are the mean over classes, each against the rest, where rows are of both; the Brier score is
        the sum over classes.
        """
        if predictions.ndim != 2 or labels.shape != predictions.shape[:1]:
            raise ValueError(f"probabilities {predictions.shape} and labels {labels.shape}: must be [n, k] and [n]")
        check_probabilities(predictions)
        truth, answer, resamples = labels.astype(np.int64), decided.astype(np.int64), len(weights)
        each = [(truth == one, predictions[:, one]) for one in range(predictions.shape[1])]
        return {
            "accuracy": mean(truth == answer, weights),
            "balanced_accuracy": balanced_accuracy(truth, answer, weights),
            "mean_auroc": mean_known([auroc(*one, weights) for one in each], resamples),
            "mean_auprc": mean_known([auprc(*one, weights) for one in each], resamples),
            "brier": mean(np.sum([np.square(chance - of) for of, chance in each], axis=0), weights),
        }

    def evaluate(self, predictions: Predictions, labels: Labels, point: OperatingPoint = ()) -> Metrics:
        """See measure and decide."""
        return score(self, predictions, labels, point).point

    def baseline(self, labels: Labels, rows: int) -> Predictions:
        """The commonest class, the first on a tie."""
        no_labels(labels)
        counts = np.bincount(labels.astype(np.int64), minlength=len(self.classes))
        answer = np.zeros((rows, max(2, len(counts))))
        answer[:, counts.argmax()] = 1.0
        return answer

    def lacking(self, labels: Labels) -> str:
        """More than one class, and each that is declared."""
        found = len(np.unique(labels))
        if found < 2:
            return "hold one class"
        return f"hold {found} of {len(self.classes)} classes" if found < len(self.classes) else ""

    def columns(self, predictions: Predictions, point: OperatingPoint = ()) -> dict[str, NDArray[np.generic]]:
        """The class that is decided for, and each one's probability."""
        names = self.classes or tuple(str(one) for one in range(predictions.shape[1]))
        chosen = np.array(names, dtype=object)[self.decide(predictions, point)]
        return {"prediction": chosen} | {f"probability {name}": predictions[:, at] for at, name in enumerate(names)}
