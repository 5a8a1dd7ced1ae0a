"""Real values to integer levels to slots, and sums of slots back to sums of values. numpy only."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from securepfl.crypto.sums.parameters import MAX_BITS, MIN_BITS, Layout, top_level
from securepfl.randomness import RandomStream

_CHUNK: Final = 1 << 15
"""Values rounded at once: few enough to stay in the cache."""


@dataclass(frozen=True)
class Quantised:
    """`levels` in [0, 2^bits - 2], one a value; `clipped` counts the values that lay beyond the limit."""

    levels: NDArray[np.uint64]
    clipped: int


def _check_grid(bits: int, limit: float) -> None:
    if not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(f"bits must be in [{MIN_BITS}, {MAX_BITS}], not {bits}")
    if not (np.isfinite(limit) and limit > 0):
        raise ValueError(f"limit must be positive and finite, not {limit}")


def quantise(values: NDArray[np.float64], bits: int, limit: float, stream: RandomStream) -> Quantised:
    """Unbiased stochastic rounding of `values` onto 2^bits - 1 levels of [-limit, limit]; beyond it,
    clipping.

    The grid is symmetric with an odd number of levels, so 0.0 and both limits are levels and stay exact.
    Raises ValueError for NaN, infinity, a limit that is not positive, or bits out of range.

    >>> quantised = quantise(np.array([0.0, -0.5, 9.0]), bits=4, limit=0.5, stream=RandomStream(bytes(32)))
    >>> quantised.levels.tolist(), quantised.clipped
    ([7, 0, 14], 1)
    """
    _check_grid(bits, limit)
    levels, clipped = np.empty(values.size, dtype=np.uint64), 0
    flat = values.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        chunk = slice(start, start + _CHUNK)
        levels[chunk], beyond = _rounded(flat[chunk] / limit, top_level(bits) // 2, stream)
        clipped += beyond
    return Quantised(levels.reshape(values.shape), clipped)


def _rounded(scaled: NDArray[np.float64], half: int, stream: RandomStream) -> tuple[NDArray[np.uint64], int]:
    """Levels of values in units of the limit, and how many lay beyond it."""
    sizes = np.abs(scaled)
    if not sizes.max() < np.inf:
        raise ValueError("values must be finite: found NaN or infinity")
    positions = (np.clip(scaled, -1.0, 1.0) + 1.0) * half
    floors = np.floor(positions)
    floors += stream.uniform(scaled.size) < positions - floors
    return np.minimum(floors, 2 * half).astype(np.uint64), int(np.count_nonzero(sizes > 1.0))


def dequantise_sum(levels_sum: NDArray[np.uint64], weight: int, bits: int, limit: float) -> NDArray[np.float64]:
    """The weighted sum of real values (not their mean) from the sum of levels and the sum of weights.

    Raises ValueError where `weight` is below 1 or the grid makes no sense.

    >>> dequantise_sum(np.array([14, 28], dtype=np.uint64), weight=2, bits=4, limit=0.5).tolist()
    [0.0, 1.0]
    """
    _check_grid(bits, limit)
    if weight < 1:
        raise ValueError(f"weight must be at least 1, not {weight}")
    half = top_level(bits) // 2
    # Sums stay far below 2^53, so doubles hold them exactly.
    centred = levels_sum.astype(np.float64)
    centred -= weight * half
    centred *= limit / half
    return centred


def dequantise(levels: NDArray[np.uint64], bits: int, limit: float) -> NDArray[np.float64]:
    """The real values that `levels` stand for: what a hospital subtracts to know its rounding residue.

    >>> dequantise(np.array([7, 0, 14], dtype=np.uint64), bits=4, limit=0.5).tolist()
    [0.0, -0.5, 0.5]
    """
    return dequantise_sum(levels, 1, bits, limit)


def pack(levels: NDArray[np.uint64], layout: Layout) -> NDArray[np.uint64]:
    """`layout.value_slots` slots of mixed-radix digits, shape (values,) in.

    Raises ValueError where the shape is wrong or a level exceeds the grid.

    >>> from securepfl.crypto.sums.parameters import choose_layout
    >>> layout = choose_layout(values=5, bits=4, clients=3)
    >>> levels = np.array([0, 1, 2, 13, 14], dtype=np.uint64)
    >>> unpack(pack(levels, layout) * np.uint64(3), layout).tolist()
    [0, 3, 6, 39, 42]
    """
    if levels.shape != (layout.values,):
        raise ValueError(f"levels must have shape ({layout.values},), not {levels.shape}")
    if int(levels.max()) > top_level(layout.bits):
        raise ValueError(f"levels must be at most {top_level(layout.bits)}, found {int(levels.max())}")
    return digits_to_slots(levels, layout)


def digits_to_slots(levels: NDArray[np.uint64], layout: Layout) -> NDArray[np.uint64]:
    """`layout.value_slots` slots of levels or sums of them, shape (values,), each below the base: the inverse of
    `unpack`, where slots hold nothing else.
    """
    padded = np.zeros(layout.fields * layout.value_slots, dtype=np.uint64)
    padded[: layout.values] = levels
    slots = np.zeros(layout.value_slots, dtype=np.uint64)
    for digits in padded.reshape(layout.fields, layout.value_slots)[::-1]:
        slots = slots * np.uint64(layout.base) + digits
    return slots


def unpack(slots: NDArray[np.uint64], layout: Layout) -> NDArray[np.uint64]:
    """Sums of levels, shape (values,), from sums of `layout.value_slots` slots. Raises ValueError for a
    wrong shape.
    """
    if slots.shape != (layout.value_slots,):
        raise ValueError(f"slots must have shape ({layout.value_slots},), not {slots.shape}")
    fields = np.empty((layout.fields, layout.value_slots), dtype=np.uint64)
    rest, base = slots.astype(np.uint64), np.uint64(layout.base)
    for field in fields:
        # numpy divides by a scalar much faster than it takes remainders.
        quotient = rest // base
        np.subtract(rest, quotient * base, out=field)
        rest = quotient
    return fields.reshape(-1)[: layout.values]


def check_slots(slots: NDArray[np.uint64], layout: Layout) -> None:
    """Raises ValueError for slots, tag included, of another shape than the layout's or not below its plain modulus."""
    if slots.shape != (layout.slots,):
        raise ValueError(f"slots must have shape ({layout.slots},), not {slots.shape}")
    if int(slots.max()) >= layout.parameters.plain_modulus:
        raise ValueError(f"slots must be below {layout.parameters.plain_modulus}, found {int(slots.max())}")
