"""Images by site: files read, checked against their declaration, and made into features by it.

As with tables everything is read before a round begins, so what is wrong with a file is an error then, of all hospitals
at once, and no unit is left out unseen. Legal, and only noted to the hospital, are a mask without structure, as not
every patient has one, and a constant image.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from securepfl.data.images.assembling import labels_of, table_of, tags_of
from securepfl.data.images.folders import (
    Files,
    check_folder,
    holds_images,
    hospital_folders,
    images_in,
    is_hospital,
    partners,
)
from securepfl.data.images.index import in_order, read_index, rows_by_site, rows_of
from securepfl.data.images.owners import owners_of
from securepfl.data.images.reading import ReadImage, read_images
from securepfl.data.images.spec import ImageSpec
from securepfl.data.images.unseen import load_unlabelled
from securepfl.data.source import Source
from securepfl.data.table import Table
from securepfl.data.tables import at_once, check_sides
from securepfl.errors import DataError, HospitalNote
from securepfl.spelling import composed, shown

__all__ = ["load_site", "load_sites", "load_unlabelled"]


def load_sites(path: Path, spec: ImageSpec) -> dict[str, Table]:
    """Each site's images as a table, sorted by site: `path` holds a folder for each.

    Raises DataError naming folder and image, of every hospital at once; and for two hospitals that have an image in
    common. ConfigError where a library of the extra `imaging` is missing.
    """
    check_folder(path)
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
    try:
        return _own(path, spec, site)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); let the user who runs this read the files and enter the folder"
        ) from None


def _own(path: Path, spec: ImageSpec, site: str) -> Table:
    check_folder(path)
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
    owners = owners_of(images, tags_of(read), [one.pixels for one in read], index, spec)
    held_out = None if index is None else spec.split.held_out(index)
    table = table_of(site, images, read, labels_of(read, index, spec), owners, held_out)
    check_sides(str(images.folder), table)
    _note(hospital, table, read, spec)
    return table


def _partners(images: Files, hospital: Path, name: str, what: str) -> list[Path]:
    folder = hospital / name
    if not folder.is_dir():
        raise DataError(f"{hospital}: has no folder `{name}`; add it with a {what} for each image, or mend [data]")
    return partners(images, images_in(folder, hospital), what)


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
