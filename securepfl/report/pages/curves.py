"""ROC and calibration at the operating point, of all hospitals together and of each."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from securepfl.report.pages.blocks import Block, Figure, Figures, Fold, Section, Text
from securepfl.report.pages.drawing import LINE, MODEL_COLOURS, MODEL_MARKS, MUTED, drawing
from securepfl.report.pages.reading import Curve, Run, Site

_MOST_SITES: Final = 12
_SIDE: Final = 132.0
_HEIGHT: Final = 208.0
_STYLES: Final[dict[str, Any]] = {"personalised": "-", "shared": "--", "local": ":"}


def curves_section(run: Run, models: Mapping[str, str], key: str) -> Section | None:
    """Of yes or no; None where no model could be judged."""
    sites = {name: site for name, site in run.result.sites.items() if site.curves}
    if not sites:
        return None
    blocks: list[Block] = [Text(_what(run))]
    together = len(run.result.sites) > 1 and run.result.curves
    if together:
        title, about = "All hospitals together", _about_all(run, models)
        blocks.append(Figures((roc_and_calibration(f"{key}-all-curves", title, run.result.curves, models, about, ()),)))
    shown = list(sites.items())[:_MOST_SITES]
    each = Figures(
        tuple(
            roc_and_calibration(
                f"{key}-curves{number}",
                name,
                site.curves,
                models,
                _about(run, name, site, models),
                site.operating_point,
            )
            for number, (name, site) in enumerate(shown)
        )
    )
    if together:
        count = f"Each hospital ({len(shown)} of {len(sites)})" if len(sites) > len(shown) else "Each hospital"
        blocks.append(Fold(f"{count}: ROC and calibration", (each,)))
    else:
        blocks.append(each)
    return Section(f"{key}curves", "ROC and calibration", tuple(blocks))


def _what(run: Run) -> str:
    """Outcome, prevalence and date."""
    data = run.settings.get("data")
    outcome = f"“{data.get('label')}”" if isinstance(data, Mapping) else "the label"
    positive = data.get("positive") if isinstance(data, Mapping) else None
    yes = positive if isinstance(positive, (list, tuple)) else [positive]
    means = "" if positive is None else f" (yes: {' or '.join(map(str, yes))})"
    date = f" Judged on {run.result.written[:10]}." if run.result.written else ""
    return (
        f"The outcome is {outcome}{means}. The large mark is the operating point: where a probability becomes a yes."
        f"{date} Bars are 95 % intervals by row; on the diagonal, of 10 patients told “30 %” three have the outcome."
    )


def _about_all(run: Run, models: Mapping[str, str]) -> str:
    curve = run.result.curves.get("personalised")
    held = "" if curve is None else f" {counted(curve, models.get('personalised', 'personalised'))}"
    return f"All test rows, each hospital at its own operating point.{held}"


def _about(run: Run, name: str, site: Site, models: Mapping[str, str]) -> str:
    model, curve = first_of(site.curves)
    declared = run.setting("sites", name, {}).get("prevalence")
    data = run.settings.get("data")
    if declared is None and isinstance(data, Mapping):
        declared = data.get("prevalence")
    point = f" Threshold {site.operating_point[0]:.2f}." if site.operating_point else " Threshold 0.50."
    prevalence = f" Declared prevalence {100 * declared:.0f} %." if isinstance(declared, float) else ""
    return f"{name}: {counted(curve, models.get(model, model))}{prevalence}{point}"


def first_of(curves: Mapping[str, Curve]) -> tuple[str, Curve]:
    """The personalised model's, or what there is."""
    model = "personalised" if "personalised" in curves else next(iter(curves))
    return model, curves[model]


def counted(curve: Curve, whose: str, what: str = "have the outcome") -> str:
    """How many rows are `what`, and of how many that was told right by the model that is called `whose`."""
    no = curve.rows - curve.yes
    share = f" ({100 * curve.yes / curve.rows:.0f} %)" if curve.rows else ""
    found = f" Sensitivity {curve.true_yes} of {curve.yes}" if curve.yes else ""
    right = f"{',' if found else ''} specificity {no - curve.false_yes} of {no}" if no else ""
    return f"{curve.yes} of {curve.rows} test rows{share} {what}.{found}{right} ({whose})."


def roc_and_calibration(
    key: str,
    title: str,
    curves: Mapping[str, Curve],
    models: Mapping[str, str],
    about: str,
    point: Sequence[float],
) -> Figure:
    """Both side by side, of what is called `title`; `about` in words. `models`: those that are drawn."""
    curves = {model: curve for model, curve in curves.items() if model in models}
    with drawing(_HEIGHT) as page:
        left, right = page.axes(38, 40, _SIDE, _SIDE), page.axes(220, 40, _SIDE, _SIDE)
        for axes in (left, right):
            axes.plot([0, 1], [0, 1], color=LINE, linewidth=1)
            axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
            axes.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
            axes.set_yticks([0, 0.5, 1], ["0", ".5", "1"])
        for model, curve in curves.items():
            _roc(left, model, curve)
        if "personalised" in curves:
            _calibration(right, curves["personalised"], point)
        left.set(xlabel="1 - specificity")
        left.set_ylabel("sensitivity", labelpad=1)
        right.set(xlabel="predicted")
        right.set_ylabel("observed", labelpad=1)
        if "personalised" not in curves or not curves["personalised"].calibration:
            right.text(0.5, 0.5, "too few rows", ha="center", va="center", color=MUTED)
        handles = [_handle(model) for model in curves]
        named = [models[model] for model in curves]
        page.legend(handles, named, columns=len(curves), handlelength=1.8, columnspacing=1.0)
        return Figure(page.svg(key, f"ROC and calibration: {title}", about), about)


def _handle(model: str) -> Any:
    from matplotlib.lines import Line2D  # noqa: PLC0415 - as in drawing

    return Line2D([], [], color=MODEL_COLOURS[model], linestyle=_STYLES[model], marker=MODEL_MARKS[model], markersize=5)


def _roc(axes: Any, model: str, curve: Curve) -> None:
    colour = MODEL_COLOURS[model]
    if curve.roc:
        axes.plot(*zip(*curve.roc, strict=True), _STYLES[model], color=colour, linewidth=1.5, clip_on=False)
        at = curve.false_yes / (curve.rows - curve.yes), curve.true_yes / curve.yes
        axes.plot(*at, MODEL_MARKS[model], color=colour, markersize=8 if model == "personalised" else 6, clip_on=False)
    elif model == "personalised":
        axes.text(0.5, 0.5, "one class only", ha="center", va="center", color=MUTED)


def _calibration(axes: Any, curve: Curve, point: Sequence[float]) -> None:
    colour = MODEL_COLOURS["personalised"]
    for group in curve.calibration:
        axes.plot([group.predicted] * 2, [group.low, group.high], color=colour, linewidth=1.2)
    if curve.calibration:
        places = [(group.predicted, group.observed) for group in curve.calibration]
        axes.plot(*zip(*places, strict=True), "o-", color=colour, markersize=4.5, linewidth=1, clip_on=False)
    if point:
        axes.axvline(point[0], color=MUTED, linewidth=1, linestyle=(0, (2, 2)))
