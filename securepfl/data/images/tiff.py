"""TIFF by tifffile; by Pillow where tifffile alone has no codec for a compression."""

import io
import math
import zlib
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from securepfl.data.images.picture import Picture, UnfitError, channels_last, check_pixels, imported, unheard, upright
from securepfl.data.images.pillow import read_picture

_DEFLATE: Final = (8, 32946)
_PACKBITS: Final = 32773
_OWN_CODECS: Final = frozenset((1, _PACKBITS, *_DEFLATE))
"""None, Deflate and PackBits: what tifffile decodes without the package imagecodecs."""
_LOSSY: Final = frozenset((6, 7, 33003, 33004, 33005, 34712, 34933))
"""JPEG, old and new, and kinds of JPEG 2000 and XR."""
_WHITE, _BLACK, _RGB, _PALETTE = 0, 1, 2, 3
_ORIENTATION: Final = "Orientation"


def read_tiff(data: bytes, _: str | None = None) -> Picture:
    """The image in `data`, upright. Raises UnfitError, and on damaged bytes anything."""
    tifffile = imported("tifffile")
    with unheard("tifffile"), tifffile.TiffFile(io.BytesIO(data)) as file:
        if len(file.pages) != 1:
            raise UnfitError("holds several pages; save each as a file of its own")
        page = file.pages[0]
        check_pixels(page.imagelength, page.imagewidth)
        if page.imagedepth != 1 or page.samplesperpixel > 4:
            raise UnfitError("is neither grey nor of three colours; save one image a file, grey or RGB")
        if page.photometric not in (_WHITE, _BLACK, _RGB, _PALETTE) or page.compression in _LOSSY:
            raise UnfitError("is of a colour space or compression that may change values; save it as plain grey or RGB")
        if page.compression in _OWN_CODECS:
            _check_segments(page, data)
            tag = page.tags.get(_ORIENTATION)
            values = _values(page)
            return Picture(values=channels_last(upright(values, 1 if tag is None else int(tag.value))))
        if page.bitspersample > 8 and page.samplesperpixel > 1:
            raise UnfitError("has a compression that is not read with 16-bit colours; save it without compression")
    return read_picture(data, ("TIFF",))


def _check_segments(page: Any, data: bytes) -> None:
    """Raise UnfitError for a strip or tile that unpacks to far more than its pixels: tifffile unpacks all there is."""
    if page.is_tiled:
        check_pixels(page.tilelength, page.tilewidth)
    most = 2 * math.prod(page.chunks) * page.samplesperpixel * (1 + page.bitspersample // 8)
    for start, length in zip(page.dataoffsets, page.databytecounts, strict=False):
        segment = memoryview(data)[start : start + length]
        if page.compression in _DEFLATE:
            unpacked = zlib.decompressobj()
            unpacked.decompress(segment, most)
            longer = bool(unpacked.decompress(unpacked.unconsumed_tail, 1))
        else:
            # Two bytes are at least one of pixels, and at most 128.
            longer = page.compression == _PACKBITS and len(segment) > most
        if longer:
            raise UnfitError("unpacks to far more than its pixels; save it anew")


def _values(page: Any) -> NDArray[Any]:
    """Pixels [height, width] or [height, width, samples]; white is large, a palette's are its colours."""
    values = np.asarray(page.asarray())
    if page.axes.startswith("S"):
        values = np.moveaxis(values, 0, -1)
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * np.uint8(255)
    if page.photometric == _PALETTE:
        colours: NDArray[Any] = np.moveaxis(np.asarray(page.colormap), 0, -1)[values] >> 8
        return colours
    if page.photometric != _WHITE:
        return values
    if not np.issubdtype(values.dtype, np.unsignedinteger):
        raise UnfitError("has white as its smallest value in no whole numbers; save it with black as 0")
    return np.asarray(np.iinfo(values.dtype).max - values)
