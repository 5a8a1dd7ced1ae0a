"""The comparison's pictures: accuracy against epsilon, accuracy against bytes, and the similarity graph found."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from methods.catalogue import ENTRIES, EPSILONS
from methods.cells import Cell, Record
from methods.table import summary

COUPLED = "ours_coupled"
# Okabe and Ito's palette, told apart with any colour vision; ours in warm colours, thick, on top.
_NAMED = {
    "ours": "#D55E00",
    COUPLED: "#CC79A7",
    "ours_shared_noise": "#E69F00",
    "ours_sparse": "#F0C05A",
    "pooled": "#000000",
    "local": "#009E73",
    "fedavg": "#0072B2",
    "majority": "#777777",
}
_OTHERS = ("#56B4E9", "#7A9A01", "#8C6D31")
_MARKERS = ("s", "^", "v", "D", "P", "X", "<", ">", "h", "*", "p")
_REST = "each other method"
_REST_COLOUR = "#c4c4c4"
_SDK = tuple(name for name in _NAMED if name.startswith("ours"))
_DASHED = ("majority", "pooled")
_NO_UPDATES = ("majority", "local", "pooled")
"""Methods that send no updates: horizontal lines where the other axis is bytes."""

Point = tuple[float, float, float]
"""x, mean, half-width."""


@dataclass(frozen=True)
class _Look:
    """How a method is drawn; `depth`: what is larger lies on top."""

    colour: str
    marker: str
    depth: int
    line: str = "none"
    bars: bool = True

    def draw(self, axes: Axes, points: Sequence[Point], label: str) -> None:
        xs, means, halves = zip(*points, strict=True)
        bold = self.depth > 2
        axes.errorbar(
            xs,
            means,
            yerr=[0.0 if math.isnan(half) else half for half in halves] if self.bars else None,
            color=self.colour,
            marker=self.marker,
            linestyle=self.line,
            markersize=7 if bold else 4.5,
            linewidth=2.4 if bold else 1.1,
            elinewidth=1.4 if bold else 0.8,
            capsize=2,
            label=label,
            zorder=2 + self.depth,
        )


def draw_all(results: Mapping[Cell, Record], folder: Path) -> list[Path]:
    """The pictures that `results` are enough for, as PNG in `folder`; their paths."""
    mpl.use("agg")
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {
        folder / "methods-epsilon.png": against_epsilon(results),
        folder / "methods-bytes.png": against_bytes(results),
        folder / "methods-similarity.png": similarity(results),
    }
    for path, figure in drawn.items():
        if figure is not None:
            figure.savefig(path, dpi=110)
            plt.close(figure)
    return [path for path, figure in drawn.items() if figure is not None]


def against_epsilon(results: Mapping[Cell, Record]) -> Figure | None:
    """Balanced accuracy against epsilon, a panel for each data set with at least two epsilons."""
    curves: dict[str, dict[str, dict[int, Point]]] = {}
    for cell, record in results.items():
        if cell.epsilon in EPSILONS:
            place = EPSILONS.index(cell.epsilon)
            point = (float(place), *summary(record)["balanced_accuracy"])
            curves.setdefault(cell.task, {}).setdefault(cell.method, {})[place] = point
    tasks = [task for task in ENTRIES if any(len(points) > 1 for points in curves.get(task, {}).values())]
    if not tasks:
        return None
    figure, panels = _panels(tasks)
    for axes, task in zip(panels, tasks, strict=True):
        for method, points in curves[task].items():
            _curve(method).draw(axes, _with_gaps(points), method if method in _NAMED else _REST)
        axes.set_xticks(range(len(EPSILONS)), [("\u221e" if math.isinf(e) else f"{e:g}") for e in EPSILONS])
        axes.set_xlabel("epsilon", fontsize=8)
    return _finished(figure, panels)


def against_bytes(results: Mapping[Cell, Record]) -> Figure | None:
    """Balanced accuracy against bytes of the whole run, a panel for each data set at its first epsilon of the page."""
    chosen: dict[str, dict[str, Record]] = {}
    for cell, record in results.items():
        if cell.epsilon == ENTRIES[cell.task].page[0]:
            chosen.setdefault(cell.task, {})[cell.method] = record
    tasks = [task for task in ENTRIES if not chosen.get(task, {}).keys() <= {*_NO_UPDATES}]
    if not tasks:
        return None
    figure, panels = _panels(tasks)
    looks = _scattered(cell.method for cell in results)
    for axes, task in zip(panels, tasks, strict=True):
        for method, record in chosen[task].items():
            columns = summary(record)
            (count, _), (mean, half) = columns["bytes"], columns["balanced_accuracy"]
            if method in _NO_UPDATES:
                axes.axhline(mean, color=_NAMED[method], linestyle=(0, (4, 3)), linewidth=1, label=method, zorder=1)
            else:
                looks[method].draw(axes, [(count, mean, half)], method)
        _bytes_axis(axes)
        axes.set_xlabel(f"bytes, all hospitals, both ways ({_at(ENTRIES[task].page[0])})", fontsize=8)
    return _finished(figure, panels)


def _bytes_axis(axes: Axes) -> None:
    """A log axis whose few labels name units; within two decades 2 and 5 are labelled too."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 100 * low else (1.0, 2.0, 5.0), numticks=6))
    axes.xaxis.set_major_formatter(EngFormatter("B"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def similarity(results: Mapping[Cell, Record]) -> Figure | None:
    """The cosines that our method found between hospitals whose clusters are known, for the first seed.

    facts["similarity"] is {hospital: {other: cosine}}, empty where nothing was compared; facts["edges"], where there,
    are the pairs [hospital, other] that were coupled: dots.
    """
    found = [
        (cell, record)
        for cell, record in results.items()
        if record["clusters"] and cell.method == COUPLED and cell.epsilon in ENTRIES[cell.task].page
    ]
    found = [(cell, record) for cell, record in found if any(record["runs"][0]["facts"].get("similarity", {}).values())]
    if not found:
        return None
    found.sort(key=lambda item: (list(ENTRIES).index(item[0].task), item[0].epsilon))
    figure, grid = plt.subplots(
        1, len(found), figsize=(3.3 * len(found) + 0.8, 3.7), layout="constrained", squeeze=False
    )
    for axes, (cell, record) in zip(grid[0], found, strict=True):
        image = _heat_map(axes, record["clusters"], record["runs"][0]["facts"])
        axes.set_title(f"{ENTRIES[cell.task].title},\n{_at(cell.epsilon)}", fontsize=9)
    figure.colorbar(image, ax=grid[0], shrink=0.75, label="cosine (dots: coupled)")
    return figure


def _with_gaps(points: Mapping[int, Point]) -> list[Point]:
    """In order, with no value where an epsilon was not run: no line leads across it."""
    return [points.get(place, (float(place), math.nan, math.nan)) for place in range(min(points), max(points) + 1)]


def _heat_map(axes: Axes, clusters: Mapping[str, int], facts: Mapping[str, object]) -> AxesImage:
    names = sorted(clusters, key=lambda name: (clusters[name], name))
    cosines, edges = facts["similarity"], facts.get("edges", [])
    if not isinstance(cosines, Mapping) or not isinstance(edges, list):
        raise ValueError('facts: "similarity" must be {hospital: {other: cosine}} and "edges" a list of pairs')
    table = [[1.0 if a == b else cosines.get(a, {}).get(b) for b in names] for a in names]
    values = np.array(table, dtype=np.float64)
    image = axes.imshow(np.clip(values, -1, 1), cmap="PuOr", vmin=-1, vmax=1)
    for a, b in edges:
        axes.plot(names.index(b), names.index(a), "o", color="black", markeredgecolor="white", markersize=5)
    cut = sum(clusters[name] == clusters[names[0]] for name in names) - 0.5
    axes.axhline(cut, color="black", linewidth=1.2)
    axes.axvline(cut, color="black", linewidth=1.2)
    axes.set_xticks([(cut - 0.5) / 2, (cut + len(names) - 0.5) / 2], ["cluster 0", "cluster 1"], fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.tick_params(length=0)
    return image


def _panels(tasks: Sequence[str]) -> tuple[Figure, list[Axes]]:
    columns = min(3, len(tasks))
    rows = math.ceil(len(tasks) / columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(3.6 * columns + 1.4, 2.9 * rows), layout="constrained", squeeze=False
    )
    panels = list(grid.flat)
    for axes in panels[len(tasks) :]:
        axes.remove()
    for axes, task in zip(panels, tasks, strict=False):
        axes.set_title(ENTRIES[task].title, fontsize=9)
        axes.set_ylabel("balanced accuracy", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(which="major", linewidth=0.3, color="#dddddd")
    return figure, panels[: len(tasks)]


def _finished(figure: Figure, panels: Sequence[Axes]) -> Figure:
    """No axis beyond what accuracy can be; one legend beside all panels, named methods first."""
    for axes in panels:
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, 0.35), min(high, 1.02))
    shown = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    labels = [name for name in _NAMED if name in shown] + sorted(shown.keys() - _NAMED.keys())
    figure.legend([shown[label] for label in labels], labels, loc="outside right upper", fontsize=8, frameon=False)
    return figure


def _curve(method: str) -> _Look:
    """Ten curves can't be told apart: those of methods that aren't named are alike, and without bars."""
    if method not in _NAMED:
        return _Look(_REST_COLOUR, ".", 0, line="-", bars=False)
    if method in _DASHED:
        return _Look(_NAMED[method], ".", 1, line="--", bars=False)
    return _Look(_NAMED[method], "o", 3 if method in _SDK else 2, line="-")


def _scattered(methods: Iterable[str]) -> dict[str, _Look]:
    """A colour and a marker for each method, the same in every panel."""
    colours, markers = cycle(_OTHERS), cycle(_MARKERS)
    return {
        name: _Look(_NAMED[name], "o", 3 if name in _SDK else 2)
        if name in _NAMED
        else _Look(next(colours), next(markers), 1)
        for name in sorted(set(methods))
    }


def _at(epsilon: float) -> str:
    return "no privacy" if math.isinf(epsilon) else f"epsilon {epsilon:g}"
