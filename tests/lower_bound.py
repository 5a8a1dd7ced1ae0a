"""A lower bound on epsilon that shares nothing with the accountant: densities, cells, floors and a plain transform.

The real line is cut into cells; what a cell says of a release is post-processing, so it shows no more. Each cell's loss
is rounded down to a grid, losses are added by convolution, and mass that is left out only lowers delta.
"""

import math

import numpy as np
from scipy import special

CELLS, REACH, MOST_POINTS = 200_000, 9.0, 2**21


def mixture(rate, moved):
    """Chances and means of a unit's contribution over the clip."""
    return [(rate, moved)] + ([(1 - rate, 0.0)] if rate < 1 else [])


def cell_masses(parts, edges, noise):
    """From the nearer tail, so that small masses keep their digits."""
    left = sum(chance * special.ndtr((edges - mean) / noise) for chance, mean in parts)
    right = sum(chance * special.ndtr((mean - edges) / noise) for chance, mean in parts)
    return np.maximum(np.where(left[1:] < 0.5, np.diff(left), -np.diff(right)), 0)


def floored_losses(noise, rate, adjacency, reverse, interval):
    """Grid places of one step's loss, rounded down, and their probabilities."""
    other = mixture(rate, -1.0) if adjacency == "replace-one" else [(1.0, 0.0)]
    edges = np.linspace(-1 - REACH * noise, 1 + REACH * noise, CELLS)
    mine, theirs = cell_masses(mixture(rate, 1.0), edges, noise), cell_masses(other, edges, noise)
    if reverse:
        mine, theirs = theirs, mine
    kept = (mine > 1e-25) & (theirs > 0)
    places = np.floor(np.log(mine[kept] / theirs[kept]) / interval).astype(np.int64)
    return places, mine[kept]


def deltas(counts, adjacency, reverse, interval, epsilons):
    """Lower bounds on delta at each epsilon, or None where the grid is too fine. counts: (noise, rate, steps)."""
    steps = [(*floored_losses(noise, rate, adjacency, reverse, interval), n) for noise, rate, n in counts]
    tilts = np.array([-30.0, -10, -3, -1, -0.3, 0.3, 1, 3, 10, 30])
    bounds = []
    for tilt in tilts:  # Chernoff: all but 1e-16 of the sum lies between
        moment = sum(n * special.logsumexp(tilt * p * interval, b=m) for p, m, n in steps)
        bounds.append((moment + math.log(1e16)) / tilt)
    bottom, top = max(bounds[:5]), max(min(bounds[5:]), max(epsilons) + 1)
    points = 2 ** math.ceil(math.log2((top - bottom) / interval + 2))
    if points > MOST_POINTS:
        return None
    power = np.ones(points // 2 + 1, dtype=complex)
    for places, masses, n in steps:
        power *= np.fft.rfft(np.bincount(places % points, masses, points)) ** n
    first = math.floor(bottom / interval)
    sums = np.roll(np.fft.irfft(power, points), -(first % points))
    losses = (first + np.arange(points)) * interval
    return [float(sums @ np.maximum(-np.expm1(np.minimum(e - losses, 0)), 0)) - 1e-12 for e in epsilons]


def epsilon_at_least(counts, delta, adjacency, near):
    """An epsilon that is no more than the true one: the largest of some around `near` at which delta shows."""
    epsilons, found = near * np.array([0, 0.5, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 1.0, 1.005, 1.02, 1.1]), 0.0
    for reverse in (False, True):
        interval, shown = max(2e-3 * near / sum(n for _, _, n in counts), 1e-7), None
        while shown is None:
            shown = deltas(counts, adjacency, reverse, interval, epsilons)
            interval *= 2
        found = max([found, *(e for e, d in zip(epsilons, shown, strict=True) if d > delta)])
    return found
