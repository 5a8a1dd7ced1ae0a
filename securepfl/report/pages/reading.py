"""What a page is made of: the files of a run's folder, or of a folder that `securepfl route` wrote, each checked.

| in DIR | of a run | of a hospital's own run | of an answer to unseen rows |
|---|---|---|---|
| result.json | yes | yes, one site | where truth was there |
| heads.json | yes | - | - |
| ledgers | ledger/ | where result.json says | - |
| rounds.jsonl | sites/NAME/ | state/ | - |
| gates.json, pictures/ | - | - | yes |
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from securepfl.errors import ConfigError
from securepfl.report.pages.fitting import fits
from securepfl.report.pages.plain import lines_of, read_plain

ROUNDS: Final = "rounds.jsonl"
"""In a hospital's folder: how its models did round by round (runtime/rounds_file.py writes it)."""
RESULT: Final = "result.json"
GATES: Final = "gates.json"
PICTURES: Final = "pictures"
SCHEMA: Final = 1
_WHICH: Final = "name the folder of a run that has ended, or one that `securepfl route --out` wrote"

_Read = TypeVar("_Read")
Figures = dict[str, float | None]
Interval = tuple[float | None, float | None] | None


class Gain(msgspec.Struct, frozen=True):
    """How much better personalised models are than others; `holds`: yes, no, or None where that can't be told."""

    value: float | None
    interval: Interval
    holds: bool | None


class Finding(Gain, frozen=True, kw_only=True):
    """The same over all hospitals, and in words. `about`: "together", "personal" or "majority"."""

    value: float | None = msgspec.field(name="gain")
    about: str
    metric: str
    line: str


class Group(msgspec.Struct, frozen=True):
    """Rows of about one prediction: see tasks/curves.py."""

    predicted: float
    observed: float
    low: float
    high: float
    rows: int


class Curve(msgspec.Struct, frozen=True):
    """ROC and calibration of one model: see tasks/curves.py."""

    rows: int
    yes: int
    true_yes: int
    false_yes: int
    roc: list[tuple[float, float]]
    calibration: list[Group]


class Privacy(msgspec.Struct, frozen=True):
    """One hospital's, over all its ledger's runs; None where none holds."""

    epsilon: float | None
    delta: float
    unit: str
    epsilon_replace_one: float | None
    budget: float | None
    protection: str = "dp"


class Site(msgspec.Struct, frozen=True):
    """One hospital's part of result.json."""

    train: int
    test: int
    test_units: int
    operating_point: list[float]
    metrics: dict[str, Figures]
    intervals: dict[str, dict[str, Interval]]
    privacy: Privacy
    units: dict[str, int]
    sat_out: list[int]
    similarity: dict[str, float]
    signal: float | None
    neighbours: list[str]
    coupled_rounds: int
    notes: list[str]
    clipped_fraction: float | None = None
    gains: dict[str, Gain] = {}
    curves: dict[str, Curve] = {}
    curves_by_part: dict[str, dict[str, Curve]] = {}
    predicted_and_observed: dict[str, list[Group]] = {}


class Metrics(msgspec.Struct, frozen=True):
    """How the task's metrics are called, which are shown of each hospital, and which decides."""

    titles: dict[str, str]
    shown: list[str]
    decides: str
    majority: str


class Intervals(msgspec.Struct, frozen=True):
    """Over what intervals are; of a hospital's own result, without those over all hospitals."""

    level: float
    over: str
    test_units: int
    mean: dict[str, dict[str, Interval]] = {}
    within: dict[str, dict[str, Interval]] = {}
    pooled: dict[str, dict[str, Interval]] = {}

    @property
    def unit(self) -> str:
        """What test rows are counted by, as a plural."""
        return self.over.removeprefix("test ")


class Communication(msgspec.Struct, frozen=True):
    """Bytes of all rounds, and of all hospitals where the result is theirs; `parts` are the same by purpose."""

    upload_bytes: int
    download_bytes: int
    float32_upload_bytes: int
    float32_download_bytes: int
    clipped_values: int
    parts: dict[str, int]


class Result(msgspec.Struct, frozen=True):
    """result.json of a run, or of one hospital. Unknown names are for later versions."""

    schema: int
    simulation: bool
    versions: dict[str, str]
    federation: dict[str, Any]
    sites: dict[str, Site]
    task: str
    metrics: Metrics
    seconds: dict[str, float]
    intervals: Intervals
    written: str = ""
    seed: int | None = None
    seeded: bool = False
    site: str | None = None
    rounds: int | None = None
    ended: str | None = None
    notes: list[str] = []
    weights: list[str] = []
    mean: dict[str, Figures] = {}
    within: dict[str, Figures] = {}
    pooled: dict[str, Figures] = {}
    curves: dict[str, Curve] = {}
    curves_by_part: dict[str, dict[str, Curve]] = {}
    predicted_and_observed: dict[str, list[Group]] = {}
    verdict: list[Finding] = []
    coupling_rounds: int = 0
    communication: Communication | None = None
    ledger: dict[str, str] = {}
    released: dict[str, Any] | None = None


