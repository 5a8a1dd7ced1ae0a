"""Strokes on a grid of pixels: how much blood lies at each, where a vessel covers it, where its middle runs."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from securepfl.tasks.starts.drawn import Floats

_SOFT = 0.35
"""Pixels by which a vessel's edge is softened, so that one thinner than a pixel still shows, and fainter."""
_AT_ONCE = 1 << 15
"""Strokes stamped at once."""


@dataclass(frozen=True, eq=False)
class Strokes:
    """Pieces of vessels in pixels, one entry each: image, row, column, radius, and half the piece's way (dy, dx)."""

    image: NDArray[np.int64]
    row: Floats
    column: Floats
    radius: Floats
    half: tuple[Floats, Floats]

    def select(self, index: NDArray[np.bool_] | slice) -> "Strokes":
        """Those at `index`."""
        half = (self.half[0][index], self.half[1][index])
        return Strokes(self.image[index], self.row[index], self.column[index], self.radius[index], half)


@dataclass(frozen=True, eq=False)
class Painted:
    """Maps float32 [n, H, W]: `depth` (pixels of blood), `inside` (radius less distance, pixels), `middle` (0 to 1)."""

    depth: Floats
    inside: Floats
    middle: Floats


def painted(strokes: Strokes, count: int, size: tuple[int, int]) -> Painted:
    """Strokes as maps, the largest value at each pixel. Pieces of one reach are stamped together."""
    height, width = size
    maps = Painted(*(np.full((count, height, width), fill, np.float32) for fill in (0, -9, 0)))
    flat = Painted(maps.depth.reshape(-1), maps.inside.reshape(-1), maps.middle.reshape(-1))
    far = np.ceil(strokes.radius + np.hypot(*strokes.half) + 1.5).astype(np.int64)
    near = (
        (strokes.row > -far) & (strokes.row < height + far) & (strokes.column > -far) & (strokes.column < width + far)
    )
    for reach in np.unique(far[near]):
        chosen = strokes.select(near & (far == reach))
        for begin in range(0, len(chosen.image), _AT_ONCE):
            _stamp(flat, chosen.select(slice(begin, begin + _AT_ONCE)), int(reach), size)
    return maps


def _stamp(flat: Painted, strokes: Strokes, reach: int, size: tuple[int, int]) -> None:
    height, width = size
    offsets = np.arange(-reach, reach + 1)
    middle_row, middle_column = np.rint(strokes.row).astype(np.int64), np.rint(strokes.column).astype(np.int64)
    rows = (middle_row[:, None] + offsets)[:, :, None]
    columns = (middle_column[:, None] + offsets)[:, None, :]
    dy = (rows - strokes.row[:, None, None]).astype(np.float32)
    dx = (columns - strokes.column[:, None, None]).astype(np.float32)
    radius = strokes.radius[:, None, None]
    distance = _from_piece(dy, dx, strokes.half)
    on = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width) & (distance < radius + 1.5)
    where = (strokes.image[:, None, None] * height + rows) * width + columns
    softened = radius + _SOFT
    depth = 2 * np.sqrt(np.maximum(softened**2 - distance**2, 0)) * (radius / softened) ** 2
    middle = np.exp(-((distance / np.maximum(0.33 * radius, 0.5)) ** 2))
    np.maximum.at(flat.depth, where[on], depth[on])
    np.maximum.at(flat.inside, where[on], (radius - distance)[on])
    np.maximum.at(flat.middle, where[on], middle[on])


def _from_piece(dy: Floats, dx: Floats, half: tuple[Floats, Floats]) -> Floats:
    """Distance of points at (dy, dx) from each piece's middle to the nearest point of the piece."""
    hy, hx = (part[:, None, None] for part in half)
    along = np.clip((dy * hy + dx * hx) / np.maximum(hy**2 + hx**2, 1e-9), -1, 1)
    distance: Floats = np.hypot(dy - along * hy, dx - along * hx)
    return distance
