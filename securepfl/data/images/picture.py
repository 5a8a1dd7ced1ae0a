"""One image as a file holds it, before anything is made of it; and what is wrong with a file."""

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from securepfl.errors import ConfigError

MOST_PIXELS: Final = 40_000_000
"""No image of a hospital has more but a whole slide, which is no image of one size. Asked before decoding: a few bytes
can stand for any number of pixels, each of which takes some twenty bytes on its way."""
TOO_MANY: Final = f"says that it has more than {MOST_PIXELS:,} pixels; scale it down, or replace the file"


class UnfitError(ValueError):
    """What is wrong with one file, and its mend: nothing that the file holds."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Picture:
    """One image, upright, as stored: `values` [height, width, channels], 1 or 3 channels, finite, in the file's own
    type, as float64 takes eight times the room.

    `spacing` (row, column) in mm and `affine` [4, 4], where the file says so. `tag` is the DICOM element that was asked
    for, as text. `lossy`: a compression may have changed values. Raises UnfitError.
    """

    values: NDArray[Any] = field(repr=False)
    spacing: tuple[float, float] | None = None
    affine: NDArray[np.float64] | None = field(default=None, repr=False)
    tag: str | None = field(default=None, repr=False)
    lossy: bool = False

    def __post_init__(self) -> None:
        if not np.isfinite(self.values).all():
            raise UnfitError("holds values that are no finite numbers; mend or remove the file")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.values.shape[0], self.values.shape[1]


def check_pixels(height: int, width: int) -> None:
    """Raise UnfitError for an image without pixels or with more than can be one."""
    if height < 1 or width < 1:
        raise UnfitError("has no pixels; replace the file")
    if height * width > MOST_PIXELS:
        raise UnfitError(TOO_MANY)


def channels_last(values: NDArray[Any]) -> NDArray[Any]:
    """[height, width] or [height, width, channels] as [height, width, 1 or 3]; three equal channels are one.

    Raises UnfitError for other channels, and for pixels that are not opaque.
    """
    if values.ndim == 2:
        return values[:, :, None]
    if values.ndim != 3 or values.shape[2] not in (1, 2, 3, 4):
        raise UnfitError("is neither grey nor of three colours; save one image a file, grey or RGB")
    if values.shape[2] in (2, 4):
        if np.any(values[:, :, -1] != _opaque(values)):
            raise UnfitError("is partly transparent, so that some pixels have no value; save it without transparency")
        values = values[:, :, :-1]
    if values.shape[2] == 3 and np.all(values == values[:, :, :1]):
        values = values[:, :, :1]
    return values


def _opaque(values: NDArray[Any]) -> Any:
    return np.iinfo(values.dtype).max if np.issubdtype(values.dtype, np.integer) else 1.0


def upright(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """An image [height, width, ...] as EXIF's `orientation` (1 to 8; others are none) says that it is looked at."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values


def imported(name: str) -> Any:
    """A library of the extra `imaging`. Raises ConfigError where it isn't installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = (error.name or name).partition(".")[0]
        raise ConfigError(f"{missing} is not installed; run: pip install 'securepfl[imaging]'") from None


@contextmanager
def unheard(library: str) -> Iterator[None]:
    """Without the library's warnings and log lines, which quote what a file says of its patient."""
    names = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] == library]
    loggers = [logging.getLogger(name) for name in {library, *names}]
    before = [logger.disabled for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.disabled = True
            yield
        finally:
            for logger, disabled in zip(loggers, before, strict=True):
                logger.disabled = disabled
