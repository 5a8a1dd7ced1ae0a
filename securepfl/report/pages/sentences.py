"""The verdict, in three sentences: whether training together paid and for whom, at what privacy, and what not to take
from it."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from securepfl.report.epsilon import guess_text
from securepfl.report.gain import Gain
from securepfl.report.pages.ledgers import Checked
from securepfl.report.pages.reading import Finding, Privacy, Run
from securepfl.report.pages.reading import Gain as Found

_NAMED = 3
_MANY = 10
"""Hospitals from which on some are named by chance."""
_MOST_OF_ALL = 0.5
"""Of the test units, at one hospital."""


@dataclass(frozen=True)
class Sentence:
    """The answer to a question that a reader has."""

    asks: str
    answer: str


def verdict_of(run: Run, ledgers: Mapping[str, Checked]) -> tuple[Sentence, ...]:
    """All three, of a run whose `ledgers` were checked."""
    if not run.alone:
        first = Sentence("Did training together pay?", _together(run))
    elif run.one_model:
        first = Sentence("Is the model of use here?", _of_use(run))
    else:
        first = Sentence("Is the personalised model better here?", _own(run))
    return (
        first,
        Sentence("At what privacy?", _privacy(run, ledgers)),
        Sentence("What not to conclude?", f"{_not_shown(run)}."),
    )


def _together(run: Run) -> str:
    finding = _about(run, "together")
    if finding is None:
        return "That can't be told: this task has no metric that decides, or the file is from before verdicts."
    title = run.result.metrics.titles.get(finding.metric, finding.metric)
    ours, theirs = (run.result.within.get(model, {}).get(finding.metric) for model in ("personalised", "local"))
    if ours is None or theirs is None or finding.value is None:
        return f"That can't be told: these test rows have no {title}."
    head = {True: "Yes", False: "No", None: "Not shown"}[finding.holds]
    same = " at the same epsilon" if run.protected else ""
    reach = "the shared model reaches" if run.one_model else "personalised models reach"
    return (
        f"{head}: on {_rows(run)} {reach} {_with_unit(title, ours)} and models trained alone{same} {theirs:.3f}, "
        f"{_gain(finding)}; {_for_whom(run)}.{_rather(run)}"
    )


def _with_unit(title: str, value: float) -> str:
    """A figure behind its metric, whose title may end in a unit.

    >>> _with_unit("AUROC", 0.8), _with_unit("mean absolute error, mmHg", 3.35)
    ('an AUROC of 0.800', 'a mean absolute error of 3.350 mmHg')
    """
    name, _, unit = title.partition(", ")
    article = "an" if name[0] in "AEIOaeio" else "a"
    return f"{article} {name} of {value:.3f}{' ' if unit else ''}{unit}"


def _rows(run: Run) -> str:
    """How many were tested, in words."""
    count, unit = run.result.intervals.test_units, run.result.intervals.unit
    return f"{count} test {unit.removesuffix('s') if count == 1 else unit}"


def _rather(run: Run) -> str:
    """Said where the one model for all does better than those that this sentence is about."""
    finding = _about(run, "personal")
    shared = None if finding is None else run.result.within.get("shared", {}).get(finding.metric)
    worse = finding is not None and finding.holds is False and (finding.value or 0.0) < 0
    if run.one_model or not worse or shared is None:
        return ""
    return f" But the shared model, the same for all, does better than the personalised ones: {shared:.3f}."


def _own(run: Run) -> str:
    """Of one hospital: nobody trained alone, so what is known is the gain over the shared model and the baseline."""
    (site,) = run.result.sites.values()
    decides = run.result.metrics.decides
    ours, shared = (site.metrics[model].get(decides) for model in ("personalised", "shared"))
    gain = site.gains.get("shared")
    title = run.result.metrics.titles.get(decides, decides)
    if ours is None:
        return f"That can't be told: the test rows here have no {title}."
    if shared is None or gain is None or gain.value is None:
        reached = _with_unit(title, ours)
        return f"The personalised model reaches {reached}; there is no shared model to compare it with."
    head = {True: "Yes", False: "No", None: "Not shown"}[gain.holds]
    return (
        f"{head}: on {_rows(run)} {_with_unit(title, ours)} against {shared:.3f} of the shared model, {_gain(gain)}; "
        "no model was trained alone, as that would be a second release from the same records."
    )


def _of_use(run: Run) -> str:
    """Of one hospital whose model is the shared one: against the trivial answer."""
    (site,) = run.result.sites.values()
    decides, baseline = run.result.metrics.decides, _baseline(run)
    title = run.result.metrics.titles.get(decides, decides)
    ours, theirs = site.metrics["personalised"].get(decides), site.metrics["majority"].get(decides)
    gain = site.gains.get("majority")
    if ours is None or theirs is None or gain is None or gain.value is None:
        return f"That can't be told: the test rows here have no {title}."
    head = {True: "Yes", False: "No", None: "Not shown"}[gain.holds]
    return (
        f"{head}: on {_rows(run)} the shared model has {_with_unit(title, ours)} and the {baseline} {theirs:.3f}, "
        f"{_gain(gain)}; nothing is personal in this run, so it is this hospital's model too."
    )


def _gain(gain: Found) -> str:
    return f"a gain of {Gain(gain.value, gain.interval).in_words}"


def _for_whom(run: Run) -> str:
    """At which hospitals training together helped, as far as their own test rows tell."""
    gains = {name: site.gains["local"] for name, site in run.result.sites.items() if "local" in site.gains}
    if not gains:
        return "for whom isn't in this file"
    if len(gains) > 1 and all(gain.holds is None for gain in gains.values()):
        return f"at no hospital alone are there enough test {run.result.intervals.unit} to tell"
    told = [
        f"{words} {_listed(named)}"
        for answer, words in (
            ("better", "better at"),
            ("worse", "worse at"),
            ("same", "no better at"),
            ("unknown", "can't be told at"),
        )
        if (named := [name for name, gain in gains.items() if Gain(gain.value, gain.interval).answer == answer])
    ]
    return ", ".join(told)


def _listed(names: list[str]) -> str:
    if len(names) <= _NAMED:
        return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{', '.join(names[:2])} and {len(names) - 2} more"


def _privacy(run: Run, ledgers: Mapping[str, Checked]) -> str:
    privacies = [site.privacy for site in run.result.sites.values()]
    if not run.protected:
        return "None: nothing was clipped or noised, so nothing limits what these models tell of anybody."
    unit = privacies[0].unit
    held = {name: limit_of(site.privacy, ledgers.get(name)) for name, site in run.result.sites.items()}
    if unlimited := [name for name, (epsilon, _) in held.items() if math.isinf(epsilon)]:
        return (
            f"None at {_listed(unlimited)}: no epsilon holds there, as where records have trained without protection "
            "before, so nothing limits what these models tell of anybody there."
        )
    epsilon, delta = max(held.values())
    if run.seeded:
        return (
            f"None: this was a rehearsal with a known seed, so its noise can be subtracted; with fresh noise one "
            f"{unit} would have epsilon {epsilon:.3g}."
        )
    most = "" if len(privacies) == 1 else " at most"
    return (
        f"Epsilon is{most} {epsilon:.3g} for each {unit} (delta {delta:g}): an attacker who knows all but whether one "
        f"{unit}'s data or zeros in their place are in, and thinks both as likely, guesses right with probability "
        f"{guess_text(epsilon, delta)} at most; 0.5 is a mere guess."
    )


def limit_of(privacy: Privacy, ledger: Checked | None) -> tuple[float, float]:
    """The epsilon and delta that hold: the budget's at twice its delta, where kinds of release vary (see
    Composition.is_mixed); the signed ledger's where it counts more than the file says.
    """
    said, summary = math.inf if privacy.epsilon is None else privacy.epsilon, None if ledger is None else ledger.summary
    if summary is not None and summary.mixed:
        return summary.holds
    return (said if summary is None else max(said, summary.epsilon)), privacy.delta


def _not_shown(run: Run) -> str:
    *first, last = _traps(run)
    return f"That {', that '.join(first)}, or that {last}" if first else f"That {last}"


def _traps(run: Run) -> Iterable[str]:
    unit = run.result.intervals.unit
    if run.alone:
        yield "other hospitals see the same (these are one hospital's figures)"
    if _is_of_use(run) is False:
        yield f"the model is of use (it isn't shown to beat the {_baseline(run)})"
    yield from _of_hospitals(run)
    if run.result.simulation and not (run.alone and run.seeded):
        yield "real hospitals would see the same (all were simulated in one process)"
    if run.protected:
        yield f"another run would give these figures (intervals cover other test {unit}, and no other noise)"
    else:
        yield f"another run would give these figures (intervals cover other test {unit} alone)"
    yield "the model may decide about a patient"


def _is_of_use(run: Run) -> bool | None:
    """Whether the model is shown to beat the trivial answer; None where the file doesn't hold it."""
    (site, *_) = run.result.sites.values()
    found = site.gains.get("majority") if run.alone else _about(run, "majority")
    return None if found is None else found.holds is True


def _of_hospitals(run: Run) -> Iterable[str]:
    """What an answer over all hospitals hides, and what many answers at once do."""
    sites, unit = run.result.sites, run.result.intervals.unit
    total, largest = sum(site.test_units for site in sites.values()), max(sites, key=lambda its: sites[its].test_units)
    share = sites[largest].test_units / total if total else 0.0
    if len(sites) > 1 and share > _MOST_OF_ALL:
        most = f"{largest} has {100 * share:.0f} % of the test {unit}"
        yield f"hospitals gain alike ({most}, and the figure over all is mostly its)"
    told = [site.gains["local"].holds for site in sites.values() if "local" in site.gains]
    if len(told) >= _MANY and any(holds is not None for holds in told):
        yield (
            f"each hospital is named rightly (were all models alike, of {len(told)} hospitals about "
            f"{max(1, round(0.05 * len(told)))} would be named better or worse by chance)"
        )


def _baseline(run: Run) -> str:
    title = run.result.metrics.majority
    return "answer of the commoner class" if title == "majority" else title


def _about(run: Run, what: str) -> Finding | None:
    return next((finding for finding in run.result.verdict if finding.about == what), None)
