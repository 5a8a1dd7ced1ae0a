"""The tables of docs/imaging_results.md, from the files of `segmentation.inside` and `segmentation.outside`.

    PYTHONPATH=benchmarks python -m segmentation.pages runs/imaging/fundus_vessels [--write docs/imaging_results.md]
        [--test] [--note TEXT]

`--test` counts the declared split's test patients alone, whom no choice has seen; inside nobody else is counted.
The page holds a pair of markers for each data set and study; what stands between them is replaced.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from methods.table import replaced

from securepfl.outside.baselines import BASELINES
from segmentation import cells
from segmentation.cells import Cell
from segmentation.intervals import Estimate, Scores, estimates, joined
from segmentation.outside import BY_IMAGE
from segmentation.outside import read as read_outside
from segmentation.recipes import contestants, reference

INSIDE = ("start", "local", "FedAvg", "FedBN", "FedPer", "Ditto", "FedAvg, fine-tuned")
OUTSIDE = ("routed", *reference(contestants()["routed"].recipe), *BASELINES, BY_IMAGE)
SHARED_WAY, ROUTED, ENSEMBLE = "global", "routed", "logit ensemble"


def markers(data: str, study: str) -> tuple[str, str]:
    """Between which a study's tables stand."""
    return f"<!-- {study} {data}: begin (written by benchmarks/segmentation) -->", f"<!-- {study} {data}: end -->"


def inside_section(found: Mapping[str, Sequence[Cell]], note: str = "") -> str:
    """Means by site and over sites, HD95, and each way less FedAvg, image by image."""
    ways = [*(way for way in INSIDE if way in found), *(way for way in found if way not in INSIDE)]
    dice = {way: joined(found[way], "dice") for way in ways}
    sites = list(dict.fromkeys(dice[ways[0]].sites.tolist()))
    head = ["way", *sites, "mean of sites", "pooled", "pooled less FedAvg", "HD95, px", "CPU s a seed", "seeds"]
    rows = []
    for way in ways:
        mine, far = estimates(dice[way]), estimates(joined(found[way], "hd95"))
        less = "" if way == "FedAvg" or "FedAvg" not in dice else _less(dice[way], dice["FedAvg"])["pooled"].signed
        seconds = np.mean([cell["cpu_seconds"] for cell in found[way]])
        tail = [str(mine["mean"]), str(mine["pooled"]), less, f"{far['mean'].mean:.1f}", f"{seconds:.0f}"]
        tail.append(str(len(found[way])))
        rows.append([way, *(f"{mine[site].mean:.4f}" for site in sites), *tail])
    return "\n\n".join(filter(None, [note, _told(max(found.values(), key=len), "inside"), _table(head, rows)]))


def outside_section(found: Sequence[Cell], note: str = "", *, test: bool = False) -> str:
    """The ways, the default taken apart, its gates, and how much there was to gain."""
    ways = by_way(found, test=test)
    dice = {way: joined(cell, "dice") for way, cell in ways.items()}
    listed = [way for way in OUTSIDE if way in dice]
    parts = [
        note,
        _told(found, "outside"),
        _contest(ways, dice, listed),
        "The default recipe with one thing changed; the difference is to the default, image by image:",
        _taken_apart(dice),
        "Mean gates of the default recipe, but those of 0.00, and how many images the guard gave to the shared model:",
        _gates(found),
        "What an expert could have gained over the shared model if labels chose it (equal views and threshold), and "
        "the rank correlation between the criterion's gains and Dice's:",
        _headroom(found, dice),
    ]
    return "\n\n".join(filter(None, parts))


def by_way(found: Iterable[Cell], *, test: bool = False) -> dict[str, list[Cell]]:
    """Cells of (site, seed), each with all ways, as cells of one way and seed with all sites."""
    made: dict[tuple[str, int], Cell] = {}
    for cell in found:
        for way, scores in cell["ways"].items():
            mine = made.setdefault((way, cell["seed"]), {"way": way, "seed": cell["seed"], "sites": {}})
            mine["sites"][cell["site"]] = _tested(scores, cell["test"]) if test else scores
    ways: dict[str, list[Cell]] = {}
    for (way, _), cell in made.items():
        ways.setdefault(way, []).append(cell)
    return ways


def _tested(scores: Cell, ids: Sequence[str]) -> Cell:
    kept = [at for at, each in enumerate(scores["ids"]) if each in set(ids)]
    n = len(scores["ids"])
    return {
        name: [values[at] for at in kept] if isinstance(values, list) and len(values) == n else values
        for name, values in scores.items()
    }


