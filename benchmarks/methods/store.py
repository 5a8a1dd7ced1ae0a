"""Finished cells as lines of JSON, so that a comparison that is cut off goes on where it stopped."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from methods.cells import Cell, Plan, Record

FILE = "results.jsonl"


def append(folder: Path, record: Record) -> None:
    """Adds one line in a single write, so that two processes that share the file don't mix theirs."""
    folder.mkdir(parents=True, exist_ok=True)
    line = json.dumps(record, default=_plain, sort_keys=True)
    handle = os.open(folder / FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        # A line that was cut off ends here; an empty line does no harm.
        os.write(handle, f"\n{line}\n".encode())
        os.fsync(handle)
    finally:
        os.close(handle)


def read(folder: Path, plan: Plan | None = None) -> dict[Cell, Record]:
    """The cells finished under `plan`, or under any, the last line of each; lines cut off are passed over."""
    path = folder / FILE
    records = _records(path.read_text().splitlines()) if path.exists() else ()
    return {
        Cell(record["task"], record["method"], float(record["epsilon"])): record
        for record in records
        if plan is None or record["plan"] == vars(plan)
    }


def _records(lines: Iterable[str]) -> Iterable[Record]:
    for line in filter(None, lines):
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def _plain(value: object) -> object:
    """Arrays and tensors as lists, for json."""
    listed = getattr(value, "tolist", None)
    return str(value) if listed is None else listed()
