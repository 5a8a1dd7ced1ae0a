"""Help for writing `[data]`: names, kinds and units of a hospital's columns, and no statistic of its rows."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from securepfl.data.cells import Columns
from securepfl.data.headers import holds_names, kind_of
from securepfl.data.parquet import read_parquet
from securepfl.data.reading import find_reader, read_columns
from securepfl.data.wanted import Contents, Wanted
from securepfl.errors import DataError
from securepfl.spelling import composed

_UNITS = (
    "years|year|yrs|yr|months|weeks|days|hours|minutes|min|seconds|sec|ms|mm|cm|m|um|kg|g|mg|ug|l|dl|ml|"
    "mmhg|kpa|bpm|hz|mv|celsius|percent|pct|mg_dl|mg_l|ug_l|g_dl|g_l|mmol_l|umol_l|ng_ml|u_l|iu_l|kg_m2"
)
_BRACKETED = re.compile(r"[(\[]\s*([^()\[\]]+?)\s*[)\]]\s*$")
_DATES = "date"
_ID = re.compile(r"(^|[^a-z])(id|nr|pid|mrn)$", re.IGNORECASE)
_SUFFIXED = re.compile(rf"_({_UNITS})$", re.IGNORECASE)

_PREFACE = """\
# Columns of {name}, hospital {site}: {count} columns, to be declared for all hospitals alike.
# Cells, minima, means, levels and counts are left out on purpose: one patient can move each of them, and what
# is declared here is seen by every party. Take it from public knowledge: reference ranges of the laboratory,
# the device's specification, published cohorts. A value becomes clip((value - centre) / spread, -3, 3).
# Kinds go by most cells, and units by the columns' names: check both.
"""
_NO_NAMES = """\
# Its first line is taken for a patient's row, and nothing of it is shown: write the {count} names in `columns`, in
# order. If it does hold names and no patient, run this again with --header.
"""
_SITES = """\
# One such table for each hospital. `units`: as how many training records (or patients, under [privacy]
# unit = "patient") it counts. Both numbers are public: take them from its annual report or its beds, and
# don't count these rows; in doubt, declare the larger round number. Test rows don't train: of a table without a
# split of its own about two thirds do.
[sites.{site}]
# units = ...
# prevalence = ...        # where its patients differ from those of `[data] prevalence`
"""


def describe_columns(path: Path, site: str, *, header: bool | None = None) -> str:
    """The columns of `site`'s file as a TOML skeleton of `[data]`, to be filled in from public knowledge.

    `path` is a folder where a file's name holds `site`, or one CSV or Parquet file, of this site (by its name) or
    of all of them (by a column that holds `site`). `header` says whether a text file's first line holds names; None: if
    it plainly does. Without, columns are numbered, so that no patient's cell is shown as a name. No minimum, mean,
    level, count or rate of missing cells is shown. Raises DataError.
    """
    site = composed(site)
    file = _site_file(path, site) if path.is_dir() else path
    found, named = _read(file, header)
    site_column = None if path.is_dir() else _site_column(file, found.columns, site)
    preface = _PREFACE.format(name=file.name, site=site, count=len(found.names))
    if not named:
        preface += _NO_NAMES.format(count=len(found.names))
    kinds = {name: _kind(found, name) for name in found.names if name != site_column}
    lines = ["", *_data_lines(found.names if not named else (), site_column, kinds)]
    lines += ["", "[data.ranges]             # numbers, and 0/1 columns (centre 0.5, spread 0.5)"]
    lines += [_range_line(name) for name, kind in kinds.items() if kind == "numeric"]
    lines += ["", "[data.categories]         # texts, and numbers that are codes: every level that may occur"]
    lines += [_level_line(name, kind) for name, kind in kinds.items() if kind not in ("numeric", _DATES)]
    return preface + "\n".join(lines) + "\n\n" + sites_lines(site)


def sites_lines(site: str) -> str:
    """The table of a hospital in the skeleton."""
    return _SITES.format(site=key_of(site))


def names_of(file: Path, header: bool | None) -> tuple[str, ...] | None:
    """The names of a file's columns; None where they could be a patient's row. Raises DataError."""
    found, named = _read(file, header)
    return found.names if named else None


def _read(file: Path, header: bool | None) -> tuple[Contents, bool]:
    """The file's columns, and whether their names are names."""
    if find_reader(file) is read_parquet:
        found = read_columns(file, Wanted(lenient=True))
        given = ["" if name == f"column_{index}" else name for index, name in enumerate(found.names, start=1)]
        if header is None and not holds_names(given, [found.columns.get(name) for name in found.names]):
            mend = "look at them, and if they are names, run this again with --header"
            raise DataError(f"{file}: its columns' names could be a patient's row that was taken for names; {mend}")
        return found, True
    if header is None:
        rows = read_columns(file, Wanted(layouts=())).columns.values()
        header = holds_names([cells.texts[0].as_py() or "" for cells in rows], [cells.behind(1) for cells in rows])
    return read_columns(file, Wanted(layouts=None if header else ())), header


