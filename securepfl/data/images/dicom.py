"""DICOM by pydicom: the pixels, their spacing, and the one element that names the patient. No other is read.

An identifier never leaves here but as a patient's name that was asked for: pydicom's warnings, log lines and errors
quote what elements hold, so none of them is heard.
"""

import io
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from securepfl.data.images.picture import Picture, UnfitError, channels_last, check_pixels, imported, unheard
from securepfl.errors import ConfigError

_PIXELS: Final = (
    "BitsAllocated",
    "BitsStored",
    "BurnedInAnnotation",
    "Columns",
    "HighBit",
    "ImagerPixelSpacing",
    "ModalityLUTSequence",
    "NumberOfFrames",
    "PhotometricInterpretation",
    "PixelData",
    "PixelRepresentation",
    "PixelSpacing",
    "PlanarConfiguration",
    "RescaleIntercept",
    "RescaleSlope",
    "Rows",
    "SamplesPerPixel",
)
_DEFLATED: Final = "1.2.840.10008.1.2.1.99"
_GREY: Final = ("MONOCHROME1", "MONOCHROME2")
_COLOURS: Final = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_NO_TEXT: Final = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "UN"))


def read_dicom(data: bytes, tag: str | None = None) -> Picture:
    """The image in `data`, rescaled as it says, white large; `tag` is the keyword of the element to read beside it.

    Raises UnfitError, and on damaged bytes anything; ConfigError for a keyword that DICOM doesn't know.
    """
    pydicom, filereader, pixels = (imported(f"pydicom{part}") for part in ("", ".filereader", ".pixels"))
    if tag is not None and imported("pydicom.datadict").tag_for_keyword(tag) is None:
        raise ConfigError(f'[data] patient = "dicom:{tag}": DICOM has no such element; write a keyword, as PatientID')
    with unheard("pydicom"):
        _check_syntax(data, filereader)
        wanted = [*_PIXELS, *([] if tag is None else [tag])]
        found = pydicom.dcmread(io.BytesIO(data), specific_tags=wanted)
        _check(found)
        values = channels_last(_values(found, pixels))
        return Picture(values=values, spacing=_spacing(found), tag=_text(found, tag))


def _check_syntax(data: bytes, filereader: Any) -> None:
    """A deflated data set is unpacked before anything says how long it is."""
    file = io.BytesIO(data)
    filereader.read_preamble(file, force=False)
    meta = filereader.read_dataset(
        file, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, vr, length: tag.group != 2
    )
    if str(meta.get("TransferSyntaxUID", "")) == _DEFLATED:
        raise UnfitError("is deflated as a whole; save it with another transfer syntax")


def _check(found: Any) -> None:
    """Raise UnfitError for what is no single image of grey or colours, before its pixels are decoded."""
    if "PixelData" not in found:
        raise UnfitError("holds no image; remove the file")
    check_pixels(int(found.Rows), int(found.Columns))
    if int(found.get("NumberOfFrames") or 1) != 1:
        raise UnfitError("holds several frames; save each as a file of its own")
    if str(found.PhotometricInterpretation) not in (*_GREY, *_COLOURS):
        raise UnfitError("is neither grey nor RGB (photometric interpretation); save it as one of them")
    if "ModalityLUTSequence" in found:
        raise UnfitError("has a modality lookup table in place of slope and intercept; save it rescaled")
    if str(found.get("BurnedInAnnotation", "")).upper() == "YES":
        raise UnfitError("says that annotations are burned into its pixels, which may name the patient; blank them")


def _values(found: Any, reader: Any) -> NDArray[Any]:
    try:
        pixels = np.asarray(reader.pixel_array(found))
    except Exception:
        if not found.file_meta.TransferSyntaxUID.is_compressed:
            raise
        mend = "save it uncompressed (as by gdcmconv --raw), or replace it"
        raise UnfitError(f"has a compression that is not read here, or is damaged; {mend}") from None
    if str(found.PhotometricInterpretation) in _COLOURS:
        return pixels
    if str(found.PhotometricInterpretation) == "MONOCHROME1":
        pixels = _ends(found) - pixels.astype(np.int64)
    return pixels * float(found.get("RescaleSlope") or 1.0) + float(found.get("RescaleIntercept") or 0.0)


def _ends(found: Any) -> int:
    """The sum of the smallest and the largest value that a pixel can hold: what a pixel and its negative add up to."""
    levels = 1 << int(found.BitsStored)
    return -1 if int(found.PixelRepresentation) else levels - 1


def _spacing(found: Any) -> tuple[float, float] | None:
    spacing = found.get("PixelSpacing") or found.get("ImagerPixelSpacing")
    return None if not spacing else (float(spacing[0]), float(spacing[1]))


def _text(found: Any, tag: str | None) -> str | None:
    if tag is None or tag not in found:
        return None
    element = found[tag]
    return None if element.VR in _NO_TEXT else str(element.value)
