"""Test metrics: exact functions of private rows, so they stay at the hospital."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

Truth = NDArray[np.int64]
Floats = NDArray[np.float64]


def balanced_accuracy(truth: Truth, decided: Truth) -> float | None:
    """Mean over the classes in `truth` of the share that was recognised; None where there are fewer than two.

    >>> balanced_accuracy(np.array([0, 0, 0, 2]), np.array([0, 0, 0, 1]))
    0.5
    """
    classes = np.unique(truth)
    if len(classes) < 2:
        return None
    return float(np.mean([(decided[truth == one] == one).mean() for one in classes]))


def binary_balanced_accuracy(truth: Truth, decided: Truth) -> float | None:
    """The same of classes 0 and 1."""
    return float(balanced_accuracy_score(truth, decided)) if len(np.unique(truth)) == 2 else None


def auroc(truth: Truth | NDArray[np.bool_], scores: NDArray[np.floating]) -> float | None:
    """Area under the ROC curve of `scores` [n] for truths [n]; None where these hold one class only."""
    return float(roc_auc_score(truth, scores)) if len(np.unique(truth)) == 2 else None


def mean_known(values: Sequence[float | None]) -> float | None:
    """Mean of those that exist; None where none does."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def check_probabilities(probabilities: NDArray[np.floating]) -> None:
    """Raises ValueError for one that is no number in [0, 1]."""
    if not ((probabilities >= 0.0) & (probabilities <= 1.0)).all():
        raise ValueError("probabilities must be numbers in [0, 1]")
