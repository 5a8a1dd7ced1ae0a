"""What a rehearsal shows about epsilon: lower bounds, and tests that accuse a build less private than it claims.

A canary is a unit whose coin put it in the rehearsal or left it out; its score is what is seen in its own
direction, in standard deviations of the declared noise. Under the claim "mu-Gaussian differential privacy" (Dong,
Roth and Su 2022, arXiv 1905.02383) scores are normal with mean 0 or mu. All false alarms of an audit together have
probability at most 1 %: the levels below add up to it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from dp_accounting import gaussian_mechanism
from numpy.typing import NDArray
from scipy.special import betainc, betaincinv, chdtr, fdtr, fdtrc, ndtr, ndtri
from scipy.stats import binom, chi2, kstest

from securepfl.privacy.accounting.events import Unit

FALSE_ALARM = 0.01
# Most goes to the test that has to tell small differences; bugs that the others look for show far beyond theirs.
LEVELS = {
    "mechanism": 0.0005,
    "contributions": 0.001,
    "runs": 0.001,
    "gaussian": 0.005,
    "spread": 0.0005,
    "f-DP": 0.001,
    "guesses": 0.001,
}
# Shares of the canaries that are guessed, declared before anything is seen. The others are abstained from.
GUESSED_SHARES = (0.1, 0.4, 1.0)
# A contribution is read through noise of a thousandth of the clip: this is ten standard deviations above one clip.
LARGEST_CONTRIBUTION = 1.01
_MOST_VECTORS, _SIMULATIONS = 256, 9_999
# With what probability a sample rate that a finding names would have been caught.
_POWER = 0.99
_LARGEST_MU, _LARGEST_EPSILON = 1e3, 50.0

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Verdict:
    """Of one test. p_value: how likely evidence as strong is at most, from a build that keeps its claim.

    accused: p_value is at most level. finding: what was seen, one sentence.
    """

    test: str
    p_value: float
    level: float
    accused: bool
    finding: str


@dataclass(frozen=True)
class Bound:
    """A lower bound on epsilon, wrong with probability at most 1 - confidence. assumes: what it rests on.

    ceiling: the largest that as many canaries could ever show by this method; None where it has none.
    """

    method: str
    epsilon: float
    confidence: float
    assumes: str
    ceiling: float | None


@dataclass(frozen=True)
class Scores:
    """Of a rehearsal. Raises ValueError where they do not fit together.

    scores, included: [canaries]. silent: scores of directions in which no canary lies; they measure the noise.
    """

    scores: Floats
    included: NDArray[np.bool_]
    silent: Floats

    def __post_init__(self) -> None:
        if self.scores.ndim != 1 or self.scores.shape != self.included.shape or self.silent.ndim != 1:
            raise ValueError("scores and included must be vectors of one length, and silent a vector")
        if self.included.dtype != np.bool_:
            raise ValueError(f"included must be bool, not {self.included.dtype}")
        if not (np.isfinite(self.scores).all() and np.isfinite(self.silent).all()):
            raise ValueError("scores must be finite")


def mu_of(epsilon: float, delta: float) -> float:
    """The mu of the Gaussian mechanism that is exactly (epsilon, delta)-private (Balle and Wang 2018)."""
    return 1 / float(gaussian_mechanism.get_sigma_gaussian(epsilon, delta))


def epsilon_of(mu: float, delta: float) -> float:
    """Epsilon at `delta` of the Gaussian mechanism of `mu` (Balle and Wang 2018, Theorem 8); 0 for mu = 0."""
    return float(gaussian_mechanism.get_epsilon_gaussian(1 / mu, delta)) if mu > 0 else 0.0


def _largest_rejected(p_value: Callable[[float], float], level: float, largest: float) -> float:
    """The largest parameter up to `largest` that is found to be rejected; 0 where 0 is not. p_value must not fall."""
    if p_value(0.0) > level:
        return 0.0
    if p_value(largest) <= level:
        return largest
    low, high = 0.0, largest
    while high - low > 1e-6 * max(1.0, low):
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(middle) <= level else (low, middle)
    return low


# --- Gaussian scores ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shift:
    """What canaries add, in standard deviations of the noise that is there: a t statistic.

    Where true scores are N(mu * included, 1) up to a common scale, t is noncentral t with `freedom` degrees and
    noncentrality mu / error. estimate: of mu.
    """

    t: float
    error: float
    freedom: int

    @property
    def estimate(self) -> float:
        return self.t * self.error

    def p_value(self, mu: float) -> float:
        """Chance of a t at least this large, were mu the true one. Smaller true ones only make it rarer."""
        if self.freedom < 1:
            return 1.0
        scales, weights = _chi_nodes(self.freedom)
        return float(min(1.0, weights @ ndtr(mu / self.error - self.t * scales)))

    def lower_bound(self, level: float) -> float:
        """Lower bound on mu, wrong with probability at most `level`; at most 1,000."""
        return _largest_rejected(self.p_value, level, _LARGEST_MU)


@lru_cache(maxsize=64)
def _chi_nodes(freedom: int) -> tuple[Floats, Floats]:
    """Quadrature for the mean of a function of the root of chi-square over its degrees of freedom."""
    points, weights = np.polynomial.legendre.leggauss(400)
    return np.sqrt(chi2.ppf((points + 1) / 2, freedom) / freedom), weights / 2


def shift_in_one_run(seen: Scores) -> Shift:
    """The mean of included canaries over the noise in all directions, whose mean is known to be 0.

    Absent canaries and silent directions say how large the noise is, so that a build is judged by its own noise:
    half the noise shows as twice mu, and more noise never accuses.
    """
    present, others = seen.scores[seen.included], np.concatenate([seen.scores[~seen.included], seen.silent])
    count, freedom = len(present), len(seen.scores) + len(seen.silent) - 1
    if count == 0 or freedom < 1:
        return Shift(0.0, 1.0, 0)
    mean = float(present.mean())
    squares = float(((present - mean) ** 2).sum() + (others**2).sum())
    return _shift(mean, squares, 1 / count, freedom)


def shift_between_runs(seen: Scores) -> Shift:
    """The difference of the means of both groups over their pooled noise: no direction's mean is known."""
    present, absent = seen.scores[seen.included], seen.scores[~seen.included]
    freedom = len(seen.scores) - 2
    if len(present) == 0 or len(absent) == 0 or freedom < 1:
        return Shift(0.0, 1.0, 0)
    squares = float(((present - present.mean()) ** 2).sum() + ((absent - absent.mean()) ** 2).sum())
    return _shift(float(present.mean() - absent.mean()), squares, 1 / len(present) + 1 / len(absent), freedom)


