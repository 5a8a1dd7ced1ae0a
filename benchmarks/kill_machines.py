"""Hub and hospitals as real processes, killed (SIGKILL) at random moments and started again: is anything lost?

    python benchmarks/kill_machines.py [--https 100] [--rounds 120] [--seed 1]

The run's noise is seeded, so that its states can be compared, bit for bit, with those of the same federation, keys and
seed in one process that nobody killed. Exit 1 where anything differs.
"""

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import click

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from loopback.comparing import differences, rounds_of, sat_out, wrong_budgets
from loopback.https import Https
from loopback.killing import Killing, https_victims, seeded, shuffled
from loopback.local import run_locally
from loopback.processes import processes
from loopback.world import HUB, World, make_world


def table(counted: Mapping[tuple[str, str], int], world: World, expected: World, rounds: int) -> list[str]:
    """The table, and what is wrong: nothing where the last four lines end in 0 and yes."""
    victims = Counter()
    for (kind, _), count in counted.items():
        victims[kind] += count
    lines = [f"| killed | {' | '.join(sorted({when for _, when in counted}))} | in all |"]
    for kind in sorted(victims):
        cells = [counted.get((kind, when), 0) for when in sorted({when for _, when in counted})]
        lines.append(f"| {kind} | {' | '.join(map(str, cells))} | {victims[kind]} |")
    short = sum(rounds - done for done in rounds_of(world).values())
    missed = sum(map(len, sat_out(world).values()))
    lines += [
        f"rounds lost: {short}, sat out: {missed}",
        *(f"budgets wrong: {line}" for line in wrong_budgets(world, rounds) or ["0"]),
        *(f"states differ: {line}" for line in differences(world, expected)[:5] or ["0"]),
    ]
    return lines


def over_https(world: World, counts: Mapping[str, int], seed: int, round_seconds: float) -> Counter:
    """Run `world` over HTTPS with so many kills of each kind."""
    with processes(world.root / "logs") as started:
        engine = Https(world, started)
        started.hurry()
        engine.start_all()
        killing = Killing(https_victims(engine), engine.closed, seeded(seed), round_seconds)
        killing.kill(shuffled(killing.draw, counts))
        engine.finish(3600)
    print(f"slowest round after a kill: {killing.slowest:.1f} s")
    return killing.counted


@click.command()
@click.option("--https", default=100, show_default=True, help="Kills over HTTPS: two fifths of them of the hub.")
@click.option("--rounds", default=120, show_default=True)
@click.option("--seed", default=1, show_default=True, help="Of the moments.")
@click.option("--keep", type=click.Path(path_type=Path), help="Keep everything in this folder.")
def main(https: int, rounds: int, seed: int, keep: Path | None) -> None:
    """Kill, compare, print."""
    with tempfile.TemporaryDirectory() as temporary:
        place = keep or Path(temporary)
        world = make_world(place / "world", settings={"rounds": rounds})
        expected, killed = world.copy(place / "unharmed"), world.copy(place / "https")
        usual, started = median(told["seconds"] for told in run_locally(expected)), time.monotonic()
        counted = over_https(killed, {HUB: 2 * https // 5, "hospital": https - 2 * https // 5}, seed, usual)
        lines = table(counted, killed, expected, rounds)
    click.echo(f"HTTPS: {https} kills, {rounds} rounds, {time.monotonic() - started:.0f} s\n" + "\n".join(lines))
    wrong = [line for line in lines if line.startswith(("budgets", "states")) and not line.endswith(": 0")]
    sys.exit(bool(wrong) or "rounds lost: 0, sat out: 0" not in lines)


if __name__ == "__main__":
    main()
