"""What an image's values become: a function of the one image, its own field of view and declared constants."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from securepfl.data.images.picture import UnfitError
from securepfl.data.images.spec import ImageSpec

_CUT = 4.0
_FLAT = 1e-9
_ROWS = 64
_LUMA = np.array([0.299, 0.587, 0.114])
"""ITU-R BT.601: how bright red, green and blue look."""


def coloured(values: NDArray[Any], spec: ImageSpec) -> NDArray[Any]:
    """The channels that are declared, [height, width, channels]. Raises UnfitError for a grey image of colours."""
    grey = values.shape[2] == 1
    if spec.colour == "grey":
        return values if grey else _grey(values)
    if grey:
        raise UnfitError(f'is grey, and [data] colour = "{spec.colour}" needs colours; declare "grey", or replace it')
    return values if spec.colour == "rgb" else values[:, :, 1:2]


def _grey(values: NDArray[Any]) -> NDArray[np.float64]:
    """How bright colours look, some rows at a time: all of them as float64 would take three times the answer's room."""
    bright = np.empty((*values.shape[:2], 1))
    for start in range(0, len(values), _ROWS):
        bright[start : start + _ROWS] = values[start : start + _ROWS] @ _LUMA[:, None]
    return bright


def scaled(values: NDArray[np.float64], field: NDArray[np.uint8], spec: ImageSpec) -> NDArray[np.float32]:
    """An image [height, width, channels] with its field of view [height, width] as features [channels, height, width].

    Under "image" and "local" what lies outside the field is 0.
    """
    inside = field.astype(np.float64)
    channels = [_scaled(values[:, :, channel], inside, spec) for channel in range(values.shape[2])]
    return np.stack(channels).astype(np.float32)


def _scaled(values: NDArray[np.float64], inside: NDArray[np.float64], spec: ImageSpec) -> NDArray[np.float64]:
    if spec.range is not None:
        low, high = spec.range
        return np.clip((values - low) / (high - low), 0.0, 1.0) * 2.0 - 1.0
    unchanged = _FLAT * float(np.abs(values * inside).max())
    if spec.window is not None:
        weights = uniform_filter(inside, spec.window, mode="constant")
        means = uniform_filter(values * inside, spec.window, mode="constant") / np.maximum(weights, _FLAT)
        return np.clip(_over_deviation((values - means) * inside, inside, unchanged), -_CUT, _CUT)
    mean = float((values * inside).sum() / inside.sum())
    return _over_deviation((values - mean) * inside, inside, unchanged)


def _over_deviation(values: NDArray[np.float64], inside: NDArray[np.float64], unchanged: float) -> NDArray[np.float64]:
    """Over the deviation inside the field; 0 where that is no more than rounding makes."""
    mean = values.sum() / inside.sum()
    deviation = float(np.sqrt((((values - mean) * inside) ** 2).sum() / inside.sum()))
    return values / deviation if deviation > unchanged else np.zeros_like(values)
