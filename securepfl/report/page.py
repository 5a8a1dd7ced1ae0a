"""report.html: result.json as one page that needs no network, no script and no other file."""

from html import escape
from typing import Any

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

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --muted: #777; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; table-layout: fixed; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; } th { font-weight: 600; }
.words { table-layout: auto; } .words th, .words td { text-align: left; }
.wide { overflow-x: auto; } .warning { border-left: 4px solid #c80; padding: .2rem .8rem; }
small, .muted { color: var(--muted); }
"""


def page_of(result: dict[str, Any]) -> str:
    """The whole page as HTML. Everything that came from outside is escaped."""
    federation = result["federation"]
    parts = [
        f"<h1>{escape(federation['name'])}</h1>",
        _verdict(result),
        "".join(f'<p class="warning">{escape(note)}</p>' for note in result["notes"]),
        "<h2>Test metrics</h2>",
        _metrics(result),
        _pooled(result),
        "<h2>Training units</h2>",
        _units(result),
        "<h2>Privacy</h2>",
        _privacy(result),
        _similarity(result),
        _coupling(result),
        "<h2>Communication and time</h2>",
        _communication(result),
        f"<p class='muted'><small>settings {escape(federation['digest'])}<br>{escape(_versions(result))}</small></p>",
    ]
    title = f"<title>{escape(federation['name'])}</title>"
    head = f"<meta charset='utf-8'><meta name='viewport' content='width=device-width'>{title}<style>{_STYLE}</style>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def _table(headings: list[str], rows: list[list[str]], kind: str = "figures") -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class='wide'><table class='{kind}'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _metrics(result: dict[str, Any]) -> str:
    rows = {name: (f"{site['train']}/{site['test']}", site["metrics"]) for name, site in result["sites"].items()}
    rows |= mean_rows(result)
    tables = []
    for metric in result["metrics"]["shown"]:
        title = result["metrics"]["titles"][metric]
        cells = [
            [name, size, *(_number(found[model][metric]) for model in MODELS)] for name, (size, found) in rows.items()
        ]
        tables.append(
            _table(
                [
                    title,
                    "train/test",
                    "personalised",
                    "shared",
                    alone_title(result),
                    result["metrics"]["majority"],
                ],
                cells,
            )
        )
    return "<br>".join(tables)


def _pooled(result: dict[str, Any]) -> str:
    """All metrics over all hospitals' test rows together."""

    def cell(model: str, metric: str) -> str:
        interval = result["intervals"]["pooled"][model][metric]
        shown = _number(result["pooled"][model][metric])
        return shown if interval is None else f"{shown} ({interval_text(interval)})"

    titles = result["metrics"]["titles"]
    if not titles:
        return ""
    rows = [[title, *(cell(model, metric) for model in MODELS)] for metric, title in titles.items()]
    headings = ["metric", "personalised", "shared", alone_title(result), result["metrics"]["majority"]]
    return f"<h2>{escape(pooled_title(result))}</h2>{_table(headings, rows)}<p>{escape(pooled_note(result))}</p>"


def _verdict(result: dict[str, Any]) -> str:
    return "".join(f"<p><strong>{escape(finding['line'])}</strong></p>" for finding in result["verdict"])


def _units(result: dict[str, Any]) -> str:
    rows = [[name, *cells] for name, cells in units_rows(result).items()]
    return f"{_table(['hospital', *UNITS_HEADINGS], rows)}<p>{UNITS_NOTE}</p>"


def _privacy(result: dict[str, Any]) -> str:
    headings = [
        "hospital",
        "epsilon left out",
        "epsilon swapped",
        "delta",
        "unit",
        "budget",
        "rounds sat out",
    ]
    rows = [
        [
            name,
            epsilon_text(site["privacy"]["epsilon"]),
            epsilon_text(site["privacy"]["epsilon_replace_one"]),
            f"{site['privacy']['delta']:g}",
            site["privacy"]["unit"],
            budget_text(site["privacy"]["budget"]),
            str(len(site["sat_out"])),
        ]
        for name, site in result["sites"].items()
    ]
    return _table(headings, rows) + f"<p>{escape(adjacency_note(result))}</p>"


def _similarity(result: dict[str, Any]) -> str:
    names = list(result["sites"])
    found = {name: result["sites"][name]["similarity"] for name in names}
    signals = {name: result["sites"][name]["signal"] for name in names}
    if all(signal is None for signal in signals.values()):
        return ""
    rows = [
        [
            name,
            signal_text(signals[name]),
            *(f"{found[name][other]:+.2f}" if other in found[name] else "" for other in names),
        ]
        for name in names
    ]
    note = f"<p>{SIGNAL_NOTE}</p>"
    title = "<h2>Cosine similarity without the known noise, computed on ciphertexts</h2>"
    return title + _table(["hospital", "signal / noise", *names], rows) + note


def _coupling(result: dict[str, Any]) -> str:
    rows = coupling_rows(result)
    return f"<h2>Coupling of personal parameters</h2>{_table(list(COUPLING_HEADINGS), rows, 'words')}" if rows else ""


def _communication(result: dict[str, Any]) -> str:
    sent = result["communication"]
    rows = [
        [
            way,
            f"{sent[f'{way}_bytes']:,}",
            f"{sent[f'float32_{way}_bytes']:,}",
            f"{sent[f'{way}_bytes'] / sent[f'float32_{way}_bytes']:.2f}",
        ]
        for way in ("upload", "download")
    ]
    times = ", ".join(f"{name} {seconds:.2f}" for name, seconds in result["seconds"].items())
    parts = ", ".join(f"{name} {size:,}" for name, size in sent["parts"].items())
    totals = f"Bytes by purpose: {parts}. Clipped values: {sent['clipped_values']:,}. Seconds: {times}."
    return _table(["all hospitals and rounds", "bytes", "dense float32", "ratio"], rows) + f"<p>{escape(totals)}</p>"


def _versions(result: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in result["versions"].items())
