"""Several runs side by side: what differs in their settings, and what they came to."""

from collections.abc import Mapping, Sequence

from securepfl.report.epsilon import alone_title, epsilon_text
from securepfl.report.outcome import MODELS
from securepfl.report.pages.blocks import Block, Figures, Section, Table, Text
from securepfl.report.pages.dots import Dot, Line, dot_plot
from securepfl.report.pages.ledgers import Checked
from securepfl.report.pages.reading import Run
from securepfl.report.pages.results import capital, figure_text, models_of
from securepfl.report.pages.sentences import limit_of
from securepfl.report.pages.settings import flat
from securepfl.report.pages.traffic import size_text

_NONE = "-"
_NAMED = 5


def comparison_sections(
    runs: Sequence[Run], names: Sequence[str], ledgers: Sequence[Mapping[str, Checked]]
) -> list[Section]:
    """`names` are what the runs are called here, `ledgers` theirs."""
    return [_results(runs, names), _by_hospital(runs, names), _costs(runs, names, ledgers), _differing(runs, names)]


def _results(runs: Sequence[Run], names: Sequence[str]) -> Section:
    """The deciding metric over all hospitals; runs that are judged by another stand apart."""
    metric = runs[0].result.metrics.decides
    title = runs[0].result.metrics.titles.get(metric, metric)
    models = {
        "personalised": _same([models_of(run).get("personalised", "") for run in runs]) or "personalised",
        "shared": "shared",
        "local": alone_title(dict(runs[0].raw)) if len({run.protected for run in runs}) == 1 else "local",
        "majority": _same([run.result.metrics.majority for run in runs]) or "baseline",
    }
    if models["personalised"] == models["shared"]:
        del models["shared"]
    lines, rows = [], []
    for run, name in zip(runs, names, strict=True):
        dots = {model: dot for model, dot in _dots(run, metric).items() if model in models}
        if dots:
            lines.append(Line(name, dots))
        told = {model: figure_text(dot.value, dot.interval) for model, dot in dots.items()}
        rows.append((name, *(told.get(model, _NONE) for model in models)))
    blocks: list[Block] = [Text(line) for line in _questions(runs, names)]
    if lines:
        caption = f"{capital(title)} within hospitals, by test rows, with 95 % intervals."
        blocks.append(Figures((dot_plot("comparison", title, lines, models, caption),)))
    others = [name for run, name in zip(runs, names, strict=True) if run.result.metrics.decides != metric]
    if others:
        blocks.append(Text(f"{', '.join(others)}: judged by another metric, so not drawn here."))
    headings = ("run", *models.values())
    blocks.append(
        Table(f"{capital(title)}, all hospitals", headings, tuple(rows), name="comparison.csv", key="comparison-table")
    )
    blocks.append(
        Text(
            "Runs drew different noise, and may have tested on different rows: intervals that don't overlap say that "
            "these models differ, not that the settings do. Repeat each run to tell.",
            small=True,
        )
    )
    return Section("results", "Side by side", tuple(blocks))


def _same(values: Sequence[str]) -> str | None:
    """What all of them are; None where they differ."""
    return values[0] if len(set(values)) == 1 else None


