"""Exact samples of the discrete Gaussian: Canonne, Kamath and Steinke 2020 (arXiv 2004.00010), algorithms 1 to 3.

P[X = x] is proportional to exp(-x^2 / (2 scale^2)) over all integers. Only integers are drawn and compared, so what
comes out has that law exactly: there is no floating-point gap for an attack (Mironov 2012) to read.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from securepfl.randomness import RandomStream

Integers = NDArray[np.int64]

LARGEST_SCALE = 2**20
"""Up to here every integer that is compared stays far below 2^63."""

_CHUNK = 1 << 16
"""Candidates drawn at once: few enough to stay in the cache."""


def discrete_gaussian(count: int, scale: int, stream: RandomStream) -> Integers:
    """`count` independent samples, shape (count,), of variance at most scale^2, by rejection from a discrete Laplace.

    Raises ValueError where `scale` is not in [1, 2^20].

    >>> from securepfl.randomness import RandomStream
    >>> discrete_gaussian(3, 2, RandomStream(bytes(32))).shape
    (3,)
    """
    if not 1 <= scale <= LARGEST_SCALE:
        raise ValueError(f"scale must be in [1, {LARGEST_SCALE}], not {scale!r}")
    return _filled(count, lambda size: _accepted(size, scale, stream))


def tail_bound(scale: int, beyond: float) -> float:
    """An upper bound on P[|X| > beyond]: the discrete Gaussian is sub-Gaussian with parameter `scale` (there too)."""
    return float(min(1.0, 2.0 * np.exp(-(beyond**2) / (2.0 * float(scale) ** 2))))


def _filled(count: int, draw: Callable[[int], Integers]) -> Integers:
    """`count` of what `draw` lets through. Rejection keeps no order, so any part of it will do."""
    kept, missing = [np.empty(0, dtype=np.int64)], count
    while missing > 0:
        kept.append(draw(min(max(2 * missing, 64), _CHUNK))[:missing])
        missing -= kept[-1].size
    return np.concatenate(kept)


def _accepted(size: int, scale: int, stream: RandomStream) -> Integers:
    """Those of `size` candidates that are kept; with the Laplace's scale equal to ours, numbers stay small."""
    candidates = _discrete_laplace(size, scale, stream)
    kept: Integers = candidates[_bernoulli_exp((np.abs(candidates) - scale) ** 2, 2 * scale**2, stream)]
    return kept


def _discrete_laplace(size: int, scale: int, stream: RandomStream) -> Integers:
    """At most `size` samples of P[x] proportional to exp(-|x| / scale)."""
    low = stream.integers(size, scale).astype(np.int64)
    low = low[_bernoulli_exp(low, scale, stream)]
    size_of = low + scale * _geometric(low.size, stream)
    negative = stream.integers(low.size, 2).astype(bool)
    keep = ~(negative & (size_of == 0))  # else zero would come twice as often
    drawn: Integers = np.where(negative, -size_of, size_of)[keep]
    return drawn


def _geometric(size: int, stream: RandomStream) -> Integers:
    """How often an event of chance exp(-1) happens before it fails, shape (size,)."""
    counts, going = np.zeros(size, dtype=np.int64), np.arange(size)
    while going.size:
        going = going[_bernoulli_exp(np.ones(going.size, dtype=np.int64), 1, stream)]
        counts[going] += 1
    return counts


def _bernoulli_exp(numerators: Integers, denominator: int, stream: RandomStream) -> NDArray[np.bool_]:
    """True with chance exp(-numerator / denominator), exactly, for each numerator >= 0."""
    whole, rest = np.divmod(numerators, denominator)
    happened = _bernoulli_exp_fraction(rest, denominator, stream)
    going = np.flatnonzero(happened & (whole > 0))
    while going.size:
        again = _bernoulli_exp_fraction(np.ones(going.size, dtype=np.int64), 1, stream)
        happened[going[~again]] = False
        whole[going] -= 1
        going = going[again & (whole[going] > 0)]
    return happened


def _bernoulli_exp_fraction(numerators: Integers, denominator: int, stream: RandomStream) -> NDArray[np.bool_]:
    """The same for numerator <= denominator: von Neumann's series. Its length is odd with chance exp(-fraction)."""
    lengths, going, term = np.ones(numerators.size, dtype=np.int64), np.arange(numerators.size), 1
    while going.size:
        drawn = stream.integers(going.size, denominator * term).astype(np.int64)
        going = going[drawn < numerators[going]]
        lengths[going] += 1
        term += 1
    odd: NDArray[np.bool_] = lengths % 2 == 1
    return odd
