"""A ledger's budget for people: a table with a bar, and a plot."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from securepfl.errors import ConfigError, StorageError
from securepfl.report.epsilon import NO_PRIVACY, epsilon_text

_ROUNDS_SHOWN = 40


def print_budget(console: Console, budget: dict[str, Any]) -> None:
    """The budget as a table and a bar, one row a round, the latest last."""
    title = Text(f"{budget['site']}: privacy budget of data set {budget['data_set']}", style="bold")
    facts = Table.grid(padding=(0, 2))
    for name, value in (
        *_spent(budget),
        ("left", f"epsilon {budget['left']:.4f} of {budget['budget']:g}"),
        ("for", f"one {budget['unit']}, at delta {budget['delta']:g}"),
        ("interrupted", f"{budget['unsettled']} rounds, counted in full"),
    ):
        facts.add_row(name, value)
    bar = Table.grid()  # a bar alone would not end its line
    bar.add_row(ProgressBar(total=budget["budget"], completed=budget["budget"] - budget["left"], width=40))
    console.print(Group(title, facts, bar, _rounds_table(budget["rounds"])))
    hidden = len(budget["rounds"]) - _ROUNDS_SHOWN
    if hidden > 0:
        console.print(Text(f"{hidden} earlier rounds not shown; --json lists all"))
    for caveat in budget["caveats"]:
        console.print(Text(caveat), soft_wrap=True)


def _spent(budget: dict[str, Any]) -> list[tuple[str, str]]:
    if budget["spent"] is None:
        return [("spent", NO_PRIVACY)]
    return [
        ("spent", f"epsilon {budget['spent']:.4f}: {budget['means']['zero-out']}"),
        ("", f"epsilon {budget['spent_replace_one']:.4f}: {budget['means']['replace-one']}"),
    ]


def _rounds_table(rounds: Sequence[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("time", "run", "round", "released", "", "epsilon after"):
        table.add_column(heading, justify="right" if heading in ("round", "epsilon after") else "left")
    for entry in rounds[-_ROUNDS_SHOWN:]:
        table.add_row(
            entry["time"],
            entry["run"][:8],
            str(entry["round"]),
            entry["released"],
            "" if entry["settled"] else Text("interrupted", style="yellow"),
            f"{entry['epsilon']:.4f}",
        )
    return table


def plot_budget(budget: dict[str, Any], path: Path) -> None:
    """Epsilon after each round, run by run, against the budget. The ending of `path` chooses the format.

    Raises ConfigError without matplotlib, or for an ending that it does not know, StorageError where it cannot write.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - optional
    except ImportError:
        raise ConfigError("--plot needs matplotlib: python -m pip install matplotlib") from None
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    spent = [0.0, *(entry["epsilon"] for entry in budget["rounds"])]
    axes.step(range(len(spent)), spent, where="post", label="spent", color="#1f5fa8", linewidth=2)
    axes.axhline(budget["budget"], label="budget", color="#b03a2e", linestyle="--")
    runs = [entry["run"] for entry in budget["rounds"]]
    for place, (before, after) in enumerate(pairwise(runs), start=1):
        if before != after:
            axes.axvline(place, color="#999999", linewidth=0.8, linestyle=":")
    unsettled = [place for place, entry in enumerate(budget["rounds"], start=1) if not entry["settled"]]
    if unsettled:
        values = [spent[place] for place in unsettled]
        axes.plot(unsettled, values, "o", color="#d68910", label="interrupted, counted in full")
    axes.set(
        xlabel="rounds, over all runs (dotted: a new run)",
        ylabel=f"epsilon per {budget['unit']} at delta {budget['delta']:g}",
        title=f"{budget['site']}: spent {epsilon_text(budget['spent'], '.3g')} of {budget['budget']:g}",
        ylim=(0, None),
    )
    axes.legend(loc="lower right")
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}; choose a folder that can be written") from None
    except ValueError as error:
        raise ConfigError(f"--plot {path}: {error}") from None
