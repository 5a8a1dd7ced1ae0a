"""One file of any kind as columns: a reader a suffix."""

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

from securepfl.data.cells import Cells
from securepfl.data.csv_table import read_csv
from securepfl.data.parquet import read_parquet
from securepfl.data.schema import DataSpec
from securepfl.data.wanted import Contents, Wanted
from securepfl.errors import DataError, HospitalNote
from securepfl.plugins import PlugIn, plugin_named

Reader = Callable[[Path, Wanted], Contents]
READERS: Mapping[str, Reader] = MappingProxyType({".csv": read_csv, ".parquet": read_parquet})
"""By suffix; in a folder, files that end so are taken for tables without being declared."""
SUFFIXES_IN_WORDS = " or ".join(", ".join(READERS).rsplit(", ", 1))


def has_reader(path: Path) -> bool:
    """Whether the file's suffix is one of `READERS` or of a plug-in."""
    return path.suffix.lower() in READERS or _plugged_in(path) is not None


def find_reader(path: Path) -> Reader:
    """The reader of the file's suffix, built in or a plug-in's; one of any other suffix is text in the CSV format.

    Raises ConfigError where two plug-ins bring one.
    """
    built_in = READERS.get(path.suffix.lower())
    plugin = _plugged_in(path) if built_in is None else None
    return built_in or (read_csv if plugin is None else partial(_read_by, plugin))


def _plugged_in(path: Path) -> PlugIn | None:
    return plugin_named("securepfl.readers", path.suffix.lower().removeprefix("."))


def _read_by(plugin: PlugIn, path: Path, wanted: Wanted) -> Contents:
    """What a plug-in reads. What goes wrong in it is told by its kind alone: its words may quote a patient's cells."""
    read = plugin.load()
    try:
        contents = read(path, wanted)
    except (OSError, DataError):
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - somebody else's code
        raise DataError(
            f"{path}: the {plugin} failed ({type(error).__name__}); mend the file or the plug-in, or save it as "
            f"{SUFFIXES_IN_WORDS}"
        ) from None
    if not isinstance(contents, Contents):
        raise DataError(f"{path}: the {plugin} gives {type(contents).__name__}, and no securepfl.data.wanted.Contents")
    if wrong := _misfit(contents):
        raise DataError(f"{path}: the {plugin} gives Contents whose {wrong}; mend the plug-in")
    warnings.warn(f"{path.name} was read by the {plugin}", HospitalNote, stacklevel=2)
    return contents


def _misfit(contents: Contents) -> str:
    """What in a plug-in's contents is not of one table; "" for nothing. Rows that shift would be other patients'."""
    columns, rows = contents.columns, contents.rows
    if not isinstance(rows, int) or rows < 0:
        return "rows are no number"
    if not all(isinstance(name, str) for name in contents.names) or len({*contents.names}) < len(contents.names):
        return "names are no texts, each once"
    if not {*columns} <= {*contents.names}:
        return "columns are not among its names"
    if not all(isinstance(cells, Cells) and len(cells) == rows for cells in columns.values()):
        return f"columns are not all Cells of {rows} rows"
    known = contents.known
    return "" if known is None or len(known) == rows else f"known is not of {rows} rows"


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
        numbers=() if spec.decimal else tuple(spec.ranges),
        known=labelled,
    )
