"""Logistic regression with a column or two, for many weightings of the same rows at once."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

Floats = NDArray[np.float64]
_MOST_STEPS: Final = 100
_CLOSE: Final = 1e-9


def fit_logistic(design: Floats, offset: Floats, truth: NDArray[np.integer], weights: Floats) -> Floats:
    """The most likely coefficients [R, k] of `design` [n, k] beside `offset` [n], for truths [n] and weights [R, n].

    The caller makes sure that they exist: in each line both classes have weight, and no combination of columns
    separates them. Newton's steps are shortened to log(1 + d) / d, where d is the furthest that one moves any row's
    log-odds: so each of them raises the likelihood (Sun and Tran-Dinh 2019, arXiv 1703.04599), however near to
    separation a line is.

    >>> truth, design = np.array([0, 1, 1, 1]), np.ones((4, 1))
    >>> fit_logistic(design, np.zeros(4), truth, np.ones((1, 4))).round(6).tolist() == [[round(float(np.log(3)), 6)]]
    True
    """
    at = np.zeros((len(weights), design.shape[1]))
    products = (design[:, :, None] * design[:, None, :]).reshape(len(design), -1)
    going = np.arange(len(weights))  # the lines that are not there yet: few take many steps
    for _ in range(_MOST_STEPS):
        chance = expit(at[going] @ design.T + offset)
        slope = (weights * (truth - chance)) @ design
        bend = ((weights * chance * (1 - chance)) @ products).reshape(-1, design.shape[1], design.shape[1])
        step = np.linalg.solve(bend, slope[:, :, None])[:, :, 0]
        furthest = np.abs(step @ design.T).max(axis=1, keepdims=True)
        at[going] += step * np.divide(np.log1p(furthest), furthest, out=np.ones_like(furthest), where=furthest > 0)
        further = furthest[:, 0] >= _CLOSE
        if not further.all():
            going, weights = going[further], weights[further]
        if not len(going):
            break
    return at
