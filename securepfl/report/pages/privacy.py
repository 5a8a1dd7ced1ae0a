"""Epsilon spent against budgets, over the rounds and in all, and training units."""

from collections.abc import Mapping
from typing import Any, Final

from securepfl.report.epsilon import budget_text, epsilon_text
from securepfl.report.overall import UNITS_HEADINGS, UNITS_NOTE, adjacency_note, units_rows
from securepfl.report.pages.blocks import Block, Figure, Figures, Fold, Section, Table, Text
from securepfl.report.pages.drawing import BOUND, INK, MODEL_COLOURS, WIDTH, drawing
from securepfl.report.pages.ledgers import Checked
from securepfl.report.pages.reading import Run

_HEIGHT: Final = 200.0
_MOST_DRAWN: Final = 40
_ALIKE: Final = 0.005
"""Of the budget: lines closer than this everywhere are drawn as one."""


def privacy_section(run: Run, ledgers: Mapping[str, Checked], key: str) -> Section:
    """Spent and left; the drawing needs ledgers."""
    blocks: list[Block] = []
    if run.protected:
        spent = _spent(ledgers)
        if spent:
            blocks.append(Figures((_figure(f"{key}-epsilon", spent),)))
        else:
            blocks.append(Text("No ledger that holds lies with this run, so epsilon is not drawn over rounds."))
    blocks += [_table(run, key), Text(adjacency_note(dict(run.raw)))]
    units = tuple((name, *cells) for name, cells in units_rows(dict(run.raw)).items())
    headings = ("hospital", *(heading.replace("\n", " ") for heading in UNITS_HEADINGS))
    table = Table("Training units", headings, units, name="units.csv", key=f"{key}units")
    blocks.append(Fold("Training units: declared, used, cut, padded", (table, Text(UNITS_NOTE))))
    return Section(f"{key}privacy", "Privacy spent", tuple(blocks))


def _spent(ledgers: Mapping[str, Checked]) -> dict[str, tuple[float, list[float]]]:
    """By hospital: its budget, and what was spent before its last run and after each round of it."""
    found = {}
    for name, one in ledgers.items():
        if one.summary is None or not one.summary.rounds or one.summary.unprotected is not None:
            continue
        rounds = one.summary.rounds
        last = [spend.epsilon for spend in rounds if spend.run == rounds[-1].run]
        before = [spend.epsilon for spend in rounds if spend.run != rounds[-1].run]
        found[name] = (one.summary.budget.epsilon, [before[-1] if before else 0.0, *last])
    return found


def _figure(key: str, spent: Mapping[str, tuple[float, list[float]]]) -> Figure:
    budgets = {budget for budget, _ in spent.values()}
    common = budgets.pop() if len(budgets) == 1 else None
    lines = {name: [v / (1.0 if common else budget) for v in values] for name, (budget, values) in spent.items()}
    scale = common or 1.0
    alike = _alike(list(lines.values()), scale)
    with drawing(_HEIGHT) as page:
        axes = page.axes(44, 14, WIDTH - 56, _HEIGHT - 56)
        for values in list(lines.values())[: 1 if alike else _MOST_DRAWN]:
            axes.step(range(len(values)), values, where="post", color=MODEL_COLOURS["personalised"], alpha=0.8)
        axes.axhline(scale, color=BOUND, linewidth=1.6, linestyle=(0, (5, 3)))
        axes.text(0, scale * 0.98, "budget", color=BOUND, va="top", ha="left")
        label = "epsilon spent" if common else "share of own budget"
        axes.set(xlabel="round of this run", ylabel=label, ylim=(0, 1.08 * max(scale, *map(max, lines.values()))))
        axes.yaxis.grid(visible=True)
        axes.tick_params(colors=INK)
        _whole(axes)
        told = "; ".join(
            f"{name} {values[-1]:.3g} of {budget:g} after {len(values) - 1} rounds"
            for name, (budget, values) in list(spent.items())[:_MOST_DRAWN]
        )
        whose = "all hospitals alike" if alike and len(lines) > 1 else "a line a hospital" if len(lines) > 1 else ""
        rest = f", {whose}" if whose else ""
        return Figure(
            page.svg(key, "Epsilon spent against the budget", f"Steps over rounds: {told}."),
            f"Epsilon spent over the rounds{rest}; dashed: what may ever be spent.",
        )


def _alike(lines: list[list[float]], scale: float) -> bool:
    first = lines[0]
    return all(
        len(line) == len(first) and max(abs(a - b) for a, b in zip(line, first, strict=True)) < _ALIKE * scale
        for line in lines
    )


def _whole(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 - as in drawing

    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _table(run: Run, key: str) -> Table:
    rows = tuple(
        (
            name,
            epsilon_text(site.privacy.epsilon),
            epsilon_text(site.privacy.epsilon_replace_one),
            budget_text(site.privacy.budget),
            f"{site.privacy.delta:g}",
            site.privacy.unit,
            str(len(site.sat_out) or "none"),
        )
        for name, site in run.result.sites.items()
    )
    headings = ("hospital", "epsilon, left out", "epsilon, swapped", "budget", "delta", "unit", "rounds sat out")
    return Table("Epsilon of all that was released", headings, rows, name="privacy.csv", key=f"{key}epsilon-table")
