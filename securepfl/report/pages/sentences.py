"""The verdict, in three sentences: whether training together paid and for whom, at what privacy, and what not to take
from it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from securepfl.report.gain import Gain
from securepfl.report.pages.reading import Finding, Run
from securepfl.report.pages.reading import Gain as Found

_NAMED = 3


@dataclass(frozen=True)
class Sentence:
    """The answer to a question that a reader has."""

    asks: str
    answer: str


def verdict_of(run: Run) -> tuple[Sentence, ...]:
    """All three."""
    asks = "Is the personalised model better here?" if run.alone else "Did training together pay?"
    return (
        Sentence(asks, _own(run) if run.alone else _together(run)),
        Sentence("At what privacy?", _privacy(run)),
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
    return (
        f"{head}: personalised models reach a {title} of {ours:.3f} and models trained alone{same} {theirs:.3f}, "
        f"{_gain(finding)}; {_for_whom(run)}."
    )


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
        return f"The personalised model reaches a {title} of {ours:.3f}; there is no shared model to compare it with."
    head = {True: "Yes", False: "No", None: "Not shown"}[gain.holds]
    return (
        f"{head}: a {title} of {ours:.3f} against {shared:.3f} of the shared model, {_gain(gain)}; no model was "
        "trained alone, as that would be a second release from the same records."
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
        for holds, words in ((True, "better at"), (False, "no better at"), (None, "can't be told at"))
        if (named := [name for name, gain in gains.items() if gain.holds is holds])
    ]
    return ", ".join(told)


def _listed(names: list[str]) -> str:
    if len(names) <= _NAMED:
        return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{', '.join(names[:2])} and {len(names) - 2} more"


def _privacy(run: Run) -> str:
    privacies = [site.privacy for site in run.result.sites.values()]
    spent = [privacy.epsilon for privacy in privacies]
    if not run.protected or any(epsilon is None for epsilon in spent):
        return "None: nothing was clipped or noised, so nothing limits what these models tell of anybody."
    worst = max(privacies, key=lambda privacy: privacy.epsilon or 0.0)
    epsilon = worst.epsilon or 0.0
    if run.seeded:
        return (
            f"None: this was a rehearsal with a known seed, so its noise can be subtracted; with fresh noise one "
            f"{worst.unit} would have epsilon {epsilon:.3g}."
        )
    most = "" if len(privacies) == 1 else " at most"
    return (
        f"Epsilon is{most} {epsilon:.3g} for each {worst.unit} (delta {worst.delta:g}): an attacker who knows all else "
        f"and guesses whether one {worst.unit} was in the data is right at most "
        f"{_often(guess(epsilon, worst.delta))} of the time, where a coin gives 50 %."
    )


def guess(epsilon: float, delta: float) -> float:
    """How often the best attacker is right who guesses whether one unit was in, which it was as often as not:
    (e^epsilon + delta) / (e^epsilon + 1) (Kairouz, Oh and Viswanath 2015, theorem 2.1).

    >>> round(guess(0.0, 0.0), 2), round(guess(1.0, 1e-5), 2)
    (0.5, 0.73)
    """
    return (1 + delta * math.exp(-epsilon)) / (1 + math.exp(-epsilon))


def _often(share: float) -> str:
    """Rounded up, as it is a limit.

    >>> _often(0.98201), _often(0.99966), _often(0.9999999)
    ('98.3 %', '99.97 %', 'practically 100 %')
    """
    digits = 1 if share < 0.999 else 2
    percent = math.ceil(100 * share * 10**digits) / 10**digits
    return f"{percent:g} %" if percent < 100 else "practically 100 %"


def _not_shown(run: Run) -> str:
    *first, last = _traps(run)
    return f"That {', that '.join(first)}, or that {last}" if first else f"That {last}"


def _traps(run: Run) -> Iterable[str]:
    majority, unit = _about(run, "majority"), run.result.intervals.unit
    if run.alone:
        yield "other hospitals see the same (these are one hospital's figures)"
    elif majority is not None and majority.holds is not True:
        yield f"the model is of use (it isn't shown to beat the {_baseline(run)})"
    if run.result.simulation and not run.alone:
        yield "real hospitals would see the same (all were simulated in one process)"
    if run.protected:
        yield f"another run would give these figures (intervals cover other test {unit}, and no other noise)"
    else:
        yield f"another run would give these figures (intervals cover other test {unit} alone)"
    yield "the model may decide about a patient"


def _baseline(run: Run) -> str:
    title = run.result.metrics.majority
    return "answer of the commoner class" if title == "majority" else title


def _about(run: Run, what: str) -> Finding | None:
    return next((finding for finding in run.result.verdict if finding.about == what), None)
