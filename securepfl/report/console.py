"""The terminal: the closing tables of a run (stdout). What is shown while it goes is in progress.py."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from securepfl.report.coupling import COUPLING_HEADINGS, coupling_rows
from securepfl.report.epsilon import alone_title, budget_text, epsilon_text
from securepfl.report.outcome import MODELS, SIGNAL_NOTE, signal_text
from securepfl.report.overall import (
    UNITS_HEADINGS,
    UNITS_NOTE,
    adjacency_note,
    interval_text,
    mean_rows,
    pooled_note,
    pooled_title,
    units_rows,
)
from securepfl.report.released import released_table
from securepfl.report.width import fits

_MOST_SIMILAR = 3
"""How many others stand in a row where there is no room for all."""


def closing_output(console: Console, result: dict[str, Any]) -> None:
    """Print the closing tables and everything that the reader must know about them; what it came to stands last."""
    metrics = tuple(result["metrics"]["shown"])
    together = _metrics_table(result, metrics)
    for table in [together] if fits(console, together) else [_metrics_table(result, (one,)) for one in metrics]:
        console.print(table)
    if metrics:
        wide = _pooled_table(result, narrow=False)
        console.print(wide if fits(console, wide) else _pooled_table(result, narrow=True))
    console.print(_units_table(result))
    console.print(_privacy_table(result))
    if any(site["signal"] is not None for site in result["sites"].values()):
        matrix = _similarity_matrix(result)
        console.print(matrix if fits(console, matrix) else _most_similar(result))
    if rows := coupling_rows(result):
        console.print(_coupling_table(rows))
    if released := result.get("released"):
        console.print(released_table(released))
    console.print(_communication(result["communication"], result["seconds"]))
    # A terminal breaks lines within words, and whoever redirects wants them whole.
    whole = not console.is_terminal
    for note in result["notes"]:
        console.print(Text(f"note: {note}"), soft_wrap=whole)
    for finding in result["verdict"]:
        console.print(Text(finding["line"], style="bold"), soft_wrap=whole)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _metrics_table(result: dict[str, Any], metrics: Sequence[str]) -> Table:
    """One table, its cells holding all of `metrics`; on a narrow terminal there is one for each."""
    names, headings = " / ".join(result["metrics"]["titles"][metric] for metric in metrics), _headings(result)
    table = Table(title=f"Test {names}", title_justify="left")
    table.add_column("hospital")
    table.add_column("train/test", justify="right")
    for model in MODELS:
        heading = headings.get(model, model)
        table.add_column(heading if len(metrics) > 1 else heading.replace(" ", "\n"), justify="right")
    for name, site in result["sites"].items():
        table.add_row(name, f"{site['train']}/{site['test']}", *_cells(site["metrics"], metrics))
    table.add_section()
    for label, (size, found) in mean_rows(result).items():
        table.add_row(label, size, *_cells(found, metrics))
    return table


def _pooled_table(result: dict[str, Any], *, narrow: bool) -> Table:
    """All metrics over all hospitals' test rows together; where it is narrow, with intervals below the figures."""
    headings, between = _headings(result), "\n" if narrow else " "
    table = Table(title=pooled_title(result), title_justify="left", caption=pooled_note(result), caption_justify="left")
    table.add_column("metric")
    for model in MODELS:
        table.add_column(headings.get(model, model).replace(" ", "\n"), justify="right")
    for metric, title in result["metrics"]["titles"].items():
        found = (_with_interval(result, model, metric, "{}\n{}" if narrow else "{} ({})") for model in MODELS)
        table.add_row(title.replace(" ", between), *found)
    return table


def _with_interval(result: dict[str, Any], model: str, metric: str, form: str) -> str:
    interval = result["intervals"]["pooled"][model][metric]
    shown = _number(result["pooled"][model][metric])
    # The majority's needs none, and would take the room.
    return shown if interval is None or model == "majority" else form.format(shown, interval_text(interval))


def _headings(result: dict[str, Any]) -> dict[str, str]:
    """Of the models whose name does not say what they are."""
    return {"local": alone_title(result), "majority": result["metrics"]["majority"]}


