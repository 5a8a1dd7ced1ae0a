"""Where an image lies in an array of the declared size, and back: `fit` of `[data] kind = "images"`."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from securepfl.data.images.picture import UnfitError, imported


@dataclass(frozen=True)
class Placement:
    """An image of `own` (height, width) in an array of `size`: above and left, its `inner` pixels long and wide.

    >>> Placement.of((30, 20), (60, 60), "resize").inner
    (60, 40)
    >>> placed = Placement.of((3, 2), (4, 4), "pad")
    >>> int(placed.into(np.ones((3, 2))).sum()), placed.back(np.ones((4, 4))).shape
    (6, (3, 2))
    """

    own: tuple[int, int]
    size: tuple[int, int]
    inner: tuple[int, int]

    @classmethod
    def of(cls, own: tuple[int, int], size: tuple[int, int], fit: str) -> "Placement":
        """Under `fit` "pad" pixels stay; under "resize" the image is as large as fits. Raises UnfitError for an image
        larger than `size` that would be padded.
        """
        if fit == "resize":
            scale = min(size[0] / own[0], size[1] / own[1])
            height, width = (max(1, min(most, round(scale * side))) for side, most in zip(own, size, strict=True))
            return cls(own, size, (height, width))
        if own[0] > size[0] or own[1] > size[1]:
            mend = 'raise it, or set fit = "resize"'
            raise UnfitError(f"is larger than [data] size = {list(size)}; {mend}")
        return cls(own, size, own)

    def into(self, values: NDArray[Any], fill: float = 0.0) -> NDArray[np.float64]:
        """An image [height, width] or [height, width, channels] in an array of `size`, with `fill` below and right."""
        laid = np.full((*self.size, *values.shape[2:]), fill, dtype=np.float64)
        laid[: self.inner[0], : self.inner[1]] = _resized(values, self.inner)
        return laid

    def back(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """An array [height, width] of `size`, as probabilities, as an image of its own size."""
        if values.shape != self.size:
            raise ValueError(f"values must have shape {list(self.size)}, not {list(values.shape)}")
        return _resized(values[: self.inner[0], : self.inner[1]], self.own)

    @property
    def whole(self) -> NDArray[np.uint8]:
        """1 where the image lies and 0 in the padding, of `size`."""
        laid = np.zeros(self.size, dtype=np.uint8)
        laid[: self.inner[0], : self.inner[1]] = 1
        return laid


def _resized(values: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float64]:
    """Bilinear, over all pixels that one becomes where it gets smaller."""
    if values.shape[:2] == size:
        return values.astype(np.float64)
    if values.ndim == 3:
        return np.stack([_resized(values[:, :, channel], size) for channel in range(values.shape[2])], axis=2)
    images = imported("PIL.Image")
    image = images.fromarray(values.astype(np.float32)).resize(size[::-1], images.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.float64)