def _contest(ways: Mapping[str, Sequence[Cell]], dice: Mapping[str, Scores], listed: Sequence[str]) -> str:
    sites = list(dict.fromkeys(dice[ROUTED].sites.tolist()))
    head = ["way", *sites, "mean of sites", "mean less global", "mean less logit ensemble", "HD95, px"]
    rows = []
    for way in listed:
        mine = estimates(dice[way])
        less = [
            "" if way == other else _less(dice[way], dice[other])["mean"].signed for other in (SHARED_WAY, ENSEMBLE)
        ]
        far = estimates(joined(ways[way], "hd95"))["mean"] if _has(ways[way], "hd95") else None
        row = [way, *(f"{mine[site].mean:.4f}" for site in sites), str(mine["mean"]), *less]
        rows.append([*row, "" if far is None else f"{far.mean:.1f}"])
    return _table(head, rows)


def _taken_apart(dice: Mapping[str, Scores]) -> str:
    sites = list(dict.fromkeys(dice[ROUTED].sites.tolist()))
    rows = []
    for way in contestants("all"):
        if way in dice and ":" in way:
            less = _less(dice[way], dice[ROUTED])
            rows.append([way, *(f"{less[site].mean:+.4f}" for site in sites), less["mean"].signed])
    return _table(["changed", *sites, "mean"], rows)


def _gates(found: Sequence[Cell]) -> str:
    rows = []
    for site in dict.fromkeys(cell["site"] for cell in found):
        mine = [cell["ways"][ROUTED] for cell in found if cell["site"] == site]
        names = list(dict.fromkeys(name for cell in mine for name in cell["gates"]))
        means = [f"{name} {np.mean([cell['gates'].get(name, 0.0) for cell in mine]):.2f}" for name in names]
        seen = [mean for mean in means if not mean.endswith(" 0.00")]
        rows.append([site, ", ".join(seen), f"{100 * np.mean([cell['guarded'] for cell in mine]):.0f} %"])
    return _table(["unseen", "gates", "guarded"], rows)


def _headroom(found: Sequence[Cell], dice: Mapping[str, Scores]) -> str:
    gained = _less(dice[ROUTED], dice[SHARED_WAY])
    rows = []
    for site in dict.fromkeys(cell["site"] for cell in found):
        mine = [cell["headroom"] for cell in found if cell["site"] == site]
        best, each, rank = (
            float(np.nanmean([cell[key] for cell in mine]))
            for key in ("over global, site", "over global, image", "rank correlation")
        )
        rows.append(
            [
                site,
                f"{best:+.4f}",
                f"{each:+.4f}",
                f"{rank:.2f}",
                gained[site].signed,
                _reason(gained[site], each, rank),
            ]
        )
    return _table(["unseen", "best expert", "best by image", "rank", "routed less global", "so"], rows)


def _reason(gained: Estimate, possible: float, rank: float) -> str:
    """In words, from the figures alone."""
    if gained.low > 0:
        return "helps"
    if possible < 0.01:
        return "nothing to gain: no expert is better than the shared model"
    if rank < 0.2:
        return "experts differ, but the criterion does not tell which is better"
    return "harms" if gained.high < 0 else "not told apart from the shared model by so few images"


def _less(one: Scores, other: Scores) -> dict[str, Estimate]:
    """Under the seeds that both have."""
    return estimates(one.under(other.seeds).minus(other.under(one.seeds)))


def _has(found: Sequence[Cell], metric: str) -> bool:
    return all(metric in scores for cell in found for scores in cell["sites"].values())


def _told(found: Sequence[Cell], study: str) -> str:
    settings: Mapping[str, Any] = found[0]["settings"]
    schedule, seeds = settings["schedule"], len({cell["seed"] for cell in found})
    per = "each hospital computed" if study == "inside" else "each other hospital computed"
    chosen = " on training patients alone (for choices, not for report)" if settings["choosing"] else ""
    return (
        f"Dice, mean and 95 % interval (bootstrap over patients and {seeds} seed{'s' if seeds > 1 else ''}){chosen}; "
        f"{per} {schedule['rounds']} x {schedule['steps']} gradients of {schedule['batch']} patches of "
        f"{schedule['patch']} px; start: {settings['start'] or 'none'}."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--write", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The page to write into.")
@click.option("--test", is_flag=True, help="Outside: count test patients alone.")
@click.option("--choosing", is_flag=True, help="Show the figures that choices are made by.")
@click.option("--note", default="", help="A line that stands above each study's tables.")
def main(folder: Path, write: Path | None, *, test: bool, choosing: bool, note: str) -> None:
    """Print the tables, or write them into the page."""
    ending = "-choosing" if choosing else ""
    sections = {}
    if inside := cells.read(folder / f"inside{ending}"):
        sections["inside"] = inside_section(inside, note)
    if outside := read_outside(folder / f"outside{ending}"):
        sections["outside"] = outside_section(outside, note, test=test)
    if not sections:
        raise click.UsageError(f"{folder}: holds no finished study; run segmentation.inside or segmentation.outside")
    for study, section in sections.items():
        if write is None:
            click.echo(f"{study}\n\n{section}\n")
        else:
            write.write_text(replaced(write.read_text(), section, *markers(folder.name, study)))


if __name__ == "__main__":
    main()
