"""What right guesses show, whatever the scores' law: lower bounds on epsilon, and curves that are refuted."""

import math

import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import binom

from securepfl.privacy.accounting.gaussian import epsilon_of
from securepfl.privacy.audit.verdicts import LARGEST_MU, LEVELS, Scores, largest_rejected

GUESSED_SHARES = (0.1, 0.4, 1.0)
"""Shares of the canaries that are guessed, declared before anything is seen. The others are abstained from."""
_LARGEST_EPSILON = 50.0


def right_guesses(seen: Scores, guesses: int) -> int:
    """Of `guesses` guesses, those that are right: the lowest scores are guessed absent, as many highest present.

    >>> right_guesses(Scores(np.array([0.0, 5.0, -3.0]), np.array([True, True, False]), np.empty(0)), 2)
    2
    """
    order = np.argsort(seen.scores, kind="stable")
    absent, present = order[: guesses // 2], order[len(order) - (guesses - guesses // 2) :]
    return int((~seen.included[absent]).sum() + seen.included[present].sum())


def guesses_p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Chance of `right` right guesses or more, at most, under (epsilon, delta)-privacy, in one run.

    Steinke, Nasr and Jagielski 2023 (arXiv 2305.08846), Theorem 5.2: each canary is in or out by a fair coin.
    Raises ValueError where the counts do not fit.

    >>> round(guesses_p_value(4, 4, 4, epsilon=0.0, delta=0.0), 6)  # four coins guessed right
    0.0625
    """
    _check_counts(canaries, guesses, right)
    if right == 0:
        return 1.0
    chance = 1 / (1 + math.exp(-epsilon))
    fewer = np.arange(1, right + 1)
    steepest = float((np.cumsum(binom.pmf(right - fewer, guesses, chance)) / fewer).max())
    return min(1.0, float(binom.sf(right - 1, guesses, chance)) + 2 * canaries * delta * steepest)


def epsilon_lower_bound(canaries: int, guesses: int, right: int, delta: float, confidence: float) -> float:
    """Lower bound on epsilon at `delta` from right guesses; at most 50. For a number of guesses fixed beforehand.

    >>> round(epsilon_lower_bound(1000, 400, 300, 1e-5, 0.99), 2)
    0.83
    """
    return largest_rejected(
        lambda epsilon: guesses_p_value(canaries, guesses, right, epsilon, delta), 1 - confidence, _LARGEST_EPSILON
    )


def trade_off_rejected(canaries: int, guesses: int, right: int, mu: float, level: float) -> bool:
    """Whether `right` right guesses in one run have probability at most `level` under mu-Gaussian privacy.

    Mahloujifar, Melis and Chaudhuri 2025 (arXiv 2410.22235): with p_i the probability of i right guesses,
    sums from any i upward obey sum (j/m) p_j <= Phi(Phi^-1(sum ((g-j+1)/m) p_{j-1}) + mu). Starting from
    probability `level` at `right`, the least sum of all p_i is built downward; above 1, the claim is refuted.
    Raises ValueError where the counts do not fit.

    >>> trade_off_rejected(1000, 400, 390, mu=0.5, level=0.01), trade_off_rejected(1000, 400, 200, mu=0.5, level=0.01)
    (True, False)
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
    """Lower bound on mu from right guesses, for a number of guesses fixed beforehand; at most 1,000.

    >>> round(mu_lower_bound(100, 40, 40, 0.99), 2)
    0.88
    """
    return largest_rejected(
        lambda mu: 0.0 if trade_off_rejected(canaries, guesses, right, mu, 1 - confidence) else 1.0, 0.5, LARGEST_MU
    )


def _check_counts(canaries: int, guesses: int, right: int) -> None:
    if not 0 <= right <= guesses <= canaries or guesses < 1:
        raise ValueError(f"{right} right of {guesses} guesses on {canaries} canaries: not possible")


def declared_guesses(canaries: int) -> tuple[int, ...]:
    """The numbers of guesses that are tried, by the number of canaries alone.

    >>> declared_guesses(1000)
    (100, 400, 1000)
    """
    return tuple(sorted({max(1, round(share * canaries)) for share in GUESSED_SHARES}))


def ceiling(canaries: int, delta: float, method: str) -> float:
    """The largest bound on epsilon that so many canaries could ever show: all guesses right.

    method: "f-DP" or "guesses", which assume no law of the scores.

    >>> round(ceiling(100, 1e-5, "f-DP"), 1)
    3.9
    """
    return max(bound_from_guesses(canaries, guesses, guesses, delta, method) for guesses in declared_guesses(canaries))


def bound_from_guesses(canaries: int, guesses: int, right: int, delta: float, method: str) -> float:
    """Lower bound on epsilon from right guesses by `method` (see ceiling), at its level over the declared numbers."""
    confidence = 1 - LEVELS[method] / len(declared_guesses(canaries))
    if method == "f-DP":
        return epsilon_of(mu_lower_bound(canaries, guesses, right, confidence), delta)
    return epsilon_lower_bound(canaries, guesses, right, delta, confidence)
