"""The noise of one round beside that of others, and of one layer beside that of others: none may come twice."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from scipy.special import betainc

from securepfl.privacy.audit.verdicts import LEVELS, MOST_VECTORS, Floats, Verdict

_FEWEST = 2  # of one value a cosine is 1 or -1 and tells nothing


def rounds_verdict(noise: Floats, layers: Sequence[int], level: float = LEVELS["rounds"]) -> Verdict:
    """Noise of consecutive rounds, [rounds, values], that of each parameter by itself: `layers` are how many values
    each has, in order.

    Every two of them, of one round or of two, begin with different draws: a stream that starts again, for a round or
    for a parameter, makes two alike. Two parameters are compared over all rounds together too, as noise of another
    length shares only some of the draws. The squared cosine of independent vectors of d normal numbers is
    Beta(1/2, (d-1)/2), whatever their spread; the largest is held against it, times the number of pairs. So two show
    from a correlation of about sqrt((17 + 2 ln pairs) / d) on. Raises ValueError for a table that is empty, not finite,
    or of other layers.

    >>> stream = np.random.default_rng(0)
    >>> noise = stream.standard_normal((4, 60))
    >>> rounds_verdict(noise, [50, 10]).accused, rounds_verdict(noise[[0, 1, 2, 0]], [50, 10]).accused
    (False, True)
    """
    if noise.ndim != 2 or len(noise) < 2 or sum(layers) != noise.shape[1] or not np.isfinite(noise).all():
        raise ValueError("noise must be a table of finite numbers with two rows and as many columns as layers have")
    found = list(_pairs(_parts(noise, layers)))
    if not found:
        return Verdict("rounds", 1.0, level, False, "no parameter has two values, so that no noise can be compared")
    tail, pair = min(((pair.tail, pair) for pair in found), key=lambda item: item[0])
    count = sum(pair.of for pair in found)
    p_value = min(1.0, count * tail)
    accused = p_value <= level
    seen = f"of {count} pairs of noise, by round and parameter, the most alike have a correlation of {pair.cosine:.3g}"
    if accused:
        seen += f": {pair.where} draw the same noise, or some of it, which takes away what it hides"
    return Verdict("rounds", p_value, level, accused, seen)


@dataclass(frozen=True)
class _Pair:
    """The most alike `of` so many pairs of vectors of `size` values: the size of their cosine, and where they are."""

    cosine: float
    size: int
    of: int
    where: str

    @property
    def tail(self) -> float:
        """How likely independent ones are as alike."""
        return float(betainc((self.size - 1) / 2, 0.5, max(0.0, 1 - self.cosine**2)))


def _pairs(parts: Mapping[int, Floats]) -> Iterator[_Pair]:
    """For every two parameters, the most alike of their rounds, and all rounds together."""
    for (one, left), (other, right) in combinations_with_replacement(parts.items(), 2):
        rounds, size = len(left), min(left.shape[1], right.shape[1])
        left, right = left[:, :size], right[:, :size]  # noqa: PLW2901 - what both have
        cosines = np.abs(_unit(left) @ _unit(right).T)
        if one == other:
            cosines = np.triu(cosines, 1)
        first, second = divmod(int(cosines.argmax()), rounds)
        where = f"parameter {one} in round {first + 1} and parameter {other} in round {second + 1}"
        count = rounds * (rounds - 1) // 2 if one == other else rounds**2
        yield _Pair(float(cosines.max()), size, count, where)
        if one != other:
            together = float(np.abs(_unit(left.reshape(1, -1)) @ _unit(right.reshape(1, -1)).T)[0, 0])
            yield _Pair(together, rounds * size, 1, f"parameters {one} and {other} in each round")


def _parts(noise: Floats, layers: Sequence[int]) -> dict[int, Floats]:
    """By the number of the parameter, from 1, [rounds, its values]: of the largest."""
    columns = np.split(noise, np.cumsum(layers)[:-1], axis=1)
    found = {number: part for number, part in enumerate(columns, 1) if part.shape[1] >= _FEWEST}
    return dict(sorted(found.items(), key=lambda item: -item[1].shape[1])[:MOST_VECTORS])


def _unit(rows: Floats) -> Floats:
    """Rows of length 1; a row of zeros stays one, and is like no other."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: Floats = rows / np.where(norms == 0, 1.0, norms)
    return scaled
