"""Finished parts of a study as files, so that one that is cut off goes on where it stopped; and who runs the rest."""

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
import torch

from securepfl.data.table import Table
from securepfl.tasks.segmentation import Segmentation

Cell = dict[str, Any]
Job = TypeVar("Job")


def place(folder: Path, way: str, seed: int) -> Path:
    """Where a way's figures under a seed lie."""
    return folder / f"{re.sub(r'[^a-z0-9.]+', '-', way.lower()).strip('-')}-s{seed}.json"


def write(folder: Path, cell: Cell) -> None:
    """In one step, so that a file that is there is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    path = place(folder, cell["way"], cell["seed"])
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(cell))
    part.replace(path)


def finished(folder: Path, way: str, seed: int, settings: Mapping[str, Any]) -> bool:
    """Whether it was made under these settings. Raises UsageError where it was made under others."""
    path = place(folder, way, seed)
    if not path.exists():
        return False
    if json.loads(path.read_text())["settings"] != json.loads(json.dumps(settings)):
        raise click.UsageError(f"{path}: was made under other settings; name another --out, or remove it")
    return True


def read(folder: Path) -> dict[str, list[Cell]]:
    """All cells by way, each way's in the order of seeds."""
    found: dict[str, list[Cell]] = {}
    for path in sorted(folder.glob("*.json")):
        cell = json.loads(path.read_text())
        found.setdefault(cell["way"], []).append(cell)
    return {way: sorted(cells, key=lambda cell: cell["seed"]) for way, cells in found.items()}


def dices(
    task: Segmentation, probabilities: np.ndarray[Any, Any], table: Table, threshold: float = 0.5
) -> np.ndarray[Any, Any]:
    """Each image's Dice within its field [n]; NaN without the structure."""
    truth, mask = _marked(task, probabilities, table, threshold)
    both, total = (truth & mask).sum(axis=(1, 2)), truth.sum(axis=(1, 2)) + mask.sum(axis=(1, 2))
    return np.where(truth.any(axis=(1, 2)), 2 * both / np.maximum(total, 1), np.nan)


def _marked(task: Segmentation, probabilities: np.ndarray[Any, Any], table: Table, threshold: float) -> Any:
    if table.labels is None:
        raise ValueError(f"{table.site}: has no masks")
    truth, field = table.labels[:, 0] > 0, table.labels[:, 1] > 0
    return truth & field, task.decide(probabilities, (threshold,)) & field


def measured(task: Segmentation, probabilities: np.ndarray[Any, Any], table: Table, *, hd95: bool = True) -> Cell:
    """Each test image's id, patient, Dice and HD95 (where asked for), which is None where it does not exist."""
    found = {"dice": dices(task, probabilities, table)}
    if hd95:
        decided = task.decide(probabilities, (0.5,))
        found = dict(task.measure(probabilities, decided, table.labels, np.eye(len(table))))
    patients = table.patients if table.patients is not None else np.arange(len(table)).astype(str)
    ids = table.ids if table.ids is not None else patients
    own = {name: [None if not np.isfinite(v) else round(float(v), 6) for v in values] for name, values in found.items()}
    return {"ids": [str(each) for each in ids], "patients": [str(each) for each in patients], **own}


def run_all(work: Callable[[Job], str], jobs: Iterable[Job], processes: int) -> None:
    """Each job, in this process or in several of one thread each; one line when it is done."""
    listed = list(jobs)
    if processes <= 1:
        for job in listed:
            click.echo(work(job))
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=one_thread) as pool:
        for done in as_completed([pool.submit(work, job) for job in listed]):
            click.echo(done.result())


def one_thread() -> None:
    """Two processes of one thread are faster than one of two, for networks this small."""
    torch.set_num_threads(1)
