"""What a federation declares about its images: `[data]` with `kind = "images"` in the federation's TOML.

Nothing here is fitted on images: sizes, ranges and windows are declared, and an intensity is a function of the one
image and its own field of view. See schema.py for why.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any, Final, Literal, Self, get_args

import msgspec
from numpy.typing import NDArray

from securepfl.data.declared_split import Split
from securepfl.data.declaring import build, listed, plain, spelled
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
from securepfl.data.schema import told
from securepfl.data.scope import PatientScope, require_scope
from securepfl.data.source import Source
from securepfl.data.values import Value, require

Colour = Literal["grey", "green", "rgb"]
Fit = Literal["pad", "resize"]
Intensity = Literal["range", "image", "local"]

PATTERN, TAG, FILE = "pattern:", "dicom:", "file"
"""How `patient` begins where no column holds it, and the word by which each image is a patient."""

_LONGEST = 8192
MOST_PIXELS: Final = 1 << 23
"""Of the declared size. An image of as many takes four experts at three zooms two minutes and a GiB on one core."""
_KEYWORD = re.compile(r"[A-Z][A-Za-z0-9]+")
_OF_INTENSITY: Mapping[str, str] = MappingProxyType({"range": "range", "window": "local"})


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """`[data] kind = "images"`: where images, masks and fields of view lie, and what an image becomes.

    A hospital is a folder; `images`, `masks` and `fields` are folders in it. Without `label` an image's mask is what is
    learned (the task "segmentation"); with `label`, a column of the index, its class, read by `positive` and
    `negative`, `classes` or `label_range` as of tables. `index` is a CSV file in each hospital's folder, or one beside
    the hospitals' folders with a column `site`; its column `file` names images, by name or path. `patient` is a column
    of the index, "pattern:REGEX" with one group over a file's name without its ending, "dicom:KEYWORD", or "file": each
    image is a patient. `patient_scope` says how far such ids reach (scope.py).

    An image becomes [channels, height, width] of `size`: `colour` picks its channels; `fit` "pad" keeps pixels and
    fills up below and right, "resize" brings the longest side to size first; then `intensity`: "range" takes `range` to
    [-1, 1] and cuts, "image" is (value - mean) / deviation inside the field of view, "local" is (value - local mean) /
    deviation of these differences, cut at 4, the local mean over a square of `window` pixels inside the field. Without
    `fields` the field is the whole image. `spacing` is (row, column) in mm, which files that say theirs must have.

    Of a structure, `structures` are the most regions that it has, and `holes` says whether it has any: predictions
    follow. `prevalence` is its share of the field of view, or of labels as of tables. `without` names folders that
    take no part. Raises ValueError; `from_mapping` raises ConfigError instead.

    >>> ImageSpec(size=(64, 64)).segments, ImageSpec(size=(64, 64), label="ill", colour="rgb").channels
    (True, 3)
    """

    size: tuple[int, int]
    kind: Literal["images"] = "images"
    id: str | None = None
    images: str = "images"
    masks: str | None = None
    fields: str | None = None
    index: str = "index.csv"
    file: str = "file"
    site: str = "site"
    patient: str | None = None
    patient_scope: PatientScope = None
    label: str | tuple[str, ...] | None = None
    positive: str | int | float | tuple[Value, ...] | None = None
    negative: str | int | float | tuple[Value, ...] | None = None
    classes: tuple[Value, ...] | None = None
    label_range: LabelRange | None = None
    colour: Colour = "grey"
    fit: Fit = "resize"
    intensity: Intensity = "image"
    range: tuple[float, float] | None = None
    window: int | None = None
    spacing: tuple[float, float] | None = None
    structures: int | None = None
    holes: bool = True
    without: tuple[str, ...] = ()
    prevalence: float | Mapping[str, float] | None = None
    threshold: float | None = None
    split: Split = field(default_factory=Split)

    def __post_init__(self) -> None:
        _require_word("kind", self.kind, ("images",))
        sides = all(1 <= side <= _LONGEST for side in self.size)
        require(sides, f"size = {list(self.size)}: [height, width] in pixels, each from 1 to {_LONGEST}")
        few = math.prod(self.size) <= MOST_PIXELS
        require(few, f'size = {list(self.size)}: more than {MOST_PIXELS:,} pixels; declare fewer, with fit = "resize"')
        if self.segments and self.masks is None:
            object.__setattr__(self, "masks", "masks")
        _require_folders(self)
        require(bool(self.index) and "/" not in self.index, f'index = "{self.index}": a file\'s plain name')
        _require_patient(self.patient)
        require_scope(self.patient_scope, self.patient)
        require_labels(self)
        require_threshold(self, self.threshold)
        require_shares(self.prevalence)
        _require_intensity(self)
        _require_of_masks(self)
        _require_columns(self)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], where: str = "federation") -> Self:
        """Build from the mapping that TOML's `[data]` gives. Raises ConfigError naming file and key."""
        mapping = {key: spelled(value) for key, value in plain(mapping).items()}
        ready: dict[str, Any] = {"split": build(Split, mapping.get("split", {}), "data.split", where)}
        if "label_range" in mapping:
            ready["label_range"] = build(LabelRange, mapping["label_range"], "data.label_range", where)
        return build(cls, {**mapping, **ready}, "data", where, ready=frozenset(ready))

    def to_mapping(self) -> dict[str, Any]:
        """The declaration as plain dicts, lists, texts and numbers; `from_mapping` reads it back as equal."""
        entries: dict[str, Any] = msgspec.to_builtins(self)
        entries["split"] = told(entries["split"])
        return {key: listed(value) for key, value in entries.items() if value is not None}

    @property
    def segments(self) -> bool:
        """Whether masks are what is learned: the task is "segmentation"."""
        return self.label is None

    @property
    def channels(self) -> int:
        """How many channels an image has."""
        return 3 if self.colour == "rgb" else 1

    @property
    def files(self) -> Mapping[str, str]:
        """Files of tables that the declaration names: none."""
        return {}

    @property
    def patient_column(self) -> str | None:
        """The column of the index that holds the patient, or None."""
        elsewhere = self.patient is None or self.patient == FILE or self.patient.startswith((PATTERN, TAG))
        return None if elsewhere else self.patient

    @property
    def patient_pattern(self) -> re.Pattern[str] | None:
        """What finds the patient in a file's name, or None."""
        patient = self.patient or ""
        return re.compile(patient.removeprefix(PATTERN)) if patient.startswith(PATTERN) else None

    @property
    def patient_tag(self) -> str | None:
        """The keyword of the DICOM element that holds the patient, or None."""
        return self.patient.removeprefix(TAG) if self.patient is not None and self.patient.startswith(TAG) else None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read of the index beside the file's and the site's; without any, no index is read."""
        roles = (self.patient_column, self.split.column)
        return (*self.label_columns, *(name for name in roles if name is not None))

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns of the index that hold labels."""
        return columns_of_labels(self)

    @property
    def label_rule(self) -> LabelRule:
        """What a column of labels may hold, and what that is read as."""
        return rule_of_labels(self)

    def read_labels(self, source: Source) -> NDArray[Any]:
        """The labels as tables have them, [n] or [n, columns]. Raises DataError for one missing or not declared."""
        return read_labels(self, source)

    @property
    def label_options(self) -> dict[str, Any]:
        """What is declared of the labels for a task: of masks the structure's anatomy, of binary labels nothing."""
        if self.segments:
            return {"structures": self.structures, "holes": self.holes}
        return options_of_labels(self)

    @property
    def split_note(self) -> str:
        """One line for a run's output: how images were split, and what that is good for."""
        if self.split.method == "stratified":
            return "stratified split: it looks at private labels, so it is for benchmarks only"
        if self.split.column is not None:
            return f"split by the column `{self.split.column}`"
        if self.patient == FILE:
            return "split by a hash of each image, which counts as a patient of its own"
        if self.patient is not None:
            return f"split by a hash of each patient (`{self.patient}`): no patient is in both parts"
        return "split by a hash of each image alone: a patient with several may be in both parts; declare `patient`"


