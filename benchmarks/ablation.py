"""What each part of securepfl adds: the whole, and the whole without one part, at the same hyper-parameters.

    python benchmarks/ablation.py [--data ../shared/data] [--task NAME] [--seeds 5] [--write docs/results/ablation.md]

The learning rate and the number of rounds are chosen for the whole, on inner validation, as in methods.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import torch
from methods import ours_coupled, preset
from methods.catalogue import ENTRIES
from methods.cells import TUNING_SEED
from methods.measure import interval, mean_over_hospitals, metrics_of, worst_hospital
from methods.table import figure, replaced, size, with_half
from methods.task import Fitted, Hyper, Settings, Task
from methods.training import LOCAL
from methods.tuning import candidates, tuned

BEGIN, END = "<!-- ablation: begin (written by benchmarks/ablation.py) -->", "<!-- ablation: end -->"
TASKS: Mapping[str, float] = {"heart_disease": 1.0, "clusters_d100": 4.0, "clusters_6_2": 4.0, "xray6": 4.0}
"""Data sets, each with its epsilon."""

Tables = Mapping[str, Mapping[str, Any]]
SPARSE: Tables = {"sparsity": {"density": 0.25}}
COUPLED = ours_coupled.COUPLED
AVERAGED: Tables = {"trajectory": {"alpha": preset.HISTORY}}


def parts_of(task: Task) -> Mapping[str, tuple[Tables, bool]]:
    """By name: settings of the federation, and whether it is private."""
    wide: Tables = {"model": {"personal": ours_coupled.wide(task)}}
    whole: Tables = {**wide, **COUPLED, **SPARSE, **AVERAGED}
    return {
        "whole": (whole, True),
        "no coupling": ({**wide, **SPARSE, **AVERAGED}, True),
        "no trajectory": ({**whole, "trajectory": {"alpha": 0.0}}, True),
        "no sparsity": ({**wide, **COUPLED, **AVERAGED}, True),
        "intercept alone personal, uncoupled": ({"model": {"personal": "intercept"}, **SPARSE, **AVERAGED}, True),
        "nothing personal": ({"model": {"personal": ()}, **SPARSE, **AVERAGED}, True),
        "no privacy": (whole, False),
    }


def rows(name: str, data: Path, seeds: int, trials: int) -> Iterator[str]:
    """Lines of the table of one data set."""
    entry = ENTRIES[name]
    private = Settings(TASKS[name], entry.delta, 20)
    tuning = {TUNING_SEED: entry.make(data, TUNING_SEED)}

    def fit(task: Task, settings: Settings, hyper: Hyper, seed: int) -> Fitted:
        return preset.train(task, settings, hyper, seed, parts_of(task)["whole"][0])

    common, _ = tuned(fit, candidates(LOCAL, trials), tuning, private)
    for part in parts_of(tuning[TUNING_SEED]):
        runs = []
        for seed in range(seeds):
            task = entry.make(data, seed)
            tables, is_private = parts_of(task)[part]
            settings = private if is_private else Settings(math.inf, entry.delta, private.steps)
            runs.append((task, preset.train(task, settings, common, seed, tables)))
        yield line(part, runs)


def line(part: str, runs: list[tuple[Task, Fitted]]) -> str:
    """One variant's means over hospitals, then over seeds."""
    metrics = [metrics_of(task, fitted) for task, fitted in runs]
    shown = [
        with_half(interval([mean_over_hospitals(found, column) for found in metrics]))
        for column in ("balanced_accuracy", "auroc", "accuracy")
    ]
    worst = interval([worst_hospital(found)[0] for found in metrics])[0]
    sent = interval([fitted.upload_bytes + fitted.download_bytes for _, fitted in runs])[0]
    return f"| {part} | {' | '.join(shown)} | {figure(worst)} | {size(sent)} |"


@click.command()
@click.option(
    "--data", type=click.Path(path_type=Path), default=Path("../shared/data"), show_default=True, help="Folder of data."
)
@click.option(
    "--task", "tasks", multiple=True, type=click.Choice(list(TASKS)), help="Data set; repeatable. Default: all."
)
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True, help="Tested runs of each variant.")
@click.option("--trials", type=click.IntRange(1), default=8, show_default=True, help="Hyper-parameters tried.")
@click.option(
    "--write", "page", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Page with the markers."
)
def main(data: Path, tasks: tuple[str, ...], seeds: int, trials: int, page: Path | None) -> None:
    """Print the tables, and write them between the markers of PAGE."""
    torch.set_num_threads(1)
    parts = [
        "The whole: a wide personal part (the head; all weights but the intercept of a logistic model), coupled, "
        "density .25, the mixture averaged with alpha .5. Each row changes what it names. Learning rate and "
        f"rounds are chosen for the whole by {trials} trials on inner validation. Means over hospitals, then over "
        f"{seeds} seeds.",
    ]
    for name in tasks or tuple(TASKS):
        entry = ENTRIES[name]
        table = [f"{entry.title}, epsilon {TASKS[name]:g}, delta {entry.delta:.0e}:", ""]
        table += ["| | balanced accuracy | AUROC | accuracy | worst hospital | bytes |", "|---|---|---|---|---|---|"]
        for text in rows(name, data, seeds, trials):
            click.echo(text)
            table.append(text)
        parts.append("\n".join(table))
    if page is not None:
        page.write_text(replaced(page.read_text(), "\n\n".join(parts), BEGIN, END))


if __name__ == "__main__":
    main()
