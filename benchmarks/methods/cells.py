"""One cell of the comparison: a method on a data set at one epsilon, tuned, then run and tested for each seed."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from methods import METHODS
from methods.catalogue import ENTRIES, Entry
from methods.measure import metrics_of
from methods.task import Hyper, Method, Settings, Task
from methods.tuning import candidates, tuned

TUNING_SEED = 1000
"""Where the seeds of tuning start, apart from those of the runs."""

Record = dict[str, Any]
"""What JSON can hold of a finished cell."""


@dataclass(frozen=True)
class Plan:
    """How much every cell spends alike. Raises ValueError for less than one."""

    seeds: int = 5
    trials: int = 8
    tuning_seeds: int = 2
    steps: int = 20

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")


@dataclass(frozen=True)
class Cell:
    """Names of a data set and a method, and epsilon (infinity: no privacy)."""

    task: str
    method: str
    epsilon: float

    def __str__(self) -> str:
        return f"{self.task} {self.method} epsilon {self.epsilon:g}"


def run_named(cell: Cell, plan: Plan, data: Path) -> Record:
    """`run_cell` by name, which another process can be asked for."""
    return run_cell(cell, ENTRIES[cell.task], METHODS[cell.method], plan, data)


def run_cell(cell: Cell, entry: Entry, method: Method, plan: Plan, data: Path) -> Record:
    """Tune `method`, then train it on all training rows for each seed and test it."""
    settings = Settings(epsilon=cell.epsilon, delta=entry.delta, steps=plan.steps)
    choices = candidates(method.GRID, plan.trials)
    runs: list[Record] = []
    searches: list[Record] = []
    clusters = None
    for seed in range(plan.seeds):
        task = entry.make(data, seed)
        if entry.redealt or not searches:
            hyper, trials = tuned(method.fit, choices, _tuning_tasks(entry, task, seed, plan, data), settings)
            searches.append({"hyper": hyper, "trials": [asdict(trial) for trial in trials]})
        runs.append(_run(method, task, settings, hyper, seed))
        clusters = clusters or task.clusters
    return {
        "task": cell.task,
        "method": cell.method,
        "epsilon": f"{cell.epsilon:g}",
        "delta": entry.delta,
        "plan": asdict(plan),
        "choices": choices,
        "tuning": searches,
        "clusters": clusters,
        "runs": runs,
    }


def _tuning_tasks(entry: Entry, task: Task, seed: int, plan: Plan, data: Path) -> dict[int, Task]:
    """By seed: the run's own rows where another deal would show its test rows, else other deals."""
    first = TUNING_SEED * (1 + (seed if entry.redealt else 0))
    seeds = range(first, first + plan.tuning_seeds)
    return {number: task if entry.redealt else entry.make(data, number) for number in seeds}


def _run(method: Method, task: Task, settings: Settings, hyper: Hyper, seed: int) -> Record:
    started = time.perf_counter()
    fitted = method.fit(task, settings, hyper, seed)
    seconds = time.perf_counter() - started
    return {
        "seed": seed,
        "seconds": round(seconds, 4),
        "upload_bytes": fitted.upload_bytes,
        "download_bytes": fitted.download_bytes,
        "hospitals": metrics_of(task, fitted),
        "facts": dict(fitted.facts),
    }
