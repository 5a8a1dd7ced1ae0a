"""The deciding metric over rounds, as the hospitals' own files have it."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from securepfl.report.pages.blocks import Block, Figure, Figures, Section, Table, Text
from securepfl.report.pages.drawing import INK, MODEL_COLOURS, MODEL_MARKS, WIDTH, drawing
from securepfl.report.pages.reading import Run
from securepfl.report.pages.results import capital, drawn_metrics, metrics_in_order, models_of

_HEIGHT: Final = 236.0
_MOST_DRAWN: Final = 40
_MOST_IN_FILE: Final = 40
"""Hospitals: the folder has the others' own files."""
MOST_IMAGES: Final = 16
"""Test images that are looked at, evenly chosen (runtime/rounds_file.py)."""
_LEAST_SCALE: Final = 0.1
_Points = dict[int, float]


def rounds_section(run: Run, key: str) -> Section | None:
    """None where nobody looked at the models in between, or only once."""
    metrics, models = metrics_in_order(run), models_of(run)
    figures = tuple(
        figure
        for metric in drawn_metrics(run)
        if (figure := _figure(run, metric, models, f"{key}-rounds-{metric}")) is not None
    )
    if not figures:
        return None
    many = len(run.rounds) > 1
    whose = "Thick lines are means over hospitals by test rows, thin ones hospitals." if many else ""
    sentences = (
        "Judged on test rows after each round that was looked at.",
        _of_images(run),
        whose,
        _late(run),
        "Nothing was chosen by it.",
    )
    text = " ".join(filter(None, sentences))
    blocks: list[Block] = [Figures(figures), Text(text, small=True), _table(run, metrics, models, key)]
    return Section(f"{key}rounds", "Over the rounds", tuple(blocks))


def _of_images(run: Run) -> str:
    """Where masks are judged, on fewer of them: said, as the last look isn't the result then."""
    if run.result.task != "segmentation" or all(site.test <= MOST_IMAGES for site in run.result.sites.values()):
        return ""
    return f"Of each hospital at most {MOST_IMAGES} test images: all would take longer than the round."


def _late(run: Run) -> str:
    """Why the shared model may come late."""
    first = {
        model: min((number for lines in run.rounds.values() for number, its in lines if model in its), default=0)
        for model in ("personalised", "shared")
    }
    if first["shared"] <= first["personalised"]:
        return ""
    return f"There is a shared model from round {first['shared']} on, when a sum gives its average personal part."


def _series(run: Run, model: str, metric: str) -> dict[str, _Points]:
    """By hospital: round -> figure."""
    found = {
        site: {number: value for number, its in lines if (value := its.get(model, {}).get(metric)) is not None}
        for site, lines in run.rounds.items()
        if site in run.result.sites
    }
    return {site: points for site, points in found.items() if len(points) > 1}


def _mean(run: Run, series: Mapping[str, _Points]) -> _Points:
    """Over hospitals, by test rows, of the rounds that all of them have."""
    weights = {site: run.result.sites[site].test_units for site in series}
    total = sum(weights.values())
    common = set.intersection(*(set(points) for points in series.values())) if series and total else set()
    return {number: sum(weights[s] * series[s][number] for s in series) / total for number in sorted(common)}


def _figure(run: Run, metric: str, models: Mapping[str, str], key: str) -> Figure | None:
    series = {model: _series(run, model, metric) for model in ("personalised", "shared") if model in models}
    series = {model: sites for model, sites in series.items() if sites}
    if not series:
        return None
    title, means = run.result.metrics.titles[metric], {model: _mean(run, sites) for model, sites in series.items()}
    with drawing(_HEIGHT) as page:
        axes = page.axes(44, 46, WIDTH - 56, _HEIGHT - 86)
        for model, sites in series.items():
            for points in list(sites.values())[:_MOST_DRAWN] if len(run.rounds) > 1 else ():
                axes.plot(*_columns(points), color=MODEL_COLOURS[model], linewidth=0.7, alpha=0.4)
            axes.plot(*_columns(means[model]), color=MODEL_COLOURS[model], marker=MODEL_MARKS[model], markersize=4.5)
        axes.set(xlabel="round")
        axes.set_title(title, loc="left", x=-0.1, color=INK)
        axes.yaxis.grid(visible=True)
        _no_magnifier(axes)
        _whole_rounds(axes)
        _legend(page, {model: models[model] for model in series})
        told = "; ".join(f"{models[model]} {_told(points)}" for model, points in means.items() if points)
        return Figure(
            page.svg(key, f"{title} over rounds", f"Lines over rounds: {told}."), f"{capital(title)} over the rounds."
        )


def _columns(points: _Points) -> tuple[list[int], list[float]]:
    return list(points), list(points.values())


def _told(points: _Points) -> str:
    first, last = min(points), max(points)
    return f"{points[first]:.3f} after round {first}, {points[last]:.3f} after round {last}"


def _no_magnifier(axes: Any) -> None:
    """Leave a scale of a tenth at least: on a finer one noise looks like progress."""
    low, high = axes.get_ylim()
    lacking = _LEAST_SCALE * max(abs(low), abs(high)) - (high - low)
    if lacking > 0:
        axes.set_ylim(low - lacking / 2, high + lacking / 2)


def _whole_rounds(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 - as in drawing

    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _legend(page: Any, models: Mapping[str, str]) -> None:
    from matplotlib.lines import Line2D  # noqa: PLC0415 - as in drawing

    handles = [Line2D([], [], color=MODEL_COLOURS[m], marker=MODEL_MARKS[m], markersize=5) for m in models]
    page.legend(handles, list(models.values()), columns=len(models))


def _table(run: Run, metrics: Sequence[str], models: Mapping[str, str], key: str) -> Table:
    """What is offered as CSV: every look; the page shows the means at the first and last round."""
    titles = run.result.metrics.titles
    exact: list[tuple[object, ...]] = [("hospital", "round", "model", *(titles[metric] for metric in metrics))]
    for site, lines in list(run.rounds.items())[:_MOST_IN_FILE]:
        for number, by_model in lines:
            exact += [(site, number, model, *(found.get(m) for m in metrics)) for model, found in by_model.items()]
    rows = []
    for metric in metrics:
        for model in [model for model in ("personalised", "shared") if model in models]:
            mean = _mean(run, _series(run, model, metric))
            if mean:
                first, last = min(mean), max(mean)
                cells = (f"{mean[number]:.3f} (round {number})" for number in (first, last))
                rows.append((titles[metric], models[model], *cells))
    headings = ("metric", "model", "first look", "last look")
    return Table(
        "First and last look, means by test rows",
        headings,
        tuple(rows),
        name="rounds.csv",
        exact=tuple(exact),
        key=f"{key}rounds-table",
    )
