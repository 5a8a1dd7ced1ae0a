"""What the difference-sparse step costs: seconds and peak memory, beside a sort of the same array.

    python benchmarks/difference.py [--sizes 10000,100000,1000000,10000000] [--repeats 3]

A method that is linear in the worst case takes as many nanoseconds a coordinate at every size. A ramp fills a hull
with every time; on a sawtooth hulls fill and empty; a large penalty gives long plateaus, on which methods that step
back grow quadratic. Each row has a process of its own, compiled before it is measured; the least of the repeated
times counts, since other work on the machine can only add. Peak memory is what the process gained while solving,
the result included, in sizes of the array (Linux with glibc only).
"""

import ctypes
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from securepfl.errors import SecurePFLError
from securepfl.learning.sparse.difference import difference_sparse, load_solver
from securepfl.learning.sparse.shrinking import regularise

Floats = NDArray[np.float64]

INPUTS: dict[str, Callable[[int], Floats]] = {
    "random": lambda d: np.random.default_rng(0).normal(size=d),
    "ramp": lambda d: np.linspace(-1.0, 1.0, d),
    "sawtooth": lambda d: np.linspace(-1.0, 1.0, d) + np.arange(d) % int(d**0.5) / d**0.5,
}
# In root mean squares of the input; sums of random values are as large as the second.
STRENGTHS: dict[str, Callable[[int], float]] = {"1": lambda _: 1.0, "sqrt(d)/4": lambda d: d**0.5 / 4}


def measure(name: str, strength: str, size: int, repeats: int) -> tuple[float, float, float | None]:
    """Least seconds of the step and of a sort, and peak memory in sizes of the array."""
    g = INPUTS[name](size)
    regularise(g[:10], "difference", 1.0)
    gamma = STRENGTHS[strength](size) * float(np.sqrt(np.mean(np.square(g))))
    before = reset_peak()
    difference_sparse(g, gamma)
    memory = None if before is None else (status("VmHWM") - before) / g.nbytes
    steps, sorts = [], []
    for _ in range(repeats):
        steps.append(seconds(lambda: difference_sparse(g, gamma)))
        sorts.append(seconds(lambda: np.sort(g)))
    return min(steps), min(sorts), memory


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    before = time.perf_counter()
    work()
    return time.perf_counter() - before


def reset_peak() -> int | None:
    """Sets the process's peak memory to what it holds now, bytes; None where the system has no such thing."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # else what was freed before is used again and not seen
        Path("/proc/self/clear_refs").write_text("5")
        return status("VmRSS")
    except (OSError, AttributeError):
        return None


def status(field: str) -> int:
    """A figure of this process that Linux gives in kB, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


@click.command()
@click.option("--sizes", default="10000,100000,1000000,10000000", show_default=True, help="Coordinates, with commas.")
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True)
def main(sizes: str, repeats: int) -> None:
    """Measure all cells and print the table."""
    load_solver()
    headings = ("input", "strength", "coordinates", "seconds", "ns each", "of a sort", "peak memory")
    table = Table()
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("input", "strength") else "right")
    for name in INPUTS:
        for strength in STRENGTHS:
            for size in map(int, sizes.split(",")):
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    step, sort, memory = pool.apply(measure, (name, strength, size, repeats))
                peak = "unknown" if memory is None else f"{memory:.1f} x"
                figures = f"{step:.4f}", f"{1e9 * step / size:.0f}", f"{step / sort:.1f} x"
                table.add_row(name, strength, f"{size:,}", *figures, peak)
            table.add_section()
    Console(width=120).print(table)


if __name__ == "__main__":
    try:
        main()
    except SecurePFLError as error:
        raise SystemExit(f"difference: {error}") from None
