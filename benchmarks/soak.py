"""Many rounds over HTTPS among real processes: resident memory, file handles and disk of every process on the way.

    python benchmarks/soak.py [--rounds 2000] [--rows 6] [--keep FOLDER]

A tiny federation of four hospitals, seeded. A process that keeps something of each round shows: its line grows.
"""

import sys
import tempfile
import time
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from loopback.comparing import folder_bytes
from loopback.https import Https
from loopback.processes import processes, until
from loopback.world import FOUR, make_world

MARKS = (100, 500, 1000, 2000)
STALLED = 600.0


def settings_of(rounds: int, rows: int) -> dict:
    """Tiny: nothing compared, nothing coupled. Two thirds of the rows train."""
    return {
        "rounds": rounds,
        "similarity": {"every": 0},
        "coupling": {"strength": 0.0},
        "privacy": {"epsilon": 100.0},
        "sites": {name: {"units": 2 * rows * 2 // 3, "prevalence": 0.5} for name in FOUR},
    }


def report(engine: Https, number: int, began: float) -> None:
    """One line a party."""
    disk = folder_bytes(engine.world)
    click.echo(f"round {number}, {time.monotonic() - began:.0f} s")
    for name in engine.world.parties:
        used = engine.processes.usage(name)
        click.echo(
            f"  {name:18s} {used.resident / 2**20:8.1f} MiB  {used.handles:3d} handles  {used.cpu:8.1f} CPU s  "
            f"{disk[name] / 1e3:9.1f} kB on disk"
        )


@click.command()
@click.option("--rounds", default=2000, show_default=True)
@click.option("--rows", default=6, show_default=True, help="Of each class at each hospital, before the split.")
@click.option("--keep", type=click.Path(path_type=Path), help="Keep everything in this folder.")
def main(rounds: int, rows: int, keep: Path | None) -> None:
    """Run, and print at some rounds."""
    with tempfile.TemporaryDirectory() as folder:
        world = make_world((keep or Path(folder)) / "world", settings=settings_of(rounds, rows), rows=rows)
        with processes(world.root / "logs") as started:
            engine, began = Https(world, started), time.monotonic()
            engine.start_all()
            for mark in sorted({10, *(mark for mark in MARKS if mark < rounds), rounds - 1}):
                until(lambda due=mark: engine.closed() >= due, STALLED * rounds, f"round {mark}", step=0.2)
                report(engine, engine.closed(), began)
            engine.finish(STALLED)
    click.echo("the run ended everywhere")


if __name__ == "__main__":
    main()
