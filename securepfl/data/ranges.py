"""Help for writing `[data]`: names, kinds and units of a hospital's columns, and no statistic of its rows."""

import json
import re
from pathlib import Path

import numpy as np

from securepfl.data.cells import Cells, Columns
from securepfl.data.reading import read_columns
from securepfl.data.wanted import Wanted
from securepfl.errors import DataError
from securepfl.spelling import composed

_UNITS = (
    "years|year|yrs|yr|months|weeks|days|hours|minutes|min|seconds|sec|ms|mm|cm|m|um|kg|g|mg|ug|l|dl|ml|"
    "mmhg|kpa|bpm|hz|mv|celsius|percent|pct|mg_dl|mg_l|ug_l|g_dl|g_l|mmol_l|umol_l|ng_ml|u_l|iu_l|kg_m2"
)
_BRACKETED = re.compile(r"[(\[]\s*([^()\[\]]+?)\s*[)\]]\s*$")
_SUFFIXED = re.compile(rf"_({_UNITS})$", re.IGNORECASE)
_TRUTHS = ("true", "false", "yes", "no", "y", "n", "t", "f")

_PREFACE = """\
# Columns of {name}, hospital {site}: {count} columns, to be declared for all hospitals alike.
# Minima, means, levels and counts are left out on purpose: one patient can move each of them, and what is
# declared here is seen by every party. Take centres and spreads from public knowledge: reference ranges of
# the laboratory, the device's specification, published cohorts. A value becomes
# clip((value - centre) / spread, -3, 3). Kinds go by most cells, and units by the columns' names: check both.
"""


def describe_columns(path: Path, site: str, *, header: bool = True) -> str:
    """The columns of `site`'s file as a TOML skeleton of `[data]`, to be filled in from public knowledge.

    `path` is a folder where a file's name holds `site`, or one CSV or Parquet file, of this site (by its name) or
    of all of them (by a column that holds `site`). Without `header`, CSV columns are numbered. No minimum, mean,
    level, count or rate of missing cells is shown. Raises DataError.
    """
    site = composed(site)
    file = _site_file(path, site) if path.is_dir() else path
    columns = read_columns(file, Wanted(layouts=None if header else ())).columns
    site_column = None if path.is_dir() else _site_column(file, columns, site)
    lines = [_PREFACE.format(name=file.name, site=site, count=len(columns)), "[data]"]
    if not header:
        lines.append(f"columns = [{', '.join(json.dumps(name) for name in columns)}]  # rename: no header")
    lines += ['# label = "..."           # the column to predict; for labels other than 0 and 1 add, say,']
    lines += ['# positive = "> 0"        # which labels count as 1; other tasks: `classes`, `label_range`']
    if site_column is not None:
        lines.append(f"site = {json.dumps(site_column, ensure_ascii=False)}")
    lines += ['# patient = "..."         # whose rows must stay together, where a patient has several']
    lines += ['# drop = ["..."]          # columns that are no features: dates, free text, other identifiers']
    lines += ['# missing_values = ["?"]  # codes for "not recorded"; empty cells and NaN always are']
    kinds = {name: _kind(cells) for name, cells in columns.items() if name != site_column}
    lines += ['# decimal = ","           # where texts write numbers with a decimal comma']
    lines += ["", "[data.ranges]             # numbers, and 0/1 columns (centre 0.5, spread 0.5)"]
    lines += [_range_line(name) for name, kind in kinds.items() if kind == "numeric"]
    lines += ["", "[data.categories]         # texts, and numbers that are codes: every level that may occur"]
    lines += [f"# {_key(name)} = [...]  # {kind}" for name, kind in kinds.items() if kind != "numeric"]
    return "\n".join(lines) + "\n"


def unit_of(column: str) -> str:
    """The unit that a column's name carries ("age (years)", "bp[mmHg]", "height_cm"), or ""."""
    found = _BRACKETED.search(column) or _SUFFIXED.search(column)
    return found[1] if found else ""


def _site_file(path: Path, site: str) -> Path:
    files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    exact = [file for file in files if composed(file.stem) == site]
    found = exact or [file for file in files if site in composed(file.name).split(".")]
    if len(found) != 1:
        raise DataError(f"{path}: {len(found)} files are named after site {site}; name the file itself")
    return found[0]


def _site_column(file: Path, columns: Columns, site: str) -> str | None:
    """The column that names hospitals, found by the name asked for; None where the file is of this site alone."""
    found = [name for name, cells in columns.items() if cells.matches([site]).any()]
    if len(found) == 1:
        return found[0]
    if not found and site in composed(file.name).split("."):
        return None
    raise DataError(f"{file}: {len(found)} columns hold the site {site}, and one should; check --site")


def _kind(cells: Cells) -> str:
    """numeric, boolean or text, by most of the recorded cells: no single row decides."""
    recorded = cells[~cells.missing(("?",))]
    if 2 * int((~np.isnan(recorded.numbers) | recorded.other_marks).sum()) > len(recorded):
        return "numeric"
    truths = int(recorded.matches(_TRUTHS).sum())
    return "boolean" if 2 * truths > len(recorded) else "text"


def _range_line(name: str) -> str:
    unit = unit_of(name)
    named = f", unit = {json.dumps(unit, ensure_ascii=False)}" if unit else ""
    return f"# {_key(name)} = {{ centre = ..., spread = ...{named} }}"


def _key(name: str) -> str:
    """A column's name as a TOML key."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)