def _shift(difference: float, squares: float, variance: float, freedom: int) -> Shift:
    deviation = math.sqrt(squares / freedom)
    error = math.sqrt(variance)
    # Without any noise t would be infinite, or 0/0 where canaries add nothing either.
    return Shift(difference / (error * max(deviation, 1e-12)), error, freedom)


def trade_off_verdict(seen: Scores, mu: float) -> Verdict:
    """Whether canaries can be told better than `mu` allows, or the noise around them is smaller than declared.

    For equal spread, the likelihood ratio grows with the mean of the included. With m canaries and many silent
    directions, twice mu is missed where a standard normal is above mu sqrt(m/2) - Phi^-1(1 - level): under 1 % from
    m = 2 (4.91 / mu)^2 on. What canaries stand out by says little of noise a little too small; absent canaries and
    silent directions do, by chi-square, exact where scores are as declared: n of them show a deviation of
    1 - 4 / sqrt(n) with 99 %. Both share the level (weighted Bonferroni).
    """
    shift, others = shift_in_one_run(seen), np.concatenate([seen.scores[~seen.included], seen.silent])
    level = LEVELS["gaussian"] + LEVELS["spread"]
    p_values = {
        "they stand out by too much": level / LEVELS["gaussian"] * shift.p_value(mu),
        "the noise around them is too small": level / LEVELS["spread"] * _small_spread_p_value(others),
    }
    fault, smallest = min(p_values.items(), key=lambda item: item[1])
    p_value = min(1.0, smallest)
    found = f"canaries stand out by {shift.estimate:.3g} standard deviations of the noise; the claim allows {mu:.3g}"
    if len(others):
        found += f"; the noise around them has {_deviation_of(others)}"
    accused = p_value <= level
    return Verdict("canaries", p_value, level, accused, f"{found}; {fault}" if accused else found)


