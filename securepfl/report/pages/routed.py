"""What `securepfl route` answered: which expert had which weight, what that came to, and pictures where there are."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from securepfl.report.pages.blocks import Block, Figure, Figures, Points, Section, Table, Text
from securepfl.report.pages.drawing import INK, MODEL_COLOURS, MUTED, SIZE, WIDTH, drawing, short
from securepfl.report.pages.pictures import pictures_of
from securepfl.report.pages.reading import Routed
from securepfl.report.pages.results import figure_text

_MOST: Final = 30
_LETTERS: Final = 24
_ROW: Final = 20.0
_MODELS: Final = ("routed", "shared", "gain")


def routed_section(answer: Routed, name: str, key: str, room: int) -> Section:
    """Of the answer called `name`: gates, metrics against the truth, and pictures of at most `room` bytes."""
    gates = {name: weight for name, weight in answer.gates["site"].items() if weight is not None}
    blocks: list[Block] = [Text(_words(answer))]
    if gates:
        blocks += [Figures((_figure(f"{key}-gates", gates, answer.gates),)), _table(gates, key)]
    if answer.result is not None:
        blocks += [_metrics(answer.result, key), Text(_caveat(answer.result), small=True)]
    else:
        blocks.append(Text("No truth was at hand, so what routing gained here is not known."))
    pictures = pictures_of(answer.pictures, room)
    if pictures:
        more = f"{len(pictures)} of {len(answer.pictures)}" if len(pictures) < len(answer.pictures) else "All"
        about = (
            f"{more} pictures. From left to right: the image, the truth where it is known, the shared model's answer, "
            "the routed one. They are patients' images: keep this page where those may lie."
        )
        blocks.append(Text(about))
        blocks += pictures
    blocks.append(Points(("For research: nobody approved this for a patient's care.",)))
    return Section(f"{key}routed", f"Unseen rows: {name}", tuple(blocks))


def _words(answer: Routed) -> str:
    gates, count = answer.gates, len(answer.gates["rows"])
    if gates["fell_back"]:
        return f"The shared model answered all {count} rows: {gates['why'].rstrip('.')}."
    return f"{count} rows were answered by a mixture of the released experts, chosen without labels."


def _figure(key: str, gates: Mapping[str, float], held: Mapping[str, Any]) -> Figure:
    drawn = sorted(gates.items(), key=lambda gate: -gate[1])[:_MOST]
    spread = _spread(list(gates), held)
    left, height = 14 + 6.6 * max(len(short(name, _LETTERS)) for name, _ in drawn), 44 + _ROW * len(drawn)
    with drawing(height) as page:
        axes = page.axes(left, 6, WIDTH - left - 40, height - 44)
        for place, (name, weight) in enumerate(drawn):
            axes.barh(place, weight, color=MODEL_COLOURS["personalised"], height=0.6, linewidth=0)
            low, high = spread.get(name, (weight, weight))
            if high - low > 1e-6:
                axes.plot([low, high], [place, place], color=INK, linewidth=1.3)
            at = {"xy": (max(weight, high), place), "xytext": (4, 0), "textcoords": "offset points"}
            axes.annotate(f"{weight:.2f}", **at, va="center", ha="left", fontsize=SIZE - 1)
        axes.set(ylim=(len(drawn) - 0.4, -0.6), xlim=(0, 1), xlabel="mean weight")
        axes.set_yticks(range(len(drawn)), [short(name, _LETTERS) for name, _ in drawn])
        axes.tick_params(axis="y", length=0, colors=MUTED)
        told = ", ".join(f"{name} {weight:.2f}" for name, weight in drawn)
        more = f" The {_MOST} largest of {len(gates)}." if len(gates) > _MOST else ""
        lines = " Lines: from the tenth to the ninetieth of 100 rows." if spread else ""
        return Figure(page.svg(key, "Weights of the experts", f"Bars: {told}."), f"Weight of each expert.{lines}{more}")


def _spread(names: list[str], held: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Between which weights four of five rows lie, where rows have gates of their own."""
    rows = [row.get("gates", []) for row in held["rows"]]
    known = [row for row in rows if len(row) == len(names) and None not in row]
    if len(known) < 2 or not np.ptp(np.array(known), axis=0).any():
        return {}
    low, high = np.quantile(np.array(known, dtype=np.float64), [0.1, 0.9], axis=0)
    return {name: (float(a), float(b)) for name, a, b in zip(names, low, high, strict=True)}


def _table(gates: Mapping[str, float], key: str) -> Table:
    rows = tuple((name, f"{weight:.3f}") for name, weight in gates.items())
    headings = ("candidate", "weight")
    return Table("Mean weight of each candidate", headings, rows, name="gates.csv", key=f"{key}gate-table")


def _metrics(result: Mapping[str, Any], key: str) -> Table:
    metrics, intervals = result["metrics"], result["intervals"]
    names = list(metrics.get("routed", {}))
    rows = tuple(
        (
            name.replace("_", " "),
            *(figure_text(metrics.get(model, {}).get(name), intervals.get(model, {}).get(name)) for model in _MODELS),
        )
        for name in names
    )
    headings = ("metric", "routed", "shared model", "routed - shared")
    return Table("Against the truth", headings, rows, name="routed.csv", key=f"{key}truth")


def _caveat(result: Mapping[str, Any]) -> str:
    over = result["intervals"].get("over", "records")
    return (
        f"{result['rows']} rows of {result['test_units']} {over}; 95 % intervals over {over}. Both models answered "
        "under the same prior and threshold."
    )
