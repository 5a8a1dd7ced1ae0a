"""What a run tells: one event a round while it goes, one outcome at its end."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from securepfl.settings.fixed import GATE
from securepfl.tasks.task import Task

Metrics = Mapping[str, float | None]

MODELS = ("personalised", "shared", "local", "majority")
SIGNAL_NOTE = (
    f"signal / noise: below {GATE:g} a hospital compares itself with nobody; it is coupled only where 3 others pass "
    "too and are like it"
)


def signal_text(signal: float | None) -> str:
    """A ratio of signal to noise for a table."""
    return "" if signal is None else f"{signal:,.1f}"


@dataclass(frozen=True)
class RoundEvent:
    """After each round. `epsilon`, `upload_bytes` and `download_bytes` are running totals by hospital."""

    round: int
    rounds: int
    trained: tuple[str, ...]
    epsilon: Mapping[str, float]
    upload_bytes: Mapping[str, int]
    download_bytes: Mapping[str, int]


Observer = Callable[[RoundEvent], None]


@dataclass(frozen=True)
class SiteOutcome:
    """One hospital: row counts, metrics by model, what was spent, and what the output must say about it.

    `signal`: how far what it compared stands out of its noise; `neighbours`: to whom it is coupled at the end;
    `coupled_rounds`: in how many rounds it was drawn to neighbours.
    """

    train: int
    test: int
    metrics: Mapping[str, Metrics]
    epsilon: float
    epsilon_replace_one: float
    budget: float
    sat_out: tuple[int, ...]
    similarity: Mapping[str, float]
    signal: float | None
    neighbours: tuple[str, ...]
    coupled_rounds: int
    notes: tuple[str, ...]


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
    coordinator saw it last; `task` names the metrics.
    """

    sites: Mapping[str, SiteOutcome]
    communication: Communication
    seconds: Mapping[str, float]
    seed: int | None
    heads: Mapping[str, str]
    task: Task

    def mean(self, without: tuple[str, ...] = ()) -> dict[str, dict[str, float | None]]:
        """Mean over hospitals of each metric of each model; None where no hospital could compute it."""
        kept = [site for name, site in self.sites.items() if name not in without]
        names = [metric.name for metric in self.task.metrics]
        return {
            model: {name: _mean([site.metrics[model][name] for site in kept]) for name in names} for model in MODELS
        }


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
