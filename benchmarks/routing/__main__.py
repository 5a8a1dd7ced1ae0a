"""Run the worlds under several seeds, and write their table.

    PYTHONPATH=benchmarks python -m routing [WORLD ...] [--data ../shared/data] [--start FILE] [--seeds 5]
        [--out runs/routing] [--write docs/results/routing.md]

Finished seeds are files of OUT/WORLD and aren't run again. Without --data, worlds of patients are left out.
"""

import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from methods.table import replaced
from scipy import stats

from routing import pictures, rows
from routing.compared import CEILING, ROUTED, compared
from routing.federated import experts
from routing.world import Worlds

Cell = Mapping[str, Any]
FINETUNING = 60
MARKERS = ("<!-- routing: begin (written by benchmarks/routing) -->", "<!-- routing: end -->")
TITLES: Mapping[str, str] = {
    "constructed": "constructed separable shift, table (simulated)",
    "cameras": "made-up fundus cameras, an unseen mixture of two (simulated)",
    "digits-known": "digits under six simulated scanners, unseen one of a known make (simulated scanners)",
    "digits-own": "digits under six simulated scanners, unseen one of a make of its own (simulated scanners)",
    "xrays-known": "chest X-rays under six simulated scanners, unseen one of a known make (simulated scanners)",
    "xrays-own": "chest X-rays under six simulated scanners, unseen one of a make of its own (simulated scanners)",
    "biopsies": "breast biopsies, each of four simulated hospitals left out",
    "hearts": "heart disease, each of four real hospitals left out",
}


def worlds_of(name: str, data: Path | None, start: Path | None) -> Worlds | None:
    """The world of that name, by seed; None where its data isn't given."""
    kinds: Mapping[str, Worlds | None] = {
        "constructed": rows.constructed,
        "biopsies": rows.biopsies,
        "cameras": partial(pictures.cameras, start),
        "digits-known": partial(pictures.xrays, None, known=True),
        "digits-own": partial(pictures.xrays, None, known=False),
        "xrays-known": None if data is None else partial(pictures.xrays, data, known=True),
        "xrays-own": None if data is None else partial(pictures.xrays, data, known=False),
        "hearts": None if data is None else partial(rows.hearts, data),
    }
    return kinds[name]


def run(name: str, made: Worlds, seed: int, out: Path, finetuning: int = FINETUNING) -> str:
    """Train, route, write; what to print."""
    path = out / name / f"s{seed}.json"
    if path.exists():
        return f"{name}, seed {seed}: is finished"
    began = time.monotonic()
    found = {site: compared(world, experts(world, seed, finetuning)).to_mapping() for site, world in made(seed).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"seed": seed, "sites": found}))
    part.replace(path)
    scores = _means({"seed": seed, "sites": found})
    told = ", ".join(f"{way} {value:.3f}" for way, value in scores.items())
    return f"{name}, seed {seed}: {told} ({time.monotonic() - began:.0f} s)"


def read(out: Path) -> dict[str, list[Cell]]:
    """Finished seeds by world."""
    found = {name: [json.loads(path.read_text()) for path in sorted((out / name).glob("s*.json"))] for name in TITLES}
    return {name: cells for name, cells in found.items() if cells}


def section(found: Mapping[str, Sequence[Cell]]) -> str:
    """A table for each world, routed first, the ceiling last."""
    return "\n\n".join(f"**{TITLES[name].capitalize()}.**\n\n{_table(cells)}" for name, cells in found.items())


def _table(cells: Sequence[Cell]) -> str:
    means = [_means(cell) for cell in cells]
    lines = [f"| way | mean of {len(cells)} seeds | routed less it |", "| --- | --- | --- |"]
    for way in means[0]:
        values = np.array([mean[way] for mean in means])
        less = "" if way == ROUTED else interval(np.array([mean[ROUTED] for mean in means]) - values, signed=True)
        lines.append(f"| {way} | {interval(values)} | {less} |")
    return "\n".join(lines) + "\n\n" + _served(cells)


def _served(cells: Sequence[Cell]) -> str:
    sites = [site for cell in cells for site in cell["sites"].values()]
    right = [site["right"] for site in sites if site["right"] is not None]
    guarded = f"guard: {100 * np.mean([site['guarded'] for site in sites]):.0f} % of rows answered by the shared model"
    share = f"gate on the right expert {np.mean(right):.2f} (least of a seed {np.min(right):.2f}); " if right else ""
    return f"{share[:1].upper()}{share[1:]}{guarded if share else guarded.capitalize()}. {_verdict(cells)}"


def _verdict(cells: Sequence[Cell]) -> str:
    """In words, from the figures alone."""
    means = [_means(cell) for cell in cells]
    mine = np.array([mean[ROUTED] for mean in means])
    less = {way: mine - np.array([mean[way] for mean in means]) for way in means[0] if way not in (ROUTED, CEILING)}
    lows = {way: float(values.mean()) - _half(values) for way, values in less.items()}
    if all(low > 0 for low in lows.values()):
        return "Routing beats every baseline, each lower bound above 0."
    best = max(less, key=lambda way: float(np.mean([mean[way] for mean in means])))
    beaten = [way for way, low in lows.items() if low > 0]
    told = f"Lower bound above 0 over {', '.join(beaten)}. " if beaten else ""
    if float(less[best].mean()) > 0:
        return f"{told}Above every baseline in the mean, but seeds are too few or too different to tell from all."
    possible = float(np.mean([mean[CEILING] - mean["global"] for mean in means]))
    if possible < 0.01:
        return f"{told}No expert is better than the shared model by a hundredth: there is nothing to gain."
    return f"{told}No better than {best}; an expert chosen by labels would gain {possible:.3f} over the shared model."


def _means(cell: Cell) -> dict[str, float]:
    """By way, over the sites left out."""
    sites = [site["scores"] for site in cell["sites"].values()]
    return {way: float(np.mean([scores[way] for scores in sites])) for way in sites[0]}


def interval(values: np.ndarray[Any, Any], *, signed: bool = False) -> str:
    """Mean and the 95 % interval over seeds (t).

    >>> interval(np.array([0.5, 0.5]))
    '0.5000 +- 0.0000'
    """
    mean = f"{values.mean():+.4f}" if signed else f"{values.mean():.4f}"
    return f"{mean} +- {_half(values):.4f}"


def _half(values: np.ndarray[Any, Any]) -> float:
    if len(values) < 2:
        return float("nan")
    return float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(TITLES)), metavar="[WORLD]...")
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Holds the real data sets.")
@click.option("--start", type=click.Path(exists=True, path_type=Path), help="File of `securepfl start fundus-vessels`.")
@click.option("--seeds", default=5, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/routing"), show_default=True)
@click.option(
    "--write", "page", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Page to write into."
)
def main(names: Sequence[str], data: Path | None, start: Path | None, seeds: int, out: Path, page: Path | None) -> None:
    """Run the worlds; print their tables, or write them into the page."""
    torch.set_num_threads(1)
    for name in names or TITLES:
        made = worlds_of(name, data, start)
        if made is None:
            click.echo(f"{name}: left out; it needs --data")
            continue
        for seed in range(seeds):
            click.echo(run(name, made, seed, out))
    made_section = section(read(out))
    if page is None:
        click.echo(made_section)
    else:
        page.write_text(replaced(page.read_text(), made_section, *MARKERS))


if __name__ == "__main__":
    main()
