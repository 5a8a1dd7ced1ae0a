"""What each hospital gets of each model, and all of them together."""

from collections.abc import Iterable, Mapping
from typing import Final

from securepfl.report.epsilon import alone_title
from securepfl.report.outcome import MODELS
from securepfl.report.overall import interval_text, mean_rows, pooled_note, pooled_title
from securepfl.report.pages.blocks import Block, Figure, Figures, Fold, Section, Table, Text
from securepfl.report.pages.dots import MOST_LINES, Dot, Line, dot_plot
from securepfl.report.pages.reading import Figures as Found
from securepfl.report.pages.reading import Interval, Run, Site

_DRAWN: Final = 2
_MOST_TABLED: Final = 200
"""Hospitals: of more only the deciding metric has a table, and result.json has the others."""


def models_of(run: Run) -> dict[str, str]:
    """The models that were judged, in their order, and what they are called."""
    titles = {"local": alone_title(dict(run.raw)), "majority": run.result.metrics.majority}
    judged = [
        model
        for model in MODELS
        if any(value is not None for site in run.result.sites.values() for value in site.metrics[model].values())
    ]
    if run.one_model:
        titles["personalised"] = f"shared, with own {_kept(run)}"
        if all(site.metrics["personalised"] == site.metrics["shared"] for site in run.result.sites.values()):
            titles["personalised"] = "shared"
            judged = [model for model in judged if model != "shared"]
    return {model: titles.get(model, model) for model in judged}


def _kept(run: Run) -> str:
    """What hospitals keep of a model that all share: see report.verdict."""
    sites = run.settings.get("sites")
    declared = [site.get("prevalence") for site in sites.values()] if isinstance(sites, Mapping) else []
    averaged = run.setting("trajectory", "of", "") == "local" or run.setting("trajectory", "alpha", 0) != 0
    kept = [*(["level"] if any(declared) else []), *(["average"] if averaged else [])]
    return " and ".join(kept or ["threshold"])


def results_section(run: Run, key: str) -> Section | None:
    """None where the task has no metric, or nobody a test row."""
    result, models = run.result, models_of(run)
    if not result.metrics.shown or not models:
        return None
    figures = tuple(
        figure for metric in drawn_metrics(run) if (figure := _figure(run, metric, models, key)) is not None
    )
    blocks: list[Block] = [Figures(figures)] if figures else []
    if len(result.sites) > MOST_LINES:
        blocks.append(Text(f"{MOST_LINES} of {len(result.sites)} hospitals are drawn; the table has all.", small=True))
    tabled = metrics_in_order(run) if len(result.sites) <= _MOST_TABLED else metrics_in_order(run)[:1]
    first, *others = [_table(run, metric, models, key) for metric in tabled]
    blocks.append(first)
    if others:
        blocks.append(Fold(f"Tables of {' and '.join(_titles(run, metrics_in_order(run)[1:]))}", tuple(others)))
    if result.pooled:
        blocks.append(Fold(pooled_title(dict(run.raw)), (_pooled(run, models, key), Text(pooled_note(dict(run.raw))))))
    return Section(f"{key}results", _title(run), tuple(blocks))


def _title(run: Run) -> str:
    return "What this hospital gets" if run.alone else "What each hospital gets"


def metrics_in_order(run: Run) -> list[str]:
    """The metrics shown of each hospital, the deciding one first, and of the others the last, which tells most."""
    metrics = run.result.metrics
    return sorted(metrics.shown, key=lambda name: (name != metrics.decides, -metrics.shown.index(name)))


def drawn_metrics(run: Run) -> list[str]:
    """Those that are drawn; tables have the others."""
    return metrics_in_order(run)[:_DRAWN]


def _figure(run: Run, metric: str, models: Mapping[str, str], key: str) -> Figure | None:
    lines = _lines(run, metric, models)
    title = run.result.metrics.titles[metric]
    return dot_plot(f"{key}-{metric}", title, lines, models, _caption(run, metric)) if lines else None


def _caption(run: Run, metric: str) -> str:
    metrics, over = run.result.metrics, run.result.intervals
    decides = " This metric decides the verdict." if metric == metrics.decides and not run.alone else ""
    title, level = capital(metrics.titles[metric]), f"{100 * over.level:.0f} %"
    return f"{title} on {over.test_units} test {over.unit}; lines are {level} intervals over {over.unit}.{decides}"


