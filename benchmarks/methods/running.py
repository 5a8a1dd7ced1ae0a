"""Which cells of the comparison are wanted, and those that are missing run."""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import click
import torch

from methods import METHODS, store
from methods.catalogue import ENTRIES
from methods.cells import Cell, Plan, Record, run_named
from methods.tuning import candidates


def planned(tasks: Sequence[str], methods: Sequence[str], epsilons: Sequence[float]) -> list[Cell]:
    """All cells asked for but those that a data set is without, and shared noise where there is none; it says how many.
    Without `epsilons` each data set takes its own.
    """
    asked = [
        Cell(task, method, epsilon)
        for task in tasks
        for epsilon in (epsilons or ENTRIES[task].epsilons)
        for method in methods
    ]
    cells = [cell for cell in asked if _applies(cell)]
    if left := len(asked) - len(cells):
        click.echo(f"{left} cells left out: the method is another one there, or not meant for it")
    return cells


def _applies(cell: Cell) -> bool:
    noise = math.isfinite(cell.epsilon) or cell.method != "ours_shared_noise"
    return noise and cell.method not in ENTRIES[cell.task].without


def finished(cells: Sequence[Cell], plan: Plan, data: Path, jobs: int) -> Iterator[tuple[Cell, Record | Exception]]:
    """Each cell with its record, or with what stopped it, in the order in which they end; one job needs no process."""
    if jobs == 1:
        yield from ((cell, _attempt(cell, plan, data)) for cell in cells)
        return
    # Fresh processes, of one thread each: torch's threads do not survive a fork.
    with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        waiting = {pool.submit(_attempt, cell, plan, data): cell for cell in cells}
        for done in as_completed(waiting):
            yield waiting[done], done.result()


def _attempt(cell: Cell, plan: Plan, data: Path) -> Record | Exception:
    try:
        return run_named(cell, plan, data)
    except Exception as error:  # noqa: BLE001 - the other cells go on; it is printed, and the command fails
        return error


def run(cells: Sequence[Cell], plan: Plan, data: Path, jobs: int, out: Path) -> bool:
    """Runs what isn't there yet; whether all of it came to an end."""
    known = store.read(out, plan)
    missing = [cell for cell in cells if not is_current(cell, known.get(cell))]
    click.echo(f"{len(cells)} cells, {len(cells) - len(missing)} of them known")
    failed = False
    for number, (cell, found) in enumerate(finished(missing, plan, data, jobs) if missing else (), start=1):
        if isinstance(found, Exception):
            failed = True
            click.echo(f"methods: {cell}: {type(found).__name__}: {found}", err=True)
            continue
        store.append(out, found)
        click.echo(f"{number}/{len(missing)} {cell}: {sum(run['seconds'] for run in found['runs']):.1f} s of training")
    return not failed


def is_current(cell: Cell, record: Record | None) -> bool:
    """Whether the record, if any, was tuned among today's choices."""
    choices = candidates(METHODS[cell.method].GRID, record["plan"]["trials"]) if record else None
    return record is not None and record.get("choices") == choices
