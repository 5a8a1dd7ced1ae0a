"""ROC and calibration of each class against the rest, or of each of several labels."""

from collections.abc import Iterator, Mapping
from typing import Final

from securepfl.report.pages.blocks import Block, Figure, Figures, Fold, Section, Text
from securepfl.report.pages.curves import counted, first_of, roc_and_calibration
from securepfl.report.pages.reading import Curve, Run
from securepfl.report.pages.results import capital, figure_text

_MOST_FIGURES: Final = 24
"""Of single hospitals; result.json has all."""
_MACRO: Final = "mean_auroc"


def parts_section(run: Run, models: Mapping[str, str], key: str) -> Section | None:
    """All hospitals together, then each, as far as there is room; None of other tasks, and where nobody was judged."""
    if not any(site.curves_by_part for site in run.result.sites.values()):
        return None
    several = len(run.result.sites) > 1
    blocks: list[Block] = [Text(_what(run, models))]
    if several:
        blocks.append(Figures(tuple(_figures(f"{key}-all", "", run.result.curves_by_part, models, run))))
    each: list[Figure] = []
    for number, (name, site) in enumerate(run.result.sites.items()):
        title = f"{name}, " if several else ""
        found = list(_figures(f"{key}-site{number}", title, site.curves_by_part, models, run))
        if found and len(each) + len(found) > _MOST_FIGURES:
            break
        each += found
    if several and each:
        blocks.append(Fold("Each hospital: ROC and calibration", (Figures(tuple(each)),)))
    elif each:
        blocks.append(Figures(tuple(each)))
    return Section(f"{key}curves", "ROC and calibration", tuple(blocks))


def _figures(
    key: str, title: str, parts: Mapping[str, Mapping[str, Curve]], models: Mapping[str, str], run: Run
) -> Iterator[Figure]:
    for number, (part, curves) in enumerate(parts.items()):
        model, shown = first_of(curves)
        name, about = f"{title}{part}", counted(shown, models.get(model, model), _WORDS[run.result.task])
        yield roc_and_calibration(f"{key}-part{number}", name, curves, models, f"{capital(name)}: {about}", ())


_WORDS: Final = {"multiclass": "are of this class", "multilabel": "have it"}


def _what(run: Run, models: Mapping[str, str]) -> str:
    kind = "class against the rest" if run.result.task == "multiclass" else "label"
    date = f" Judged on {run.result.written[:10]}." if run.result.written else ""
    where = " One class wins a row, so it may lie off the curve." if run.result.task == "multiclass" else ""
    return (
        f"A pair of drawings for each {kind}.{_macro(run, models)}{date} The large mark is what was decided.{where} "
        "Bars are 95 % intervals by row; on the diagonal, of 10 patients told “30 %” three have it."
    )


def _macro(run: Run, models: Mapping[str, str]) -> str:
    """The mean over classes or labels, over all hospitals."""
    result = run.result
    title = result.metrics.titles.get(_MACRO)
    if run.alone:
        (site,) = result.sites.values()
        value, interval = site.metrics["personalised"].get(_MACRO), site.intervals["personalised"].get(_MACRO)
    else:
        value = result.within.get("personalised", {}).get(_MACRO)
        interval = result.intervals.within.get("personalised", {}).get(_MACRO)
    if title is None or value is None:
        return ""
    where = "here" if run.alone else "within hospitals"
    whose = models.get("personalised", "personalised")
    return f" Over all of them (macro) the model “{whose}” has a {title} of {figure_text(value, interval)} {where}."
