"""What a budget ledger costs: an append beside a raw fsync of as many bytes on the same disk, and verification.

    python benchmarks/ledger.py [--folder FOLDER] [--lines 10000]

Each round reserves and settles. A raw write and an append alternate, so both meet the same disk. With Poisson
sampling every round has a new composition, whose epsilon no closed form gives. The process that verifies starts with
empty caches, as an auditor's does.
"""

import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from securepfl.crypto.keys.identity import Identity
from securepfl.crypto.keys.signing import LedgerSigner
from securepfl.privacy.accounting.events import AnyRelease, Release, SharedRelease
from securepfl.privacy.ledger.ledger import Budget, Ledger, Terms
from securepfl.privacy.ledger.summary import verify_ledger


def gaussian(noise: float, rate: float) -> Release:
    return Release(noise_multiplier=noise, sample_rate=rate, steps=20)


def shared(scale: int) -> SharedRelease:
    return SharedRelease(scale=scale, sensitivity=100.0, shares=100, dimension=10**6, tail=1e-18, steps=20)


RELEASES: dict[str, Callable[[int], AnyRelease]] = {
    "full batch": lambda number: gaussian(400.0, 1.0),
    "full batch, each other noise": lambda number: gaussian(400.0 + number, 1.0),
    "Poisson, rate 0.1": lambda number: gaussian(40.0, 0.1),
    "Poisson, rate 0.01": lambda number: gaussian(4.0, 0.01),
    "Poisson, each other noise": lambda number: gaussian(40.0 + number / 100, 0.1),
    "shared noise": lambda number: shared(4000),
    "shared noise, each other scale": lambda number: shared(4000 + number),
}


def append_times(
    path: Path, release_of: Callable[[int], AnyRelease], rounds: int, signer: LedgerSigner
) -> tuple[list[float], list[float]]:
    """Seconds of each append of a new ledger at `path`, and of each raw write with fsync of as many bytes."""
    appends, raws = [], []
    terms = Terms("a", "b", Budget(1000, 1e-5), simulation=True, seeded=False)
    raw = os.open(path.with_suffix(".raw"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with Ledger.open(path, terms, signer) as ledger:
        for number in range(rounds):
            size, release = path.stat().st_size, release_of(number)
            before = time.perf_counter()
            id_ = ledger.reserve(release, federation="ab" * 32, round=number, attempt=0)
            middle = time.perf_counter()
            ledger.settle(id_, release)
            appends += [middle - before, time.perf_counter() - middle]
            payload = bytes((path.stat().st_size - size) // 2)
            for _ in range(2):
                before = time.perf_counter()
                os.write(raw, payload)
                os.fsync(raw)
                raws.append(time.perf_counter() - before)
    os.close(raw)
    return appends, raws


def verify_seconds(path: Path, signer: LedgerSigner) -> float:
    """Seconds to verify `path`, in a process that has computed nothing before."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_verify, (path, signer.public_key))


def _verify(path: Path, public_key: bytes) -> float:
    signer = LedgerSigner(Identity.generate("auditor"), trusting=True)
    before = time.perf_counter()
    summary = verify_ledger(path, signer.verify)
    seconds = time.perf_counter() - before
    assert summary.public_keys == (public_key,)  # noqa: S101
    return seconds


@click.command()
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="On the disk to measure.")
@click.option("--lines", type=click.IntRange(min=10), default=10_000)
def main(folder: Path | None, lines: int) -> None:
    """Measure and print a table."""
    table = Table("releases", "append ms", "p95", "raw fsync ms", "ratio", f"verify {lines:,} lines s")
    signer = LedgerSigner(Identity.generate("hospital"), trusting=True)
    for name, release_of in RELEASES.items():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            path = Path(scratch) / "ledger.jsonl"
            appends, raws = append_times(path, release_of, lines // 2, signer)
            append, raw = statistics.median(appends), statistics.median(raws)
            late = statistics.quantiles(appends, n=20)[-1]
            figures = (1e3 * append, 1e3 * late, 1e3 * raw, append / raw, verify_seconds(path, signer))
            table.add_row(name, *(f"{figure:.2f}" for figure in figures))
    Console().print(table)


if __name__ == "__main__":
    main()
