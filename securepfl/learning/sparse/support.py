"""Which shared coordinates a round trains and sends, and what is carried over to later rounds.

The support is a function of what every hospital already holds, so it costs no bytes, and the coordinator
learns how many blocks there are but not which.
"""

from math import ceil

import numpy as np
from numpy.typing import NDArray

from securepfl.randomness import RandomStream, derive_key

_GRID = 2**20
_ROUNDING_SLACK = 1e-9


def choose_support(
    last_aggregate: NDArray[np.floating] | None,
    size: int,
    *,
    density: float,
    block: int,
    exploration: float,
    key: bytes,
    round_number: int,
) -> NDArray[np.bool_]:
    """The coordinates of this round, bool [size]: ceil(density x blocks) whole blocks of `block` coordinates.

    A share `exploration` of them (rounded up) is drawn under `key`, which only hospitals hold; the others are
    the blocks of largest Euclidean norm in `last_aggregate` [size]. Blocks that were zero there count as
    unknown, not as small, and wait for the draw; without an aggregate all are drawn. Ties: the lower index.

    Raises ValueError for a setting out of range or an aggregate of another shape or not finite.
    """
    _check(size, density, block, exploration, round_number)
    blocks = ceil(size / block)
    wanted = _round_up(density * blocks)
    leading = _leading_blocks(last_aggregate, size, block)[: wanted - _round_up(exploration * wanted)]
    chosen = np.zeros(blocks, dtype=np.bool_)
    chosen[leading] = True
    order = RandomStream(derive_key(key, "support", round_number)).permutation(blocks)
    unchosen = order[~chosen[order]]
    chosen[unchosen[: wanted - leading.size]] = True
    return np.repeat(chosen, block)[:size]


def most_coordinates(size: int, density: float, block: int) -> int:
    """The most coordinates `choose_support` can choose: whole blocks; only the last can be shorter."""
    return min(size, _round_up(density * ceil(size / block)) * block)


def add_residual(update: NDArray[np.floating], residual: NDArray[np.floating]) -> NDArray[np.float64]:
    """The update [d] plus what earlier rounds left unsent [d]: what this round should send.

    Raises ValueError where the shapes differ.
    """
    _same_shape(update, residual)
    return update.astype(np.float64) + residual


def new_residual(corrected: NDArray[np.floating], sent: NDArray[np.floating]) -> NDArray[np.float64]:
    """What the round left unsent [d]: `corrected` from `add_residual` minus the values really sent.

    `sent` is dequantised and clipped as the others will read it, zero outside the support, so that rounding,
    clipping and sparsity all come back later (error feedback, Karimireddy et al. 2019, arXiv 1901.09847).
    Raises ValueError where the shapes differ.
    """
    _same_shape(corrected, sent)
    return corrected.astype(np.float64) - sent


def _check(size: int, density: float, block: int, exploration: float, round_number: int) -> None:
    if size < 0 or block < 1:
        raise ValueError(f"size must be at least 0 and block at least 1, not {size} and {block}")
    if not 0.0 < density <= 1.0:
        raise ValueError(f"density must be in (0, 1], not {density}")
    if not 0.0 <= exploration <= 1.0:
        raise ValueError(f"exploration must be in [0, 1], not {exploration}")
    if round_number < 0:
        raise ValueError(f"round_number must be at least 0, not {round_number}")


def _round_up(value: float) -> int:
    """Ceiling that takes .07 x 100 = 7.000000000000001 for 7."""
    return ceil(value - _ROUNDING_SLACK)


def _leading_blocks(aggregate: NDArray[np.floating] | None, size: int, block: int) -> NDArray[np.int64]:
    """Indices of the non-zero blocks, largest norm first.

    Norms are summed as integers on a grid of 2^-20 of the largest value: a floating sum depends on the CPU's
    vector width, and hospitals that rank two near-equal blocks differently would add different coordinates.
    """
    if aggregate is None or size == 0:
        return np.empty(0, dtype=np.int64)
    if aggregate.shape != (size,) or not np.isfinite(aggregate).all():
        raise ValueError(f"last_aggregate must be finite with shape ({size},), not {aggregate.shape}")
    padded = np.zeros(ceil(size / block) * block)
    padded[:size] = np.abs(aggregate)
    largest = padded.max()
    if largest == 0.0:
        return np.empty(0, dtype=np.int64)
    grid = np.rint(padded / largest * _GRID).astype(np.int64)
    scores = np.square(grid).reshape(-1, block).sum(axis=1)
    order: NDArray[np.int64] = np.argsort(-scores, kind="stable")
    return order[: np.count_nonzero(scores)]


def _same_shape(one: NDArray[np.floating], other: NDArray[np.floating]) -> None:
    if one.shape != other.shape:
        raise ValueError(f"shapes differ: {one.shape} and {other.shape}")
