"""Who served: gates as JSON, and as a picture of which expert, and which zoom, had which weight where."""

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from securepfl.outside.answered import Answered
from securepfl.outside.letters import drawable, families
from securepfl.tasks.imaging import imaging

SCHEMA: Final = 1
_MOST_LINES: Final = 60
_MOST_LETTERS: Final = 36


def gates_json(answered: Answered) -> dict[str, Any]:
    """Recipe, candidates, mean gates of the site, each row's gates and scores, gates by layer, and the guard.

    Rows stand by their number, under no id: so this file may be shown to others.
    """
    found = answered.routed
    names = [str(candidate) for candidate in found.candidates]
    return {
        "schema": SCHEMA,
        "recipe": found.recipe.to_mapping(),
        "recipe_digest": found.recipe.digest,
        "candidates": [{"expert": each.expert, "zoom": each.zoom} for each in found.candidates],
        "views": list(found.recipe.views),
        "site": dict(zip(names, _plain(found.gates.mean(axis=0)), strict=True)),
        "rows": [
            {"row": int(row), "gates": _plain(gates), "scores": _plain(scores), "guarded": bool(guarded)}
            for row, gates, scores, guarded in zip(
                answered.table.rows, found.gates, found.scores, found.guarded, strict=True
            )
        ],
        "layers": {layer: _plain(np.array(gates)) for layer, gates in found.layers.items()},
        "fell_back": found.fell_back,
        "why": found.why,
        "prior": list(answered.prior),
        "shift": list(found.shift),
    }


def _plain(values: NDArray[np.float64]) -> list[float | None]:
    return [round(float(value), 6) if np.isfinite(value) else None for value in values]


def write_gates_plot(answered: Answered, path: Path) -> None:
    """Draw the gates to a PNG: the site's mean above, and below each row or image whose gates are its own, or each
    layer where gates are by layer.

    Raises ConfigError without the extra `imaging`.
    """
    with imaging("a plot of the gates"):
        from matplotlib.figure import Figure  # noqa: PLC0415 - optional
    lines, values = _drawn(answered)
    named = [str(candidate) for candidate in answered.routed.candidates][: values.shape[1]]
    columns = [name if drawable(name) else f"candidate {number}" for number, name in enumerate(named, start=1)]
    longest = max(map(len, lines))
    size = (2.2 + 0.07 * longest + 0.62 * len(columns), 1.9 + 0.25 * len(lines))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    drawn = _heat(axes, values, lines, columns)
    axes.axhline(0.5, color="white", linewidth=3)
    numbered = "" if columns == named else "\nnumbered: names that no font here can draw, in the order of gates.json"
    axes.set_title(_titled(answered) + numbered, fontsize=8, loc="left", parse_math=False)
    figure.colorbar(drawn, ax=axes, label="weight", aspect=max(6, min(40, 2 * len(lines))), pad=0.02)
    figure.savefig(path, dpi=130, metadata={"Software": None})


def _drawn(answered: Answered) -> tuple[list[str], NDArray[np.float64]]:
    """The lines' names, and what is drawn in them [lines, candidates]."""
    found = answered.routed
    mean = found.gates.mean(axis=0)
    if found.layers:
        layers = np.array(list(found.layers.values()))
        return ["all layers", *map(_short, found.layers)], np.vstack([layers.mean(axis=0), layers])
    if not np.ptp(found.gates, axis=0).any():
        return ["site"], mean[None]
    kept, kind = np.arange(len(found.gates)), "image" if answered.images else "row"
    if len(kept) > _MOST_LINES:
        kept = np.linspace(0, len(kept) - 1, _MOST_LINES).round().astype(int)
    # Numbers, as in gates.json: a picture without ids may be shown to others.
    rows = answered.table.rows
    names = [f"{kind} {rows[place]}" + " (guard)" * bool(found.guarded[place]) for place in kept]
    return ["mean of all", *names], np.vstack([mean, found.gates[kept]])


def _short(name: str) -> str:
    return name if len(name) <= _MOST_LETTERS else f"...{name[3 - _MOST_LETTERS :]}"


def _titled(answered: Answered) -> str:
    found, count = answered.routed, len(answered.table)
    kind = "images" if answered.images else "rows"
    parted = count > _MOST_LINES and found.recipe.granularity in ("sample", "both")
    lines = [
        f"weight of each candidate, gates by {found.recipe.whose_gates}"
        + (f", {_MOST_LINES} of {count} {kind} drawn" if parted else ""),
        f"views: {', '.join(found.recipe.views)}",
        *(["guard: the shared model answered all"] if found.fell_back else []),
    ]
    return "\n".join(lines)


def _heat(axes: Any, values: NDArray[np.float64], lines: list[str], columns: list[str]) -> Any:
    drawn = axes.imshow(values, cmap="viridis", vmin=0.0, vmax=1.0, aspect="auto")
    axes.set_yticks(range(len(lines)), lines, fontsize=7, parse_math=False)
    axes.set_xticks(
        range(len(columns)), columns, fontsize=7, rotation=35, ha="right", parse_math=False, family=families()
    )
    for line, column in np.ndindex(values.shape):
        weight = float(values[line, column])
        shade = "white" if weight < 0.6 else "black"
        axes.text(column, line, f"{weight:.2f}", ha="center", va="center", fontsize=6, color=shade)
    return drawn
