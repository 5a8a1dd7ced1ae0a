"""Why training together, or personalising, gained nothing: from what the run recorded, or nothing said."""

from securepfl.report.gain import Gain
from securepfl.report.outcome import Outcome, baseline_in_words
from securepfl.settings.federation import Federation
from securepfl.settings.fixed import GATE
from securepfl.tasks.task import Metric

_ALIKE = 0.5
"""Mean similarity from which hospitals are called alike."""
_CONSTANT = {
    "balanced_accuracy": "every patient gets the same answer at the operating point, whatever the ranking (AUROC) is "
    "worth",
    "dice": "no mask meets its structure at the operating point",
}
"""What it means that a metric is the trivial baseline's in every resample."""


def why_not_together(federation: Federation, outcome: Outcome, metric: Metric) -> str:
    """Why personalised models were no better than local ones; "" where nothing recorded tells."""
    if sat := _sat_out(outcome):
        return sat
    scores, baseline = outcome.within_scores(), baseline_in_words(federation, outcome.task)
    gains = {model: Gain.of(metric, scores[model], scores["majority"]) for model in ("personalised", "local")}
    better = {model: gain.holds for model, gain in gains.items()}
    interval = gains["personalised"].interval
    if interval is not None and not any(interval) and metric.name in _CONSTANT:
        return f"{_CONSTANT[metric.name]}; declare [data] prevalence or threshold if it is not yet"
    if not any(better.values()):
        return f"neither is shown to beat the {baseline}: {_what_would_help(federation)}"
    cosines = _cosines(outcome)
    if cosines and _mean(cosines) < 0:
        return f"hospitals pull apart: their mean similarity is {_mean(cosines):+.2f}"
    if better["local"]:
        return f"models trained alone already beat the {baseline}: their own rows go far"
    return ""


def _what_would_help(federation: Federation) -> str:
    if not federation.privacy.protects:
        return "longer training or more rows would help"
    return (
        f"at epsilon {federation.privacy.epsilon:g} the noise leaves little to learn from; more rows, more hospitals "
        "or a larger epsilon would help"
    )


def why_not_personal(federation: Federation, outcome: Outcome) -> str:
    """Why personalised models were no better than the shared one; "" where nothing recorded tells."""
    if sat := _sat_out(outcome):
        return sat
    signals = {name: site.signal for name, site in outcome.sites.items() if site.signal is not None}
    if not signals:
        return "hospitals were not compared, so why isn't known; [similarity] every = N compares them every N rounds"
    return _why_by_signal(federation, outcome, [name for name, signal in signals.items() if signal < GATE])


def _why_by_signal(federation: Federation, outcome: Outcome, weak: list[str]) -> str:
    """By what hospitals learnt of each other; `weak`: those whose own noise hides what they would compare."""
    reasons, cosines = [], _cosines(outcome)
    if weak:
        reasons.append(f"noise hides what is a hospital's own at {', '.join(weak)}: more rows or epsilon would show it")
    if cosines and _mean(cosines) >= _ALIKE:
        those = "those that could be compared" if weak else "hospitals"
        reasons.append(f"{those} are alike (mean similarity {_mean(cosines):+.2f}), so one model fits them")
    if federation.coupled and not any(site.coupled_rounds for site in outcome.sites.values()):
        reasons.append("no hospital was coupled to others like it")
    return "; ".join(reasons)


def _sat_out(outcome: Outcome) -> str:
    absent = [name for name, site in outcome.sites.items() if site.sat_out]
    return f"{', '.join(absent)} sat out rounds (a note says why)" if absent else ""


def _cosines(outcome: Outcome) -> list[float]:
    return [cosine for site in outcome.sites.values() for cosine in site.similarity.values()]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
