"""PNG and JPEG by Pillow, and what TIFF tifffile has no codec for."""

import io
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from securepfl.data.images.picture import (
    TOO_MANY,
    Picture,
    UnfitError,
    channels_last,
    check_pixels,
    imported,
    unheard,
    upright,
)

_PLUGINS: Final = ("PngImagePlugin", "JpegImagePlugin", "TiffImagePlugin")
"""Loaded beforehand, lest a log that they begin be heard."""
_ORIENTATION: Final = 0x0112
_DIRECT: Final = frozenset(("1", "L", "LA", "I;16", "I;16B", "I", "F", "RGB", "RGBA"))
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_DEPTH, _TYPE = 24, 25
"""Where in a PNG file stand the bits of a sample, and how many samples a pixel has."""


def read_picture(data: bytes, formats: tuple[str, ...] = ("PNG", "JPEG")) -> Picture:
    """The image in `data`, upright. Raises UnfitError, and on damaged bytes anything."""
    images, *_ = (imported(f"PIL.{name}") for name in ("Image", *_PLUGINS))
    _check_depth(data)
    with unheard("PIL"), _opened(images, data, formats) as image:
        check_pixels(image.height, image.width)
        if getattr(image, "n_frames", 1) > 1:
            raise UnfitError("holds several frames; save each as a file of its own")
        lossy = image.format == "JPEG"
        # Pillow turns a TIFF itself.
        orientation = 1 if image.format == "TIFF" else image.getexif().get(_ORIENTATION, 1)
        values = upright(_values(image), orientation if isinstance(orientation, int) else 1)
    return Picture(values=channels_last(values), lossy=lossy)


def _opened(images: Any, data: bytes, formats: tuple[str, ...]) -> Any:
    try:
        return images.open(io.BytesIO(data), formats=formats)
    except images.DecompressionBombError:
        # Pillow has a bound of its own, above ours.
        raise UnfitError(TOO_MANY) from None


def _check_depth(data: bytes) -> None:
    """Pillow cuts 16-bit colours to 8 bits without a word."""
    if data.startswith(_PNG) and len(data) > _TYPE and data[_DEPTH] == 16 and data[_TYPE] != 0:
        raise UnfitError("has 16 bits a colour, which PNG files are not read with; save it as TIFF")


def _values(image: Any) -> NDArray[Any]:
    """Pixels as an array; a palette's by their colours."""
    if image.mode in ("P", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode not in _DIRECT:
        raise UnfitError(f"is of the colour mode {image.mode}, and not grey or RGB; save it as one of them")
    values = np.asarray(image)
    return values.astype(np.uint8) * np.uint8(255) if image.mode == "1" else values
