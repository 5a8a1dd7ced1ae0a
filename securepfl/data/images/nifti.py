"""NIfTI by nibabel: a slice, or a volume of one. Its rows are the second axis and its columns the first."""

import io
import zlib
from typing import Any, Final

import numpy as np

from securepfl.data.images.picture import Picture, UnfitError, check_pixels, imported, unheard

_GZIP: Final = b"\x1f\x8b"
_HEADER: Final = 540
"""Bytes of the longer header, that of NIfTI-2."""
_MOST_BEFORE: Final = 1 << 24
"""Bytes of headers and extensions before the pixels: a zipped file's few bytes can stand for any number."""


def read_nifti(data: bytes, _: str | None = None) -> Picture:
    """The slice in `data`, scaled as its header says. Raises UnfitError, and on damaged bytes anything."""
    nibabel = imported("nibabel")
    with unheard("nibabel"):
        zipped = data.startswith(_GZIP)
        start = zlib.decompressobj(wbits=31).decompress(data, _HEADER) if zipped else data
        kind = nibabel.Nifti2Image if _first(start) == _HEADER else nibabel.Nifti1Image
        header = kind.header_class.from_fileobj(io.BytesIO(start))
        across, down = _plane(header)
        if not 0 <= header["vox_offset"] <= _MOST_BEFORE:
            raise UnfitError("says that its pixels begin far behind its header; save it without extensions")
        if zipped:
            data = _unzipped(data, int(header["vox_offset"]) + across[1] * down[1] * header.get_data_dtype().itemsize)
        return _slice(kind.from_bytes(data), across, down)


def _first(data: bytes) -> int:
    """The size of the header, in either order of bytes: 348 of NIfTI-1, 540 of NIfTI-2."""
    return min(int.from_bytes(data[:4], "little"), int.from_bytes(data[:4], "big"))


def _unzipped(data: bytes, most: int) -> bytes:
    """Up to where the slice ends, by its header: what stands behind is in memory at no time."""
    whole = zlib.decompressobj(wbits=31).decompress(data, most)
    if len(whole) < most:
        raise EOFError
    return whole


def _plane(header: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """The axes of a slice, each with the pixels along it: across a row, then down a column. Raises UnfitError."""
    shape, dtype = [int(side) for side in header.get_data_shape()], header.get_data_dtype()
    if dtype.fields is not None or np.issubdtype(dtype, np.complexfloating):
        raise UnfitError("has several numbers a pixel; save one as grey")
    if len(shape) < 2:
        raise UnfitError("holds no slice; replace the file")
    long = [axis for axis, side in enumerate(shape) if side != 1]
    if len(long) > 2:
        raise UnfitError("holds a volume; save each slice as a file of its own")
    short = [axis for axis, side in enumerate(shape) if side == 1]
    across, down = sorted([*long, *short][:2])
    check_pixels(shape[down], shape[across])
    return (across, shape[across]), (down, shape[down])


def _slice(image: Any, across: tuple[int, int], down: tuple[int, int]) -> Picture:
    zooms = image.header.get_zooms()
    values = np.asarray(image.dataobj, dtype=np.float64).reshape(across[1], down[1]).T
    return Picture(
        values=np.ascontiguousarray(values)[:, :, None],
        spacing=(float(zooms[down[0]]), float(zooms[across[0]])),
        affine=np.asarray(image.affine),
    )
