"""A rehearsed attack for people: verdicts, bounds, and the sentence."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_attack(console: Console, found: dict[str, Any]) -> None:
    """What was rehearsed, the verdicts, the bounds, and the sentence, from the values of `--json`."""
    unit, units, delta = found["unit"], found["units"], found["delta"]
    console.print(Text(f"{found['site']}: {found['canaries']} canaries in a rehearsal that stays here", style="bold"))
    console.print(
        Text(
            f"unit: one {unit} of {units}. What is attacked is this installation's training with made-up {unit}s. "
            "No patient, no round that was sent and no ledger is looked at."
        ),
        soft_wrap=True,
    )
    if delta > 1 / (10 * units):
        console.print(Text(f"delta {delta:g} is above 1/(10 n): n x delta = {delta * units:.3g}"))
    console.print(_verdicts(found["verdicts"]))
    console.print(_bounds(found["bounds"]))
    console.print(
        Text(
            "A test accuses where its p-value is at most its level; a little more or less than claimed is chance. "
            "A lower bound says what was shown, not what was spent."
        ),
        soft_wrap=True,
    )
    console.print(Text(found["sentence"], style="red" if found["accused"] else "green"), soft_wrap=True)


def _verdicts(verdicts: Iterable[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("test", "p-value", "level", "", "finding"):
        table.add_column(heading, justify="right" if heading in ("p-value", "level") else "left")
    for verdict in verdicts:
        state = Text("ACCUSED", style="red") if verdict["accused"] else Text("holds", style="green")
        figures = (f"{verdict[name]:.3g}" for name in ("p_value", "level"))
        table.add_row(verdict["test"], *figures, state, verdict["finding"])
    return table


def _bounds(bounds: Iterable[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("lower bound by", "epsilon", "confidence", "could show at most", "assumes"):
        table.add_column(heading, justify="left" if heading in ("lower bound by", "assumes") else "right")
    for bound in bounds:
        most = "-" if bound["ceiling"] is None else f"{bound['ceiling']:.3g}"
        figures = (f"{bound['epsilon']:.3f}", f"{bound['confidence']:.2%}", most)
        table.add_row(bound["method"], *figures, bound["assumes"])
    return table
