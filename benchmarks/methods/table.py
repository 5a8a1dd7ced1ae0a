"""The tables of docs/results/methods.md, written between two marker comments from the finished cells."""

import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from methods import METHODS
from methods.catalogue import ENTRIES, Entry
from methods.cells import Cell, Record
from methods.measure import interval, mean_over_hospitals, worst_hospital

BEGIN = "<!-- methods: begin (written by benchmarks/methods) -->"
END = "<!-- methods: end -->"
REFERENCES = ("majority", "pooled")
"""Rows to compare with."""
APART = (*REFERENCES, "ours_shared_noise")
"""No contestants, for they promise something else: they win nothing."""

Columns = Mapping[str, tuple[float, float]]
"""(mean, half-width) by column."""

_HEADER = "| method | balanced accuracy | AUROC | accuracy | worst hospital: bal. acc. / AUROC | bytes | seconds |"
_PREFACE = (
    "All spend the same epsilon and delta (zero-out, per record). `ours` is the default, untuned. Clip, rate and "
    "rounds follow the rule of [planning](../planning.md) from declared units, prevalences (to a twentieth) and "
    "ranges. It weighs by units and has no validation rows; a model of one's own (X-rays) has clip 1, rate 1, 10 "
    "rounds. It decides at the threshold that comes with the prevalences, all others at 1/2: AUROC doesn't depend on "
    "that. Every other row is tuned, with as many trials for each, drawn evenly from its grid by a fixed public draw. "
    "A trial is scored on a quarter of each hospital's training rows by (balanced accuracy + AUROC) / 2, and not "
    "charged to epsilon. It has at most the gradients of the caption. Mean over hospitals, then over seeds, with the "
    "95 % interval (t). Worst hospital: the one with the lowest balanced accuracy, and its AUROC. Bytes: all "
    "hospitals, both ways, whole run. Seconds: one training, all parties, one thread. **Best**; _within the best's "
    "interval_; majority, pooled (its rows leave the hospitals) and ours_shared_noise (its epsilon holds for sums "
    "alone) don't compete. ours, fedavg_sizes and ours_shared_noise weigh records, all others hospitals alike. Below "
    "a table, our rows less FedAvg and less the best other, seed by seed; the best is picked by the same means, so "
    "that interval is no 95 % interval."
)
_OVERVIEW = ("ours", "ours_coupled")
_CONTESTED = ("balanced_accuracy", "auroc", "accuracy", "worst_balanced")


def replaced(page: str, section: str, begin: str = BEGIN, end: str = END) -> str:
    """`page` with `section` between the markers, all else as it was. Raises ValueError where they aren't there."""
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"the page lacks the markers; add the lines `{begin}` and `{end}` where the tables belong")
    return f"{before}{begin}\n{wrapped(section.strip())}\n{end}{after}"


def wrapped(section: str) -> str:
    """`section` in lines that fit a terminal: paragraphs are broken; tables, headings and pictures stay."""
    parts = section.split("\n\n")
    return "\n\n".join(part if part.startswith(("|", "#", "![")) else _broken(part) for part in parts)


def _broken(paragraph: str) -> str:
    """In lines of up to 120 characters, but for code and addresses, which stay whole."""
    kept = re.sub(r"`[^`]*`|\]\([^)]*\)", lambda match: match[0].replace(" ", "\0"), " ".join(paragraph.split()))
    lines = textwrap.wrap(kept, 120, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines).replace("\0", " ")


def links_in(page: str, begin: str = BEGIN, end: str = END) -> list[str]:
    """The pictures that `page` shows between the markers."""
    section = page.partition(begin)[2].partition(end)[0]
    return re.findall(r"^!\[[^]]*\]\(([^)]*)\)$", section, re.MULTILINE)


def section_of(results: Mapping[Cell, Record], methods: Sequence[str], pictures: Iterable[str]) -> str:
    """What stands between the markers: how it was run, a table for each data set and epsilon of the page, pictures."""
    sizes = ", ".join(f"{name} {math.prod(map(len, METHODS[name].GRID.values()))}" for name in METHODS)
    parts = [_PREFACE, f"Choices that a method's grid holds, of which the trials are drawn: {sizes}."]
    parts += _overview(results, methods)
    for name, entry in ENTRIES.items():
        tables = [table for epsilon in entry.page if (table := _table(results, name, epsilon, methods))]
        if tables:
            parts += [f"## {entry.title}", entry.note, *tables]
    return "\n\n".join([*parts, *(f"![{PurePath(path).stem.replace('-', ': ')}]({path})" for path in pictures)]) + "\n"


