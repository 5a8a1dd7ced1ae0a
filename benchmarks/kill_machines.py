"""Hub and hospitals as real processes, killed (SIGKILL) at random moments and started again: is anything lost?

    python benchmarks/kill_machines.py [--https 100] [--nvflare 20] [--rounds 120] [--seed 1]

The run's noise is seeded, so that its states can be compared, bit for bit, with those of the same federation, keys and
seed in one process that nobody killed. Exit 1 where anything differs.
"""

import itertools
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
from loopback.killing import Killing, https_victims, nvflare_victims, seeded, shuffled
from loopback.local import run_locally
from loopback.nvflare import Nvflare
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


def killed(engine: Https | Nvflare, killing: Killing, counts: Mapping[str, int]) -> Counter:
    """Run the engine's world with so many kills of each kind."""
    engine.start_all()
    killing.kill(shuffled(killing.draw, counts))
    engine.finish(3600)
    for kind, seconds in sorted(killing.took.items()):
        click.echo(f"seconds until a round was over after {kind}: {median(seconds):.1f}, at most {max(seconds):.1f}")
    return killing.counted


def over_https(world: World, kills: int, seed: int, round_seconds: float) -> Counter:
    """Two fifths of the kills are the hub's, the others a hospital's."""
    with processes(world.root / "logs") as started:
        engine = Https(world, started)
        started.hurry()
        killing = Killing(https_victims(engine), engine.closed, seeded(seed), round_seconds)
        return killed(engine, killing, {HUB: 2 * kills // 5, "hospital": kills - 2 * kills // 5})


def over_nvflare(world: World, kills: int, seed: int, round_seconds: float) -> Counter:
    """Each kind of process as often as another, as far as it comes out even."""
    with processes(world.root / "logs") as started:
        engine = Nvflare(world, started)
        killing = Killing(nvflare_victims(engine), engine.closed, seeded(seed), 3 * round_seconds)
        counts = Counter(kind for kind, _ in zip(itertools.cycle(killing.victims), range(kills), strict=False))
        return killed(engine, killing, counts)


ENGINES = {"HTTPS": over_https, "NVFlare": over_nvflare}


def kill_over(place: Path, name: str, kills: int, rounds: int, seed: int) -> bool:
    """One engine's run, its table printed: whether all is as in the unharmed run."""
    world = make_world(place / "world", settings={"rounds": rounds})
    expected, harmed = world.copy(place / "unharmed"), world.copy(place / "killed")
    usual, started = median(told["seconds"] for told in run_locally(expected)), time.monotonic()
    counted = ENGINES[name](harmed, kills, seed, usual)
    lines = table(counted, harmed, expected, rounds)
    click.echo(f"{name}: {kills} kills, {rounds} rounds, {time.monotonic() - started:.0f} s\n" + "\n".join(lines))
    wrong = [line for line in lines if line.startswith(("budgets", "states")) and not line.endswith(": 0")]
    return not wrong and "rounds lost: 0, sat out: 0" in lines


@click.command()
@click.option("--https", default=100, show_default=True, help="Kills over HTTPS: two fifths of them of the hub.")
@click.option("--nvflare", default=20, show_default=True, help="Kills over NVFlare, of six kinds of processes.")
@click.option("--rounds", default=120, show_default=True)
@click.option("--seed", default=1, show_default=True, help="Of the moments.")
@click.option("--keep", type=click.Path(path_type=Path), help="Keep everything in this folder.")
def main(https: int, nvflare: int, rounds: int, seed: int, keep: Path | None) -> None:
    """Kill, compare, print."""
    with tempfile.TemporaryDirectory() as temporary:
        place, asked = keep or Path(temporary), {"HTTPS": https, "NVFlare": nvflare}
        whole = [kill_over(place / name, name, kills, rounds, seed) for name, kills in asked.items() if kills]
    sys.exit(not all(whole))


if __name__ == "__main__":
    main()
