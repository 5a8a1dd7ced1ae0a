"""Tables by site: files read, checked against their declaration, and scaled by it.

A message names file, column and row, never a cell. Rows are counted from 1 after the header; blank lines do
not count.
"""

import contextlib
import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from securepfl.data.cells import Cells, is_missing, matches, numbers, read_columns, texts
from securepfl.data.schema import DataSpec, Range, Split
from securepfl.data.source import Source
from securepfl.errors import DataError


@dataclass(frozen=True, eq=False, kw_only=True)
class Table:
    """One site's rows, scaled as declared.

    `features` float32 [n, d] in the order of `DataSpec.feature_names`, finite and within the declared limits;
    `labels` as `DataSpec.read_labels` gives them, or None where unlabelled; `patients` texts (dtype object) [n], or
    None; `rows` int64 [n], each row's number in its file. Raises ValueError where shapes differ.
    """

    site: str
    features: NDArray[np.float32] = field(repr=False)
    labels: NDArray[Any] | None = field(repr=False)
    patients: NDArray[Any] | None = field(repr=False)
    rows: NDArray[np.int64] = field(repr=False)

    def __post_init__(self) -> None:
        if self.features.ndim != 2:
            raise ValueError(f"features must have shape [n, d], not {list(self.features.shape)}")
        for name in ("labels", "patients", "rows"):
            column = getattr(self, name)
            if column is not None and (
                len(column) != len(self.features) or column.ndim > (2 if name == "labels" else 1)
            ):
                raise ValueError(f"{name} must have shape [{len(self.features)}], not {list(column.shape)}")

    def __len__(self) -> int:
        return len(self.features)

    def select(self, index: NDArray[Any]) -> "Table":
        """The rows at `index` (positions or a boolean mask), as a table."""
        return Table(
            site=self.site,
            features=self.features[index],
            labels=None if self.labels is None else self.labels[index],
            patients=None if self.patients is None else self.patients[index],
            rows=self.rows[index],
        )


def load_sites(path: Path, spec: DataSpec) -> dict[str, Table]:
    """Each site's table, sorted by site: from one file with a site column, or a folder with one file a site.

    Raises DataError naming the file, and the column and row where there is one.
    """
    sources = _folder_sources(path, spec) if path.is_dir() else _file_sources(path, spec)
    return {site: _table(site, sources[site], spec, labelled=True) for site in sorted(sources)}


def load_unlabelled(path: Path, spec: DataSpec) -> Table:
    """The table of one file, whose label and site columns may be absent and are ignored.

    The site is the file's stem. A file without a header holds all of `spec.columns`, or all but label and
    site. Under "drop-rows", `rows` tells which rows are left. Raises DataError as `load_sites` does.
    """
    names = spec.columns or ()
    bare = [name for name in names if name not in (*spec.label_columns, spec.site)]
    source = Source.of(path, read_columns(path, [names, bare] if names else None))
    return _table(path.stem, source, spec, labelled=False)


def table_from_columns(site: str, columns: Mapping[str, Cells], spec: DataSpec, where: str) -> Table:
    """The table of labelled columns already in memory. Raises DataError, naming `where` as the file."""
    return _table(site, Source.of(where, dict(columns)), spec, labelled=True)


def split_table(table: Table, split: Split) -> tuple[Table, Table]:
    """(train, test) as declared. Raises DataError where either would be empty.

    A hash reads one patient or row only: with ranks or exact shares, one row's change would move others
    between train and test. "stratified" falls back to a plain shuffle where a class has at most two rows, as
    FLamby's published split does.
    """
    test = _hash_test(table, split) if split.method == "hash" else _stratified_test(table, split)
    if not test.any() or test.all():
        raise DataError(f"{table.site}: too few rows to split; add rows or change [data.split]")
    return table.select(~test), table.select(test)


def _file_sources(path: Path, spec: DataSpec) -> dict[str, Source]:
    if spec.files:
        raise DataError(f"{path}: is no folder, but [data.files] names files; name their folder")
    source = Source.of(path, read_columns(path, [spec.columns] if spec.columns else None))
    if spec.site is None:
        raise DataError(f"{path}: is one file, but [data] names no site column; add `site`, or name a folder")
    sites = source.column(spec.site, "site")
    source.refuse(is_missing(sites, spec.missing_values), spec.site, "no site; fill it in or remove the row")
    names = texts(sites)
    return {name: source.select(names == name).with_where(f"{path}, site {name}") for name in set(names)}


def _folder_sources(path: Path, spec: DataSpec) -> dict[str, Source]:
    if spec.site is not None:
        raise DataError(f"{path}: is a folder, but [data] names a site column; drop `site` or name a file")
    layouts = [spec.columns] if spec.columns else None
    files = {site: path / name for site, name in spec.files.items()} or _folder_files(path)
    return {site: Source.of(file, read_columns(file, layouts)) for site, file in files.items()}


