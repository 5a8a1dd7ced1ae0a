"""A round of the demo's federation among four hospitals: in one process, and among real processes over each engine.

    python benchmarks/machines.py [--engine https] [--engine nvflare] [--plaintext]

All runs have the same keys and seed, one after the other on the same machine; the states of each are compared with the
local run's, bit for bit. Seconds of a round are medians with quartiles, the first round left out; CPU seconds are of
all processes together. Exit 1 where a state differs.
"""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import click

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from loopback.comparing import differences
from loopback.https import Https
from loopback.local import run_locally
from loopback.measuring import Measured, measured
from loopback.nvflare import Nvflare
from loopback.processes import processes
from loopback.world import World, make_world

ENGINES: dict[str, Callable[..., Https | Nvflare]] = {"https": Https, "nvflare": Nvflare}
PATIENCE = 600.0


@dataclass(frozen=True)
class Row:
    """One engine's figures."""

    name: str
    found: Measured
    equal: str

    def text(self, local: "Row") -> str:
        low, _, high = quantiles(self.found.seconds, n=4)
        ratio = median(self.found.seconds) / median(local.found.seconds)
        return (
            f"| {self.name} | {median(self.found.seconds):.3f} ({low:.3f} to {high:.3f}) | {ratio:.2f} "
            f"| {self.found.cpu:.3f} | {self.found.bytes / 1e3:,.0f} | {self.equal} |"
        )


def locally(world: World, name: str) -> Row:
    rounds = run_locally(world)[1:]
    cpu = sum(told["cpu"] for told in rounds) / len(rounds)
    carried = sum(told["bytes"] for told in rounds) / len(rounds)
    return Row(name, Measured([told["seconds"] for told in rounds], cpu, carried), "-")


def over(engine: str, world: World, expected: World) -> Row:
    with processes(world.root / "logs") as started:
        runner = ENGINES[engine](world, started)
        runner.start_all()
        found = measured(runner, PATIENCE)
        runner.finish(PATIENCE)
    wrong = differences(world, expected)
    return Row(engine, found, "yes" if not wrong else f"no: {wrong[0]}")


def rows_of(place: Path, engines: tuple[str, ...], mark: str, settings: dict) -> list[Row]:
    world = make_world(place / "world", settings=settings)
    expected = world.copy(place / "local")
    rows = [locally(expected, f"in one process{mark}")]
    for engine in engines:
        found = over(engine, world.copy(place / engine), expected)
        rows.append(Row(f"{engine}{mark}", found.found, found.equal))
        click.echo(f"{found.name}: states equal: {found.equal}", err=True)
    return rows


@click.command()
@click.option("--engine", "engines", multiple=True, type=click.Choice(list(ENGINES)), default=list(ENGINES))
@click.option("--plaintext", is_flag=True, help="The same without encryption too, for what that costs.")
def main(engines: tuple[str, ...], plaintext: bool) -> None:
    """Run all and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        rows = rows_of(Path(folder) / "encrypted", engines, "", {})
        if plaintext:
            rows += rows_of(Path(folder) / "plaintext", engines, ", plaintext", {"encryption": {"scheme": "none"}})
    click.echo("| engine | seconds a round | x local | CPU s a round | kB a round | states equal |")
    click.echo("|---|---|---|---|---|---|")
    for row in rows:
        click.echo(row.text(rows[0]))
    sys.exit(any(row.equal.startswith("no") for row in rows))


if __name__ == "__main__":
    main()
