"""The report of an audit: all bounds and verdicts, what they come to, and one sentence that says it."""

import math
from dataclasses import dataclass

from scipy.special import ndtr, ndtri

from securepfl.privacy.accounting.events import Unit
from securepfl.privacy.accounting.gaussian import epsilon_of, mu_of
from securepfl.privacy.audit.gaussian import shift_in_one_run
from securepfl.privacy.audit.guesses import bound_from_guesses, ceiling, declared_guesses, right_guesses
from securepfl.privacy.audit.verdicts import FALSE_ALARM, LEVELS, Bound, Scores, Verdict


@dataclass(frozen=True)
class AuditReport:
    """Of an audit, of builtins only. With probability `confidence`, no bound errs and no correct build is accused.

    claimed_epsilon: what the accounting says, at delta. rehearsed_epsilon: what the same noise and clip claim in the
    rehearsal, where all units are in each step; lower_bound (the largest of `bounds`) is held against it.
    ceiling: the largest bound that so many canaries could ever show by f-DP, whatever they leak. power: the chance that
    so many would have caught noise of half the declared scale.

    `securepfl audit attack --json` prints its fields by their names: programs read them, so none may be renamed.

    >>> list(AuditReport.__dataclass_fields__)[:4]
    ['claimed_epsilon', 'delta', 'rehearsed_epsilon', 'canaries']
    """

    claimed_epsilon: float
    delta: float
    rehearsed_epsilon: float
    canaries: int
    lower_bound: float
    confidence: float
    ceiling: float
    power: float
    accused: bool
    bounds: tuple[Bound, ...]
    verdicts: tuple[Verdict, ...]
    sentence: str


def conclude(
    seen: Scores,
    verdicts: tuple[Verdict, ...],
    *,
    claimed_epsilon: float,
    rehearsed_epsilon: float,
    delta: float,
    unit: Unit = "record",
) -> AuditReport:
    """The report of scores in one run and the verdicts of all tests.

    >>> import numpy as np
    >>> stream = np.random.default_rng(0)
    >>> silent = Scores(stream.standard_normal(200), stream.random(200) < 0.5, stream.standard_normal(500))
    >>> told = conclude(silent, (), claimed_epsilon=4.0, rehearsed_epsilon=4.0, delta=1e-5)
    >>> told.accused, told.sentence[:58]
    (False, 'Nothing contradicts the claim, epsilon 4 at delta 1e-05: w')
    """
    bounds = lower_bounds(seen, delta)
    broken = tuple(bound for bound in bounds if bound.epsilon > rehearsed_epsilon)
    accused = bool(broken) or any(verdict.accused for verdict in verdicts)
    lower_bound = max(bound.epsilon for bound in bounds)
    most = max(bound.ceiling for bound in bounds if bound.ceiling is not None)
    faults = [verdict.finding for verdict in verdicts if verdict.accused]
    faults += [f"by {bound.method}, epsilon is at least {bound.epsilon:.3g}" for bound in broken]
    rehearsal = ""
    if not math.isclose(rehearsed_epsilon, claimed_epsilon, rel_tol=1e-3):
        rehearsal = f" in a rehearsal with all {unit}s in each step, which claims {rehearsed_epsilon:.3g}"
    least = f"with {1 - FALSE_ALARM:.0%} confidence the true epsilon is at least {lower_bound:.3g}{rehearsal}"
    power = float(ndtr(mu_of(rehearsed_epsilon, delta) * math.sqrt(len(seen.scores) / 2) + ndtri(LEVELS["gaussian"])))
    claim = f"epsilon {claimed_epsilon:.3g} at delta {delta:g}"
    if accused:
        sentence = (
            f"This build is less private than its claim, {claim}: {'; '.join(faults)}; {least}. "
            f"Repeat it: a correct build is accused {FALSE_ALARM:.0%} of the time at most."
        )
    else:
        sentence = (
            f"Nothing contradicts the claim, {claim}: {least}. These {len(seen.scores)} canaries could never show more "
            f"than {most:.3g} by f-DP, and would have caught noise of half the scale with probability {power:.0%}."
        )
    return AuditReport(
        claimed_epsilon=claimed_epsilon,
        delta=delta,
        rehearsed_epsilon=rehearsed_epsilon,
        canaries=len(seen.scores),
        lower_bound=lower_bound,
        confidence=1 - FALSE_ALARM,
        ceiling=most,
        power=power,
        accused=accused,
        bounds=bounds,
        verdicts=verdicts,
        sentence=sentence,
    )


def lower_bounds(seen: Scores, delta: float) -> tuple[Bound, ...]:
    """Three lower bounds on epsilon at `delta`, which assume less and less and show less and less.

    >>> import numpy as np
    >>> present = np.arange(200) % 2 == 0
    >>> leaking = Scores(6.0 * present + np.random.default_rng(0).standard_normal(200), present, np.empty(0))
    >>> [(bound.method, bound.epsilon > 1) for bound in lower_bounds(leaking, 1e-5)]
    [('gaussian', True), ('f-DP', True), ('guesses', True)]
    """
    gaussian = epsilon_of(shift_in_one_run(seen).lower_bound(LEVELS["gaussian"]), delta)
    canaries = len(seen.scores)
    counts = [(guesses, right_guesses(seen, guesses)) for guesses in declared_guesses(canaries)]

    def from_guesses(method: str, assumes: str) -> Bound:
        epsilon = max(bound_from_guesses(canaries, guesses, right, delta, method) for guesses, right in counts)
        return Bound(method, epsilon, 1 - LEVELS[method], assumes, ceiling(canaries, delta, method))

    return (
        Bound("gaussian", gaussian, 1 - LEVELS["gaussian"], "scores are normal, independent, of one spread", None),
        from_guesses("f-DP", "the trade-off curve is a Gaussian one"),
        from_guesses("guesses", "nothing but fair coins"),
    )
