"""Help for writing `[data]`: names, kinds and units of a hospital's columns, and no statistic of its rows."""

import json
import re
from pathlib import Path

import numpy as np

from securepfl.data.cells import Cells, is_missing, numbers, read_columns, texts
from securepfl.errors import DataError

_UNITS = (
    "years|year|yrs|yr|months|weeks|days|hours|minutes|min|seconds|sec|ms|mm|cm|m|um|kg|g|mg|ug|l|dl|ml|"
    "mmhg|kpa|bpm|hz|mv|celsius|percent|pct|mg_dl|g_dl|g_l|mmol_l|umol_l|ng_ml|u_l|iu_l|kg_m2"
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

    `path` is the site's CSV or Parquet file, or a folder where its name holds `site`; without `header`, CSV
    columns are numbered. No minimum, mean, level, count or rate of missing cells is shown. Raises DataError.
    """
    file = _site_file(path, site) if path.is_dir() else path
    columns = read_columns(file, None if header else [])
    lines = [_PREFACE.format(name=file.name, site=site, count=len(columns)), "[data]"]
    if not header:
        lines.append(f"columns = [{', '.join(json.dumps(name) for name in columns)}]  # rename: no header")
    lines += ['# label = "..."           # the column to predict; for labels other than 0 and 1 add, say,']
    lines += ['# positive = "> 0"        # which labels count as 1']
    lines += ['# drop = ["..."]          # columns that are no features: identifiers, dates, free text']
    kinds = {name: _kind(cells) for name, cells in columns.items()}
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
    exact = [file for file in files if file.stem == site]
    found = exact or [file for file in files if site in file.name.split(".")]
    if len(found) != 1:
        raise DataError(f"{path}: {len(found)} files are named after site {site}; name the file itself")
    return found[0]


def _kind(cells: Cells) -> str:
    """numeric, boolean or text, by most of the recorded cells: no single row decides."""
    recorded = cells[~is_missing(cells, ("?",))]
    if 2 * int((~np.isnan(numbers(recorded))).sum()) > len(recorded):
        return "numeric"
    truths = sum(str(cell).lower() in _TRUTHS for cell in texts(recorded))
    return "boolean" if 2 * truths > len(recorded) else "text"


def _range_line(name: str) -> str:
    unit = unit_of(name)
    named = f", unit = {json.dumps(unit, ensure_ascii=False)}" if unit else ""
    return f"# {_key(name)} = {{ centre = ..., spread = ...{named} }}"


def _key(name: str) -> str:
    """A column's name as a TOML key."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)
