"""Accuracy against bytes: the kinds of sparse update, with and without error feedback, at equal bytes.

    python benchmarks/sparsity.py [--data ../shared/data] [--seeds 3] [--rounds 20] [--out runs/sparsity]
        [--write docs/results/sparsity.md] [--plots docs/pictures] [--table]

Chest X-rays at six simulated hospitals, everything shared, without privacy and at epsilon 4. Learning rate and clip are
chosen at density 1, the strength of a regulariser at density .1, on validation rows; no test row plays a part. What
travels is measured on encrypted runs, one a density, because nothing else changes a message's size; the others run
without encryption, whose sums are the same. Each training is a line of OUT/results.jsonl, and none found there is run
again; `--table` runs nothing. It needs numba and matplotlib: pip install -c constraints.txt -e '.[bench,sparse]'.
"""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from methods import preset, store
from methods.catalogue import ENTRIES
from methods.cells import TUNING_SEED
from methods.measure import interval, mean_over_hospitals, metrics_of
from methods.table import figure, replaced, size
from methods.task import Settings, Task
from methods.tuning import inner_split
from rich.console import Console
from rich.table import Table

from securepfl.errors import SecurePFLError
from securepfl.learning.sparse.difference import load_solver
from securepfl.protocol.channels import Layouts
from securepfl.settings.federation import Federation

BEGIN = "<!-- sparsity: begin (written by benchmarks/sparsity.py) -->"
END = "<!-- sparsity: end -->"
TASK = "xray6"
EPSILONS = (math.inf, 4.0)
KINDS = ("support", "select", "soft", "difference")
DENSITIES = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
STRENGTHS = (0.3, 1.0)
RATES = (0.25, 0.5, 1.0, 2.0)
CLIPS = (0.5, 2.0)
AT = 0.1
"""The density at which strengths, and each kind's own learning rate, are chosen."""
TUNING = (TUNING_SEED, TUNING_SEED + 1)
METRICS = ("balanced_accuracy", "auroc")
COLOURS = {"support": "#D55E00", "select": "#0072B2", "soft": "#009E73", "difference": "#CC79A7"}

Record = dict[str, Any]
Rows = list[list[str]]


@dataclass(frozen=True)
class Fit:
    """One training. `validated`: on three quarters of the training rows, tested on the last one."""

    epsilon: float
    lr: float
    clip: float
    rounds: int
    kind: str = "support"
    density: float = 1.0
    feedback: bool = True
    strength: float = 1.0
    seed: int = 0
    validated: bool = False
    scheme: str = "none"

    @property
    def tables(self) -> dict[str, dict[str, Any]]:
        """What changes in the federation's settings. Nothing is personal, and nothing averaged over rounds."""
        sparsity = {name: getattr(self, name) for name in ("kind", "density", "feedback", "strength")}
        encryption = {"scheme": self.scheme, "bits": 16, "limit": 4.0, "personal_limit": 16.0}
        return {
            "model": {"kind": "own", "personal": ()},
            "privacy": {"clip": self.clip} if math.isfinite(self.epsilon) else {},
            "sparsity": sparsity,
            "encryption": encryption,
            "trajectory": {"alpha": 0.0},
        }

    @property
    def hyper(self) -> dict[str, float | int | str]:
        """Hyper-parameters of `methods.preset`: one step a round."""
        return {"lr": self.lr, "local_steps": 1}


@dataclass
class Lab:
    """Trainings by what they were, run where they are missing unless `table` is set."""

    data: Path
    out: Path
    table: bool = False
    known: dict[Fit, Record] = field(default_factory=dict)

    @classmethod
    def open(cls, data: Path, out: Path, *, table: bool) -> "Lab":
        """With all whole lines of OUT/results.jsonl."""
        path = out / store.FILE
        return cls(data, out, table, known_in(path.read_text() if path.exists() else ""))

    def of(self, fit: Fit) -> Record:
        """What came out. Raises UsageError for one that is missing where nothing is to be run."""
        if fit not in self.known:
            if self.table:
                raise click.UsageError(f"{self.out / store.FILE}: lacks {fit}; run without --table first")
            self.known[fit] = record = self._run(fit)
            store.append(self.out, {"fit": asdict(fit), **record})
            click.echo(f"{len(self.known)}: {fit}, {record['seconds']} s", err=True)
        return self.known[fit]

    def score(self, fit: Fit) -> float:
        """Mean over the tuning seeds of (balanced accuracy + AUROC) / 2 on validation rows."""
        found = [self.of(replace(fit, seed=seed, validated=True)) for seed in TUNING]
        return float(np.mean([[record[name] for name in METRICS] for record in found]))

    def best(self, fits: Sequence[Fit]) -> Fit:
        """The one with the best score; the first of equals."""
        return max(fits, key=self.score)

    def _run(self, fit: Fit) -> Record:
        task, started = self._task(fit), time.perf_counter()
        fitted = preset.train(task, settings_of(fit), fit.hyper, fit.seed, fit.tables)
        metrics = metrics_of(task, fitted)
        record: Record = {name: mean_over_hospitals(metrics, name) for name in METRICS}
        record |= {"upload_bytes": fitted.upload_bytes, "download_bytes": fitted.download_bytes}
        return record | {"seconds": round(time.perf_counter() - started, 3)}

    def _task(self, fit: Fit) -> Task:
        task = ENTRIES[TASK].make(self.data, fit.seed)
        return inner_split(task, fit.seed) if fit.validated else task


