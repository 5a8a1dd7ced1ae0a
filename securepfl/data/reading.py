"""One file of any kind as columns: a reader a suffix."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from securepfl.data.csv_table import read_csv
from securepfl.data.parquet import read_parquet
from securepfl.data.schema import DataSpec
from securepfl.data.wanted import Contents, Wanted
from securepfl.errors import DataError

Reader = Callable[[Path, Wanted], Contents]
READERS: Mapping[str, Reader] = MappingProxyType({".csv": read_csv, ".parquet": read_parquet})
"""By suffix; in a folder, files that end so are taken for tables without being declared."""
SUFFIXES_IN_WORDS = " or ".join(", ".join(READERS).rsplit(", ", 1))


def find_reader(path: Path) -> Reader:
    """The reader of the file's suffix; one of any other suffix is text in the CSV format."""
    return READERS.get(path.suffix.lower(), read_csv)


def read_columns(path: Path, wanted: Wanted | None = None) -> Contents:
    """Read one file by its reader.

    Raises DataError for a file that cannot be read or has no rows.
    """
    read = find_reader(path)
    try:
        contents = read(path, wanted or Wanted())
    except OSError as error:
        reason = error.strerror or "damaged"
        raise DataError(f"{path}: cannot be read ({reason}); name an existing {SUFFIXES_IN_WORDS} file") from None
    if contents.rows == 0:
        raise DataError(f"{path}: has no rows; give a file with at least one row of data")
    return contents


def wanted_of(spec: DataSpec, layouts: tuple[tuple[str, ...], ...] | None = None, labelled: bool = True) -> Wanted:
    """What to read of a file: what is used of it, and no dropped column. `layouts`: as declared, where None."""
    features = (*spec.ranges, *spec.categories)
    patient = () if spec.patient is None else (spec.patient,)
    others = tuple(name for name in (spec.site, spec.split.column) if name is not None)
    roles = (*spec.label_columns, *patient, *others)
    return Wanted(
        columns=frozenset((*features, *(roles if labelled else patient))),
        needed=(*features, *roles) if labelled else features,
        layouts=layouts or ((spec.columns,) if spec.columns else None),
        separator=spec.separator,
        decimal=spec.decimal or ".",
        known=labelled,
    )
