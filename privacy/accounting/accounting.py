"""What releases cost: (epsilon, delta) of all of them composed.

Epsilon limits what results reveal about whether one unit was included. The comparison is zero-out: a unit is replaced
by one whose gradient is zero, so the clipped sum moves by at most the clip. Swapping one unit for another (replace-one)
moves it by twice the clip, and costs about twice as much. Full-batch Gaussian releases compose to one Gaussian
mechanism, whose epsilon is known exactly (Balle and Wang 2018, arXiv 1805.06530); with Poisson sampling privacy loss
distributions are composed (losses.py), an upper bound. As soon as another kind is among them, all are composed by
Renyi divergences (renyi.py), a looser upper bound.

All that holds for releases whose kinds were fixed before the data was seen. A ledger's later runs are chosen after a
look at the results of earlier ones: what it may say is `Composition.adaptive_epsilon`.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import get_args

import msgspec

from securepfl.privacy.accounting.events import AnyRelease, Release, Selection, SharedRelease, Unit
from securepfl.privacy.accounting.gaussian import epsilon_of as gaussian_epsilon
from securepfl.privacy.accounting.losses import Adjacency, Step, epsilon_of_steps
from securepfl.privacy.accounting.renyi import epsilon_at_order, order_for, renyi_epsilon, rho_at_order

__all__ = [
    "SMALLEST_DELTA",
    "Adjacency",
    "AnyRelease",
    "Composition",
    "Release",
    "Selection",
    "SharedRelease",
    "epsilon",
    "epsilon_of_group",
]

# Below this, what the accountants cut off (1e-18 a composition and more) is no longer sure to be negligible.
SMALLEST_DELTA = 1e-12


@dataclass
class Composition:
    """Releases as they are added and taken away, counted by kind: what its epsilon takes doesn't grow with them.

    `add` and `remove` raise ValueError for a release of another unit: a patient's epsilon cannot be had from
    releases that bound one record, nor the other way round.

    >>> step = Release(noise_multiplier=5.0, sample_rate=1.0, steps=1)
    >>> spent = Composition.of([step, step])
    >>> spent.epsilon(1e-5) == epsilon([msgspec.structs.replace(step, steps=2)], 1e-5)
    True
    >>> spent.with_release(step).epsilon(1e-5) > spent.epsilon(1e-5)
    True
    """

    steps: Counter[AnyRelease] = field(default_factory=Counter)
    """How often each release's single step happened."""
    tails: Counter[float] = field(default_factory=Counter)
    unit: Unit | None = None
    _mu_squared: int = field(default=0, repr=False)
    """Of the full-batch Gaussians among them, exactly: see _exact."""
    _others: int = field(default=0, repr=False)
    """How many kinds are none of these."""
    _rho: dict[int, int] = field(default_factory=dict, repr=False)
    """Renyi divergence of all at the orders that were asked for, exactly."""

    @classmethod
    def of(cls, releases: Iterable[AnyRelease]) -> "Composition":
        """All `releases`, in any order."""
        composition = cls()
        for release in releases:
            composition.add(release)
        return composition

    def add(self, release: AnyRelease) -> None:
        """Counts `release` from now on. One of no steps counts for nothing, but has its unit."""
        self.check_unit(release)
        self.unit = release.unit
        self._count(release, 1)

    def remove(self, release: AnyRelease) -> None:
        """Takes back what was added before."""
        self._count(release, -1)

    def check_unit(self, release: AnyRelease) -> None:
        """Raises ValueError where `release` has another unit than those before, TypeError where it is none."""
        if not isinstance(release, AnyRelease):
            raise TypeError(f"release must be a Release, SharedRelease or Selection, not {type(release).__name__}")
        if self.unit not in (None, release.unit):
            raise ValueError(f"unit must be {self.unit!r} as in the releases before, not {release.unit!r}")

    def with_release(self, release: AnyRelease) -> "Composition":
        """A new composition that counts `release` too."""
        both = replace(self, steps=self.steps.copy(), tails=self.tails.copy(), _rho=self._rho.copy())
        both.add(release)
        return both

    def epsilon(self, delta: float, adjacency: Adjacency = "zero-out") -> float:
        """As `epsilon` of all releases that count."""
        _check(delta, adjacency)
        if not self._others:
            # Gaussians at mu_1, mu_2, ... compose to one at the root of the sum of squares (Gaussian DP).
            return gaussian_epsilon(_moved(adjacency) * math.sqrt(self._mu_squared / _UNIT), delta)
        return _epsilon_of(frozenset(self.steps.items()), self._tail, delta, adjacency)

    def adaptive_epsilon(self, budget: float, delta: float, adjacency: Adjacency = "zero-out") -> float:
        """What a ledger says of these, whose later kinds may have been chosen after a look at earlier results: as long
        as it is at most `budget`, which was fixed before, they are (budget, delta)-private; see `is_mixed`.

        | what is in it | as | why that holds |
        |---|---|---|
        | full-batch Gaussians | `epsilon` | filter for Gaussian DP: Koskela, Tobaben and Honkela 2023, 2209.15596 |
        | one kind, again and again | `epsilon` | only when to stop is chosen, in a row that was fixed |
        | anything else | Renyi, at one order that follows from budget and delta | Feldman and Zrnic 2021, 2008.11193 |

        >>> step, other = (Release(noise_multiplier=noise, sample_rate=0.1, steps=20) for noise in (2.0, 3.0))
        >>> both = Composition.of([step, other])
        >>> both.epsilon(1e-5) < both.adaptive_epsilon(4.0, 1e-5) < 4.0
        True
        """
        _check(delta, adjacency)
        if not self.is_mixed:
            return self.epsilon(delta, adjacency)
        order = order_for(budget, delta)
        if order not in self._rho:
            self._rho[order] = sum(_exact(n * rho_at_order(one, order)) for one, n in self.steps.items())
        return epsilon_at_order(self.steps, order, self._rho[order] / _UNIT, self._tail, delta, adjacency)

    @property
    def is_mixed(self) -> bool:
        """Whether several kinds are in it, not all of them full-batch Gaussians.

        What came to be mixed was not so before, and that may have been decided after a look at results: the two
        filters' failures then add up, and what holds is the budget's epsilon at twice its delta.
        """
        return self._others > 0 and len(self.steps) > 1

    @property
    def tolerance(self) -> float:
        """How far, relatively, the epsilons of two versions of the accountant may lie apart.

        Sums of Gaussians are exact and differ in the last digits; sampled ones are rounded up on a grid.
        """
        return 2e-3 if self._others else 1e-6

    @property
    def _tail(self) -> float:
        return math.fsum(tail * count for tail, count in self.tails.items())

    def _count(self, release: AnyRelease, sign: int) -> None:
        if not release.steps or (isinstance(release, Selection) and not any(r.steps for r in release.candidate)):
            return
        changes: dict[str, float] = {"steps": 1}
        if isinstance(release, SharedRelease) and release.tail:
            self.tails[release.tail] += sign
            changes["tail"] = 0.0
        one = msgspec.structs.replace(release, **changes)
        before = self.steps[one]
        after = before + sign * release.steps
        self.steps[one] = after
        if not after:
            del self.steps[one]
        if isinstance(one, Release) and one.sample_rate == 1.0:
            self._mu_squared += _exact(_mu_squared(one, after)) - _exact(_mu_squared(one, before))
        else:
            self._others += bool(after) - bool(before)
        for order in self._rho:
            rho = rho_at_order(one, order)
            self._rho[order] += _exact(after * rho) - _exact(before * rho)