@dataclass(frozen=True)
class Run:
    """A run's folder, read. `raw` is result.json as it stands; `rounds` are by hospital: round, model, metric."""

    folder: Path
    result: Result
    raw: Mapping[str, Any]
    rounds: Mapping[str, tuple[tuple[int, Mapping[str, Figures]], ...]]

    @property
    def name(self) -> str:
        """The federation's."""
        return str(self.result.federation.get("name", self.folder.name))

    @property
    def settings(self) -> Mapping[str, Any]:
        """The federation's settings, table by table."""
        return self.result.federation

    def setting(self, table: str, key: str, default: Any = None) -> Any:
        """One setting, or `default` where the file does not hold it."""
        held = self.settings.get(table)
        return held.get(key, default) if isinstance(held, Mapping) else default

    @property
    def protected(self) -> bool:
        """Whether training was noised."""
        return bool(self.setting("privacy", "protection", "dp") == "dp")

    @property
    def one_model(self) -> bool:
        """Whether no parameter was personal, so that hospitals have the shared model."""
        return bool(self.setting("shape", "personal", 1) == 0)

    @property
    def seeded(self) -> bool:
        """Whether the noise was drawn from a known seed, and so protects nobody."""
        return self.result.seed is not None or self.result.seeded

    @property
    def alone(self) -> bool:
        """Whether this is one hospital's own result."""
        return self.result.site is not None


@dataclass(frozen=True)
class Routed:
    """What `securepfl route` wrote, read: gates by candidate, and metrics where truth was there."""

    folder: Path
    gates: Mapping[str, Any]
    result: Mapping[str, Any] | None
    pictures: tuple[Path, ...]


class _Row(msgspec.Struct):
    gates: list[float | None] = []


class _Gates(msgspec.Struct):
    schema: int
    site: dict[str, float | None]
    rows: list[_Row]
    candidates: list[dict[str, Any]]
    fell_back: bool
    why: str
    recipe_digest: str


class _RoutedIntervals(msgspec.Struct):
    over: str
    routed: dict[str, Interval] = {}
    shared: dict[str, Interval] = {}
    gain: dict[str, Interval] = {}


class _RoutedResult(msgspec.Struct):
    schema: int
    task: str
    decides: str
    rows: int
    test_units: int
    metrics: dict[str, Figures]
    intervals: _RoutedIntervals


def read_any(folder: Path) -> Run | Routed:
    """The folder of a run or of an answer, whichever it is. Raises ConfigError, in one line, for anything else."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}: {'no folder' if folder.exists() else 'does not exist'}; {_WHICH}")
    if (folder / GATES).exists():
        return _routed(folder)
    if not (folder / RESULT).exists():
        raise ConfigError(f"{folder}: has no {RESULT}; {_mend(folder)}")
    return _run(folder)


def _mend(folder: Path) -> str:
    if (folder / "unfinished").exists():
        return f"go on with `securepfl run --resume {folder}`"
    if (folder / "state.safetensors").exists():
        return "let the pipeline whose folder it is call securepfl.write_result(client)"
    return _WHICH


def state_folder(folder: Path) -> Path:
    """Where a hospital's own run keeps its client's files: beside the result where a pipeline wrote it."""
    return found if (found := folder / "state").is_dir() else folder


def _run(folder: Path) -> Run:
    raw = _json(folder / RESULT)
    result = _converted(raw, Result, folder / RESULT)
    if not result.sites:
        raise ConfigError(f"{folder / RESULT}: names no hospital; {_WHICH}")
    if not fits(result, raw):
        raise ConfigError(f"{folder / RESULT}: not what this securepfl writes, or damaged; {_WHICH}")
    names = [result.site] if result.site is not None else list(result.sites)
    place = (lambda _: state_folder(folder)) if result.site is not None else (lambda name: folder / "sites" / name)
    rounds = {name: tuple(_lines(place(name) / ROUNDS)) for name in names if Path(name).name == name}
    return Run(folder, result, raw, {name: lines for name, lines in rounds.items() if lines})


def _routed(folder: Path) -> Routed:
    gates = _json(folder / GATES)
    _converted(gates, _Gates, folder / GATES)
    result = _json(folder / RESULT) if (folder / RESULT).exists() else None
    if result is not None:
        _converted(result, _RoutedResult, folder / RESULT)
    pictures = sorted(path for path in (folder / PICTURES).rglob("*.png") if path.is_file() and not path.is_symlink())
    return Routed(folder, gates, result, tuple(pictures))


def _json(path: Path) -> Mapping[str, Any]:
    held = read_plain(path, _WHICH)
    if (schema := held.get("schema")) != SCHEMA:
        named = schema if isinstance(schema, int) else "unknown"
        raise ConfigError(f"{path}: schema {named}, and this securepfl reads {SCHEMA}; {_WHICH}")
    return held


def _converted(held: Mapping[str, Any], kind: type[_Read], path: Path) -> _Read:
    try:
        return msgspec.convert(held, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: not what this securepfl writes ({error}); {_WHICH}") from None


def _lines(path: Path) -> Iterator[tuple[int, Mapping[str, Figures]]]:
    """A file that a killed process may have left with half a line; that one is left out, and what can't be drawn."""
    seen = set[int]()
    for line in lines_of(path):
        try:
            found = msgspec.convert(line, _Line)
        except msgspec.ValidationError:
            continue
        if found.round not in seen:
            seen.add(found.round)
            yield found.round, found.metrics


class _Line(msgspec.Struct):
    round: int
    metrics: dict[str, Figures]