def _require_word(key: str, word: str, known: tuple[str, ...]) -> None:
    require(word in known, f'{key} = "{word}": known are {", ".join(known)}')


def _require_folders(spec: ImageSpec) -> None:
    """Raise ValueError for a folder that would lie outside its hospital's, or that is two things at once."""
    named = {"images": spec.images, "masks": spec.masks, "fields": spec.fields}
    folders = {key: name for key, name in named.items() if name is not None}
    for key, name in folders.items():
        path = PurePosixPath(name)
        inside = bool(name) and not path.is_absolute() and ".." not in path.parts and not set(name) & set("\\\0")
        require(inside, f'{key} = "{name}": name a folder inside the hospital\'s own, such as "{key}"')
        require(name != "." or folders == {"images": "."}, f'{key} = ".": give {key} a folder of their own')
    paths = [PurePosixPath(name) for name in folders.values()]
    apart = all(one == other or not one.is_relative_to(other) for one in paths for other in paths)
    require(apart and len(set(paths)) == len(paths), "images, masks and fields: give each a folder of its own")


def _require_patient(patient: str | None) -> None:
    if patient is None:
        return
    require(bool(patient), "patient: is empty; name a column of the index, or leave the key out")
    if patient.startswith(PATTERN):
        try:
            groups = re.compile(patient.removeprefix(PATTERN)).groups
        except re.error as error:
            raise ValueError(f"patient: {error}; mend the regular expression after {PATTERN}") from None
        require(groups == 1, f"patient: the pattern has {groups} groups, and one is the patient; write others (?:...)")
    if patient.startswith(TAG):
        plain_word = _KEYWORD.fullmatch(patient.removeprefix(TAG)) is not None
        require(plain_word, f'patient = "{patient}": after {TAG} stands a keyword of DICOM, such as PatientID')