@dataclass(frozen=True)
class Study:
    """All trainings that the page shows, at the settings that validation rows chose."""

    lab: Lab = field(repr=False)
    rounds: int
    seeds: int

    @cached_property
    def base(self) -> Mapping[float, Fit]:
        """By epsilon: learning rate and clip of every kind and density, chosen at density 1 (there, support is select).

        Without privacy nothing is clipped in earnest, so only the learning rate is chosen.
        """
        return {
            epsilon: self.lab.best(
                [
                    Fit(epsilon, lr, clip, self.rounds)
                    for clip in (CLIPS if math.isfinite(epsilon) else CLIPS[:1])
                    for lr in RATES
                ]
            )
            for epsilon in EPSILONS
        }

    @cached_property
    def kinds(self) -> Mapping[tuple[float, str], Fit]:
        """By epsilon and kind: the same, with the regulariser's strength as chosen at density `AT`, with feedback."""
        return {
            (epsilon, kind): self._at_strength(replace(base, kind=kind))
            for epsilon, base in self.base.items()
            for kind in KINDS
        }

    @cached_property
    def own_rates(self) -> Mapping[tuple[float, str], Fit]:
        """By epsilon and kind: at density `AT`, the best of half, equal and double the common learning rate."""
        return {
            key: self.lab.best([replace(fit, density=AT, lr=fit.lr * factor) for factor in (1.0, 0.5, 2.0)])
            for key, fit in self.kinds.items()
        }

    def _at_strength(self, fit: Fit) -> Fit:
        if fit.kind not in ("soft", "difference"):
            return fit
        best = self.lab.best([replace(fit, density=AT, strength=strength) for strength in STRENGTHS])
        return replace(fit, strength=best.strength)

    def fit(self, epsilon: float, kind: str, density: float, *, feedback: bool) -> Fit:
        """A cell of the grid. At density 1 support and select are one."""
        same = density == 1.0 and kind == "select"
        fit = self.kinds[epsilon, "support" if same else kind]
        return replace(fit, density=density, feedback=feedback)

    def values(self, fit: Fit) -> dict[str, list[float]]:
        """Each metric's values over the seeds, and the mean of the metrics as "score"."""
        found = [self.lab.of(replace(fit, seed=seed)) for seed in range(self.seeds)]
        values = {name: [record[name] for record in found] for name in METRICS}
        return values | {"score": [float(np.mean([record[name] for name in METRICS])) for record in found]}

    def bytes_at(self, density: float) -> int:
        """Bytes of all hospitals in the whole encrypted run, both ways."""
        fit = replace(self.kinds[math.inf, "support"], density=density, scheme="tenseal")
        record = self.lab.of(fit)
        return int(record["upload_bytes"] + record["download_bytes"])

    def update_bytes(self, density: float) -> int:
        """Bytes of the encrypted updates alone, up, of all hospitals in the whole run."""
        federation = federation_of(replace(self.base[math.inf], density=density, scheme="tenseal"), self.lab.data)
        return Layouts.of(federation).update.upload_bytes * len(federation.roster) * self.rounds

    def below(self, epsilon: float, kind: str, *, feedback: bool) -> tuple[float, float]:
        """Score less that of support with feedback, paired by seed, over the densities below 1: mean and half-width."""
        sparse = DENSITIES[1:]

        def scores(name: str, kept: bool) -> np.ndarray[Any, np.dtype[np.float64]]:
            cells = [self.values(self.fit(epsilon, name, d, feedback=kept))["score"] for d in sparse]
            return np.mean(np.array(cells), axis=0)

        return interval((scores(kind, feedback) - scores("support", True)).tolist())


def known_in(lines: str) -> dict[Fit, Record]:
    """The trainings in lines of JSON; a line that was cut off is passed over."""
    known = {}
    for line in filter(None, lines.splitlines()):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        known[Fit(**record.pop("fit"))] = record
    return known


