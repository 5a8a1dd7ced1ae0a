"""A file as an image, by its kind: read once, bounded before it is decoded, and never quoted."""

from collections.abc import Callable, Mapping
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType
from typing import Final

from securepfl.data.images.dicom import read_dicom
from securepfl.data.images.nifti import read_nifti
from securepfl.data.images.picture import Picture, UnfitError
from securepfl.data.images.pillow import read_picture
from securepfl.data.images.tiff import read_tiff
from securepfl.errors import SecurePFLError

Reader = Callable[[bytes, str | None], Picture]

_MOST_BYTES: Final = 1 << 30


def _pillow(data: bytes, _: str | None) -> Picture:
    return read_picture(data)


READERS: Final[Mapping[str, Reader]] = MappingProxyType(
    {
        ".png": _pillow,
        ".jpg": _pillow,
        ".jpeg": _pillow,
        ".tif": read_tiff,
        ".tiff": read_tiff,
        ".nii": read_nifti,
        ".nii.gz": read_nifti,
        ".dcm": read_dicom,
    }
)
"""By how a file's name ends; given its bytes and the keyword of the DICOM element that is wanted of it."""
KINDS_IN_WORDS: Final = "PNG, JPEG, TIFF, NIfTI or DICOM"
_KINDS: Final = MappingProxyType(
    {".png": "PNG", ".jpg": "JPEG", ".jpe": "JPEG", ".tif": "TIFF", ".nii": "NIfTI", ".dcm": "DICOM"}
)


def ending_of(name: str) -> str | None:
    """How an image's name ends, in small letters; None where no reader takes it.

    >>> ending_of("left.PNG"), ending_of("brain.nii.gz"), ending_of("notes.txt")
    ('.png', '.nii.gz', None)
    """
    lower = name.lower()
    return next((ending for ending in sorted(READERS, key=len, reverse=True) if lower.endswith(ending)), None)


def kind_of_file(name: str) -> str:
    """The kind of an image's file in a word; without an ending that a reader takes it is DICOM.

    >>> kind_of_file("brain.nii.gz"), kind_of_file("IM0001")
    ('NIfTI', 'DICOM')
    """
    return _KINDS[(ending_of(name) or ".dcm")[:4]]


def read_file(path: Path, tag: str | None = None) -> tuple[Picture, bytes]:
    """The image in a file, and the digest of its bytes. Raises UnfitError: what is wrong, and nothing it says."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UnfitError("is larger than a gigabyte; scale it down, or replace the file")
        data = path.read_bytes()
    except OSError as error:
        raise UnfitError(f"cannot be read ({error.strerror}); make it readable") from None
    if not data:
        raise UnfitError("is empty; replace the file")
    try:
        picture = READERS[ending_of(path.name) or ".dcm"](data, tag)
    except (SecurePFLError, UnfitError):
        raise
    except Exception:  # noqa: BLE001 - decoders raise anything on damaged bytes, and quote them
        raise UnfitError(f"is truncated, damaged or no {kind_of_file(path.name)} file; replace it") from None
    return picture, blake2b(data, digest_size=32).digest()
