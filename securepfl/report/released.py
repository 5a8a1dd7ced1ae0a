"""Released metrics in result.json and on the terminal: figures, their error, their cost."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from securepfl.learning.released.figures import Figures
from securepfl.privacy.accounting.accounting import epsilon
from securepfl.privacy.accounting.events import AnyRelease
from securepfl.settings.federation import Federation

NO_FIGURE = "no figure"
_TITLES = {
    "auroc": "AUROC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "prevalence": "share with it",
    "observed_over_expected": "observed / expected",
}


def released_result(
    federation: Federation,
    figures: Figures | None,
    names: Sequence[str],
    cost: AnyRelease | None,
    *,
    seeded: bool,
) -> dict[str, Any] | None:
    """What result.json says of metrics that were released over the hospitals `names`; None where none are.

    `may_leave` is false of a seeded run, whose noise hides nobody. `epsilon` is what the `cost` alone comes to; each
    hospital's ledger composes it with all else.
    """
    if not federation.release.metrics:
        return None
    delta = federation.privacy.delta
    return {
        "about": "each hospital's own (personalised) model on patients it held out",
        "unit": federation.privacy.unit,
        "hospitals": list(names),
        "may_leave": not seeded and figures is not None,
        "steps": federation.evaluation_steps,
        "of_steps": federation.run_steps,
        "epsilon": None if cost is None else epsilon([cost], delta),
        "delta": delta,
        **({"outcomes": None} if figures is None else figures.to_json()),
    }


def released_table(released: Mapping[str, Any]) -> Table:
    """For the terminal."""
    table = Table(title="Released metrics, over all hospitals together", title_justify="left", caption_justify="left")
    table.caption = released_note(released)
    table.add_column("outcome")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column(f"{released.get('level', 0.95):.0%} interval", justify="right")
    for row in released_rows(released):
        table.add_row(*row)
    return table


def released_rows(released: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Outcome, figure, value and interval: `no figure` where noise drowns it."""
    for name, outcome in (released["outcomes"] or {}).items():
        for key, title in _TITLES.items():
            yield name, title, *_shown(outcome[key])
        for group in outcome["calibration"]:
            told = f"told {group['low']:.0%} to {group['high']:.0%}: have it"
            yield name, told, *_shown(group["seen"])


def released_note(released: Mapping[str, Any]) -> str:
    """What they are of, what they cost, and whether they may leave."""
    if released["outcomes"] is None:
        return "No figure: too few hospitals' counts came together to be summed. What each sent stays charged."
    units, unit = released["units"], released["unit"]
    cost = f", epsilon {released['epsilon']:.3g} alone" if released["epsilon"] is not None else ""
    leave = "" if released["may_leave"] else " Seeded noise hides nobody: these figures may not leave."
    return (
        f"Of {released['about']}: about {units['value']:,.0f} {unit}s ({units['low']:,.0f} to {units['high']:,.0f}) at "
        f"{len(released['hospitals'])} hospitals. Intervals hold the noise ({released['noise']:.3g} {unit}s in each "
        f"count) and the sample. Cost: {released['steps']} of {released['of_steps']} noisy steps{cost}, in each "
        f"hospital's ledger.{leave}"
    )


def _shown(figure: Mapping[str, float] | None) -> tuple[str, str]:
    if figure is None:
        return NO_FIGURE, ""
    return f"{figure['value']:.3f}", f"{figure['low']:.3f} to {figure['high']:.3f}"