def settings_of(fit: Fit) -> Settings:
    """The budget of a training."""
    return Settings(fit.epsilon, ENTRIES[TASK].delta, fit.rounds)


def federation_of(fit: Fit, data: Path) -> Federation:
    """The bound federation of a training."""
    return preset.federation_of(ENTRIES[TASK].make(data, fit.seed), settings_of(fit), fit.hyper, fit.tables)


def named(epsilon: float) -> str:
    """As headings have it."""
    return f"epsilon {epsilon:g}" if math.isfinite(epsilon) else "without privacy"


def grid(study: Study, epsilon: float) -> Rows:
    """A row for each density and feedback, a column for each kind: balanced accuracy / AUROC, a row's best in bold."""
    header = ["density", "bytes, all", "updates up", "feedback", *KINDS]
    rows = [header]
    for density in DENSITIES:
        sizes = [size(study.bytes_at(density)), size(study.update_bytes(density))]
        for feedback in (True, False):
            means = [study.values(study.fit(epsilon, kind, density, feedback=feedback)) for kind in KINDS]
            pairs = [[float(np.mean(values[name])) for name in METRICS] for values in means]
            rows.append([f"{density:g}", *sizes, "yes" if feedback else "no", *in_bold(pairs)])
    return rows


def in_bold(pairs: Sequence[Sequence[float]]) -> list[str]:
    """ ".842 / .913" for each, the largest of each place in bold."""
    largest = [max(places) for places in zip(*pairs, strict=True)]
    return [
        " / ".join(
            f"**{figure(value)}**" if value == best else figure(value)
            for value, best in zip(pair, largest, strict=True)
        )
        for pair in pairs
    ]


def differences(study: Study) -> Rows:
    """Each kind against support with feedback, over all densities below 1."""
    rows = [["kind", "feedback", *map(named, EPSILONS)]]
    for kind in KINDS:
        for feedback in (True, False):
            if (kind, feedback) != ("support", True):
                pairs = [study.below(epsilon, kind, feedback=feedback) for epsilon in EPSILONS]
                rows.append([kind, "yes" if feedback else "no", *map(signed, pairs)])
    return rows


def own_rates(study: Study) -> Rows:
    """Each kind at density `AT` with the learning rate that suits it best."""
    rows = [["kind", *(f"{named(epsilon)}: {text}" for epsilon in EPSILONS for text in ("lr", "bal. acc. / AUROC"))]]
    cells: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for epsilon in EPSILONS:
        fits = [study.own_rates[epsilon, kind] for kind in KINDS]
        pairs = [[float(np.mean(study.values(fit)[name])) for name in METRICS] for fit in fits]
        for kind, fit, text in zip(KINDS, fits, in_bold(pairs), strict=True):
            cells[kind] += [f"{fit.lr:g}", text]
    return rows + [[kind, *cells[kind]] for kind in KINDS]


def signed(pair: tuple[float, float]) -> str:
    """+.012 +- .003, or -.012."""
    mean, half = pair
    text = ("-" if mean < 0 else "+") + figure(abs(mean))
    return text if math.isnan(half) else f"{text} +- {figure(half)}"


def best_kind(study: Study) -> str:
    """One sentence: which kind and feedback had the highest mean score over the densities below 1."""
    parts = []
    for epsilon in EPSILONS:
        means = {
            (kind, feedback): study.below(epsilon, kind, feedback=feedback)[0]
            for kind in KINDS
            for feedback in (True, False)
        }
        kind, feedback = max(means, key=lambda key: means[key])
        parts.append(f"{named(epsilon)} {kind} {'with' if feedback else 'without'} feedback")
    return f'Best mean score over the densities below 1: {"; ".join(parts)}. `kind = "auto"` means support.'


def preface(study: Study) -> str:
    """How it was run."""
    rates = "; ".join(
        f"{named(epsilon)} {fit.lr:g}" + (f", clip {fit.clip:g}" if math.isfinite(epsilon) else "")
        for epsilon, fit in study.base.items()
    )
    strengths = "; ".join(
        f"{named(epsilon)} {kind} {study.kinds[epsilon, kind].strength:g}"
        for epsilon in EPSILONS
        for kind in ("soft", "difference")
    )
    return (
        f"`python benchmarks/sparsity.py --seeds {study.seeds} --rounds {study.rounds}`: chest X-rays at six simulated "
        f"hospitals, convolutional network of 3,713 parameters, all shared, {study.rounds} rounds of one full-batch "
        "step, delta 1e-5, zero-out, per record. Learning rate for all kinds and densities, chosen at density 1 on "
        f"validation rows: {rates}. Strengths, chosen at density {AT:g} with feedback: {strengths}. Mean over "
        f"hospitals, then over {study.seeds} seeds (deal, scanners, noise). Bytes: encrypted, all hospitals, both "
        "ways, whole run; they depend on the density alone, so a row compares at equal bytes. At density 1 support "
        "and select are one. Score: (balanced accuracy + AUROC) / 2. Density does not shrink signed envelopes, which "
        "at .5 and below are most bytes of so small a network; the picture's axis is the updates alone."
    )


