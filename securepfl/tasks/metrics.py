"""Test metrics: exact functions of private rows, so they stay at the hospital.

Each takes weights [R, n] of the rows, a line a resample, and gives [R] values; NaN where one does not exist.
scikit-learn has most of these for one weight vector a call. A thousand resamples of four models are thousands of
calls, so they are computed here for all resamples at once, and tests hold each against scikit-learn's.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit

from securepfl.tasks.logistic import fit_logistic

Truth = NDArray[np.int64]
Floats = NDArray[np.float64]
_SUREST = 2.0**-53
"""Nearer to 0 or 1 a probability is taken as this near: its log-odds would be infinite."""


def mean(values: NDArray[np.generic], weights: Floats) -> Floats:
    """Weighted mean of `values` [n]."""
    return _over(weights @ values.astype(np.float64), weights.sum(axis=1))


def mean_of_known(values: Floats, weights: Floats) -> Floats:
    """Weighted mean of those of `values` [n] that exist; NaN where none does.

    >>> mean_of_known(np.array([1.0, np.nan, 3.0]), np.array([[1.0, 1, 1], [0, 1, 0]])).tolist()
    [2.0, nan]
    """
    known = ~np.isnan(values)
    return mean(values[known], weights[:, known])


def recall(truth: Truth, decided: Truth, one: int, weights: Floats) -> Floats:
    """The share of class `one` that was recognised.

    >>> recall(np.array([1, 1, 0]), np.array([1, 0, 0]), 1, np.ones((1, 3))).tolist()
    [0.5]
    """
    of = truth == one
    return mean(decided[of] == one, weights[:, of])


def balanced_accuracy(truth: Truth, decided: Truth, weights: Floats) -> Floats:
    """Mean recall over the classes that a resample holds; NaN where it holds fewer than two.

    >>> balanced_accuracy(np.array([0, 0, 0, 2]), np.array([0, 0, 0, 1]), np.ones((1, 4))).tolist()
    [0.5]
    """
    recalls = [recall(truth, decided, int(one), weights) for one in np.unique(truth)]
    return mean_known(recalls, len(weights), least=2)


def auroc(truth: Truth | NDArray[np.bool_], scores: Floats, weights: Floats) -> Floats:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half."""
    positive, negative = _groups(truth, scores, weights)
    below = np.cumsum(negative, axis=1) - negative / 2
    return _over((positive * below).sum(axis=1), positive.sum(axis=1) * negative.sum(axis=1))


def auprc(truth: Truth | NDArray[np.bool_], scores: Floats, weights: Floats) -> Floats:
    """Average precision over the recalls, as scikit-learn's average_precision_score; NaN for one class only.

    A model that knows nothing gets the share of positives.
    """
    positive, negative = (group[:, ::-1] for group in _groups(truth, scores, weights))
    found, taken = np.cumsum(positive, axis=1), np.cumsum(positive + negative, axis=1)
    precision = np.divide(found, taken, out=np.zeros_like(found), where=taken > 0)
    value = _over((positive * precision).sum(axis=1), positive.sum(axis=1))
    return np.where(negative.sum(axis=1) > 0, value, np.nan)


def calibration(truth: Truth, chances: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Slope and intercept of the outcome's log-odds on the predicted ones: 1 and 0 for honest probabilities.

    A slope below 1 means too extreme, above 1 too timid. The intercept is fitted with slope 1 ("in the large"): above
    0 means too low on the whole (Van Calster et al. 2019, BMC Medicine 17:230). The slope is infinite where the
    predictions separate the classes, and NaN where all are equal; both are NaN for one class, and for classes in place
    of probabilities.
    """
    if not len(chances) or np.isin(chances, (0.0, 1.0)).all():
        return np.full(len(weights), np.nan), np.full(len(weights), np.nan)
    odds = logit(np.clip(chances, _SUREST, 1 - _SUREST))
    both = _both(truth == 1, weights)
    slope = np.full(len(weights), np.nan)
    overlap, way = _overlap(truth == 1, odds, weights)
    slope[~overlap] = way[~overlap]
    centre, spread = odds.mean(), odds.std() or 1.0
    design = np.stack([np.ones_like(odds), (odds - centre) / spread], axis=1)
    if overlap.any():
        slope[overlap] = fit_logistic(design, np.zeros_like(odds), truth, weights[overlap])[:, 1] / spread
    intercept = np.full(len(weights), np.nan)
    if both.any():
        intercept[both] = fit_logistic(design[:, :1], odds, truth, weights[both])[:, 0]
    return slope, intercept


def mean_known(values: list[Floats], resamples: int, least: int = 1) -> Floats:
    """Mean over `values` ([R] each) of those that exist; NaN where fewer than `least` do."""
    stacked = np.stack(values) if values else np.empty((0, resamples))
    known = ~np.isnan(stacked)
    count = known.sum(axis=0)
    total = np.where(known, stacked, 0.0).sum(axis=0)
    return np.where(count >= least, _over(total, count), np.nan)


def check_probabilities(probabilities: NDArray[np.floating]) -> None:
    """Raises ValueError for one that is no number in [0, 1]."""
    if not ((probabilities >= 0.0) & (probabilities <= 1.0)).all():
        raise ValueError("probabilities must be numbers in [0, 1]")


def _over(above: NDArray[np.floating], below: NDArray[np.generic]) -> Floats:
    """The quotient, NaN where the divisor is 0."""
    found: Floats = np.divide(above, below, out=np.full(len(above), np.nan), where=below != 0)
    return found


def _groups(truth: NDArray[np.generic], scores: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Weights of positives and of negatives by score, from low to high, [R, different scores] each."""
    if not len(scores):
        return np.zeros((len(weights), 0)), np.zeros((len(weights), 0))
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.nan) != 0)
    sorted_, positive = weights[:, order], truth[order] == 1
    return tuple(np.add.reduceat(sorted_ * of, starts, axis=1) for of in (positive, ~positive))  # type: ignore[return-value]


def _both(positive: NDArray[np.bool_], weights: Floats) -> NDArray[np.bool_]:
    """Which resamples hold both classes."""
    found: NDArray[np.bool_] = (weights[:, positive].sum(axis=1) > 0) & (weights[:, ~positive].sum(axis=1) > 0)
    return found


def _overlap(positive: NDArray[np.bool_], odds: Floats, weights: Floats) -> tuple[NDArray[np.bool_], Floats]:
    """In which resamples neither class lies wholly above the other; elsewhere the slope: infinite, or NaN."""
    low, high = ([_extreme(odds, weights, of, largest) for of in (positive, ~positive)] for largest in (False, True))
    overlap = (low[0] < high[1]) & (low[1] < high[0])
    way = np.where(low[0] >= high[1], np.inf, -np.inf)
    none = ~_both(positive, weights) | (np.maximum(*high) <= np.minimum(*low))
    return overlap & ~none, np.where(none, np.nan, way)


def _extreme(odds: Floats, weights: Floats, of: NDArray[np.bool_], largest: bool) -> Floats:
    """The largest or least of some rows in each resample."""
    empty = -np.inf if largest else np.inf
    held = np.where((weights > 0) & of, odds, empty)
    found: Floats = held.max(axis=1) if largest else held.min(axis=1)
    return found
