"""Which patient an image is of: by a column of the index, a file's name, a DICOM element, or each its own."""

from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from securepfl.data.images.folders import Files, in_words
from securepfl.data.images.spec import FILE, ImageSpec
from securepfl.data.patients import read_patients
from securepfl.data.source import Source
from securepfl.errors import DataError
from securepfl.identifiers import LOSSY, MARKS, alike_before, also, lossy, plain_identifier
from securepfl.spelling import unsaid

Owners = NDArray[np.object_]


def owners_of(
    images: Files, tags: Sequence[str | None], pixels: Sequence[bytes], index: Source | None, spec: ImageSpec
) -> Owners | None:
    """Each image's patient, texts [n], in its one spelling; None where none is declared.

    `tags` are the DICOM elements that were asked for, `pixels` the images' digests: where each image is a patient, that
    is its name, as numbers of files mean nothing elsewhere. Raises DataError for an image without a patient, and for
    two patients that may be one.
    """
    if spec.patient is None:
        return None
    if spec.patient == FILE:
        return np.array([digest.hex() for digest in pixels], dtype=object)
    if spec.patient_column is not None:
        if index is None:
            raise ValueError("a patient's column needs the index")
        return read_patients(index, spec.patient_column, ())
    return _checked(images, _named(images, tags, spec), spec)


def named_here(images: Files, tags: Sequence[str | None], index: Source | None, spec: ImageSpec) -> Owners | None:
    """Each image's patient at a hospital that takes no part; None where the index lacks the column, or no file's name
    or DICOM element says any. Where each image is a patient, it is called by its id; and patients whom a DICOM element
    tells apart are numbered, as outputs name them. Raises DataError as `owners_of`.
    """
    if spec.patient == FILE:
        return np.array(images.ids, dtype=object)
    if spec.patient_column is not None:
        there = index is not None and spec.patient_column in index.columns
        return read_patients(index, spec.patient_column, ()) if there and index is not None else None
    found = _named(images, tags, spec)
    if not any(found):
        return None
    owners = _checked(images, found, spec)
    if spec.patient_tag is None:
        return owners
    numbers = {name: f"patient-{number}" for number, name in enumerate(dict.fromkeys(owners.tolist()), start=1)}
    return np.array([numbers[name] for name in owners], dtype=object)


def _named(images: Files, tags: Sequence[str | None], spec: ImageSpec) -> Sequence[str | None]:
    """What stands for the patient in each file's name or DICOM element, None where nothing does."""
    pattern = spec.patient_pattern
    if pattern is None:
        return tags
    matches = [pattern.search(PurePosixPath(name).name) for name in images.ids]
    return [None if match is None else match[1] for match in matches]


def _checked(images: Files, found: Sequence[str | None], spec: ImageSpec) -> Owners:
    what = "DICOM element" if spec.patient_pattern is None else "file's name"
    names = [plain_identifier(name or "") for name in found]
    problems: dict[str, list[int]] = {}
    for number, name in enumerate(names, start=1):
        if not name or unsaid(name):
            mend = "mend [data] patient, or the file"
            problems.setdefault(f"has no patient by its {what}; {mend}", []).append(number)
        elif lossy(name):
            problems.setdefault(f"has a patient's id {LOSSY}", []).append(number)
    if problems:
        raise DataError(f"{images.folder}: {in_words(problems)}")
    different = list(dict.fromkeys(names))
    pairs = alike_before(different)
    if pairs:
        place, other = next(iter(pairs.items()))
        numbers = f"{names.index(different[other]) + 1} and {names.index(different[place]) + 1}"
        raise DataError(
            f"{images.folder}: images {numbers} in order of names have patients whose ids differ only in "
            f"{MARKS}{also(len(pairs) - 1)}; write each patient's one way, or number patients anew"
        )
    return np.array(names, dtype=object)
