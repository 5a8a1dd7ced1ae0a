"""Numbers beside what was predicted: groups of rows of like predictions, of all hospitals together and of each."""

from collections.abc import Mapping, Sequence
from typing import Final

from securepfl.report.pages.blocks import Block, Figure, Figures, Fold, Section, Text
from securepfl.report.pages.drawing import LINE, MODEL_COLOURS, MODEL_MARKS, drawing
from securepfl.report.pages.reading import Group, Run

_MOST_SITES: Final = 12
_SIDE: Final = 220.0
_HEIGHT: Final = 298.0
_ROOM: Final = 0.06


def numbers_section(run: Run, models: Mapping[str, str], key: str) -> Section | None:
    """None where too few rows were judged for two groups."""
    sites = {name: site for name, site in run.result.sites.items() if any(site.predicted_and_observed.values())}
    together = run.result.predicted_and_observed if len(run.result.sites) > 1 else {}
    if not sites and not any(together.values()):
        return None
    unit = str(run.setting("data", "label_range", {}).get("unit") or "")
    blocks: list[Block] = [Text(_what(run, unit))]
    if any(together.values()):
        blocks.append(Figures((_figure(f"{key}-all-numbers", "All hospitals together", together, models, unit),)))
    shown = list(sites.items())[:_MOST_SITES]
    each = Figures(
        tuple(
            _figure(f"{key}-numbers{number}", name, _own(site.predicted_and_observed), models, unit)
            for number, (name, site) in enumerate(shown)
        )
    )
    if any(together.values()) and shown:
        count = f"Each hospital ({len(shown)} of {len(sites)})" if len(sites) > len(shown) else "Each hospital"
        blocks.append(Fold(f"{count}: predicted and observed", (each,)))
    elif shown:
        blocks.append(each)
    return Section(f"{key}curves", "Predicted and observed", tuple(blocks))


def _own(groups: Mapping[str, Sequence[Group]]) -> dict[str, Sequence[Group]]:
    """Of one hospital's rows: its own model's, or what there is."""
    return {"personalised": groups["personalised"]} if groups.get("personalised") else dict(groups)


def _what(run: Run, unit: str) -> str:
    data = run.settings.get("data")
    label = f"“{data.get('label')}”" if isinstance(data, Mapping) else "the label"
    told = f"{label} ({unit})" if unit else label
    date = f" Judged on {run.result.written[:10]}." if run.result.written else ""
    return (
        f"Test rows in groups of like predictions: a mark is the mean of {told} in a group, beside the mean that was "
        f"predicted.{date} On the diagonal predictions are right on average. Bars are 95 % intervals of the mean, by "
        "row; single patients lie wider: the mean absolute error above says how wide."
    )


def _figure(
    key: str, title: str, groups: Mapping[str, Sequence[Group]], models: Mapping[str, str], unit: str
) -> Figure:
    known = {model: its for model, its in groups.items() if its and model in models}
    ends = [value for its in known.values() for one in its for value in (one.predicted, one.low, one.high)]
    low, high = min(ends), max(ends)
    room = _ROOM * (high - low) or 1.0
    with drawing(_HEIGHT) as page:
        axes = page.axes(70, 36, _SIDE, _SIDE)
        axes.plot([low - room, high + room], [low - room, high + room], color=LINE, linewidth=1)
        for model, its in known.items():
            colour = MODEL_COLOURS[model]
            for one in its:
                axes.plot([one.predicted] * 2, [one.low, one.high], color=colour, linewidth=1.2)
            places = [(one.predicted, one.observed) for one in its]
            axes.plot(*zip(*places, strict=True), MODEL_MARKS[model], color=colour, markersize=5, label=models[model])
        axes.set(xlim=(low - room, high + room), ylim=(low - room, high + room), aspect="equal")
        axes.set(xlabel=f"predicted, {unit}" if unit else "predicted")
        axes.set_ylabel(f"observed, {unit}" if unit else "observed")
        axes.locator_params(nbins=5)
        page.legend(columns=len(known), handlelength=1.2)
        rows = max((sum(one.rows for one in its) for its in known.values()), default=0)
        told = "; ".join(f"{models[model]}: {_told(its)}" for model, its in known.items())
        svg = page.svg(key, f"Predicted and observed: {title}", f"Means of groups. {told}.")
    return Figure(svg, f"{title}: {rows} test rows.")


def _told(groups: Sequence[Group]) -> str:
    return ", ".join(f"predicted {one.predicted:.4g} observed {one.observed:.4g}" for one in groups)
