"""Which hospitals there are: one spelling a name, none twice, and each with rows of its own."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from securepfl.data.folder import hospital_files
from securepfl.data.reading import read_columns, wanted_of
from securepfl.data.schema import DataSpec
from securepfl.data.source import Source
from securepfl.data.table import Table
from securepfl.errors import DataError
from securepfl.spelling import alike, spelled_out, unsaid

_FEWEST = 2
"""Rows from which on equal tables are no coincidence."""


def site_sources(path: Path, spec: DataSpec) -> tuple[dict[str, Source], dict[str, str]]:
    """Each hospital's rows as read, by its name: of one file with a site column, or of a folder with a file a site.
    Beside them, by name, what is wrong with files that can't be read.

    Raises DataError for a row without a site, and for two names that look alike.
    """
    if not path.exists():
        raise DataError(f"{path}: cannot be read (No such file or directory); name an existing file or folder")
    return _folder_sources(path, spec) if path.is_dir() else (file_sources(path, spec), {})


def check_different(path: Path, tables: Mapping[str, Table]) -> None:
    """Raise DataError for two hospitals whose rows are the same: one file that was copied, in whatever order."""
    sizes = [len(table) for table in tables.values()]
    seen: dict[bytes, str] = {}
    for site, table in tables.items():
        if len(table) < _FEWEST or sizes.count(len(table)) < 2:
            continue
        other = seen.setdefault(_fingerprint(table), site)
        if other != site:
            raise DataError(
                f"{path}: sites {other} and {site} have equal tables, so their rows would count twice; remove one"
            )


def _fingerprint(table: Table) -> bytes:
    """Equal for tables of the same rows in any order."""
    labels = np.zeros(len(table)) if table.labels is None else table.labels
    rows = [row.tobytes() for row in np.column_stack([table.features, labels]) + 0.0]
    patients = [b""] * len(table) if table.patients is None else [str(patient).encode() for patient in table.patients]
    return hashlib.sha256(b"\0".join(sorted(map(b"\0".join, zip(rows, patients, strict=True))))).digest()


def file_sources(path: Path, spec: DataSpec) -> dict[str, Source]:
    """Each hospital's rows of one file with a site column. Raises DataError."""
    if spec.files:
        raise DataError(f"{path}: is no folder, but [data.files] names files; name their folder")
    if spec.site is None:
        raise DataError(f"{path}: is one file, but [data] names no site column; add `site`, or name a folder")
    source = Source.of(path, read_columns(path, wanted_of(spec)))
    cells = source.column(spec.site, "site")
    names = np.asarray(cells.texts.fill_null(""), dtype=object)
    missing = cells.missing(spec.missing_values)
    sites = sorted(set(names[~missing]))
    source.refuse(
        missing | np.isin(names, list(filter(unsaid, sites))), spec.site, "no site; fill it in or remove the row"
    )
    if pair := alike(sites):
        source.refuse(
            names == pair[1],
            spec.site,
            f"site {spelled_out(pair[1])} looks like {spelled_out(pair[0])}; write one name one way",
        )
    return {name: source.select(names == name, f"{path}, site {name}") for name in sites}


def _folder_sources(path: Path, spec: DataSpec) -> tuple[dict[str, Source], dict[str, str]]:
    if spec.site is not None:
        raise DataError(f"{path}: is a folder, but [data] names a site column; drop `site` or name a file")
    wanted = wanted_of(spec)
    found, problems = {}, {}
    for site, file in hospital_files(path, spec.files).items():
        try:
            found[site] = Source.of(file, read_columns(file, wanted))
        except DataError as error:
            problems[site] = str(error)
    return found, problems
