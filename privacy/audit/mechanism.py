"""The noise alone: what empty batches add, against its law."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, chdtr, fdtr, fdtrc
from scipy.stats import chi2, kstest

from securepfl.privacy.audit.verdicts import LEVELS, MOST_VECTORS, Floats, Verdict, rarest


def mechanism_verdict(
    noise: Floats,
    totals: Floats,
    layers: NDArray[np.int64] | None = None,
    *,
    level: float = LEVELS["mechanism"],
) -> Verdict:
    """Noise of empty batches against its law: independent standard normals, once over its declared deviation.

    noise: [steps, values], each step by itself. totals: [rounds, values], sums over a round of several steps, over
    the root of their number: noise reused within a round shows there. Too much noise accuses nobody: all but the
    spread is tested at the spread that is there. layers: [values], the number of the layer that each is of; noise of
    which one layer lacks some shows in that layer's values together. Raises ValueError where a table is empty or not
    finite, or there is one step only.

    >>> stream = np.random.default_rng(0)
    >>> noise, totals = stream.standard_normal((32, 40)), stream.standard_normal((4, 40))
    >>> mechanism_verdict(noise, totals).accused, mechanism_verdict(noise / 2, totals / 2).accused
    (False, True)
    """
    for name, values, fewest in (("noise", noise, 2), ("totals", totals, 1)):
        if values.ndim != 2 or len(values) < fewest or values.size == 0 or not np.isfinite(values).all():
            raise ValueError(f"{name} must be a table of finite numbers with at least {fewest} rows and one column")
    p_values = {
        "its spread is too small": small_spread_p_value(noise),
        "a value's spread is too small": noise.shape[1] * float(chdtr(len(noise), (noise**2).sum(0).min())),
        "its mean is not zero": _mean_p_value(noise),
        "its shape is not normal": _shape_p_value(noise),
        "steps repeat": _correlation_p_value(noise),
        "values repeat": _correlation_p_value(noise.T),
        "steps of a round depend on one another": _ratio_p_value(noise, totals),
    }
    if layers is not None:
        p_values["a layer's spread is too small"] = _layer_p_value(noise, layers)
    fault, p_value, origin = rarest(p_values)
    accused = p_value <= level
    seen = f"the noise of {noise.shape[0]} empty steps has {deviation_of(noise)}"
    return Verdict("mechanism", p_value, level, accused, f"{seen}; {fault if accused else origin}")


def small_spread_p_value(values: Floats) -> float:
    """Chi-square, one-sided: more noise than declared only makes it larger. 1 for no values.

    >>> small_spread_p_value(np.full(100, 0.5)) < 1e-9 < small_spread_p_value(np.full(100, 1.0))
    True
    """
    return float(chdtr(values.size, (values**2).sum())) if values.size else 1.0


def deviation_of(values: Floats) -> str:
    """Their deviation in words, with what chance makes of it 99 times in 100.

    >>> deviation_of(np.ones(100))
    '1 times the declared deviation (by chance 0.8205 to 1.184)'
    """
    low, high = np.sqrt(chi2.ppf([0.005, 0.995], values.size) / values.size)
    deviation = math.sqrt(float((values**2).mean()))
    return f"{deviation:.4g} times the declared deviation (by chance {low:.4g} to {high:.4g})"


def _layer_p_value(noise: Floats, layers: NDArray[np.int64]) -> float:
    """Chi-square of the layer whose values have the least spread together, times the number of layers."""
    numbers, counts = np.unique(layers, return_counts=True)
    squares = np.bincount(layers, weights=(noise**2).sum(0))[numbers]
    return float(min(1.0, len(numbers) * chdtr(counts * len(noise), squares).min()))


def _mean_p_value(noise: Floats) -> float:
    """F test of each column's mean against the spread within columns: shows what stays the same in each step."""
    steps, values = noise.shape
    between, within = steps * float((noise.mean(0) ** 2).sum()), float(((noise - noise.mean(0)) ** 2).sum())
    if within == 0:
        return 0.0
    return float(fdtrc(values, values * (steps - 1), between * (steps - 1) / within))


def _shape_p_value(noise: Floats) -> float:
    """Kolmogorov-Smirnov at the spread that is there, which only makes it shyer (Lilliefors 1967)."""
    deviation = math.sqrt(float((noise**2).mean()))
    return float(kstest(noise.ravel() / deviation, "norm").pvalue) if deviation else 0.0


def _correlation_p_value(rows: Floats) -> float:
    """Of the largest cosine between two rows; exact for each pair, times the number of pairs.

    The squared cosine of a fixed and a spherically symmetric vector is Beta(1/2, (d-1)/2).
    """
    rows = rows[:MOST_VECTORS]
    count, length = rows.shape
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if count < 2 or length < 2 or not norms.all():
        return 1.0
    unit = rows / norms
    squared = float((np.triu(unit @ unit.T, 1) ** 2).max())
    tail = float(betainc((length - 1) / 2, 0.5, max(0.0, 1 - squared)))
    return float(min(1.0, tail * count * (count - 1) / 2))


def _ratio_p_value(noise: Floats, totals: Floats) -> float:
    """F test, two-sided, that the sum over a round has as much variance as its steps have together."""
    steps, rounds = float((noise**2).mean()), float((totals**2).mean())
    if steps == 0:
        return 0.0
    ratio, sizes = rounds / steps, (totals.size, noise.size)
    return 2 * min(float(fdtr(*sizes, ratio)), float(fdtrc(*sizes, ratio)))
