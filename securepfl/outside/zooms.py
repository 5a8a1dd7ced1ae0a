"""Zooms: an image seen larger or smaller, and what a network says of it brought back to the image's own pixels.

Structures of a size that training never showed (another camera, another field) are often met at another zoom.
"""

from math import isfinite
from typing import Final

from torch import Tensor
from torch.nn import functional

from securepfl.errors import ConfigError

_MULTIPLE: Final = 16
"""Sides after a zoom are multiples of this, which four halvings need."""
_LIMITS: Final = (0.25, 4.0)


def zoomed(images: Tensor, zoom: float) -> Tensor:
    """`images` [n, C, H, W] with both sides times `zoom`, rounded down to multiples of 16; 1 changes nothing."""
    if zoom == 1.0:
        return images
    sides = [max(_MULTIPLE, int(side * zoom) // _MULTIPLE * _MULTIPLE) for side in images.shape[-2:]]
    return functional.interpolate(images, sides, mode="bilinear", antialias=zoom < 1.0, align_corners=False)


def zoomed_back(maps: Tensor, size: tuple[int, int], zoom: float) -> Tensor:
    """Logits [n, K, h, w] of a zoomed image as [n, K, *size]; without a zoom as they are."""
    if zoom == 1.0:
        return maps
    return functional.interpolate(maps, size, mode="bilinear", align_corners=False)


def require_zooms(zooms: tuple[float, ...]) -> None:
    """Raises ConfigError where 1 is missing, one stands twice, or one lies outside 0.25 to 4.

    >>> require_zooms((1.0, 9.0))
    Traceback (most recent call last):
    securepfl.errors.ConfigError: zoom 9.0: must lie between 0.25 and 4
    """
    for zoom in zooms:
        if not isfinite(zoom) or not _LIMITS[0] <= zoom <= _LIMITS[1]:
            raise ConfigError(f"zoom {zoom}: must lie between {_LIMITS[0]:g} and {_LIMITS[1]:g}")
    if 1.0 not in zooms or len(set(zooms)) != len(zooms):
        raise ConfigError(f"zooms {list(zooms)}: name 1, and each once")