def _questions(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    """A line where the runs don't answer one question, so that no figure is held against another's."""
    asked = [_asked(run) for run in runs]
    differ = [key for key in asked[0] if _same([one[key] for one in asked]) is None]
    if not differ:
        return []
    told = "; ".join(
        f"{name}: {', '.join(f'{key} {one[key]}' for key in differ)}" for name, one in zip(names, asked, strict=True)
    )
    return [f"These runs don't answer one question, so don't hold a figure of one against another's. {told}."]


def _asked(run: Run) -> dict[str, str]:
    """What a figure of a run is of."""
    data, sites = run.settings.get("data"), sorted(run.result.sites)
    held = data if isinstance(data, Mapping) else {}
    return {
        "task": run.result.task,
        "outcome": f"{held.get('label', '-')} {held.get('positive') or ''}".strip(),
        "judged by": run.result.metrics.decides or "nothing",
        "over": run.result.intervals.over,
        "at": f"{len(sites)} hospitals" if len(sites) > _NAMED else ", ".join(sites),
    }


def _dots(run: Run, metric: str) -> dict[str, Dot]:
    result = run.result
    if result.metrics.decides != metric:
        return {}
    figures, intervals = (result.within, result.intervals.within) if result.within else ({}, {})
    if run.alone:
        (site,) = result.sites.values()
        figures, intervals = site.metrics, site.intervals
    return {
        model: Dot(value, intervals.get(model, {}).get(metric))
        for model in MODELS
        if (value := figures.get(model, {}).get(metric)) is not None
    }


def _by_hospital(runs: Sequence[Run], names: Sequence[str]) -> Section:
    """What training together gained each hospital, in each run."""
    sites = dict.fromkeys(site for run in runs for site in run.result.sites)
    rows = tuple((site, *(_gain(run, site) for run in runs)) for site in sites)
    titles = [run.result.metrics.titles.get(run.result.metrics.decides, _NONE) for run in runs]
    one = _same(titles)
    heads = names if one else [f"{name}: {title}" for name, title in zip(names, titles, strict=True)]
    whose = "shared" if all(run.one_model for run in runs) else "personalised"
    table = Table(
        f"Gain of the {whose} model over one trained alone, in {one or 'the metric that decides each run'}",
        ("hospital", *heads),
        rows,
        name="gains.csv",
        key="gains-table",
    )
    return Section("hospitals", "For whom it paid", (table,))


def _gain(run: Run, name: str) -> str:
    site = run.result.sites.get(name)
    gain = None if site is None else site.gains.get("local")
    if gain is None or gain.value is None:
        return _NONE
    low, high = gain.interval or (None, None)
    ends = "" if gain.interval is None else f" ({_end(low)} to {_end(high)})"
    return f"{gain.value:+.3f}{ends}"


def _end(value: float | None) -> str:
    return "..." if value is None else f"{value:+.2f}"


def _costs(runs: Sequence[Run], names: Sequence[str], ledgers: Sequence[Mapping[str, Checked]]) -> Section:
    rows = tuple(
        (
            name,
            *_limit(run, found),
            _held(run, found),
            str(len(run.result.sites)),
            str(run.result.rounds or run.settings.get("rounds", _NONE)),
            _bytes(run),
            f"{run.result.seconds.get('total', sum(run.result.seconds.values())):.1f}",
        )
        for run, name, found in zip(runs, names, ledgers, strict=True)
    )
    headings = (
        "run",
        "epsilon, at most",
        "delta",
        "of each",
        "ledgers that hold",
        "hospitals",
        "rounds",
        "bytes",
        "seconds",
    )
    return Section("costs", "What each cost", (Table("Costs", headings, rows, name="costs.csv", key="costs-table"),))


def _limit(run: Run, found: Mapping[str, Checked]) -> tuple[str, str, str]:
    """Epsilon, delta and whose: of another unit or delta, two epsilons say nothing of each other."""
    if not run.protected:
        return epsilon_text(None), _NONE, _NONE
    epsilon, delta = max(limit_of(site.privacy, found.get(name)) for name, site in run.result.sites.items())
    unit = next(iter(run.result.sites.values())).privacy.unit
    return "seeded: protects nobody" if run.seeded else epsilon_text(epsilon), f"{delta:g}", unit


def _held(run: Run, found: Mapping[str, Checked]) -> str:
    return f"{sum(one.summary is not None for one in found.values())} of {len(run.result.sites)}"


def _bytes(run: Run) -> str:
    sent = run.result.communication
    return _NONE if sent is None else size_text(sent.upload_bytes + sent.download_bytes)


def _differing(runs: Sequence[Run], names: Sequence[str]) -> Section:
    settings = [flat(run.settings) for run in runs]
    keys = dict.fromkeys(key for one in settings for key in one)
    rows = tuple(
        (key, *(one.get(key, _NONE) for one in settings)) for key in keys if len({one.get(key) for one in settings}) > 1
    )
    if not rows:
        return Section("settings", "Settings", (Text("All settings are the same."),))
    table = Table("Settings that differ", ("key", *names), rows, name="settings.csv", words=True, key="differing-table")
    return Section("settings", "Settings", (table,))