def _overview(results: Mapping[Cell, Record], methods: Sequence[str]) -> list[str]:
    """All tables in one: our rows beside training alone and the best of the others, each column by itself."""
    lines = []
    for name, entry in ENTRIES.items():
        for epsilon in entry.page:
            rows = {m: summary(results[cell]) for m in methods if (cell := Cell(name, m, epsilon)) in results}
            others = _others(rows)
            if others and "ours" in rows:
                cells = [*(_beside(rows, others, m) for m in ("local", "", *_OVERVIEW)), _worst(rows)]
                lines.append(f"| {entry.title} | {_told(epsilon)} | {' | '.join(cells)} |")
    if not lines:
        return []
    title = (
        "In short, balanced accuracy / AUROC; **bold**: below neither the best other's interval nor local. Last, the "
        "worst hospital's balanced accuracy, local and ours."
    )
    header = f"| data | epsilon | local | best other | {' | '.join(_OVERVIEW)} | worst: local, ours |"
    return [title, "\n".join([header, f"|{'---|' * (5 + len(_OVERVIEW))}", *lines])]


def _worst(rows: Mapping[str, Columns]) -> str:
    """The worst hospital of training alone and of ours; in bold where ours is no lower."""
    alone, own = (rows[name]["worst_balanced"][0] if name in rows else math.nan for name in ("local", "ours"))
    return f"{figure(alone)}, " + (f"**{figure(own)}**" if own >= alone else figure(own))


def _others(methods: Iterable[str]) -> list[str]:
    """Of `methods`, those that ours are compared with."""
    return [name for name in methods if name not in REFERENCES and not name.startswith("ours")]


def _beside(rows: Mapping[str, Columns], others: Sequence[str], method: str) -> str:
    """The overview's cell of `method`, or of the best of `others` where it is "": both columns."""
    if method and method not in rows:
        return ""
    shown = []
    for column in ("balanced_accuracy", "auroc"):
        if method:
            mean = rows[method][column][0]
            least = max(_mark(rows, column, others).least, rows["local"][column][0] if "local" in rows else 0.0)
            bold = method in _OVERVIEW and mean >= least
            shown.append(f"**{figure(mean)}**" if bold else figure(mean))
        else:
            best = max(others, key=lambda other: rows[other][column][0])
            shown.append(f"{with_half(rows[best][column])} ({best})")
    return " / ".join(shown)


def summary(record: Record) -> dict[str, tuple[float, float]]:
    """Mean and half-width over the seeds of each column; bytes are those of all hospitals, both ways."""
    runs = record["runs"]
    worst = [worst_hospital(run["hospitals"]) for run in runs]
    columns = {
        name: [mean_over_hospitals(run["hospitals"], name) for run in runs]
        for name in ("balanced_accuracy", "auroc", "accuracy")
    }
    columns |= {"worst_balanced": [pair[0] for pair in worst], "worst_auroc": [pair[1] for pair in worst]}
    columns["bytes"] = [run["upload_bytes"] + run["download_bytes"] for run in runs]
    columns["seconds"] = [run["seconds"] for run in runs]
    return {name: interval(values) for name, values in columns.items()}


def _table(results: Mapping[Cell, Record], task: str, epsilon: float, methods: Sequence[str]) -> str:
    rows = {
        method: summary(record)
        for method in methods
        if (record := results.get(Cell(task, method, epsilon))) is not None
    }
    if not rows:
        return ""
    contestants = [method for method in rows if method not in APART]
    marks = {column: _mark(rows, column, contestants) for column in _CONTESTED}
    plans = {method: results[Cell(task, method, epsilon)]["plan"] for method in rows}
    caption = _caption(ENTRIES[task], epsilon, plans, _rounds(results.get(Cell(task, "ours", epsilon))))
    lines = [caption, "", _HEADER, "|---|---|---|---|---|---|---|"]
    lines += [_row(method, columns, marks) for method, columns in rows.items()]
    return "\n".join([*lines, *_paired(results, task, epsilon, tuple(rows))])


