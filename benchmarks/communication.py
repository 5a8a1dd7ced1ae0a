"""Encrypted against plaintext communication over sizes, densities and rosters: tables, a plot, the figures as JSON.

    python benchmarks/communication.py [--out DIR] [--sizes 10000,100000,1000000] [--densities 1,0.1,0.01]
        [--hospitals 16] [--rosters 5,16,50,100] [--bits 8]

Sizes and densities run at `--hospitals`; rosters run at the smallest size and density 1. Every contribution is really
made and added; what sends every parameter (CKKS, float32) is run once for all densities. 10 million parameters take
minutes under CKKS. It needs matplotlib: pip install -c constraints.txt -e '.[bench]'.
"""

import json
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import click

try:
    import matplotlib as mpl
except ModuleNotFoundError:
    raise SystemExit("matplotlib is missing; run: .venv/bin/pip install -c constraints.txt -e '.[bench]'") from None
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from rich.console import Console

from securepfl.bench.case import Case
from securepfl.bench.measure import print_tables, sweep, total_seconds

Results = list[tuple[Case, dict[str, Any]]]
Points = dict[str, list[tuple[int, float]]]


def _numbers(_: click.Context, option: click.Parameter, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no list of numbers with commas between", param=option) from error


_STYLES = {
    "tenseal": ("o", "C0", "-"),
    "tenseal-masked": ("s", "C0", ":"),
    "lean": ("h", "C6", "-"),
    "bfv-vector": ("<", "C5", "-"),
    "ckks": ("^", "C3", "-"),
    "ckks-seeded": ("v", "C1", "-"),
    "ckks-dot": ("^", "C3", "-"),
    "pad": ("D", "C2", "--"),
    "none": ("X", "C4", "--"),
    "float32": ("P", "black", "-"),
    "float32-sparse": ("*", "grey", "-"),
    "products": ("o", "C0", "-"),
    "unchecked": ("s", "C0", ":"),
    "unhidden": ("d", "C5", ":"),
    "pads": ("h", "C6", "-"),
}
"""Marker, colour and line, the same in every panel; of similarity, as of the scheme that uses it."""


def _draw(axes: Axes, points: Points, x: str, y: str) -> None:
    for scheme, pairs in points.items():
        marker, colour, line = _STYLES[scheme]
        xs, ys = zip(*sorted(pairs), strict=True)
        axes.loglog(xs, ys, marker=marker, color=colour, linestyle=line, markersize=5, linewidth=1.2, label=scheme)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(which="major", linewidth=0.4)
    axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))


def _points(results: Results, part: str, x: str, y: Any) -> Points:
    points: Points = {}
    for case, result in results:
        for row in result[part]:
            points.setdefault(row["scheme"], []).append((getattr(case, x), y(row)))
    return points


def plot(by_size: Results, by_roster: Results, path: Path) -> None:
    """Log-log: for each density bytes up and seconds against size, then similarity against the roster."""
    densities = sorted({case.density for case, _ in by_size}, reverse=True)
    figure, grid = plt.subplots(len(densities) + 1, 2, figsize=(13, 3.4 * (len(densities) + 1)), layout="constrained")
    for (left, right), density in zip(grid, densities, strict=False):
        chosen = [(case, result) for case, result in by_size if case.density == density]
        at = f"at density {density:g}"
        uploads = _points(chosen, "aggregation", "size", lambda row: row["upload_bytes"])
        _draw(left, uploads, "parameters", f"bytes up a hospital, {at}")
        _draw(
            right, _points(chosen, "aggregation", "size", total_seconds), "parameters", f"encrypt to decrypt (s), {at}"
        )
    left, right = grid[-1]
    downloads = _points(by_roster, "aggregation", "hospitals", lambda row: row["download_bytes"])
    _draw(left, downloads, "hospitals", f"bytes down, {by_roster[0][0].size:,} parameters")
    seconds = _points(by_roster, "similarity", "hospitals", lambda row: sum(row["seconds"].values()))
    _draw(right, seconds, "hospitals", "similarity, all rows (s)")
    figure.savefig(path, dpi=130)


def _run(console: Console, cases: list[Case]) -> Results:
    results = []
    for case, result in sweep(cases):
        print_tables(console, case, result)
        results.append((case, result))
    return results


@click.command()
@click.option("--sizes", default="10000,100000,1000000", callback=_numbers, show_default=True)
@click.option("--densities", default="1,0.1,0.01", callback=_numbers, show_default=True)
@click.option("--rosters", default="5,16,50,100", callback=_numbers, show_default=True)
@click.option("--hospitals", default=16, show_default=True)
@click.option("--bits", default=8, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True)
def main(
    sizes: list[float], densities: list[float], rosters: list[float], hospitals: int, bits: int, out: Path
) -> None:
    """Run the sweeps, print the tables, write communication.json and communication.png."""
    mpl.use("agg")
    out.mkdir(parents=True, exist_ok=True)
    console = Console(width=160)
    by_size = _run(console, [Case(int(size), hospitals, bits, density) for density, size in product(densities, sizes)])
    by_roster = _run(console, [Case(int(min(sizes)), int(roster), bits, 1.0) for roster in rosters])
    lines = [{"case": asdict(case)} | result for case, result in by_size + by_roster]
    (out / "communication.json").write_text(json.dumps(lines, indent=1) + "\n")
    plot(by_size, by_roster, out / "communication.png")


if __name__ == "__main__":
    main()