def _cells(found: Mapping[str, Mapping[str, float | None]], metrics: Sequence[str]) -> list[str]:
    return [" / ".join(_number(found[model][metric]) for metric in metrics) for model in MODELS]


def _units_table(result: dict[str, Any]) -> Table:
    unit = next(iter(result["sites"].values()))["privacy"]["unit"]
    table = Table(title=f"Training {unit}s", title_justify="left", caption=UNITS_NOTE, caption_justify="left")
    table.add_column("hospital")
    for heading in UNITS_HEADINGS:
        table.add_column(heading, justify="right")
    for name, cells in units_rows(result).items():
        table.add_row(name, *cells)
    return table


def _privacy_table(result: dict[str, Any]) -> Table:
    table = Table(
        title="Privacy, over everything released from each hospital's data",
        title_justify="left",
        caption=adjacency_note(result),
        caption_justify="left",
    )
    headings = ("epsilon\nleft out", "epsilon\nswapped", "delta", "unit", "budget", "rounds\nsat out")
    for heading in ("hospital", *headings):
        table.add_column(heading, justify="left" if heading in ("hospital", "unit") else "right")
    for name, site in result["sites"].items():
        privacy = site["privacy"]
        table.add_row(
            name,
            epsilon_text(privacy["epsilon"]),
            epsilon_text(privacy["epsilon_replace_one"]),
            f"{privacy['delta']:g}",
            privacy["unit"],
            budget_text(privacy["budget"]),
            str(len(site["sat_out"]) or "none"),
        )
    return table


def _similarity_table(result: dict[str, Any]) -> Table:
    table = Table(
        title="Cosine similarity without the known noise, computed on ciphertexts (each hospital sees its own row)",
        title_justify="left",
        caption=SIGNAL_NOTE,
        caption_justify="left",
    )
    table.add_column("hospital")
    table.add_column("signal\n/ noise", justify="right")
    return table


def _similarity_matrix(result: dict[str, Any]) -> Table:
    """Everybody beside everybody."""
    table, names = _similarity_table(result), list(result["sites"])
    for name in names:
        table.add_column(name, justify="right")
    for name, site in result["sites"].items():
        row = site["similarity"]
        cells = (f"{row[other]:+.2f}" if other in row else "" for other in names)
        table.add_row(name, signal_text(site["signal"]), *cells)
    return table


def _most_similar(result: dict[str, Any]) -> Table:
    """Where there is no room for everybody: to whom each hospital is most similar."""
    table = _similarity_table(result)
    table.add_column("most similar to (result.json has all)")
    for name, site in result["sites"].items():
        table.add_row(name, signal_text(site["signal"]), _nearest(site["similarity"]))
    return table


def _nearest(row: Mapping[str, float]) -> str:
    nearest = sorted(row, key=row.__getitem__, reverse=True)[:_MOST_SIMILAR]
    return ", ".join(f"{name} {row[name]:+.2f}" for name in nearest)


def _coupling_table(rows: list[list[str]]) -> Table:
    table = Table(*COUPLING_HEADINGS, title="Coupling of personal parameters", title_justify="left")
    for row in rows:
        table.add_row(*row)
    return table


def _communication(communication: dict[str, Any], seconds: dict[str, float]) -> Table:
    table = Table(
        title="Communication and time, all hospitals and rounds",
        title_justify="left",
        show_header=False,
        box=None,
    )
    for way in ("upload", "download"):
        sent, dense = communication[f"{way}_bytes"], communication[f"float32_{way}_bytes"]
        table.add_row(f"{way}", f"{sent:,} bytes", f"{sent / dense:.2f} x dense float32 ({dense:,})")
    parts = ", ".join(f"{name} {size:,}" for name, size in communication["parts"].items() if size)
    table.add_row("of which", "", parts)
    table.add_row("clipped values", f"{communication['clipped_values']:,}", "kept in the error feedback")
    table.add_row(
        "seconds",
        f"{seconds['total']:.1f}",
        ", ".join(f"{k} {v:.2f}" for k, v in seconds.items() if k != "total"),
    )
    return table
