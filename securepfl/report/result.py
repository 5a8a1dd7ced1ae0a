"""result.json: the record of a run, whose names are a contract (DESIGN, Command line)."""

import dataclasses
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from securepfl.report.epsilon import finite
from securepfl.report.gain import Gain
from securepfl.report.outcome import MODELS, Outcome, SiteOutcome, baseline_title
from securepfl.report.verdict import Finding, verdict_of
from securepfl.settings.federation import Federation
from securepfl.tasks.resampling import LEVEL
from securepfl.tasks.task import Metric, Task

SCHEMA = 1
VERSIONED = ("securepfl", "torch", "opacus", "dp-accounting", "tenseal", "cryptography", "numpy")


def result_of(federation: Federation, outcome: Outcome) -> dict[str, Any]:
    """The whole run as JSON-able values. A metric that can't be computed is None (null)."""
    communication = outcome.communication
    return {
        "schema": SCHEMA,
        "written": now(),
        "simulation": True,
        "seed": outcome.seed,
        "versions": {name: version(name) for name in VERSIONED},
        "federation": federation.told() | {"digest": federation.digest.hex()},
        "sites": {name: site_result(federation, site, outcome.deciding) for name, site in outcome.sites.items()},
        "mean": outcome.mean(),
        "counted": _counted(outcome),
        "within": {model: scored.point for model, scored in outcome.within_scores().items()},
        "pooled": {model: scored.point for model, scored in outcome.pooled.items()},
        "intervals": {
            "level": LEVEL,
            "over": f"test {outcome.test_unit}s",
            "test_units": outcome.test_units,
            "mean": {model: scored.intervals for model, scored in outcome.mean_scores().items()},
            "within": {model: scored.intervals for model, scored in outcome.within_scores().items()},
            "pooled": {model: scored.intervals for model, scored in outcome.pooled.items()},
        },
        **outcome.curves.to_mapping(),
        "verdict": [_finding(finding) for finding in verdict_of(federation, outcome)],
        "task": outcome.task.name,
        "metrics": metrics_of(federation, outcome.task),
        "coupling_rounds": len(federation.schedule.coupling_rounds),
        "communication": {
            "rounds": communication.rounds,
            "upload_bytes": communication.upload_bytes,
            "download_bytes": communication.download_bytes,
            "float32_upload_bytes": communication.float32_upload_bytes,
            "float32_download_bytes": communication.float32_download_bytes,
            "clipped_values": communication.clipped_values,
            "parts": dict(communication.parts),
        },
        "seconds": {name: round(seconds, 4) for name, seconds in outcome.seconds.items()},
    }


def now() -> str:
    """The time of writing, UTC, to the minute."""
    return datetime.now(UTC).isoformat(timespec="minutes")


def metrics_of(federation: Federation, task: Task) -> dict[str, Any]:
    """How a task's metrics are called and which are shown."""
    return {
        "titles": {metric.name: metric.title for metric in task.metrics},
        "shown": [metric.name for metric in task.metrics if not metric.detail],
        "decides": task.deciding,
        "majority": baseline_title(federation, task),
    }


def _counted(outcome: Outcome) -> dict[str, dict[str, int]]:
    """Over how many hospitals each mean is: those that have the metric."""
    return {
        model: {
            metric.name: sum(site.scores[model].point[metric.name] is not None for site in outcome.sites.values())
            for metric in outcome.task.metrics
        }
        for model in MODELS
    }


def _finding(finding: Finding) -> dict[str, Any]:
    """`holds`: true, false, or null where the interval of the gain doesn't tell."""
    return {
        "about": finding.about,
        "holds": finding.holds,
        "metric": finding.metric,
        "gain": finding.gain.value,
        "interval": finding.gain.interval,
        "line": finding.line,
    }


def _gains(site: SiteOutcome, metric: Metric | None) -> dict[str, Any]:
    """How much better the personalised model is than each other in the deciding metric, on the same resamples."""
    if metric is None:
        return {}
    ours = site.scores["personalised"]
    found = {model: Gain.of(metric, ours, site.scores[model]) for model in MODELS[1:]}
    return {model: {"value": g.value, "interval": g.interval, "holds": g.holds} for model, g in found.items()}


def site_result(federation: Federation, site: SiteOutcome, metric: Metric | None) -> dict[str, Any]:
    """One hospital's part, JSON-able; `metric` is the deciding one."""
    return {
        "train": site.train,
        "test": site.test,
        "test_units": site.test_units,
        "operating_point": list(site.point),
        "metrics": {model: scored.point for model, scored in site.scores.items()},
        "intervals": {model: scored.intervals for model, scored in site.scores.items()},
        "gains": _gains(site, metric),
        **site.curves.to_mapping(),
        "privacy": {
            "protection": federation.privacy.protection,
            "epsilon": finite(site.epsilon),
            "delta": federation.privacy.delta,
            "unit": federation.privacy.unit,
            "adjacency": "zero-out",
            "epsilon_replace_one": finite(site.epsilon_replace_one),
            "budget": site.budget if federation.privacy.protects else None,
        },
        "units": dataclasses.asdict(site.units),
        "clipped_fraction": site.clipped_fraction,
        "sat_out": list(site.sat_out),
        "similarity": dict(site.similarity),
        "signal": site.signal,
        "neighbours": list(site.neighbours),
        "coupled_rounds": site.coupled_rounds,
        "notes": [*site.notes, *site.details],
    }
