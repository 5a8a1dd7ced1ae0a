"""The rows of an index by image: `file` names an image of a hospital, other columns hold its patient, label or part."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from securepfl.data.images.folders import Files, in_words
from securepfl.data.images.spec import ImageSpec
from securepfl.data.reading import read_columns
from securepfl.data.source import Source
from securepfl.data.wanted import Wanted
from securepfl.errors import DataError
from securepfl.spelling import composed, shown

_ROLE = "the image's file"


def read_index(path: Path, spec: ImageSpec, *, whole: bool = True) -> Source:
    """An index's rows, of the columns that are declared: all of these, where it must be `whole`. Raises DataError."""
    names = frozenset((spec.file, spec.site, *spec.columns))
    needed = (spec.file, *spec.columns) if whole else (spec.file,)
    source = Source.of(path, read_columns(path, Wanted(columns=names, needed=needed)))
    for name in needed:
        source.column(name, _ROLE if name == spec.file else "declared in [data]")
    return source


def rows_by_site(source: Source, spec: ImageSpec, sites: Sequence[str]) -> dict[str, Source]:
    """The rows of each of `sites` in an index of all. Raises DataError for rows of other sites, and a site without."""
    names = _site_names(source, spec)
    other = ~np.isin(names, [*sites, *spec.without])
    if other.any():
        site = shown(str(names[other][0]))
        source.refuse(other, spec.site, f"site {site} has no folder; add it, or list it in [data] without")
    return {site: _of_site(source, names, site) for site in sites}


def rows_of(source: Source, spec: ImageSpec, site: str) -> Source:
    """The rows of one hospital in an index, all where no column names hospitals. Raises DataError where it has none."""
    return _of_site(source, _site_names(source, spec), site) if spec.site in source.columns else source


def rows_beside(path: Path, spec: ImageSpec, site: str) -> Source | None:
    """The rows of a hospital that takes no part in an index of all; None where the file is none, or has no such row."""
    try:
        source = read_index(path, spec, whole=False)
        return rows_of(source, spec, site) if spec.site in source.columns else None
    except DataError:
        return None


def _of_site(source: Source, names: NDArray[np.object_], site: str) -> Source:
    if not (names == site).any():
        raise DataError(f"{source.where}: has no row of site {shown(site)}; add its images, or rename its folder")
    return source.select(names == site)


def _site_names(source: Source, spec: ImageSpec) -> NDArray[np.object_]:
    texts = source.column(spec.site, "site").texts.fill_null("").to_pylist()
    return np.array([composed(text) for text in texts], dtype=object)


def in_order(source: Source, images: Files, spec: ImageSpec, site: str, *, whole: bool = True) -> Source:
    """One row for each image, in the images' order.

    Raises DataError for an image without a row, for two rows of one, and, where the index must be `whole`, for a row
    of no image.
    """
    places = _places(images, site)
    texts = source.column(spec.file, _ROLE).texts.fill_null("").to_pylist()
    named = np.array([places.get(_plain(text), -1) for text in texts], dtype=np.int64)
    if whole:
        mend = "write its path in the hospital's folder, or remove the row"
        source.refuse(named < 0, spec.file, f"names no image of the hospital; {mend}")
    source, named = source.select(named >= 0), named[named >= 0]
    twice = np.ones(len(named), dtype=np.bool_)
    twice[np.unique(named, return_index=True)[1]] = False
    source.refuse(twice, spec.file, "names an image that another row names; remove one")
    absent = sorted(set(range(len(images.ids))) - set(named.tolist()))
    if absent:
        problem = f"has no row in {source.where}; add it, or remove the image"
        raise DataError(f"{images.folder}: {in_words({problem: [place + 1 for place in absent]})}")
    order = np.argsort(named)
    columns = {name: replace(its, values=its.values.take(pa.array(order))) for name, its in source.columns.items()}
    return replace(source, columns=columns, rows=source.rows[order])


def _places(images: Files, site: str) -> dict[str, int]:
    """Each image's place by all that a row may call it: its path in the folder of images, the hospital's folder or the
    folder of all, with its ending or without.
    """
    places: dict[str, int] = {}
    inner = images.folder.name
    for before in ("", f"{inner}/", f"{site}/{inner}/", f"{site}/"):
        for place, (name, file) in enumerate(images.found.items()):
            path = composed(file.relative_to(images.folder).as_posix())
            for called in (path, name):
                places.setdefault(f"{before}{called}", place)
    return places


def _plain(text: str) -> str:
    return str(PurePosixPath(composed(text).replace("\\", "/")))