def _small_spread_p_value(values: Floats) -> float:
    """Chi-square, one-sided: more noise than declared only makes it larger. 1 for no values."""
    return float(chdtr(values.size, (values**2).sum())) if values.size else 1.0


def _deviation_of(values: Floats) -> str:
    """Their deviation in words, with what chance makes of it 99 times in 100."""
    low, high = np.sqrt(chi2.ppf([0.005, 0.995], values.size) / values.size)
    deviation = math.sqrt(float((values**2).mean()))
    return f"{deviation:.4g} times the declared deviation (by chance {low:.4g} to {high:.4g})"


def _rarest(p_values: dict[str, float]) -> tuple[str, float, str]:
    """The fault with the smallest p-value, that times their number, and where it comes from in words."""
    fault, smallest = min(p_values.items(), key=lambda item: item[1])
    p_value = min(1.0, len(p_values) * smallest)
    origin = f"p-value: {smallest:.2g} of the test whether {fault}"
    if len(p_values) > 1:
        origin += f", times {len(p_values)} for the smallest of as many tests (at most 1)"
    return fault, p_value, origin


def runs_verdict(seen: Scores, mu: float, level: float = LEVELS["runs"]) -> Verdict:
    """The same over many runs of one canary each, from the difference of both groups."""
    shift = shift_between_runs(seen)
    p_value, least = shift.p_value(mu), shift.lower_bound(level)
    finding = (
        f"over {len(seen.scores)} runs the canary stands out by {shift.estimate:.3g} standard deviations of the noise "
        f"(at least {least:.3g}); the claim allows {mu:.3g}"
    )
    return Verdict("runs", p_value, level, p_value <= level, finding)


# --- Guesses, whatever the scores' law ----------------------------------------------------------------------------