def _data_lines(numbered: Sequence[str], site_column: str | None, kinds: Mapping[str, str]) -> list[str]:
    """What stands in [data] itself."""
    lines = ["[data]"]
    if numbered:
        lines += [f"columns = [{', '.join(json.dumps(name) for name in numbered)}]  # names, in order: no header"]
    lines += ['# label = "..."           # the column to predict; for labels other than 0 and 1 add, say,']
    lines += ['# positive = "yes"        # which labels count as 1, or "> 0"; other tasks: `classes`, `label_range`']
    lines += ["# prevalence = ...        # the share of label 1 in published cohorts, not in these rows"]
    if site_column is not None:
        lines += [f"site = {json.dumps(site_column, ensure_ascii=False)}"]
    lines += ['# patient = "..."         # whose rows must stay together, where a patient has several']
    dropped = [name for name, kind in kinds.items() if kind == _DATES]
    drop = ", ".join(json.dumps(name, ensure_ascii=False) for name in dropped)
    other = '# drop = ["..."]          # columns that are no features: free text, other identifiers'
    lines += [f"drop = [{drop}]  # dates; add what else is no feature" if dropped else other]
    lines += ['# missing_values = ["?"]  # codes for "not recorded"; empty cells and NaN always are']
    lines += ["# decimal = \",\"           # only where a file's own numbers don't show their decimal mark"]
    return lines


def _kind(found: Contents, name: str) -> str:
    """What a column holds, in a word for the skeleton."""
    if name not in found.columns:
        return _DATES
    return kind_of(found.columns[name])


def unit_of(column: str) -> str:
    """The unit that a column's name carries ("age (years)", "bp[mmHg]", "height_cm"), or ""."""
    found = _BRACKETED.search(column) or _SUFFIXED.search(column)
    return found[1] if found else ""


def _site_file(path: Path, site: str) -> Path:
    files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    exact = [file for file in files if composed(file.stem) == site]
    found = exact or [file for file in files if site in composed(file.name).split(".")]
    if len(found) != 1:
        count = f"{len(found)} files are" if found else "no files are"
        mend = "; name the file itself" if found else ", and no folder; check --site, or name the file or folder itself"
        raise DataError(f"{path}: {count} named after site {site}{mend}")
    return found[0]


def _site_column(file: Path, columns: Columns, site: str) -> str | None:
    """The column that names hospitals, found by the name asked for; None where the file is of this site alone."""
    found = [name for name, cells in columns.items() if cells.matches([site]).any()]
    if len(found) == 1:
        return found[0]
    if not found and site in composed(file.name).split("."):
        return None
    raise DataError(f"{file}: {len(found)} columns hold the site {site}, and one should; check --site")


def _range_line(name: str) -> str:
    unit = unit_of(name)
    named = f", unit = {json.dumps(unit, ensure_ascii=False)}" if unit else ""
    return f"# {key_of(name)} = {{ centre = ..., spread = ...{named} }}"


def _level_line(name: str, kind: str) -> str:
    counts = kind == "text" and unit_of(name)
    mend = "; a number, by its unit? then it stands in [data.ranges]" if counts else ""
    mend = "; an id? then it is [data] patient, or one to drop" if _ID.search(name) else mend
    return f"# {key_of(name)} = [...]  # {kind}{mend}"


def key_of(name: str) -> str:
    """A column's name as a TOML key."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)