def _paired(results: Mapping[Cell, Record], task: str, epsilon: float, methods: Sequence[str]) -> list[str]:
    """Our rows less FedAvg's and less the best other's, seed by seed: both meet the same deal of rows."""
    found = {name: results[Cell(task, name, epsilon)]["runs"] for name in methods}
    ours = [name for name in found if name.startswith("ours")]
    others = {name: found[name] for name in _others(found)}
    if not ours or "fedavg" not in others:
        return []
    best = {
        column: max(others, key=lambda other: interval(list(_by_seed(others[other], column).values()))[0])
        for column in ("balanced_accuracy", "auroc")
    }
    whom = ("fedavg",) if len(others) == 1 else ("fedavg", "the best other")
    headings = [f"{title}, less {whose}" for title in ("bal. acc.", "AUROC") for whose in whom]
    lines = ["", f"| paired | {' | '.join(headings)} |", f"|{'---|' * (len(headings) + 1)}"]
    for name in ours:
        cells = []
        for column, other in best.items():
            cells.append(_less(found[name], others["fedavg"], column))
            if len(whom) > 1:
                cells.append(f"{_less(found[name], others[other], column)} ({other})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _less(own: Sequence[Record], other: Sequence[Record], column: str) -> str:
    """Mean difference with its interval, over the seeds that both have."""
    mine, theirs = _by_seed(own, column), _by_seed(other, column)
    mean, half = interval([mine[seed] - theirs[seed] for seed in mine if seed in theirs])
    return f"{mean:+.3f}" if math.isnan(half) else f"{mean:+.3f} +- {figure(half)}"


def _by_seed(runs: Sequence[Record], column: str) -> dict[int, float]:
    return {run["seed"]: mean_over_hospitals(run["hospitals"], column) for run in runs}


def _rounds(record: Record | None) -> str:
    """How many rounds, of one gradient each, ours took by its rule; "" where it has none."""
    facts = [run["facts"] for run in record["runs"]] if record else []
    found = sorted({its["rounds"] for its in facts if "rounds" in its})
    return f"; ours: {' to '.join(map(str, dict.fromkeys((found[0], found[-1]))))} rounds, untuned" if found else ""


def _caption(entry: Entry, epsilon: float, plans: Mapping[str, Mapping[str, int]], ours: str) -> str:
    """Privacy and the numbers of the runs; of which rows, where these differ; and the rounds of ours."""
    delta = f"{entry.delta:.0e}".replace("e-0", "e-")
    privacy = f"Epsilon {epsilon:g}, delta {delta}" if math.isfinite(epsilon) else "Without privacy"
    rows: dict[str, list[str]] = {}
    for method, plan in plans.items():
        numbers = (
            f"{plan['steps']} gradients, {plan['trials']} trials over {_counted(plan['tuning_seeds'])}, "
            f"{_counted(plan['seeds'])}"
        )
        rows.setdefault(numbers, []).append(method)
    told = rows if len(rows) == 1 else [f"{', '.join(methods)}: {numbers}" for numbers, methods in rows.items()]
    return f"{privacy} ({'; '.join(told)}{ours}):"


def _told(epsilon: float) -> str:
    return f"{epsilon:g}" if math.isfinite(epsilon) else "none"


def _counted(seeds: int) -> str:
    return f"{seeds} seed" + ("" if seeds == 1 else "s")


@dataclass(frozen=True)
class _Mark:
    """The best mean of a column, and the least that lies within its interval."""

    best: float
    least: float

    def dressed(self, mean: float, text: str) -> str:
        if mean >= self.best:
            return f"**{text}**"
        return f"_{text}_" if mean >= self.least else text


def _mark(rows: Mapping[str, Columns], column: str, contestants: Sequence[str]) -> _Mark:
    found = [rows[name][column] for name in contestants]
    mean, half = max(found, default=(math.inf, 0.0), key=lambda pair: pair[0])
    return _Mark(mean, mean - (0.0 if math.isnan(half) else half))


def _row(method: str, columns: Columns, marks: Mapping[str, _Mark]) -> str:
    def cell(column: str, text: Callable[[tuple[float, float]], str]) -> str:
        shown = text(columns[column])
        if method in APART or column not in marks:
            return shown
        return marks[column].dressed(columns[column][0], shown)

    first = [cell(column, with_half) for column in ("balanced_accuracy", "auroc", "accuracy")]
    worst = " / ".join(cell(column, lambda pair: figure(pair[0])) for column in ("worst_balanced", "worst_auroc"))
    last = [size(columns["bytes"][0]), f"{columns['seconds'][0]:.2g}"]
    return f"| {' | '.join([method, *first, worst, *last])} |"


def with_half(pair: tuple[float, float]) -> str:
    """.842 +- .013; the mean alone where there is no interval."""
    mean, half = pair
    return figure(mean) if math.isnan(half) else f"{figure(mean)} +- {figure(half)}"


def figure(value: float) -> str:
    """.842, as the page writes shares."""
    if math.isnan(value):
        return "-"
    text = f"{value:.3f}"
    return text[1:] if text.startswith("0.") else text


def size(count: float) -> str:
    """Bytes as 1.2 MB, 34 kB or 56 B."""
    for unit, scale in (("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.0f} B"