_UNIT = 2**1074  # one over the smallest float


def _exact(number: float) -> int:
    """`number` in units of the smallest float: sums of these depend on no order, and what is taken back is gone."""
    numerator, denominator = number.as_integer_ratio()
    return numerator * (_UNIT // denominator)


def _mu_squared(release: Release, count: int) -> float:
    return count / min(release.noise_multiplier, 1e150) ** 2


def _moved(adjacency: Adjacency) -> int:
    """By how many clips a unit moves the full batch."""
    return 2 if adjacency == "replace-one" else 1


def epsilon(releases: Sequence[AnyRelease], delta: float, adjacency: Adjacency = "zero-out") -> float:
    """Epsilon at `delta` of all `releases` composed, in any order; 0 where nothing was released.

    | releases | what comes out |
    |---|---|
    | full-batch Gaussian only | exact (Balle and Wang 2018) |
    | some Poisson-sampled Gaussian | an upper bound, within .1 % or so: privacy loss distributions |
    | a SharedRelease or a Selection among them | an upper bound, looser: Renyi divergences |
    | delta too small to bound | inf: never a number below the truth |
    | one more release, or less noise | never less, but for the grid's .1 % |
    | the same ones in another order or grouping | the same, to the last digit |

    Under replace-one and Poisson sampling the pair composed is dp_accounting's: the unit's gradient against its
    opposite, at the same sampling rate; among other kinds, replace-one is two zero-outs one after the other.
    Noise, rates and steps are taken as fixed before the data is seen: one chosen after a look at it voids the bound.

    Raises ValueError where delta is outside [1e-12, 1), adjacency is unknown, or units are mixed; TypeError for
    what is no release.

    >>> thirty_steps = Release(noise_multiplier=6.0, sample_rate=1.0, steps=30)
    >>> round(epsilon([thirty_steps], 1e-5), 2)
    3.94
    >>> epsilon([], 1e-5)
    0.0
    """
    return Composition.of(releases).epsilon(delta, adjacency)


def epsilon_of_group(releases: Sequence[Release], delta: float, size: int) -> float:
    """Zero-out epsilon at `delta` of a patient with `size` records, where `releases` clipped each record alone.

    The full batch moves by `size` clips: exact. With Poisson sampling each record is drawn on its own, so a step moves
    by as many clips as of them are drawn: a mixture of Gaussians, an upper bound (Charles et al. 2024, arXiv
    2407.07737; Choquette-Choo et al. 2023, arXiv 2310.15526). Raises ValueError for another unit than "record", for
    another kind of release, and for a size below 1.

    >>> round_ = Release(noise_multiplier=20.0, sample_rate=1.0, steps=1)
    >>> round(epsilon_of_group([round_], 1e-5, 1), 2), round(epsilon_of_group([round_], 1e-5, 10), 2)
    (0.16, 1.99)
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(f"size must be a whole number of at least 1, not {size!r}")
    if not all(isinstance(release, Release) and release.unit == "record" for release in releases):
        raise ValueError("releases must be Gaussian and have the unit 'record'")
    _check(delta, "zero-out")
    counts = Composition.of(releases).steps
    return _gaussian_epsilon({one: n for one, n in counts.items() if isinstance(one, Release)}, delta, "zero-out", size)


def _check(delta: float, adjacency: Adjacency) -> None:
    if not SMALLEST_DELTA <= delta < 1:
        raise ValueError(f"delta must be in [{SMALLEST_DELTA}, 1), not {delta!r}")
    if adjacency not in get_args(Adjacency):
        raise ValueError(f"adjacency must be one of {get_args(Adjacency)}, not {adjacency!r}")


@lru_cache(maxsize=1024)
def _epsilon_of(counts: frozenset[tuple[AnyRelease, int]], tail: float, delta: float, adjacency: Adjacency) -> float:
    # In one order, so that the same releases cost the same to the last digit.
    ordered = dict(sorted(counts, key=lambda item: msgspec.json.encode(item[0])))
    gaussian = {release: count for release, count in ordered.items() if isinstance(release, Release)}
    if len(gaussian) < len(ordered) or tail:
        return renyi_epsilon(ordered, tail, delta, adjacency)
    return _gaussian_epsilon(gaussian, delta, adjacency, 1)


def _gaussian_epsilon(counts: dict[Release, int], delta: float, adjacency: Adjacency, records: int) -> float:
    """Of a unit of `records` records, each clipped alone."""
    if all(release.sample_rate == 1.0 for release in counts):
        mu = math.sqrt(math.fsum(_mu_squared(release, count) for release, count in counts.items()))
        return gaussian_epsilon(_moved(adjacency) * records * mu, delta)
    steps = [(Step(r.noise_multiplier, r.sample_rate, records), count) for r, count in counts.items()]
    found = epsilon_of_steps(steps, delta, adjacency)
    if math.isfinite(found):
        return found
    # Losses too large for a grid: the full batch costs no less than a part of it.
    return _gaussian_epsilon(_full_batches(counts), delta, adjacency, records)


def _full_batches(counts: dict[Release, int]) -> dict[Release, int]:
    full: Counter[Release] = Counter()
    for release, count in counts.items():
        full[msgspec.structs.replace(release, sample_rate=1.0)] += count
    return full