def _lines(run: Run, metric: str, models: Mapping[str, str]) -> list[Line]:
    sites = list(run.result.sites.items())[:MOST_LINES]
    lines = [Line(name, _dots(site.metrics, site.intervals, metric, models)) for name, site in sites]
    if run.result.within and len(run.result.sites) > 1:
        held = _dots(run.result.within, run.result.intervals.within, metric, models)
        lines.insert(0, Line("all hospitals", held, strong=True))
    return [line for line in lines if line.dots]


def _dots(
    figures: Mapping[str, Found], intervals: Mapping[str, Mapping[str, Interval]], metric: str, models: Iterable[str]
) -> dict[str, Dot]:
    found = {}
    for model in models:
        value = figures.get(model, {}).get(metric)
        if value is not None:
            found[model] = Dot(value, intervals.get(model, {}).get(metric))
    return found


def figure_text(value: float | None, interval: Interval = None) -> str:
    """A figure with its interval, for a table.

    >>> figure_text(0.5, (0.25, None)), figure_text(None)
    ('0.500 (0.25 to ...)', '-')
    """
    if value is None:
        return "-"
    return f"{value:.3f}" if interval is None else f"{value:.3f} ({interval_text(interval)})"


def _titles(run: Run, metrics: Iterable[str]) -> list[str]:
    return [run.result.metrics.titles[metric] for metric in metrics]


def _table(run: Run, metric: str, models: Mapping[str, str], key: str) -> Table:
    """One metric, a row a hospital."""
    result, titles = run.result, tuple(models.values())
    title = result.metrics.titles[metric]
    rows, exact = [], []
    for name, site in result.sites.items():
        cells = [figure_text(site.metrics[model][metric], site.intervals[model][metric]) for model in models]
        rows.append((name, f"{site.train} / {site.test}", *cells))
        exact.append((name, site.train, site.test, *_exact(site, metric, models)))
    if len(result.sites) > 1 and result.mean:
        rows += _over_all(run, metric, models)
    return Table(
        f"{capital(title)} on test rows, with {100 * result.intervals.level:.0f} % intervals",
        ("hospital", "training / test rows", *titles),
        tuple(rows),
        name=f"{metric}.csv",
        exact=(("hospital", "training rows", "test rows", *_csv_headings(titles)), *exact),
        key=f"{key}{metric}-table",
    )


def _over_all(run: Run, metric: str, models: Iterable[str]) -> Iterable[tuple[str, ...]]:
    """The rows below the hospitals', with their intervals."""
    result, sites = run.result, run.result.sites.values()
    rows = f"{sum(site.train for site in sites)} / {sum(site.test for site in sites)}"
    held = (result.intervals.mean, result.intervals.within)
    for (label, (of, found)), intervals in zip(mean_rows(dict(run.raw)).items(), held, strict=True):
        cells = (figure_text(found[model][metric], intervals.get(model, {}).get(metric)) for model in models)
        yield (label, f"{of}: {rows}" if of else rows, *cells)


def capital(title: str) -> str:
    """With a capital, for the beginning of a sentence."""
    return title[:1].upper() + title[1:]


def _csv_headings(titles: Iterable[str]) -> list[str]:
    return [f"{title}{part}" for title in titles for part in ("", ", low", ", high")]


def _exact(site: Site, metric: str, models: Iterable[str]) -> list[float | None]:
    """Each model's figure and both ends, unrounded; empty where there is none."""
    return [
        value
        for model in models
        for value in (site.metrics[model][metric], *(site.intervals[model][metric] or (None, None)))
    ]


def _pooled(run: Run, models: Mapping[str, str], key: str) -> Table:
    result = run.result
    rows = tuple(
        (title, *(figure_text(result.pooled[m][metric], result.intervals.pooled[m][metric]) for m in models))
        for metric, title in result.metrics.titles.items()
    )
    return Table(
        "All hospitals' test rows together", ("metric", *models.values()), rows, name="pooled.csv", key=f"{key}pooled"
    )
