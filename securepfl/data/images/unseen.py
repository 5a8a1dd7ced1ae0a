"""The images of a hospital that takes no part: what is there is read, and nothing more is asked for."""

import warnings
from pathlib import Path

from securepfl.data.images.assembling import labels_of, table_of, tags_of
from securepfl.data.images.folders import (
    Files,
    check_folder,
    hospital_around,
    images_in,
    is_hospital,
    one_image,
    partners,
)
from securepfl.data.images.index import in_order, read_index, rows_beside
from securepfl.data.images.owners import named_here
from securepfl.data.images.reading import read_images
from securepfl.data.images.spec import ImageSpec
from securepfl.data.source import Source
from securepfl.data.table import Table
from securepfl.errors import DataError, HospitalNote
from securepfl.spelling import composed


def load_unlabelled(path: Path, spec: ImageSpec) -> Table:
    """The images of a hospital that takes no part: its folder, a folder of nothing but images, or one image.

    Masks and labels are read where they are there, and then for all; else `labels` is None. Patients are read where
    some image has one, and where each image is a patient, its id is the patient's. Raises DataError as `load_sites`.
    """
    try:
        return _table(path.absolute(), spec)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); make files and folders readable") from None


def _table(path: Path, spec: ImageSpec) -> Table:
    if path.is_file():
        hospital = hospital_around(path, spec)
        folder = hospital / spec.images if is_hospital(hospital, spec) else hospital
        images = one_image(path, folder, hospital)
    else:
        check_folder(path)
        hospital = path
        _check_one(path, spec)
        images = images_in(path / spec.images if is_hospital(path, spec) else path, path)
    masks = _where_there(images, hospital, spec.masks, "mask")
    fields = _where_there(images, hospital, spec.fields, "field of view")
    if spec.fields is not None and fields is None:
        said = f"no folder `{spec.fields}` of fields of view, so all of an image counts"
        warnings.warn(f"{hospital.name}: {said}", HospitalNote, stacklevel=3)
    index = _index_where_there(hospital, images, spec)
    read = read_images(images, masks, fields, spec)
    labelled = index is not None and all(name in index.columns for name in spec.label_columns)
    labels = labels_of(read, index if labelled else None, spec)
    return table_of(
        composed(hospital.resolve().name), images, read, labels, named_here(images, tags_of(read), index, spec)
    )


def _check_one(path: Path, spec: ImageSpec) -> None:
    """Raises DataError for a folder of hospitals, whose masks would be read as images of one."""
    if spec.images == "." or is_hospital(path, spec):
        return
    inside = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and is_hospital(entry, spec))
    if inside:
        raise DataError(f"{path}: holds {len(inside)} folder(s) of hospitals; name one hospital's folder")


def _index_where_there(hospital: Path, images: Files, spec: ImageSpec) -> Source | None:
    """The rows of `images` in the hospital's index, or in one of all beside its folder that has some of it."""
    own, common = hospital / spec.index, hospital.resolve().parent / spec.index
    site = composed(hospital.resolve().name)
    if not spec.columns:
        return None
    if own.exists():
        return in_order(read_index(own, spec, whole=False), images, spec, site, whole=False)
    rows = rows_beside(common, spec, site) if common.exists() else None
    return None if rows is None else in_order(rows, images, spec, site, whole=False)


def _where_there(images: Files, hospital: Path, name: str | None, what: str) -> list[Path] | None:
    """The masks or fields of `images`, where the hospital has a folder of them."""
    if name is None or not (hospital / name).is_dir():
        return None
    others = images_in(hospital / name, hospital)
    return partners(
        images, Files(others.folder, {own: others.found[own] for own in images.ids if own in others.found}), what
    )
