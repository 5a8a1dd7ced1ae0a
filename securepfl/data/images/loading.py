"""Images by site: files read, checked against their declaration, and made into features by it.

As with tables everything is read before a round begins, so what is wrong with a file is an error then, of all hospitals
at once, and no unit is left out unseen. Legal, and only noted to the hospital, are a mask without structure, as not
every patient has one, and a constant image.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from securepfl.data.images.folders import (
    Files,
    holds_images,
    hospital_around,
    hospital_folders,
    images_in,
    is_hospital,
    one_image,
    partners,
)
from securepfl.data.images.index import in_order, read_index, rows_beside, rows_by_site, rows_of
from securepfl.data.images.owners import Owners, named_here, owners_of
from securepfl.data.images.reading import ReadImage, read_images
from securepfl.data.images.spec import ImageSpec
from securepfl.data.source import Source
from securepfl.data.table import Table
from securepfl.data.tables import at_once, check_sides
from securepfl.errors import DataError, HospitalNote
from securepfl.spelling import composed, shown


def load_sites(path: Path, spec: ImageSpec) -> dict[str, Table]:
    """Each site's images as a table, sorted by site: `path` holds a folder for each.

    Raises DataError naming folder and image, of every hospital at once; and for two hospitals that have an image in
    common. ConfigError where a library of the extra `imaging` is missing.
    """
    _check_folder(path)
    folders = hospital_folders(path, spec)
    common = _index_of_all(path, folders, spec)
    tables, problems = {}, []
    for site in sorted(folders):
        try:
            tables[site] = _site_table(folders[site], site, spec, common.get(site))
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError(at_once(problems))
    _check_apart(path, tables)
    return tables


def load_site(path: Path, spec: ImageSpec, site: str) -> Table:
    """One hospital's own images, at that hospital: `path` is its folder, or one that its folder lies in. Of other
    hospitals nothing is read but their rows of an index of all.

    Raises DataError as `load_sites` does, and where there is no folder of `site`.
    """
    _check_folder(path)
    if is_hospital(path, spec):
        return _own_table(path, path.resolve().parent / spec.index, site, spec)
    if site in spec.without:
        raise DataError(f"{path}: site {shown(site)} takes no part: it is in [data] without; take it out there")
    named = [entry for entry in path.iterdir() if composed(entry.name) == site and holds_images(entry, spec)]
    if not named and holds_images(path, spec):
        return _own_table(path, path.resolve().parent / spec.index, site, spec)
    if len(named) != 1:
        raise DataError(f"{path}: has no folder {shown(site)} with images; name the hospital's own folder")
    return _own_table(named[0], path / spec.index, site, spec)


def _own_table(hospital: Path, common: Path, site: str, spec: ImageSpec) -> Table:
    """A hospital's table, with rows of an index of all, `common`, where it has no index of its own."""
    if not spec.columns or (hospital / spec.index).exists() or not common.exists():
        return _site_table(hospital, site, spec, None)
    return _site_table(hospital, site, spec, rows_of(read_index(common, spec), spec, site))


def load_unlabelled(path: Path, spec: ImageSpec) -> Table:
    """The images of a hospital that takes no part: its folder, a folder of nothing but images, or one image.

    Masks and labels are read where they are there, and then for all; else `labels` is None. Patients are read where
    some image has one, and where each image is a patient, its id is the patient's. Raises DataError as `load_sites`.
    """
    if path.is_file():
        path = path.absolute()
        hospital = hospital_around(path, spec)
        folder = hospital / spec.images if is_hospital(hospital, spec) else hospital
        images = one_image(path, folder, hospital)
    else:
        _check_folder(path)
        hospital = path
        images = images_in(path / spec.images if is_hospital(path, spec) else path, path)
    masks = _where_there(images, hospital, spec.masks, "mask")
    fields = _where_there(images, hospital, spec.fields, "field of view")
    if spec.fields is not None and fields is None:
        said = f"no folder `{spec.fields}` of fields of view, so all of an image counts"
        warnings.warn(f"{hospital.name}: {said}", HospitalNote, stacklevel=2)
    index = _index_where_there(hospital, images, spec)
    read = read_images(images, masks, fields, spec)
    labelled = index is not None and all(name in index.columns for name in spec.label_columns)
    labels = _labels(read, index if labelled else None, spec)
    return _table(composed(hospital.resolve().name), images, read, labels, named_here(images, _tags(read), index, spec))


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


def _check_folder(path: Path) -> None:
    if not path.is_dir():
        raise DataError(f"{path}: is no folder; images lie in folders, one for each hospital")


def _index_of_all(path: Path, folders: Mapping[str, Path], spec: ImageSpec) -> dict[str, Source]:
    """Each hospital's rows of one index of all, of those that have none of their own."""
    without = [site for site, folder in folders.items() if not (folder / spec.index).exists()]
    if not spec.columns or not without or not (path / spec.index).exists():
        return {}
    return {
        site: rows
        for site, rows in rows_by_site(read_index(path / spec.index, spec), spec, sorted(folders)).items()
        if site in without
    }


