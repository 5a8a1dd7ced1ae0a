"""Test metrics of a binary classifier: exact functions of private rows, so they stay at the hospital."""

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score

Metrics = dict[str, float | None]


def evaluate(probabilities: NDArray[np.floating], labels: NDArray[np.generic]) -> Metrics:
    """Accuracy and balanced accuracy at threshold 1/2, and AUROC, of probabilities [n] against labels [n].

    None where a metric does not exist: all without rows, balanced accuracy and AUROC where the labels hold
    one class. Raises ValueError where shapes differ, a probability is not in [0, 1] or a label not 0 or 1.
    """
    _check(probabilities, labels)
    metrics: Metrics = {"accuracy": None, "balanced_accuracy": None, "auroc": None}
    truth = labels.astype(np.int64)
    if truth.size == 0:
        return metrics
    decided = (probabilities >= 0.5).astype(np.int64)
    metrics["accuracy"] = float(accuracy_score(truth, decided))
    if truth.min() != truth.max():
        metrics["balanced_accuracy"] = float(balanced_accuracy_score(truth, decided))
        metrics["auroc"] = float(roc_auc_score(truth, probabilities))
    return metrics


def majority(train_labels: NDArray[np.generic], test_labels: NDArray[np.generic]) -> Metrics:
    """The same metrics for the predictor that always answers the commoner training class (1 on a tie).

    Raises ValueError where there is no training label or a label is not 0 or 1.
    """
    _check(np.zeros(train_labels.shape), train_labels)
    if train_labels.size == 0:
        raise ValueError("train_labels must hold at least one label, not 0")
    answer = float(train_labels.astype(np.float64).mean() >= 0.5)
    return evaluate(np.full(test_labels.shape, answer), test_labels)


def _check(probabilities: NDArray[np.floating], labels: NDArray[np.generic]) -> None:
    if probabilities.ndim != 1 or probabilities.shape != labels.shape:
        raise ValueError(
            f"probabilities {probabilities.shape} and labels {labels.shape} must be one vector each, alike"
        )
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels must be 0 or 1, not {np.unique(labels)[:5]}")
    if not ((probabilities >= 0.0) & (probabilities <= 1.0)).all():
        raise ValueError("probabilities must be numbers in [0, 1]")
