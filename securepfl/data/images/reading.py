"""One image with its mask and field of view: read, checked against the declaration, and made into features."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from securepfl.data.images.folders import Files, in_words
from securepfl.data.images.intensity import coloured, scaled
from securepfl.data.images.masks import structure_of
from securepfl.data.images.opening import read_file
from securepfl.data.images.picture import Picture, UnfitError
from securepfl.data.images.placing import Placement
from securepfl.data.images.spec import ImageSpec
from securepfl.errors import DataError

_ROWS = 64
_SPACING = 0.01
"""By how much of itself a spacing may differ from the declared one: headers round."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ReadImage:
    """One image: `features` float32 [channels, height, width] and `labels` uint8 [2, height, width] (None without a
    mask) of the declared size, its own `size`, and digests of its `pixels` and of its `file`'s bytes.
    """

    features: NDArray[np.float32] = field(repr=False)
    labels: NDArray[np.uint8] | None = field(repr=False)
    size: tuple[int, int]
    pixels: bytes
    file: bytes
    tag: str | None = field(repr=False)
    constant: bool


def read_images(
    images: Files, masks: Sequence[Path] | None, fields: Sequence[Path] | None, spec: ImageSpec
) -> list[ReadImage]:
    """Every image, in order, with its mask and field in the same order. Raises DataError for all that are not as
    declared.
    """
    read, problems = [], dict[str, list[int]]()
    for place, path in enumerate(images.found.values()):
        mask = None if masks is None else masks[place]
        view = None if fields is None else fields[place]
        try:
            read.append(_read(path, mask, view, spec))
        except UnfitError as error:
            problems.setdefault(str(error), []).append(place + 1)
    if problems:
        raise DataError(f"{images.folder}: {in_words(problems)}")
    return read


def _read(path: Path, mask: Path | None, view: Path | None, spec: ImageSpec) -> ReadImage:
    image, file = read_file(path, spec.patient_tag)
    _check_spacing(image, spec)
    place = Placement.of(image.size, spec.size, spec.fit)
    inside = place.whole if view is None else _laid(_partner(view, image, "field of view"), place)
    if not inside.any():
        raise UnfitError("has an empty field of view, so nothing of it counts; mend the field")
    labels = None if mask is None else np.stack([_laid(_partner(mask, image, "mask"), place) & inside, inside])
    fill = 0.0 if spec.range is None else spec.range[0]
    return ReadImage(
        features=scaled(place.into(coloured(image.values, spec), fill), inside, spec),
        labels=labels,
        size=image.size,
        pixels=_digest(image),
        file=file,
        tag=image.tag,
        constant=bool(np.all(image.values == image.values[0, 0])),
    )


def _partner(path: Path, image: Picture, what: str) -> NDArray[np.uint8]:
    """A mask or field. Raises UnfitError that says which of them is unfit."""
    try:
        return structure_of(read_file(path)[0], image)
    except UnfitError as error:
        raise UnfitError(f"has a {what} that {error}") from None


def _laid(structure: NDArray[np.uint8], place: Placement) -> NDArray[np.uint8]:
    return (place.into(structure) >= 0.5).astype(np.uint8)


def _check_spacing(image: Picture, spec: ImageSpec) -> None:
    if spec.spacing is None or image.spacing is None:
        return
    if not np.allclose(image.spacing, spec.spacing, rtol=_SPACING, atol=0.0):
        raise UnfitError(f"has another spacing than [data] spacing = {list(spec.spacing)}; resample it, or mend [data]")


def _digest(image: Picture) -> bytes:
    """32 bytes by which an image's pixels are known again, whatever file holds them."""
    digest = hashlib.blake2b(repr(image.values.shape).encode(), digest_size=32)
    for start in range(0, len(image.values), _ROWS):
        digest.update(np.ascontiguousarray(image.values[start : start + _ROWS] + 0.0, dtype="<f8").data)
    return digest.digest()