def right_guesses(seen: Scores, guesses: int) -> int:
    """Of `guesses` guesses, those that are right: the lowest scores are guessed absent, as many highest present."""
    order = np.argsort(seen.scores, kind="stable")
    absent, present = order[: guesses // 2], order[len(order) - (guesses - guesses // 2) :]
    return int((~seen.included[absent]).sum() + seen.included[present].sum())


def guesses_p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Chance of `right` right guesses or more, at most, under (epsilon, delta)-privacy, in one run.

    Steinke, Nasr and Jagielski 2023 (arXiv 2305.08846), Theorem 5.2: each canary is in or out by a fair coin.
    Raises ValueError where the counts do not fit.
    """
    _check_counts(canaries, guesses, right)
    if right == 0:
        return 1.0
    chance = 1 / (1 + math.exp(-epsilon))
    fewer = np.arange(1, right + 1)
    steepest = float((np.cumsum(binom.pmf(right - fewer, guesses, chance)) / fewer).max())
    return min(1.0, float(binom.sf(right - 1, guesses, chance)) + 2 * canaries * delta * steepest)


def epsilon_lower_bound(canaries: int, guesses: int, right: int, delta: float, confidence: float) -> float:
    """Lower bound on epsilon at `delta` from right guesses; at most 50. For a number of guesses fixed beforehand."""
    return _largest_rejected(
        lambda epsilon: guesses_p_value(canaries, guesses, right, epsilon, delta), 1 - confidence, _LARGEST_EPSILON
    )


def trade_off_rejected(canaries: int, guesses: int, right: int, mu: float, level: float) -> bool:
    """Whether `right` right guesses in one run have probability at most `level` under mu-Gaussian privacy.

    Mahloujifar, Melis and Chaudhuri 2025 (arXiv 2410.22235): with p_i the probability of i right guesses,
    sums from any i upward obey sum (j/m) p_j <= Phi(Phi^-1(sum ((g-j+1)/m) p_{j-1}) + mu). Starting from
    probability `level` at `right`, the least sum of all p_i is built downward; above 1, the claim is refuted.
    Raises ValueError where the counts do not fit.
    """
    _check_counts(canaries, guesses, right)
    total = guesses / canaries
    rights, wrongs = level * right / canaries, level * (guesses - right) / canaries
    for i in range(right - 1, -1, -1):
        if rights >= total:
            return True
        least = float(ndtr(ndtri(rights) - mu))
        if least <= wrongs:
            break
        rights, wrongs = rights + i / (guesses - i) * (least - wrongs), least
    return rights + wrongs > total


def mu_lower_bound(canaries: int, guesses: int, right: int, confidence: float) -> float:
    """Lower bound on mu from right guesses, for a number of guesses fixed beforehand; at most 1,000."""
    return _largest_rejected(
        lambda mu: 0.0 if trade_off_rejected(canaries, guesses, right, mu, 1 - confidence) else 1.0, 0.5, _LARGEST_MU
    )


def _check_counts(canaries: int, guesses: int, right: int) -> None:
    if not 0 <= right <= guesses <= canaries or guesses < 1:
        raise ValueError(f"{right} right of {guesses} guesses on {canaries} canaries: not possible")


def declared_guesses(canaries: int) -> tuple[int, ...]:
    """The numbers of guesses that are tried, by the number of canaries alone."""
    return tuple(sorted({max(1, round(share * canaries)) for share in GUESSED_SHARES}))


def ceiling(canaries: int, delta: float, method: str) -> float:
    """The largest bound on epsilon that so many canaries could ever show: all guesses right.

    method: "f-DP" or "guesses", which assume no law of the scores.
    """
    return max(_bound_from_guesses(canaries, guesses, guesses, delta, method) for guesses in declared_guesses(canaries))


def _bound_from_guesses(canaries: int, guesses: int, right: int, delta: float, method: str) -> float:
    confidence = 1 - LEVELS[method] / len(declared_guesses(canaries))
    if method == "f-DP":
        return epsilon_of(mu_lower_bound(canaries, guesses, right, confidence), delta)
    return epsilon_lower_bound(canaries, guesses, right, delta, confidence)


def lower_bounds(seen: Scores, delta: float) -> tuple[Bound, ...]:
    """Three lower bounds on epsilon at `delta`, which assume less and less and show less and less."""
    gaussian = epsilon_of(shift_in_one_run(seen).lower_bound(LEVELS["gaussian"]), delta)
    canaries = len(seen.scores)
    counts = [(guesses, right_guesses(seen, guesses)) for guesses in declared_guesses(canaries)]

    def from_guesses(method: str, assumes: str) -> Bound:
        epsilon = max(_bound_from_guesses(canaries, guesses, right, delta, method) for guesses, right in counts)
        return Bound(method, epsilon, 1 - LEVELS[method], assumes, ceiling(canaries, delta, method))

    return (
        Bound("gaussian", gaussian, 1 - LEVELS["gaussian"], "scores are normal, independent, of one spread", None),
        from_guesses("f-DP", "the trade-off curve is a Gaussian one"),
        from_guesses("guesses", "nothing but fair coins"),
    )


# --- The noise alone ----------------------------------------------------------------------------------------------


def mechanism_verdict(noise: Floats, totals: Floats, level: float = LEVELS["mechanism"]) -> Verdict:
    """Noise of empty batches against its law: independent standard normals, once over its declared deviation.

    noise: [steps, values], each step by itself. totals: [rounds, values], sums over a round of several steps, over
    the root of their number: noise reused within a round shows there. Too much noise accuses nobody: all but the
    spread is tested at the spread that is there. Noise that one layer lacks shows in that layer's values. Raises
    ValueError where a table is empty or not finite, or there is one step only.
    """
    for name, values, fewest in (("noise", noise, 2), ("totals", totals, 1)):
        if values.ndim != 2 or len(values) < fewest or values.size == 0 or not np.isfinite(values).all():
            raise ValueError(f"{name} must be a table of finite numbers with at least {fewest} rows and one column")
    p_values = {
        "its spread is too small": _small_spread_p_value(noise),
        "a value's spread is too small": noise.shape[1] * float(chdtr(len(noise), (noise**2).sum(0).min())),
        "its mean is not zero": _mean_p_value(noise),
        "its shape is not normal": _shape_p_value(noise),
        "steps repeat": _correlation_p_value(noise),
        "values repeat": _correlation_p_value(noise.T),
        "steps of a round depend on one another": _ratio_p_value(noise, totals),
    }
    fault, p_value, origin = _rarest(p_values)
    accused = p_value <= level
    seen = f"the noise of {noise.shape[0]} empty steps has {_deviation_of(noise)}"
    return Verdict("mechanism", p_value, level, accused, f"{seen}; {fault if accused else origin}")


def _mean_p_value(noise: Floats) -> float:
    """F test of each column's mean against the spread within columns: shows what stays the same in each step."""
    steps, values = noise.shape
    between, within = steps * float((noise.mean(0) ** 2).sum()), float(((noise - noise.mean(0)) ** 2).sum())
    if within == 0:
        return 0.0
    return float(fdtrc(values, values * (steps - 1), between * (steps - 1) / within))


def _shape_p_value(noise: Floats) -> float:
    """Kolmogorov-Smirnov at the spread that is there, which only makes it shyer (Lilliefors 1967)."""
    deviation = math.sqrt(float((noise**2).mean()))
    return float(kstest(noise.ravel() / deviation, "norm").pvalue) if deviation else 0.0


def _correlation_p_value(rows: Floats) -> float:
    """Of the largest cosine between two rows; exact for each pair, times the number of pairs.

    The squared cosine of a fixed and a spherically symmetric vector is Beta(1/2, (d-1)/2).
    """
    rows = rows[:_MOST_VECTORS]
    count, length = rows.shape
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if count < 2 or length < 2 or not norms.all():
        return 1.0
    unit = rows / norms
    squared = float((np.triu(unit @ unit.T, 1) ** 2).max())
    tail = float(betainc((length - 1) / 2, 0.5, max(0.0, 1 - squared)))
    return float(min(1.0, tail * count * (count - 1) / 2))


def _ratio_p_value(noise: Floats, totals: Floats) -> float:
    """F test, two-sided, that the sum over a round has as much variance as its steps have together."""
    steps, rounds = float((noise**2).mean()), float((totals**2).mean())
    if steps == 0:
        return 0.0
    ratio, sizes = rounds / steps, (totals.size, noise.size)
    return 2 * min(float(fdtr(*sizes, ratio)), float(fdtrc(*sizes, ratio)))


# --- Clip, counting and drawing -----------------------------------------------------------------------------------


def contributions_verdict(
    contributions: Floats,
    units: Floats,
    sample_rate: float,
    level: float = LEVELS["contributions"],
    unit: Unit = "record",
) -> Verdict:
    """What each canary added to each step, [steps, canaries], in clips, seen through little noise.

    units: [units], the norm of what single units of the data set added, far above the clip before it, in clips. They
    are private: of them the verdict says one bit, whether any is above the limit. More than one clip: clipping is
    left out, or a unit counted twice. Drawn more often than declared, or not independently of other canaries and
    steps (batches of a fixed size, shuffled passes): amplification by sampling is not what the accounting takes it
    for. The finding names the rate that so many draws show with 99 %. Draws are binomial, and their spread is
    compared with simulated ones, which is exact (Barnard 1963). Raises ValueError where one is empty or has another
    shape.
    """
    if (contributions.ndim, units.ndim) != (2, 1) or contributions.size == 0 or units.size == 0:
        raise ValueError("contributions must be a table and units a vector with at least one number")
    largest = float(contributions.max())  # a NaN stays one
    faults = []
    if not largest <= LARGEST_CONTRIBUTION:
        faults.append(f"a canary added {largest:.4g} clips to one step")
    if not units.max() <= LARGEST_CONTRIBUTION:
        faults.append(f"a {unit} of the data set added more than {LARGEST_CONTRIBUTION} clips to one step")
    if faults:
        finding = f"{'; '.join(faults)}: clipping is left out or too wide, or a {unit} counts several times"
        return Verdict("contributions", 0.0, level, True, finding)
    # Half of what is added at most: contributions may be smaller than a clip, which is more private.
    drawn = contributions > max(largest / 2, 0.025)
    seen = f"a canary added at most {largest:.4g} clips and was in {drawn.mean():.4g} of the steps"
    if sample_rate == 1:
        # All are in each step, and nothing is claimed of draws.
        return Verdict("contributions", 1.0, level, False, seen)
    p_values = {
        f"{unit}s are drawn more often than declared": _rate_p_value(drawn, sample_rate),
        "draws of a step depend on one another": _spread_p_value(drawn),
        f"draws of a {unit} depend on one another": _spread_p_value(drawn.T),
    }
    fault, p_value, origin = _rarest(p_values)
    told = rate_told(drawn.size, sample_rate, level / len(p_values))
    seen += f" (declared: {sample_rate:.4g}; from {told:.4g} on it shows with {_POWER:.0%})"
    accused = p_value <= level
    return Verdict("contributions", p_value, level, accused, f"{seen}; {fault if accused else origin}")


def rate_told(draws: int, sample_rate: float, level: float) -> float:
    """The smallest true rate that shows with 99 % as above `sample_rate`, in so many draws at `level`; 1 where none."""
    fewest = float(binom.isf(level, draws, sample_rate)) + 1
    return float(betaincinv(fewest, draws - fewest + 1, _POWER)) if fewest <= draws else 1.0


def _rate_p_value(drawn: NDArray[np.bool_], sample_rate: float) -> float:
    return float(binom.sf(int(drawn.sum()) - 1, drawn.size, sample_rate))


def _spread_p_value(drawn: NDArray[np.bool_]) -> float:
    """Two-sided, of the squares of row sums, among tables with as many draws: fewer draws than declared are fine."""
    drawn = drawn[:_MOST_VECTORS]
    rows, columns = drawn.shape
    tables = np.random.default_rng(0).multivariate_hypergeometric(
        np.full(rows, columns), int(drawn.sum()), size=_SIMULATIONS, method="marginals"
    )
    law, seen = (tables**2).sum(1), (drawn.sum(1) ** 2).sum()
    rarer = min(int((law <= seen).sum()), int((law >= seen).sum()))
    return min(1.0, 2 * (rarer + 1) / (_SIMULATIONS + 1))


# --- The report ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AuditReport:
    """Of an audit, of builtins only. With probability `confidence`, no bound errs and no correct build is accused.

    claimed_epsilon: what the accounting says, at delta. rehearsed_epsilon: what the same noise and clip claim in the
    rehearsal, where all units are in each step; lower_bound (the largest of `bounds`) is held against it.
    ceiling: the largest bound that so many canaries could ever show by f-DP, whatever they leak. power: the chance that
    so many would have caught noise of half the declared scale.
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
    """The report of scores in one run and the verdicts of all tests."""
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
