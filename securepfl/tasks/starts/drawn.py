"""What a generator draws: raw grey images with their truth, and the smooth random fields that all of them use."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch.nn.functional import interpolate

from securepfl.tasks.models import public_stream

Floats = NDArray[Any]
"""float32 as a rule; where a float64 mixes in, what comes out is cast."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """Synthetic images float32 [n, 1, H, W] in [0, 1], and labels uint8 [n, 2, H, W]: structure, field of view."""

    images: Floats = field(repr=False)
    labels: NDArray[np.uint8] = field(repr=False)

    def __post_init__(self) -> None:
        n, _, *size = self.images.shape
        if self.labels.shape != (n, 2, *size):
            raise ValueError(f"labels must have shape {[n, 2, *size]}, not {list(self.labels.shape)}")

    def __len__(self) -> int:
        return len(self.images)


def generator(*labels: str | int) -> np.random.Generator:
    """numpy's generator from the public stream of these labels: the same labels draw the same."""
    return np.random.default_rng(int.from_bytes(public_stream("start", *labels).bytes(16), "big"))


def floats(values: object) -> Floats:
    """`values` as float32."""
    return np.asarray(values, np.float32)


def between(rng: np.random.Generator, count: int, low: float, high: float, axes: int = 2) -> Floats:
    """`count` numbers uniform on [low, high), float32 [count] with `axes` axes of one behind, to meet images."""
    return rng.uniform(low, high, count).astype(np.float32).reshape(-1, *[1] * axes)


def happens(rng: np.random.Generator, count: int, chance: float, axes: int = 2) -> Floats:
    """`count` times 1 with this chance, else 0; shaped as `between` does."""
    return (rng.random(count) < chance).astype(np.float32).reshape(-1, *[1] * axes)


def smooth(rng: np.random.Generator, count: int, size: tuple[int, int], cell: float) -> Floats:
    """`count` fields [count, H, W] of about unit variance, smooth over `cell` pixels: random values, spline between."""
    few = tuple(max(2, int(np.ceil(side / cell)) + 3) for side in size)
    coarse = torch.from_numpy(rng.standard_normal((count, 1, *few)).astype(np.float32))
    large = tuple(round(side * cell) for side in few)
    fine = interpolate(coarse, size=tuple(max(a, b) for a, b in zip(large, size, strict=True)), mode="bicubic")
    top, left = ((a - b) // 2 for a, b in zip(fine.shape[-2:], size, strict=True))
    found: Any = fine[:, 0, top : top + size[0], left : left + size[1]].numpy()
    return np.ascontiguousarray(found, dtype=np.float32)


def octaves(rng: np.random.Generator, count: int, size: tuple[int, int], cells: tuple[float, ...]) -> Floats:
    """The mean of smooth fields over several cells, scaled to about unit variance: a texture without any structure."""
    fields = [smooth(rng, count, size, cell) for cell in cells]
    return np.asarray(sum(fields), np.float32) / np.float32(len(cells) ** 0.5)


def blurred(images: Floats, sigma: Floats) -> Floats:
    """Each image [n, H, W] under a Gaussian of its own `sigma` (pixels, n of them)."""
    return np.stack(
        [gaussian_filter(one, float(s), mode="nearest") for one, s in zip(images, sigma.ravel(), strict=True)]
    )


def grid(size: tuple[int, int]) -> tuple[Floats, Floats]:
    """Rows and columns of the pixels' centres, float32 [1, H, 1] and [1, 1, W], from 0."""
    rows, columns = (np.arange(side, dtype=np.float32) for side in size)
    return rows[None, :, None], columns[None, None, :]


def step(distance: Floats, width: Floats | float = 1.0) -> Floats:
    """0 outside to 1 inside across an edge of `width` pixels, where `distance` (pixels) is positive inside."""
    return np.clip(distance / width + 0.5, 0, 1).astype(np.float32)
