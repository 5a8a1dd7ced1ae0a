"""What a run tells: one event a round while it goes, one outcome at its end."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from securepfl.settings.federation import Federation
from securepfl.settings.fixed import GATE
from securepfl.tasks.curves import Drawn
from securepfl.tasks.resampling import Scored
from securepfl.tasks.task import Metric, Metrics, OperatingPoint, Task, deciding_of

MODELS = ("personalised", "shared", "local", "majority")
SIGNAL_NOTE = (
    f"signal / noise: below {GATE:g} a hospital compares itself with nobody; it is coupled only where 3 others pass "
    "too and are like it"
)


def baseline_title(federation: Federation, task: Task) -> str:
    """What stands as "majority": the public start where there is one, for it answers without any training; else what
    the task has as its trivial answer.
    """
    return task.baseline_title if federation.model.start is None else "public start"


def baseline_in_words(federation: Federation, task: Task) -> str:
    """The same within a sentence."""
    title = baseline_title(federation, task)
    return "majority class" if title == "majority" else title


def signal_text(signal: float | None) -> str:
    """A ratio of signal to noise for a table."""
    return "" if signal is None else f"{signal:,.1f}"


@dataclass(frozen=True)
class RoundEvent:
    """Before the first round (0), and after each. `epsilon` (infinite where none holds), `upload_bytes` and
    `download_bytes` are running totals by hospital; `failed` are those that failed in the round; `notes` is what must
    be known by now.
    """

    round: int
    rounds: int
    trained: tuple[str, ...]
    epsilon: Mapping[str, float]
    upload_bytes: Mapping[str, int]
    download_bytes: Mapping[str, int]
    notes: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()


Observer = Callable[[RoundEvent], None]


@dataclass(frozen=True)
class TrainingUnits:
    """A hospital's records or patients: those `declared`, those that train (`used`), those `cut` as beyond the declared
    number, zeros in the place of absent ones (`padded`), those that count as zero (`unusable`), and the `largest`
    number of records of one.
    """

    declared: int
    used: int
    cut: int
    padded: int
    unusable: int
    largest: int


@dataclass(frozen=True)
class SiteOutcome:
    """One hospital: row counts, scores by model, what was spent, and what the output must say about it.

    `test_units`: the patients among the test rows, or the rows where these are not named (`patients_named`). `point`:
    where probabilities became decisions. `clipped_fraction`: of its units, those that the clip shortened, averaged over
    rounds; None where nobody counted. `signal`: how far what it compared stands out of its noise; `neighbours`: to whom
    it is coupled at the end; `coupled_rounds`: in how many rounds it was drawn to neighbours. `details` are notes that
    change nothing for who reads the figures; `curves` are what is drawn of its test rows.
    """

    train: int
    units: TrainingUnits
    test: int
    test_units: int
    patients_named: bool
    point: OperatingPoint
    scores: Mapping[str, Scored]
    epsilon: float
    epsilon_replace_one: float
    budget: float
    clipped_fraction: float | None
    sat_out: tuple[int, ...]
    similarity: Mapping[str, float]
    signal: float | None
    neighbours: tuple[str, ...]
    coupled_rounds: int
    notes: tuple[str, ...]
    details: tuple[str, ...] = ()
    curves: Drawn = field(default_factory=Drawn)


@dataclass(frozen=True)
class Communication:
    """Bytes summed over hospitals and rounds; float32: what a dense exchange of the shared part would cost.

    `parts` are the same bytes by purpose: updates, personal, similarity, and the envelopes around them.
    """

    rounds: int
    upload_bytes: int
    download_bytes: int
    float32_upload_bytes: int
    float32_download_bytes: int
    clipped_values: int
    parts: Mapping[str, int]


@dataclass(frozen=True)
class Outcome:
    """A whole run. `seconds` has train, encrypt, aggregate, decrypt, total; `heads` each hospital's ledger hash as the
    coordinator saw it last; `task` names the metrics. `pooled` are each model's scores on all hospitals' test rows
    together, at each its own operating point, and `curves` what is drawn of the same rows.
    """

    sites: Mapping[str, SiteOutcome]
    pooled: Mapping[str, Scored]
    communication: Communication
    seconds: Mapping[str, float]
    seed: int | None
    heads: Mapping[str, str]
    task: Task
    curves: Drawn = field(default_factory=Drawn)

    @property
    def deciding(self) -> Metric | None:
        """The metric by which models of this task are judged; None for a task without any."""
        return deciding_of(self.task)

    @property
    def test_unit(self) -> str:
        """What test rows are counted by: patients where every hospital names them, else records."""
        return "patient" if all(site.patients_named for site in self.sites.values()) else "record"

    @property
    def test_units(self) -> int:
        """The patients (or rows) among all hospitals' test rows."""
        return sum(site.test_units for site in self.sites.values())

    def mean_scores(self, without: tuple[str, ...] = ()) -> dict[str, Scored]:
        """Each model's mean over hospitals, of those that have the metric, on the test rows and in each resample."""
        kept = [site for name, site in self.sites.items() if name not in without]
        return {model: Scored.mean([site.scores[model] for site in kept]) for model in MODELS}

    def within_scores(self) -> dict[str, Scored]:
        """The same mean with hospitals counting as many as their test units: what a patient gets, judged at home.

        Unlike `pooled` it never compares patients of different hospitals, and unlike `mean` a hospital with a handful
        of test rows weighs next to nothing in it.
        """
        sites = list(self.sites.values())
        units = [site.test_units for site in sites]
        return {model: Scored.mean([site.scores[model] for site in sites], units) for model in MODELS}

    def mean(self, without: tuple[str, ...] = ()) -> dict[str, Metrics]:
        """Mean over hospitals of each metric of each model; None where no hospital could compute it."""
        return {model: scored.point for model, scored in self.mean_scores(without).items()}
