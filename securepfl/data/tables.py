"""Tables by site: files read, checked against their declaration, and scaled by it.

A message names file, column and row, never a cell. Rows are counted from 1 after the header; blank lines do
not count.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from securepfl.data.cells import Cells
from securepfl.data.features import complete_rows, features_of
from securepfl.data.folder import hospital_files
from securepfl.data.known import digests_of
from securepfl.data.patients import read_patients
from securepfl.data.reading import read_columns, wanted_of
from securepfl.data.schema import DataSpec
from securepfl.data.sites import check_different, file_sources, site_sources
from securepfl.data.source import Source
from securepfl.data.split import NOT_COMPLETE, split_table
from securepfl.data.table import Table
from securepfl.data.wanted import Contents
from securepfl.errors import DataError

__all__ = ["Table", "load_site", "load_sites", "load_unlabelled", "split_table", "table_from_columns"]


_NAMES = "the rows' names, --id"


def load_sites(path: Path, spec: DataSpec) -> dict[str, Table]:
    """Each site's table, sorted by site: from one file with a site column, or a folder with one file a site.

    A table is empty where no row of it is complete. Raises DataError naming the file, and the column and row where
    there is one, of every hospital at once; and for two hospitals whose names look alike or whose tables are equal.
    """
    sources, problems = site_sources(path, spec)
    tables = {}
    for site in sorted(sources):
        try:
            tables[site] = _table(site, sources[site], spec, labelled=True)
        except DataError as error:
            problems[site] = str(error)
    if problems:
        raise DataError(at_once([problems[site] for site in sorted(problems)]))
    check_different(path, tables)
    return tables


def load_site(path: Path, spec: DataSpec, site: str) -> Table:
    """One hospital's own table, at that hospital: of a file that is its alone, of one with a site column, or of a
    folder. No other hospital's rows are taken, and no other file of a folder is read.

    Raises DataError as `load_sites` does, and where there is no table of `site`, or what is there may not be read.
    """
    try:
        source = _own_source(path, spec, site)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); let the user who runs this read the file and enter its folder"
        ) from None
    return _table(site, source, spec, labelled=True)


def left_out_wholly(path: Path, spec: DataSpec, site: str) -> int:
    """How many patients `load_site` leaves out with all their rows, as none is complete; rows where no column names
    patients. Raises as `load_site`.
    """
    source = _own_source(path, spec, site)
    complete = complete_rows(source, spec, labelled=True)
    if spec.patient is None:
        return len(source.rows) - len(complete.rows)
    every, read = (read_patients(rows, spec.patient, spec.missing_values) for rows in (source, complete))
    return len({*every} - {*read})


def _own_source(path: Path, spec: DataSpec, site: str) -> Source:
    path.stat()
    if path.is_dir():
        files = hospital_files(path, spec.files)
        if site not in files:
            raise DataError(f"{path}: has no table of {site}, only of {', '.join(sorted(files))}; name its own folder")
        path = files[site]
    elif spec.site is not None:
        sources = file_sources(path, spec)
        if site not in sources:
            raise DataError(f"{path}: has no row of {site} in column `{spec.site}`; name its own file")
        return sources[site]
    return Source.of(path, read_columns(path, wanted_of(spec)))


def at_once(problems: Sequence[str]) -> str:
    """All problems, those with the same mend (what follows the first semicolon) before it; of one problem at several
    places (what precedes the first colon and blank) the places alone are told anew.

    >>> at_once(["a.csv: has no column `age`; add it", "b.csv: has no column `age`; add it", "c.csv: has no rows"])
    'a.csv, b.csv: has no column `age`; add it; c.csv: has no rows'
    """
    by_mend: dict[str, dict[str, list[str]]] = {}
    for problem in problems:
        told, _, mend = problem.partition("; ")
        where, _, what = told.partition(": ")
        by_mend.setdefault(mend, {}).setdefault(what, []).append(where)
    return "; ".join(
        "; ".join([*(_at(places, what) for what, places in found.items()), *([mend] if mend else [])])
        for mend, found in by_mend.items()
    )


def _at(places: Sequence[str], what: str) -> str:
    return f"{', '.join(places)}: {what}" if what else "; ".join(places)


def load_unlabelled(path: Path, spec: DataSpec, id_column: str | None = None) -> Table:
    """The table of one file, whose label and site columns may be absent.

    The site is the file's stem. Labels are read where every row has one that is declared, and are None otherwise.
    `id_column` names the column of the rows' own names: it becomes `ids`, and is no feature unless it is declared as
    one. A file without a header holds all of `spec.columns`, or all but label, site and the split's column. Under
    "drop-rows", `rows` tells which rows are left. Raises DataError as `load_sites` does, where no row is left, and for
    a row without a name.
    """
    names = spec.columns or ()
    bare = [name for name in names if name not in (*spec.label_columns, spec.site, spec.split.column)]
    layouts = (names, tuple(bare)) if names else None
    wanted = wanted_of(spec, layouts, labelled=False)
    more = {*spec.label_columns, *([] if id_column is None else [id_column])}
    wanted = dataclasses.replace(wanted, columns=(wanted.columns or frozenset()) | more)
    source = Source.of(path, read_columns(path, wanted))
    table = _table(path.stem, source, spec, labelled=False, id_column=id_column)
    if not len(table):
        raise DataError(f"{path}: {NOT_COMPLETE}")
    return table


def table_from_columns(site: str, columns: Mapping[str, Any], spec: DataSpec, where: str) -> Table:
    """The table of labelled columns in memory, arrays [rows]. Raises DataError, naming `where` as the file."""
    cells = {name: Cells.of(values) for name, values in columns.items()}
    rows = len(next(iter(cells.values())))
    return _table(site, Source.of(where, Contents(tuple(cells), cells, rows)), spec, labelled=True)


def _table(site: str, source: Source, spec: DataSpec, labelled: bool, id_column: str | None = None) -> Table:
    _check_declared(source, spec, labelled, id_column)
    source = complete_rows(source, spec, labelled)
    table = Table(
        site=site,
        features=features_of(source, spec),
        labels=spec.read_labels(source) if labelled else _labels_if_all(source, spec),
        patients=_patients(source, spec, labelled),
        rows=source.rows,
        held_out=spec.split.held_out(source) if labelled else None,
        known=_known(source, spec) if labelled else {},
        ids=None if id_column is None else _names(source, id_column),
    )
    check_sides(source.where, table)
    return table


def _labels_if_all(source: Source, spec: DataSpec) -> NDArray[Any] | None:
    """The labels of an unseen hospital's rows, where it has them all; None otherwise."""
    if not all(name in source.columns for name in spec.label_columns):
        return None
    try:
        return spec.read_labels(source)
    except DataError:
        return None


