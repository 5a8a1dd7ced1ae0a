"""What a federation declares about its tables: `[data]` and the tables under it in the federation's TOML.

Nothing here is fitted on rows. One patient's row moves every mean and every list of observed levels, so a
fitted scaler would void the bound that differential privacy's clip rests on; centres, spreads, limits and
levels are declared from public knowledge instead. The number and order of features follow from the
declaration alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Literal, Self

import msgspec
from numpy.typing import NDArray

from securepfl.data.columns import Category, Missing, Range, category, require_missing, shortest
from securepfl.data.declared_split import Split
from securepfl.data.declaring import build, listed, plain, spelled, table
from securepfl.data.label_forms import (
    LabelRule,
    columns_of_labels,
    options_of_labels,
    read_labels,
    require_labels,
    require_threshold,
    rule_of_labels,
)
from securepfl.data.outcomes import LabelRange
from securepfl.data.prevalence import require_shares
from securepfl.data.scope import PatientScope, require_scope
from securepfl.data.source import Source
from securepfl.data.values import Value, in_both, require, require_values
from securepfl.spelling import alike, spelled_out


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """`[data]`: the label, what the other columns are, and how missing cells and the split are treated.

    `positive` says which labels count as 1 and `negative` which as 0: a comparison ("> 0"), a value or a list of
    them; any other label is refused. Without them labels are 0 and 1 already; without `negative` it is what plainly
    is the opposite of `positive`: of a comparison, of 1, of "yes", "y", "true", "t", "positive" or "pos". Labels of
    other tasks: `classes` lists every class, in order; `label_range` declares a number; a list as `label` names several
    columns, each a yes or no.

    `patient` names the column of patients' ids; `patient_scope` says how far these reach (scope.py).

    `id` names the hospital's data set in its registry of ledgers; without it the records alone tell whose it is.

    `columns` names the columns of files without a header. `separator` is a text file's, taken from its first line where
    it is not declared; `decimal` is the mark of numbers in texts, "." or ",", by default each file's own. `files` names
    each site's file in a folder; without it, sites of a folder are its .csv and .parquet files. An empty cell and NaN
    are missing, but in columns that declare what they mean by `empty`; under "indicator" a missing value takes the
    centre (0 once scaled) and sets a feature of its own, under "centre" it takes the centre alone, under "drop-rows"
    its row is left out. A column may say otherwise. `prevalence` is the share of label 1, or of each class, from public
    knowledge: models start from it. From `threshold` on (by default the prevalence) a probability is a yes. Raises
    ValueError; `from_mapping` raises ConfigError instead.
    """

    label: str | tuple[str, ...]
    id: str | None = None
    positive: str | int | float | tuple[Value, ...] | None = None
    negative: str | int | float | tuple[Value, ...] | None = None
    classes: tuple[Value, ...] | None = None
    label_range: LabelRange | None = None
    site: str | None = None
    patient: str | None = None
    patient_scope: PatientScope = None
    drop: tuple[str, ...] = ()
    columns: tuple[str, ...] | None = None
    separator: str | None = None
    decimal: Literal[".", ","] | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    missing_values: tuple[Value, ...] = ()
    missing: Missing = "indicator"
    ranges: Mapping[str, Range] = field(default_factory=dict)
    categories: Mapping[str, Category] = field(default_factory=dict)
    split: Split = field(default_factory=Split)
    prevalence: float | Mapping[str, float] | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        require_missing(self.missing)
        require_values("missing_values", self.missing_values)
        require_shares(self.prevalence)
        require_threshold(self, self.threshold)
        require_labels(self, self.missing_values)
        require_scope(self.patient_scope, self.patient)
        _check_columns(self)
        _check_files(self)
        _check_separator(self.separator)
        _check_codes(self)
        counted = self.split.method != "stratified" or not (self.label_range or isinstance(self.label, tuple))
        require(counted, 'split: "stratified" needs classes to count; use method = "hash"')
        spans = self.split.method == "stratified" and self.patient is not None
        require(not spans, 'split: a stratified split may part a patient\'s rows; use method = "hash"')

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], where: str = "federation") -> Self:
        """Build from the mapping that TOML's `[data]` gives, each name and text in its one spelling (NFC, trimmed).

        Raises ConfigError naming file and key.
        """
        mapping = {key: value if key == "separator" else spelled(value) for key, value in plain(mapping).items()}
        ranges = table(mapping.get("ranges", {}), "data.ranges", where)
        levels = table(mapping.get("categories", {}), "data.categories", where)
        ready = {
            "ranges": {name: build(Range, entry, f"data.ranges.{name}", where) for name, entry in ranges.items()},
            "categories": {name: category(entry, f"data.categories.{name}", where) for name, entry in levels.items()},
            "split": build(Split, mapping.get("split", {}), "data.split", where),
        }
        if "label_range" in mapping:
            ready["label_range"] = build(LabelRange, mapping["label_range"], "data.label_range", where)
        return build(cls, {**mapping, **ready}, "data", where, ready=frozenset(ready))

    def to_mapping(self) -> dict[str, Any]:
        """The declaration as plain dicts, lists, texts and numbers; `from_mapping` reads it back as equal."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        plain["ranges"] = {name: told(entry) for name, entry in plain["ranges"].items()}
        plain["categories"] = {name: shortest(entry) for name, entry in plain["categories"].items()}
        plain["split"] = told(plain["split"])
        return {key: listed(value) for key, value in plain.items() if value is not None}

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns that hold labels."""
        return columns_of_labels(self)

    @property
    def label_rule(self) -> LabelRule:
        """What a column of labels may hold, and what that is read as."""
        return rule_of_labels(self)

    def read_labels(self, source: Source) -> NDArray[Any]:
        """The labels: 0 and 1 int64 [n], of several columns [n, columns]; classes int64 [n]; numbers float64 [n].

        Raises DataError for the first that is missing or not declared.
        """
        return read_labels(self, source, self.missing_values)

    @property
    def label_options(self) -> dict[str, Any]:
        """What is declared of the labels for a task: nothing of binary ones."""
        return options_of_labels(self)

    @property
    def split_note(self) -> str:
        """One line for a run's output: how rows were split, and what that is good for."""
        if self.split.method == "stratified":
            return "stratified split: it looks at private labels, so it is for benchmarks only"
        if self.split.column is not None:
            return f"split by the column `{self.split.column}`"
        if self.patient is not None:
            return f"split by a hash of each patient (`{self.patient}`): no patient is in both parts"
        return "split by a hash of each row alone: a patient with several rows may be in both parts; declare `patient`"

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the feature columns, in order: numbers, levels, then indicators of missing values.

        Sorted by column, because the order of a mapping's keys does not survive canonical JSON and all
        parties must agree.
        """
        names = sorted(self.ranges)
        for column in sorted(self.categories):
            names += [f"{column}={level}" for level in self.categories[column].levels[1:]]
        names += [f"{name} (missing)" for name in sorted(self.features) if self._indicates(name)]
        return tuple(names)

    @property
    def features(self) -> dict[str, Range | Category]:
        """What is declared of each feature column."""
        return {**self.ranges, **self.categories}

    def missing_codes(self, column: str) -> tuple[Value, ...]:
        """The values by which a feature column says "not recorded", beside empty cells where those say so."""
        return (*self.missing_values, *self.features[column].missing_values)

    def treats_missing(self, column: str) -> Missing:
        """What a missing value of a feature column becomes."""
        return self.features[column].missing or self.missing

    def _indicates(self, column: str) -> bool:
        """Whether a feature says that the column is missing: not where no cell of it can be."""
        always = self.features[column].empty is not None and not self.missing_codes(column)
        return self.treats_missing(column) == "indicator" and not always


def told(entry: dict[str, Any]) -> dict[str, Any]:
    """Without what is not declared, so that files of before it could be have the same digest."""
    return {key: value for key, value in entry.items() if value is not None and value != {}}


def _check_codes(spec: DataSpec) -> None:
    """Raise ValueError for a code for missing values that a column gives a meaning."""
    for name, declared in spec.features.items():
        meant = [*(declared.read_as if isinstance(declared, Range) else ()), declared.empty]
        code = in_both([value for value in meant if value is not None], spec.missing_values)
        mend = "keep it in one; other columns may have missing_values of their own"
        require(code is None, f"missing_values: {code!r} has a meaning in column `{name}`; {mend}")


def _check_columns(spec: DataSpec) -> None:
    roles = [name for name in (*spec.label_columns, spec.site, spec.patient, spec.split.column) if name is not None]
    used = [*roles, *spec.drop, *spec.ranges, *spec.categories]
    require(all(used), "a column's name is empty; name it as the file does")
    twice = next((name for name in used if used.count(name) > 1), None)
    require(twice is None, f"column `{twice}` has two roles; declare each column once")
    features = bool(spec.ranges or spec.categories)
    require(features, "no feature is declared; declare columns in [data.ranges] or [data.categories]")
    names = spec.feature_names
    require(len(set(names)) == len(names), "two features would share a name; rename a column")
    if spec.columns is not None:
        require(len(set(spec.columns)) == len(spec.columns), "columns: a name stands twice; list each once")
        absent = next((name for name in used if name not in spec.columns), None)
        require(absent is None, f"columns: lacks `{absent}`; list every column of the files in order")


def _check_files(spec: DataSpec) -> None:
    for site, name in spec.files.items():
        plain = PurePath(name).name == name and name not in ("", "..") and not set(name) & set("\\\0")
        require(plain, f'files: {site} = "{name}" must be the plain name of a file in the data folder')
    pair = alike(spec.files)
    require(pair is None, f"files: sites {' and '.join(map(spelled_out, pair or ()))} look alike; rename one")
    require(len(set(spec.files.values())) == len(spec.files), "files: two sites share a file; name one each")
    both = bool(spec.files) and spec.site is not None
    require(not both, "files and site are both declared; a site column belongs to a single file")


def _check_separator(separator: str | None) -> None:
    plain = separator is None or (len(separator) == 1 and separator.isascii() and not separator.isalnum())
    require(
        plain and separator not in tuple('"+-._\r\n\0'),
        f'separator = {separator!r}: must be one mark that no number or name holds, such as ";", "|" or a tab ("\\t")',
    )
