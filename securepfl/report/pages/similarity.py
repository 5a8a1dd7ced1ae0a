"""Who is like whom, drawn, and who was drawn to whom."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from securepfl.report.coupling import COUPLING_HEADINGS, coupling_rows
from securepfl.report.outcome import SIGNAL_NOTE, signal_text
from securepfl.report.pages.blocks import Block, Figure, Figures, Section, Table, Text
from securepfl.report.pages.drawing import INK, MODEL_COLOURS, MUTED, WIDTH, drawing, short
from securepfl.report.pages.reading import Run

_HEIGHT: Final = 250.0
_MOST: Final = 24
_MOST_COLUMNS: Final = 40
_NEAREST: Final = 3
_Pairs = dict[tuple[int, int], float]


def similarity_section(run: Run, key: str) -> Section | None:
    """None where hospitals were not compared."""
    sites = run.result.sites
    if all(site.signal is None for site in sites.values()):
        return None
    names = list(sites) if not run.alone else _own(run)
    rows = {name: sites[name].similarity for name in sites}
    coupled = {(name, other) for name in sites for other in sites[name].neighbours}
    blocks: list[Block] = []
    if len(names) > _MOST:
        blocks.append(Text(f"{len(names)} hospitals are too many to draw; the table has them."))
    elif any(rows.values()):
        blocks.append(Figures((_graph(f"{key}-graph", names, rows, coupled),)))
    else:
        blocks.append(Text("No hospital's signal stood out of its noise far enough to be compared."))
    table = _matrix(run, names, key) if len(names) <= _MOST_COLUMNS else _nearest(run, key)
    blocks += [table, Text(f"{SIGNAL_NOTE[0].upper()}{SIGNAL_NOTE[1:]}.", small=True)]
    if pulled := coupling_rows(dict(run.raw) | {"coupling_rounds": run.result.coupling_rounds}):
        drawn = tuple(map(tuple, pulled))
        blocks.append(
            Table(
                "Coupling of personal parameters",
                COUPLING_HEADINGS,
                drawn,
                name="coupling.csv",
                words=True,
                key=f"{key}pull",
            )
        )
    return Section(f"{key}similarity", "Who is like whom", tuple(blocks))


def _own(run: Run) -> list[str]:
    """Of one hospital: itself, and those that it compared itself with."""
    (name, site), *_ = run.result.sites.items()
    return [name, *site.similarity]


def _graph(
    key: str, names: Sequence[str], rows: Mapping[str, Mapping[str, float]], coupled: set[tuple[str, str]]
) -> Figure:
    pairs = _pairs(names, rows)
    order = _seriated(len(names), pairs)
    angles = {place: 2 * np.pi * number / len(names) + np.pi / 2 for number, place in enumerate(order)}
    at = {place: np.array([np.cos(angle), np.sin(angle)]) for place, angle in angles.items()}
    with drawing(_HEIGHT) as page:
        axes = page.axes(0, 0, WIDTH, _HEIGHT)
        axes.set_axis_off()
        axes.set(xlim=(-2.1, 2.1), ylim=(-1.4, 1.4))
        for (one, other), found in sorted(pairs.items(), key=lambda pair: pair[1]):
            cosine = min(1.0, found)  # what noise is taken off may end above
            if cosine > 0:
                line = np.stack([at[one], at[other]])
                axes.plot(*line.T, color=MUTED, linewidth=0.5 + 3.5 * cosine, alpha=0.15 + 0.35 * cosine)
        for tail, head in sorted(coupled):
            if tail in names and head in names:
                _arrow(axes, at[names.index(tail)], at[names.index(head)])
        for place, name in enumerate(names):
            _node(axes, at[place], name)
        told = [f"{names[a]} and {names[b]} {cosine:+.2f}" for (a, b), cosine in pairs.items()]
        drawn = f" Drawn to each other at the end: {_told(coupled)}." if coupled else " Nobody is drawn to anybody."
        return Figure(
            page.svg(key, "Similarity of hospitals", f"Cosines: {', '.join(told)}.{drawn}"),
            "Grey: cosine above 0, wider where hospitals are more alike. Blue arrows: whom a hospital is drawn to at "
            "the end. Hospitals that are alike stand beside each other.",
        )


def _told(coupled: set[tuple[str, str]]) -> str:
    return ", ".join(f"{one} to {other}" for one, other in sorted(coupled))


def _pairs(names: Sequence[str], rows: Mapping[str, Mapping[str, float]]) -> _Pairs:
    """Cosines by pair of places; the mean where both have the other."""
    place = {name: number for number, name in enumerate(names)}
    found: dict[tuple[int, int], list[float]] = {}
    for name, row in rows.items():
        for other, cosine in row.items():
            if name in place and other in place and name != other:
                one, two = sorted((place[name], place[other]))
                found.setdefault((one, two), []).append(cosine)
    return {pair: float(np.mean(values)) for pair, values in found.items()}


def _seriated(count: int, pairs: _Pairs) -> list[int]:
    """Places in an order in which those that are alike stand together: along the graph's slowest vector (Fiedler)."""
    weights: NDArray[np.float64] = np.zeros((count, count))
    for (one, other), cosine in pairs.items():
        weights[one, other] = weights[other, one] = max(0.0, cosine)
    vectors = np.linalg.eigh(np.diag(weights.sum(axis=0) + 1e-9) - weights)[1]
    return [int(place) for place in np.argsort(vectors[:, min(1, count - 1)], kind="stable")]


def _arrow(axes: Any, tail: NDArray[np.float64], head: NDArray[np.float64]) -> None:
    along = (head - tail) / max(float(np.linalg.norm(head - tail)), 1e-9)
    style = {"arrowstyle": "-|>", "color": MODEL_COLOURS["personalised"], "linewidth": 1.1, "mutation_scale": 8}
    style |= {"shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=head - 0.06 * along, xytext=tail + 0.06 * along, arrowprops=style)


def _node(axes: Any, at: NDArray[np.float64], name: str) -> None:
    axes.plot(*at, "o", color=INK, markersize=7)
    side = "left" if at[0] > 0.2 else "right" if at[0] < -0.2 else "center"
    level = "bottom" if side == "center" and at[1] > 0 else "top" if side == "center" else "center"
    axes.text(*(1.1 * at), short(name, 18 if side == "center" else 13), ha=side, va=level)


def _nearest(run: Run, key: str) -> Table:
    """Where a matrix would be too large: to whom each hospital is most similar."""
    rows = []
    for name, site in run.result.sites.items():
        nearest = sorted(site.similarity, key=site.similarity.__getitem__, reverse=True)[:_NEAREST]
        told = ", ".join(f"{other} {site.similarity[other]:+.2f}" for other in nearest)
        rows.append((name, signal_text(site.signal) or "-", told or "-"))
    headings = ("hospital", "signal / noise", "most similar to (result.json has all)")
    return Table("Nearest hospitals", headings, tuple(rows), name="similarity.csv", words=True, key=f"{key}cosines")


def _matrix(run: Run, names: Sequence[str], key: str) -> Table:
    rows = tuple(
        (
            name,
            signal_text(site.signal) or "-",
            *(f"{site.similarity[other]:+.2f}" if other in site.similarity else "-" for other in names),
        )
        for name, site in run.result.sites.items()
    )
    return Table(
        "Cosine similarity without the known noise, computed on ciphertexts; each hospital sees its own row",
        ("hospital", "signal / noise", *names),
        rows,
        name="similarity.csv",
        key=f"{key}cosines",
    )