def _site_table(hospital: Path, site: str, spec: ImageSpec, rows: Source | None) -> Table:
    """A hospital's labelled table. `rows` are its rows of an index of all, where it has none of its own."""
    images = images_in(hospital / spec.images, hospital)
    masks = None if spec.masks is None else _partners(images, hospital, spec.masks, "mask")
    fields = None if spec.fields is None else _partners(images, hospital, spec.fields, "field of view")
    index = None
    if spec.columns:
        rows = rows_of(read_index(hospital / spec.index, spec), spec, site) if rows is None else rows
        index = in_order(rows, images, spec, site)
    read = read_images(images, masks, fields, spec)
    _check_twice(images, read)
    owners = owners_of(images, _tags(read), [one.pixels for one in read], index, spec)
    held_out = None if index is None else spec.split.held_out(index)
    table = _table(site, images, read, _labels(read, index, spec), owners, held_out)
    check_sides(str(images.folder), table)
    _note(hospital, table, read, spec)
    return table


def _partners(images: Files, hospital: Path, name: str, what: str) -> list[Path]:
    folder = hospital / name
    if not folder.is_dir():
        raise DataError(f"{hospital}: has no folder `{name}`; add it with a {what} for each image, or mend [data]")
    return partners(images, images_in(folder, hospital), what)


def _where_there(images: Files, hospital: Path, name: str | None, what: str) -> list[Path] | None:
    """The masks or fields of `images`, where the hospital has a folder of them."""
    if name is None or not (hospital / name).is_dir():
        return None
    others = images_in(hospital / name, hospital)
    return partners(
        images, Files(others.folder, {own: others.found[own] for own in images.ids if own in others.found}), what
    )


def _table(
    site: str,
    images: Files,
    read: Sequence[ReadImage],
    labels: NDArray[Any] | None,
    owners: Owners | None,
    held_out: NDArray[np.bool_] | None = None,
) -> Table:
    return Table(
        site=site,
        features=np.stack([one.features for one in read]),
        labels=labels,
        patients=owners,
        rows=np.arange(1, len(read) + 1, dtype=np.int64),
        held_out=held_out,
        known={
            "pixels": np.array([one.pixels for one in read], dtype=object),
            "file": np.array([one.file for one in read], dtype=object),
        },
        ids=np.array(images.ids, dtype=object),
        sizes=np.array([one.size for one in read], dtype=np.int64),
    )


def _labels(read: Sequence[ReadImage], index: Source | None, spec: ImageSpec) -> NDArray[Any] | None:
    if not spec.segments:
        return None if index is None else spec.read_labels(index)
    masks = [one.labels for one in read if one.labels is not None]
    return np.stack(masks) if masks else None


def _tags(read: Sequence[ReadImage]) -> list[str | None]:
    return [one.tag for one in read]


def _check_twice(images: Files, read: Sequence[ReadImage]) -> None:
    """Raise DataError for one image under two names: it would count twice. Constant images are equal by chance."""
    seen: dict[bytes, int] = {}
    for number, one in enumerate(read, start=1):
        other = number if one.constant else seen.setdefault(one.pixels, number)
        if other != number:
            raise DataError(
                f"{images.folder}: images {other} and {number} in order of names have the same pixels, so they would "
                "count twice; remove one"
            )


def _note(hospital: Path, table: Table, read: Sequence[ReadImage], spec: ImageSpec) -> None:
    """Warn the hospital (HospitalNote) of what is legal and seldom meant. Raises DataError where no mask shows a
    structure.
    """
    flat = sum(one.constant for one in read)
    if flat:
        said = f"{flat} of {len(read)} images are constant, and teach nothing"
        warnings.warn(f"{table.site}: {said}", HospitalNote, stacklevel=4)
    if not spec.segments or table.labels is None:
        return
    empty = int((~table.labels[:, 0].any(axis=(1, 2))).sum())
    if empty == len(table):
        mend = "save structures as 255 or 1, and the rest as 0"
        raise DataError(f"{hospital / (spec.masks or '')}: no mask shows a structure; {mend}")
    if empty:
        said = f"{empty} of {len(table)} masks show no structure, and count as images without one"
        warnings.warn(f"{table.site}: {said}", HospitalNote, stacklevel=4)


def _check_apart(path: Path, tables: Mapping[str, Table]) -> None:
    """Raise DataError for an image that two hospitals have."""
    seen: dict[bytes, tuple[str, int]] = {}
    for site, table in tables.items():
        values = table.features.reshape(len(table), -1)
        varied = (values != values[:, :1]).any(axis=1)
        for number, digest in zip(table.rows[varied].tolist(), table.known["pixels"][varied].tolist(), strict=True):
            other, its = seen.setdefault(digest, (site, number))
            if other != site:
                raise DataError(
                    f"{path}: sites {other} and {site} have an image in common (image {its} of {other}, image {number} "
                    f"of {site}, in order of names), so it would count twice; remove one"
                )
