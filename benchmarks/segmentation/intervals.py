"""Means and paired differences with 95 % intervals over patients and seeds.

A bootstrap draws patients again within each site, all images of one together in every seed, and seeds again over all.
So an interval speaks of other patients of the same hospitals and of other seeds; not of other hospitals.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

DRAWS = 2000
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scores:
    """One way's images over all seeds, in one order for all ways: `values` [n], and of each its site, patient, seed."""

    values: Floats = field(repr=False)
    sites: NDArray[np.str_] = field(repr=False)
    patients: NDArray[np.str_] = field(repr=False)
    seeds: NDArray[np.int64] = field(repr=False)

    def under(self, seeds: NDArray[np.int64]) -> "Scores":
        """Those of these seeds."""
        kept = np.isin(self.seeds, seeds)
        return Scores(self.values[kept], self.sites[kept], self.patients[kept], self.seeds[kept])

    def minus(self, other: "Scores") -> "Scores":
        """Image by image. Raises ValueError where they aren't the same images."""
        if not (np.array_equal(self.patients, other.patients) and np.array_equal(self.seeds, other.seeds)):
            raise ValueError("differences are paired: both ways need the same images and seeds")
        return Scores(self.values - other.values, self.sites, self.patients, self.seeds)


@dataclass(frozen=True)
class Estimate:
    """A mean and its interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"

    @property
    def signed(self) -> str:
        """As a difference."""
        return f"{self.mean:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


def estimates(scores: Scores, draws: int = DRAWS, seed: int = 0) -> dict[str, Estimate]:
    """Of each site, of the `mean` of sites, and `pooled` over all images.

    An image without a value (HD95 of an empty mask) is left out of its means.

    >>> ones = Scores(np.ones(4), np.array(["a"] * 4), np.array(["p", "p", "q", "r"]), np.zeros(4, np.int64))
    >>> str(estimates(ones)["pooled"])
    '1.0000 [1.0000, 1.0000]'
    """
    weights = _weights(scores, draws, seed)
    known = np.isfinite(scores.values)
    values, weights = np.where(known, scores.values, 0.0), weights * known
    names = list(dict.fromkeys(scores.sites.tolist()))
    found = {name: _means(values, weights * (scores.sites == name)) for name in names}
    found["mean"] = np.mean([found[name] for name in names], axis=0)
    found["pooled"] = _means(values, weights)
    return {name: _estimate(drawn) for name, drawn in found.items()}


def joined(cells: Sequence[Mapping[str, object]], metric: str) -> Scores:
    """Cells of one way, {"seed", "sites": {site: {"patients", metric, ...}}}, as one Scores in a fixed order."""
    rows = [
        (site, f"{site}/{patient}", int(cell["seed"]), _number(value))  # type: ignore[call-overload]
        for cell in sorted(cells, key=lambda cell: int(cell["seed"]))  # type: ignore[call-overload]
        for site, found in sorted(cell["sites"].items())  # type: ignore[attr-defined]
        for patient, value in zip(found["patients"], found[metric], strict=True)
    ]
    sites, patients, seeds, values = zip(*rows, strict=True)
    return Scores(np.array(values, np.float64), np.array(sites), np.array(patients), np.array(seeds, np.int64))


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _weights(scores: Scores, draws: int, seed: int) -> Floats:
    """[1 + draws, n]: ones, then how often each image counts."""
    rng = np.random.default_rng(seed)
    weights = np.ones((draws + 1, len(scores.values)))
    for site in np.unique(scores.sites):
        here = scores.sites == site
        weights[1:, here] *= _drawn(rng, scores.patients[here], draws)
    weights[1:] *= _drawn(rng, scores.seeds, draws)
    return weights


def _drawn(rng: np.random.Generator, units: NDArray[np.generic], draws: int) -> Floats:
    names, of = np.unique(units, return_inverse=True)
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    return counts[:, of].astype(np.float64)


def _means(values: Floats, weights: Floats) -> Floats:
    total = weights.sum(axis=1)
    return np.divide(weights @ values, total, out=np.full(len(total), np.nan), where=total > 0)


def _estimate(drawn: Floats) -> Estimate:
    known = drawn[1:][np.isfinite(drawn[1:])]
    if not np.isfinite(drawn[0]) or not len(known):
        return Estimate(float("nan"), float("nan"), float("nan"))
    low, high = np.quantile(known, (0.025, 0.975))
    return Estimate(float(drawn[0]), float(low), float(high))