def _folder_files(path: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in sorted(path.iterdir()):
        if file.suffix.lower() not in (".csv", ".parquet") or file.name.startswith("."):
            continue
        if file.stem in found:
            raise DataError(f"{path}: two files for site {file.stem} (.csv and .parquet); remove one")
        found[file.stem] = file
    if not found:
        raise DataError(f"{path}: has no .csv or .parquet file; add one a site, or declare [data.files]")
    return found


def _table(site: str, source: Source, spec: DataSpec, labelled: bool) -> Table:
    _check_declared(source, spec, labelled)
    if spec.missing == "drop-rows":
        source = _complete_rows(source, spec, labelled)
    return Table(
        site=site,
        features=_features(source, spec),
        labels=spec.read_labels(source) if labelled else None,
        patients=_patients(source, spec, labelled),
        rows=source.rows,
    )


def _check_declared(source: Source, spec: DataSpec, labelled: bool) -> None:
    """Every declared column is there and every other is not; the label first, lest it be taken for a feature."""
    if labelled:
        for name in spec.label_columns:
            source.column(name, "the label")
        if spec.patient is not None:
            source.column(spec.patient, "the patient")
    for name in (*spec.ranges, *spec.categories):
        source.column(name, "declared as a feature")
    known = {*spec.label_columns, spec.site, spec.patient, *spec.drop, *spec.ranges, *spec.categories}
    for name in source.columns:
        if name not in known and labelled:
            mend = "declare it in [data.ranges] or [data.categories], or list it in [data] drop"
            raise DataError(f"{source.where}: column `{name}` is not declared; {mend}")
        if name not in known:
            raise DataError(f"{source.where}: column `{name}` is none that the experts were trained on; remove it")


def _missing(source: Source, column: str, spec: DataSpec) -> NDArray[np.bool_]:
    own = spec.ranges[column].missing_values if column in spec.ranges else ()
    return is_missing(source.columns[column], (*spec.missing_values, *own))


def _complete_rows(source: Source, spec: DataSpec, labelled: bool) -> Source:
    needed = [*spec.ranges, *spec.categories]
    if labelled:
        needed += spec.label_columns
    gaps = np.any([_missing(source, column, spec) for column in needed], axis=0)
    if gaps.all():
        mend = 'mend the file, or set missing = "indicator" in [data]'
        raise DataError(f"{source.where}: no row is complete; {mend}")
    return source.select(~gaps)


def _features(source: Source, spec: DataSpec) -> NDArray[np.float32]:
    made: dict[str, NDArray[np.float64]] = {}
    for column in (*spec.ranges, *spec.categories):
        missing = _missing(source, column, spec)
        if column in spec.ranges:
            made[column] = _scaled(source, column, spec.ranges[column], missing)
        else:
            made |= _levels(source, column, spec, missing)
        made[f"{column} (missing)"] = missing.astype(np.float64)
    return np.stack([made[name] for name in spec.feature_names], axis=1).astype(np.float32)


def _scaled(source: Source, column: str, declared: Range, missing: NDArray[np.bool_]) -> NDArray[np.float64]:
    values = numbers(source.columns[column])
    problem = "holds text, not a number; mend the cell, or list its text in [data] missing_values"
    source.refuse(np.isnan(values) & ~missing, column, problem)
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.clip((values - declared.centre) / declared.spread, -declared.limit, declared.limit)
    return np.where(missing, 0.0, scaled)


def _levels(source: Source, column: str, spec: DataSpec, missing: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
    """A feature for each level but the first: 1 or -1, as 0/1 with centre and spread 0.5; 0 where missing."""
    cells, levels = source.columns[column], spec.categories[column]
    problem = "its level is not declared; add it to [data.categories], or mend the cell"
    source.refuse(~matches(cells, levels) & ~missing, column, problem)
    signs = {level: np.where(matches(cells, [level]), 1.0, -1.0) for level in levels[1:]}
    return {f"{column}={level}": np.where(missing, 0.0, sign) for level, sign in signs.items()}


def _patients(source: Source, spec: DataSpec, labelled: bool) -> NDArray[Any] | None:
    if spec.patient is None or not (labelled or spec.patient in source.columns):
        return None
    cells = source.column(spec.patient, "the patient")
    missing = is_missing(cells, spec.missing_values)
    source.refuse(missing, spec.patient, "no patient; fill it in or remove the row")
    return texts(cells)


def _hash_test(table: Table, split: Split) -> NDArray[np.bool_]:
    salt = f"securepfl split {split.random_state}\0".encode()
    digests = [hashlib.sha256(salt + identity).digest() for identity in _identities(table)]
    leading = np.frombuffer(b"".join(digest[:8] for digest in digests), dtype=">u8")
    test: NDArray[np.bool_] = leading.astype(np.float64) < split.test * 2.0**64
    return test


def _identities(table: Table) -> list[bytes]:
    """What decides a row's side: its patient, or else its own values, so that the order of rows is free."""
    if table.patients is not None:
        return [str(patient).encode() for patient in table.patients]
    values = (table.features + np.float32(0.0)).astype("<f4")
    labels = np.zeros(len(table), np.int64) if table.labels is None else table.labels
    return [row.tobytes() + _label_bytes(label) for row, label in zip(values, labels, strict=True)]


def _label_bytes(label: Any) -> bytes:
    """One byte for 0, 1 and each class up to 255."""
    if label.ndim:
        return bytes(label.tolist())
    if label.dtype.kind == "f":
        return struct.pack("<d", float(label) + 0.0)
    return int(label).to_bytes(1 if label < 256 else 8, "little")


def _stratified_test(table: Table, split: Split) -> NDArray[np.bool_]:
    if table.labels is None:
        raise ValueError(f"site {table.site!r}: a stratified split needs labels")
    counts = np.bincount(table.labels, minlength=2)
    fewest = counts.min() if len(counts) == 2 else counts[counts > 0].min()
    stratify = table.labels if fewest > 2 else None
    options = {"test_size": split.test, "random_state": split.random_state, "stratify": stratify}
    test = np.zeros(len(table), dtype=np.bool_)
    # Too few rows: nothing is held out, which split_table reports.
    with contextlib.suppress(ValueError):
        test[train_test_split(np.arange(len(table)), **options)[1]] = True
    return test
