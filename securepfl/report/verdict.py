"""What a run showed, a line each: whether training together paid, whether personalising did, and why where not."""

from dataclasses import dataclass
from typing import Literal

from securepfl.report.gain import Gain
from securepfl.report.outcome import Outcome, SiteOutcome, baseline_in_words
from securepfl.report.reasons import why_not_personal, why_not_together
from securepfl.settings.federation import Federation
from securepfl.settings.prevalence import started_share_of
from securepfl.tasks.task import Metric

_NAMED = 3
"""Of the hospitals of one answer, how many a line names; result.json has each one's figures and intervals."""
Question = Literal["together", "personal", "majority"]


@dataclass(frozen=True)
class Finding:
    """The answer to one question about a run. `holds`: yes, no, or None where the interval doesn't tell. The gain is of
    the personalised models in `metric`, within hospitals, which count as many as their test units do.
    """

    about: Question
    holds: bool | None
    metric: str
    gain: Gain
    line: str


def verdict_of(federation: Federation, outcome: Outcome) -> list[Finding]:
    """The findings; none where the task has no metric."""
    metric = outcome.deciding
    if metric is None:
        return []
    return [
        _together(federation, outcome, metric),
        _personal(federation, outcome, metric),
        _majority(federation, outcome, metric),
    ]


def _together(federation: Federation, outcome: Outcome, metric: Metric) -> Finding:
    """Personalised against local."""
    alone = "trained alone at the same epsilon" if federation.privacy.protects else "trained alone (no privacy)"
    figures, gain = _compared(outcome, metric, "local", alone)
    return _found(
        "together", outcome, metric, gain, "training together", figures, why_not_together(federation, outcome, metric)
    )


def _personal(federation: Federation, outcome: Outcome, metric: Metric) -> Finding:
    """Personalised against shared; where nothing is personal there is nothing to judge but where hospitals decide."""
    if federation.shape is not None and not federation.shape.personal:
        return _one_model(federation, outcome, metric)
    figures, gain = _compared(outcome, metric, "shared", "of the shared model")
    return _found("personal", outcome, metric, gain, "personalising", figures, why_not_personal(federation, outcome))


def _one_model(federation: Federation, outcome: Outcome, metric: Metric) -> Finding:
    """Hospitals have the shared model, but for what they keep of it: an average over rounds, or its level moved to a
    declared prevalence, which moves probabilities and (but for a declared threshold) no decision.
    """
    figures, gain = _compared(outcome, metric, "shared", "of the shared model as it is")
    what, why = "nothing is personal", "no parameter is ([model] personal = [])"
    common = started_share_of(federation)
    levels = [name for name in outcome.sites if started_share_of(federation, name) != common]
    if gain.value is None:
        return Finding("personal", None, metric.name, gain, f"{what.capitalize()}: {why}; {figures}.")
    if gain.interval is not None and not any(gain.interval):
        ours = outcome.within_scores()["personalised"].point[metric.name]
        moved = f", moved towards its own declared prevalence at {_listed(levels)}" if levels else ""
        line = f"{what.capitalize()}: {why}, so every hospital has the shared model ({metric.title} {ours:.3f}){moved}."
        return Finding("personal", None, metric.name, gain, line)
    averaged = federation.trajectory.of == "local" or max(federation.trajectory.patterns.values(), default=0.0) > 0
    kept = [*(["level"] if levels else []), *(["average over rounds"] if averaged else [])]
    own = " and ".join(kept or ["threshold"])
    line = f"{what.capitalize()} but each hospital's {own}: {why}; with its own, {figures}."
    return Finding("personal", gain.holds, metric.name, gain, line)


def _found(
    about: Question, outcome: Outcome, metric: Metric, gain: Gain, what: str, figures: str, why_not: str
) -> Finding:
    heads = {
        True: f"{what.capitalize()} paid",
        False: f"{what.capitalize()} did not pay",
        None: f"Whether {what} paid can't be told {_over_all(outcome)}",
    }
    reason = f" {why_not[0].upper()}{why_not[1:]}." if why_not and not gain.holds and gain.value is not None else ""
    line = f"{heads[gain.holds]}: {figures}.{reason}"
    return Finding(about, gain.holds, metric.name, gain, line)


def _compared(outcome: Outcome, metric: Metric, other: str, whose: str) -> tuple[str, Gain]:
    """What personalised models and another kind get over all hospitals, in words, and the gain."""
    scores = outcome.within_scores()
    ours, theirs = (scores[model].point[metric.name] for model in ("personalised", other))
    gain = Gain.of(metric, scores["personalised"], scores[other])
    if theirs is None and ours is not None:
        return f"there is no {other} model, as the last round formed no sum", gain
    if ours is None or theirs is None:
        return f"these test rows have no {metric.title}", gain
    where = _at_hospitals(outcome, metric, other)
    return f"{metric.title} {ours:.3f} against {theirs:.3f} {whose}, {gain.in_words}{where}", gain


def _majority(federation: Federation, outcome: Outcome, metric: Metric) -> Finding:
    """Personalised against the trivial baseline, over all hospitals and at each."""
    scores = outcome.within_scores()
    gain = Gain.of(metric, scores["personalised"], scores["majority"])
    heads = {True: "Better than", False: "No better than", None: "Can't be told from"}
    sites = {name: _site_gain(site, metric, "majority") for name, site in outcome.sites.items()}
    rest = "".join(
        f"; {words} {_listed(named)}"
        for answer, words in (("worse", "worse at"), ("same", "no better at"), ("unknown", "can't be told at"))
        if (named := [_counted(outcome, name) for name, of in sites.items() if of.answer == answer])
    )
    ours, theirs = (_figure(scores[model].point[metric.name]) for model in ("personalised", "majority"))
    figures = f"{metric.title} {ours} against {theirs}, {gain.in_words}{rest}"
    baseline = baseline_in_words(federation, outcome.task)
    line = f"{heads[gain.holds]} the {baseline} {_over_all(outcome)}: {figures}."
    return Finding("majority", gain.holds, metric.name, gain, line)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _over_all(outcome: Outcome) -> str:
    return f"on {outcome.test_units} test {outcome.test_unit}s"


def _site_gain(site: SiteOutcome, metric: Metric, other: str) -> Gain:
    return Gain.of(metric, site.scores["personalised"], site.scores[other])


def _at_hospitals(outcome: Outcome, metric: Metric, other: str) -> str:
    gains = [_site_gain(site, metric, other).value for site in outcome.sites.values()]
    known = [gain for gain in gains if gain is not None]
    return f", better at {sum(gain > 0 for gain in known)} of {len(known)} hospitals" if known else ""


def _listed(names: list[str]) -> str:
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + rest


def _counted(outcome: Outcome, name: str) -> str:
    units = outcome.sites[name].test_units
    return f"{name} ({units} {outcome.test_unit}{'s' if units != 1 else ''})"
