"""A plan for people: what was chosen and why, what to expect, what would change it, what it spends."""

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from securepfl.learning.declared.forecast import Forecast
from securepfl.learning.declared.wrong import Wrong
from securepfl.settings.plan import Change, HospitalPlan, Point, ReleasedPlan, RunPlan, Setting

_WIDTH = 30
"""Marks of the curve's scale, from an AUROC of .5 to 1."""


def print_plan(console: Console, plan: RunPlan) -> None:
    """The plan on `console`, in the order in which people decide."""
    units = f"{plan.units:,} {plan.unit}s at {len(plan.hospitals)} hospitals"
    sees = f"{plan.features} features" if plan.features else "images"
    heading = f"{plan.name}: {units}, {plan.model} model of {sees}, epsilon {plan.epsilon:g}"
    _say(console, heading, "bold")
    _say(console, "From declarations alone: no row was read, nothing was spent.")
    _title(console, "Settings")
    console.print(_settings(plan.settings))
    _say(console, plan.personal)
    _title(console, "What to expect")
    _expectation(console, plan)
    if plan.changes:
        _title(console, "What would change it")
    for change in plan.changes:
        _say(console, _change(change))
    if plan.wrong:
        _title(console, "If a declaration is wrong")
        console.print(_wrong(plan.wrong))
        _say(console, "Measured on sixteen tables at epsilon 1. Unsure of a size, declare the larger round number.")
    _title(console, "What the run spends")
    _say(console, _paid(plan))
    if plan.released is not None:
        _say(console, _released(plan.released, plan.unit))
    console.print(_hospitals(plan.hospitals.items()))
    for note in dict.fromkeys(hospital.note for hospital in plan.hospitals.values() if hospital.note):
        _say(console, note)
    for note in plan.notes:
        _say(console, f"note: {note}", "yellow")


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style=style), soft_wrap=True)


def _title(console: Console, text: str) -> None:
    console.print()
    _say(console, text, "bold")


def _settings(settings: Iterable[Setting]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    for setting in settings:
        table.add_row(
            setting.key,
            f"{setting.value:g}",
            _origin(setting),
            setting.reason,
        )
    return table


def _origin(setting: Setting) -> str:
    if setting.rule is None:
        return "the default;" if setting.by_rule else "the file's;"
    return "chosen:" if setting.by_rule else f"the file's; the rule: {setting.rule:g},"


def _paid(plan: RunPlan) -> str:
    """What epsilon pays for, and how much is spent after each part of it."""
    parts = []
    for one in plan.paid:
        steps = "1 step" if one.steps == 1 else f"{one.steps:,} steps" if one.steps else "nothing more"
        so_far = "" if one.epsilon is None or not one.steps else f", epsilon {one.epsilon:.3g} by then"
        parts.append(f"{one.what} ({steps}{so_far})")
    return f"Epsilon {plan.epsilon:g} (delta {plan.delta:g}) pays for {'; '.join(parts)}."


def _released(released: ReleasedPlan, unit: str) -> str:
    """What released metrics cost, and how exact they will be about."""
    alone = "" if released.epsilon is None else f" (epsilon {released.epsilon:.3g} alone)"
    said = (
        f"Released metrics take {released.share:.0%} of the noisy steps{alone}; training has "
        f"{released.dearer - 1:.0%} more noise by it. Each count carries noise of {released.noise:.3g} {unit}s."
    )
    if released.units is None:
        return f"{said} How many are held out is not declared, so how exact figures will be can't be told."
    parts = [
        f"{name} no figure" if half is None else f"{name} within {half:.2f}".replace("0.", ".", 1)
        for name, half in (
            ("AUROC", released.auroc),
            ("sensitivity", released.sensitivity),
            ("specificity", released.specificity),
        )
    ]
    none = None in (released.auroc, released.sensitivity, released.specificity)
    mend = " More patients, a larger epsilon or shared noise would give one." if none else ""
    return f"{said} Of about {released.units:,} held out: {', '.join(parts)}.{mend}"


def _expectation(console: Console, plan: RunPlan) -> None:
    if plan.expected is None:
        _say(console, f"No forecast: {plan.no_forecast}.")
        return
    _say(
        console,
        f"AUROC {_range(plan.expected)}, if the model would reach {_figure(plan.assumed_auroc)} without privacy "
        "(a guess: give your own with --auroc).",
    )
    console.print(_curve(plan.curve, plan.epsilon))


def _curve(points: Iterable[Point], own: float) -> Table:
    """A line an epsilon: `=` over the range, `o` where the middle is."""
    table = Table(box=None, pad_edge=False)
    for heading in ("epsilon", "AUROC", "range", ".5" + " " * (_WIDTH - 3) + "1"):
        table.add_column(
            heading, justify="right" if heading in ("epsilon", "AUROC") else "left", no_wrap=heading.startswith(".")
        )
    for point in points:
        low, middle, high = (round((value - 0.5) * 2 * (_WIDTH - 1)) for value in _ends(point.expected))
        bar = "".join("o" if i == middle else "=" if low <= i <= high else " " for i in range(_WIDTH))
        expected = point.expected
        style = "bold" if point.epsilon == own else ""
        table.add_row(
            f"{point.epsilon:g}",
            _thousandths(expected.middle),
            f"{_figure(expected.low)} to {_figure(expected.high)}",
            bar,
            style=style,
        )
    return table


def _change(change: Change) -> str:
    expected = "" if change.expected is None else f" AUROC {_range(change.expected)}."
    return f"{change.what}: {change.sentence}.{expected}"


def _wrong(declarations: Iterable[Wrong]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("declared wrongly", "", "AUROC lost", "at worst", "balanced accuracy lost", "at worst"):
        table.add_column(heading, justify="left" if heading in ("declared wrongly", "") else "right")
    words = {0.5: "at half", 2.0: "at twice", None: "not at all"}
    for wrong in declarations:
        losses = (wrong.auroc, wrong.worst_auroc, wrong.balanced_accuracy, wrong.worst_balanced_accuracy)
        table.add_row(wrong.what, words[wrong.factor], *map(_thousandths, losses))
    return table


def _hospitals(hospitals: Iterable[tuple[str, HospitalPlan]]) -> Table:
    table = Table(box=None, pad_edge=False)
    headings = (
        "hospital",
        "units",
        "weight",
        "threshold",
        "noise / clip",
        "epsilon",
        "of budget",
        "left for another run",
    )
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "hospital" else "right")
    for name, plan in hospitals:
        noise = "shared" if plan.noise_multiplier is None else f"{plan.noise_multiplier:.3g}"
        left = "-" if plan.left is None else f"{plan.left:.3g}"
        threshold = "-" if plan.threshold is None else _figure(plan.threshold)
        figures = (f"{plan.units:,}", f"{plan.share:.0%}", threshold, noise)
        table.add_row(name, *figures, f"{plan.epsilon:g}", f"{plan.budget:g}", left)
    return table


def _ends(expected: Forecast) -> tuple[float, float, float]:
    return expected.low, expected.middle, expected.high


def _range(expected: Forecast) -> str:
    return f"{_thousandths(expected.middle)} (from {_figure(expected.low)} to {_figure(expected.high)})"


def _figure(value: float) -> str:
    """.85 as tables of the docs have it."""
    return f"{value:.2f}".removeprefix("0")


def _thousandths(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")
