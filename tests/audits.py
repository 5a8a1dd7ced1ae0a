"""Scores, noise and contributions of builds whose faults are known, and how many alarms chance allows."""

from scipy.stats import binom

from securepfl.privacy.audit.verdicts import Scores

DELTA = 1e-5
# Claimed epsilon and the canaries with which twice its mu has to show.
CLAIMS = [(4.0, 100), (2.0, 300), (1.0, 1000)]


def simulate(rng, canaries, mu, *, noise=1.0, gain=1.0, silent=1000):
    """Scores of a build with `noise` times the declared deviation whose canaries add `gain` times the clip."""
    included = rng.random(canaries) < 0.5
    scores = gain * mu * included + noise * rng.standard_normal(canaries)
    return Scores(scores, included, noise * rng.standard_normal(silent))


def most_hits(count, chance):
    """Hits that `count` trials of probability `chance` exceed once in 10,000 times."""
    return int(binom.isf(1e-4, count, chance))


def fewest_hits(count, chance):
    """Hits that `count` trials of probability `chance` fall short of once in 10,000 times."""
    return int(binom.ppf(1e-4, count, chance))


def noise_of(rng, steps=64, values=40, rounds=16):
    return rng.standard_normal((steps, values)), rng.standard_normal((rounds, values))