def _require_intensity(spec: ImageSpec) -> None:
    _require_word("colour", spec.colour, get_args(Colour))
    _require_word("fit", spec.fit, get_args(Fit))
    _require_word("intensity", spec.intensity, get_args(Intensity))
    for key, intensity in _OF_INTENSITY.items():
        declared, needed = getattr(spec, key) is not None, spec.intensity == intensity
        require(declared or not needed, f'intensity = "{spec.intensity}" needs {key}; declare it')
        require(needed or not declared, f'{key}: has its place with intensity = "{intensity}"; remove it')
    if spec.range is not None:
        low, high = spec.range
        rises = math.isfinite(low) and math.isfinite(high) and low < high
        require(rises, f"range = {list(spec.range)}: [darkest, brightest] as files store them, finite and rising")
    if spec.window is not None:
        odd = spec.window % 2 == 1 and 3 <= spec.window <= _LONGEST
        require(odd, f"window = {spec.window}: must be an odd number of pixels from 3 on (try 49)")
    if spec.spacing is not None:
        positive = all(math.isfinite(step) and step > 0 for step in spec.spacing)
        require(positive, f"spacing = {list(spec.spacing)}: [row, column] in mm, both positive")


def _require_of_masks(spec: ImageSpec) -> None:
    """Raise ValueError for keys of masks beside a label, or the other way round."""
    if not spec.segments:
        of_masks = {"masks": spec.masks is not None, "structures": spec.structures is not None, "holes": not spec.holes}
        found = next((key for key, there in of_masks.items() if there), None)
        require(found is None, f"{found}: has its place where masks are learned; remove it, or label")
        counted = spec.split.method != "stratified" or not (spec.label_range or isinstance(spec.label, tuple))
        require(counted, 'split: "stratified" needs classes to count; use method = "hash"')
        return
    of_labels = ("positive", "negative", "classes", "label_range")
    found = next((key for key in of_labels if getattr(spec, key) is not None), None)
    require(found is None, f"{found}: has its place beside label; declare label, a column of the index, or remove it")
    require(not isinstance(spec.prevalence, Mapping), "prevalence: of a structure it is one number, its share")
    few = spec.structures is None or spec.structures >= 1
    require(few, f"structures = {spec.structures}: must be at least 1; leave it out where there is no bound")
    require(spec.split.method != "stratified", 'split: "stratified" needs classes to count; use method = "hash"')


def _require_columns(spec: ImageSpec) -> None:
    used = [*spec.columns, spec.file, spec.site]
    require(all(used), "a column's name is empty; name it as the index does")
    twice = next((name for name in used if used.count(name) > 1), None)
    require(twice is None, f"column `{twice}` has two roles; declare each column once")
    require(len(set(spec.without)) == len(spec.without), "without: a folder stands twice; list each once")
    spans = spec.split.method == "stratified" and spec.patient not in (None, FILE)
    require(not spans, 'split: a stratified split may part a patient\'s images; use method = "hash"')