def markdown(rows: Rows) -> str:
    """A Markdown table; the first row is its header."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def section(study: Study, picture: str | None) -> str:
    """What stands between the markers."""
    parts = [preface(study)]
    for epsilon in EPSILONS:
        parts += [f"Balanced accuracy / AUROC, {named(epsilon)}:", markdown(grid(study, epsilon))]
    parts += [
        "Score less that of support with feedback, mean over the densities below 1, paired by seed, with the 95 % "
        "interval (t):",
        markdown(differences(study)),
        f"At density {AT:g} with feedback, each kind at the best of half, equal and double that learning rate, chosen "
        "on validation rows:",
        markdown(own_rates(study)),
        best_kind(study),
    ]
    return "\n\n".join([*parts, *([f"![accuracy against bytes]({picture})"] if picture else [])])


def tables(study: Study) -> Iterator[Table]:
    """The same for a terminal."""
    titled = [(named(epsilon), grid(study, epsilon)) for epsilon in EPSILONS]
    titled += [("score less support's", differences(study)), (f"own learning rate, density {AT:g}", own_rates(study))]
    for title, rows in titled:
        table = Table(*rows[0], title=title, title_justify="left")
        for row in rows[1:]:
            table.add_row(*(cell.replace("**", "") for cell in row))
        yield table


def draw(study: Study, path: Path) -> None:
    """Balanced accuracy and AUROC against bytes, a row of panels for each epsilon."""
    import matplotlib as mpl  # noqa: PLC0415 - optional

    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    shape = {"figsize": (10.5, 7.0), "layout": "constrained", "sharex": True, "sharey": "col"}
    drawing, panels = plt.subplots(len(EPSILONS), len(METRICS), **shape)
    xs = [study.update_bytes(density) for density in DENSITIES]
    for epsilon, line in zip(EPSILONS, panels, strict=True):
        for name, axes in zip(METRICS, line, strict=True):
            for kind in KINDS:
                for feedback in (True, False):
                    fits = [study.fit(epsilon, kind, density, feedback=feedback) for density in DENSITIES]
                    axes.plot(
                        xs,
                        [np.mean(study.values(fit)[name]) for fit in fits],
                        color=COLOURS[kind],
                        linestyle="-" if feedback else (0, (3, 2)),
                        marker="o" if feedback else "x",
                        markersize=4,
                        linewidth=1.4,
                        label=f"{kind}, {'feedback' if feedback else 'no feedback'}",
                    )
            axes.set_xscale("log")
            axes.set_xticks(xs, [f"{size(x)}\n({density:g})" for x, density in zip(xs, DENSITIES, strict=True)])
            axes.minorticks_off()
            axes.grid(linewidth=0.3, color="#dddddd")
            axes.tick_params(labelsize=7)
            axes.set_title(f"{'AUROC' if name == 'auroc' else 'balanced accuracy'}, {named(epsilon)}", fontsize=9)
    for axes in panels[-1]:
        axes.set_xlabel("encrypted updates up, all hospitals, whole run (density)", fontsize=8)
    handles, labels = panels[0][0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(path, dpi=110)
    plt.close(drawing)


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), default="../shared/data", show_default=True)
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=20, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/sparsity"), show_default=True)
@click.option("--write", "page", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--plots", type=click.Path(file_okay=False, path_type=Path), help="Folder for the picture.")
@click.option("--table", is_flag=True, help="Run nothing; write from what is there.")
def main(data: Path, seeds: int, rounds: int, out: Path, page: Path | None, plots: Path | None, table: bool) -> None:
    """Run what is missing, print the tables, write page and picture."""
    torch.set_num_threads(1)
    load_solver()
    study = Study(Lab.open(data, out, table=table), rounds, seeds)
    console = Console(width=130)
    for found in tables(study):
        console.print(found)
    console.print(best_kind(study))
    picture = None if plots is None else plots / "sparsity.png"
    if picture is not None:
        draw(study, picture)
    if page is not None:
        beside = None if picture is None else os.path.relpath(picture, page.parent)
        try:
            page.write_text(replaced(page.read_text(), section(study, beside), BEGIN, END))
        except ValueError as error:
            raise click.UsageError(f"{page}: {error}") from None


if __name__ == "__main__":
    try:
        main()
    except SecurePFLError as error:
        raise SystemExit(f"sparsity: {error}") from None