def _names(source: Source, column: str) -> NDArray[Any]:
    """The rows' own names, texts (dtype object) [rows]. Raises DataError for a row without one."""
    cells = source.column(column, _NAMES)
    source.refuse(cells.missing(), column, "no name; fill it in, or name another column with --id")
    return np.array(cells.texts.to_pylist(), dtype=object)


def _known(source: Source, spec: DataSpec) -> dict[str, NDArray[Any]]:
    """By what each row is known again: its features' cells, whatever their ranges, and all cells of the file's row."""
    features = {name: source.columns[name] for name in (*spec.ranges, *spec.categories)}
    return {"cells": digests_of(features)} | ({} if source.known is None else {"row": source.known})


def check_sides(where: str, table: Table) -> None:
    """Raise DataError for a patient whom a declared column puts into training and test rows both."""
    if table.patients is None or table.held_out is None:
        return
    sides = [set(table.patients[table.held_out == side].tolist()) for side in (False, True)]
    both = sides[0] & sides[1]
    if both:
        of_them = np.isin(table.patients, list(both))
        rows = [int(table.rows[of_them & (table.held_out == side)][0]) for side in (False, True)]
        raise DataError(
            f"{where}: {len(both)} patient(s) have training and test rows, as rows {rows[0]} and {rows[1]}: their test "
            "rows would show what was trained on; mend the split's column"
        )


def _check_declared(source: Source, spec: DataSpec, labelled: bool, id_column: str | None = None) -> None:
    """Every declared column is there and every other is not; the label first, lest it be taken for a feature."""
    if labelled:
        for name in spec.label_columns:
            source.column(name, "the label")
        if spec.split.column is not None:
            source.column(spec.split.column, "the split")
        if spec.patient is not None:
            source.column(spec.patient, "the patient")
    if id_column is not None:
        source.column(id_column, _NAMES)
    for name in spec.features:
        source.column(name, "declared as a feature")
    known = {
        *spec.label_columns,
        spec.site,
        spec.patient,
        spec.split.column,
        *spec.drop,
        *spec.ranges,
        *spec.categories,
        id_column,
    }
    for name in (*source.columns, *source.unread):
        if name not in known and labelled:
            mend = "declare it in [data.ranges] or [data.categories], or list it in [data] drop"
            raise DataError(f"{source.where}: column `{name}` is not declared; {mend}")
        if name not in known:
            mend = "remove it, or name it with --id where it holds the rows' names"
            raise DataError(f"{source.where}: column `{name}` is none that the experts were trained on; {mend}")


def _patients(source: Source, spec: DataSpec, labelled: bool) -> NDArray[Any] | None:
    if spec.patient is None or not (labelled or spec.patient in source.columns):
        return None
    return read_patients(source, spec.patient, spec.missing_values)
