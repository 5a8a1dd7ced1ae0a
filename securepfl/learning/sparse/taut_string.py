"""The compiled loop behind `difference_sparse`; importing this module imports numba.

The string runs from 0 at time 0 through a tube of radius gamma around the running sums of g; its end is free. Its
slopes are the minimiser. From the last fixed point, the anchor, two hulls are kept: the upper border's greatest
convex minorant and the lower border's least concave majorant. Where the first would start below the second, the
string is fixed along one of them (Davies and Kovac 2001, Annals of Statistics 29(1); also Barbero and Sra 2018,
JMLR 19(56)). A time enters and leaves each hull once, so the work is linear in the worst case, not only mostly.

The lower hull is kept upside down (sign -1), so that both are convex and one code serves them. `gap` is how far a
border stands beyond the anchor: gamma at the start, 0 for the border that holds the anchor, 2 gamma for the other.

Nothing is cached on disk: numba's cache is pickle beside the package, where whoever can write decides what runs.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@njit
def taut_string(g: Floats, gamma: float, scale: float) -> Floats:
    """Slopes [d] of the string for g / scale [d] and gamma > 0, times `scale`. Takes 32 bytes a coordinate at most."""
    size = g.size
    high, low = _running_sums(g, scale)
    # Each hull is the times hull[first : last + 1], of which the first is the anchor.
    upper, lower = np.empty(size + 1, np.int64), np.empty(size + 1, np.int64)
    upper[0] = lower[0] = 0
    upper_first = upper_last = lower_first = lower_last = 0
    upper_gap = lower_gap = gamma
    for time in range(1, size + 1):
        upper_last = _extend(high, low, 1.0, upper, upper_first, upper_last, upper_gap, time)
        lower_last = _extend(high, low, -1.0, lower, lower_first, lower_last, lower_gap, time)
        # Only a hull that has just become one line can have crossed the other, which the string then follows.
        if upper_last - upper_first == 1:
            first = _follow(high, low, -1.0, lower, lower_first, lower_last, lower_gap, upper_gap, scale)
            if first > lower_first:
                lower_first, lower_gap, upper_gap = first, 0.0, 2.0 * gamma
                upper[0], upper[1], upper_first, upper_last = lower[first], time, 0, 1
        if lower_last - lower_first == 1:
            first = _follow(high, low, 1.0, upper, upper_first, upper_last, upper_gap, lower_gap, scale)
            if first > upper_first:
                upper_first, upper_gap, lower_gap = first, 0.0, 2.0 * gamma
                lower[0], lower[1], lower_first, lower_last = upper[first], time, 0, 1
    # At the free end the string goes level as soon as it can; till then it follows the border that bars it.
    anchor = _descend(high, low, 1.0, upper, upper_first, upper_last, upper_gap, scale)
    if anchor == upper[upper_first]:
        anchor = _descend(high, low, -1.0, lower, lower_first, lower_last, lower_gap, scale)
    high[anchor:size] = 0.0
    slopes: Floats = high[:size]
    return slopes


@njit
def _running_sums(g: Floats, scale: float) -> tuple[Floats, Floats]:
    """Sums of g / scale before each time, [d + 1], in double-double: Knuth's exact sum keeps what rounding drops."""
    high, low = np.empty(g.size + 1), np.empty(g.size + 1)
    total, rest = 0.0, 0.0
    high[0], low[0] = total, rest
    for i in range(g.size):
        value = g[i] / scale
        new = total + value
        back = new - total
        rest += (total - (new - back)) + (value - back)
        total = new
        high[i + 1], low[i + 1] = total, rest
    return high, low


@njit
def _rise(high: Floats, low: Floats, start: int, end: int) -> float:
    """How much the sums rise between two times."""
    rise: float = (high[end] - high[start]) + (low[end] - low[start])
    return rise


@njit
def _extend(
    high: Floats, low: Floats, sign: float, hull: Integers, first: int, last: int, gap: float, time: int
) -> int:
    """Adds a time to a hull and drops those that are no longer on it, so that slopes increase; its new last."""
    while last > first:
        start, middle = hull[last - 1], hull[last]
        earlier = sign * _rise(high, low, start, middle)
        if last - 1 == first:
            earlier += gap
        if earlier * (time - middle) < sign * _rise(high, low, middle, time) * (middle - start):
            break
        last -= 1
    hull[last + 1] = time
    return last + 1


@njit
def _follow(
    high: Floats,
    low: Floats,
    sign: float,
    hull: Integers,
    first: int,
    last: int,
    gap: float,
    other_gap: float,
    scale: float,
) -> int:
    """Fixes the string along a hull while the other, one line to the same last time, crosses it; its new first.

    A hull of one line never counts as crossed: rounding can't make the upper of two such lines the lower one.
    """
    end = hull[last]
    while last - first > 1:
        start, middle = hull[first], hull[first + 1]
        slope = (sign * _rise(high, low, start, middle) + gap) / (middle - start)
        if slope + (other_gap - sign * _rise(high, low, start, end)) / (end - start) >= 0.0:
            break
        _fix(high, start, middle, sign * slope * scale)
        first += 1
        gap, other_gap = 0.0, gap + other_gap
    return first


@njit
def _descend(
    high: Floats, low: Floats, sign: float, hull: Integers, first: int, last: int, gap: float, scale: float
) -> int:
    """Fixes the string along a hull while that falls; the new anchor."""
    while last > first:
        start, middle = hull[first], hull[first + 1]
        slope = (sign * _rise(high, low, start, middle) + gap) / (middle - start)
        if slope >= 0.0:
            break
        _fix(high, start, middle, sign * slope * scale)
        first += 1
        gap = 0.0
    anchor: int = hull[first]
    return anchor


@njit
def _fix(high: Floats, start: int, end: int, slope: float) -> None:
    """Slopes take the place of sums that are no longer needed. The sum at `end`, the new anchor, stays."""
    for time in range(start, end):
        high[time] = slope
