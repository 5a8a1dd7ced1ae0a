"""A synthetic family where the right answer is known: two clusters of hospitals, each with its own risk factors."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from methods.data_tables import logistic, site_of
from methods.task import Site, Task
from securepfl.data.columns import Range
from securepfl.data.schema import DataSpec
from securepfl.randomness import RandomStream, derive_key

TEST_ROWS = 1000
COMMON = 0.5
"""Weight of the direction that both clusters share, next to 1 for the one in which they are opposite."""
STRENGTH = 2.5
"""Scale of the logits: how well the outcome can be predicted at all."""


def two_clusters(seed: int, n: int, d: int, sites: int = 8, second: int = 4) -> Task:
    """Two clusters of hospitals, `second` of `sites` in the second: features standard normal [n, d], outcome logistic.

    The clusters' coefficients are STRENGTH * (COMMON u + v) and STRENGTH * (COMMON u - v), u and v random unit vectors
    drawn from `seed`: one model for all keeps only the weak u, and a hospital alone has n rows for d coefficients.
    Raises ValueError where a cluster has fewer than two hospitals or `second` is the larger.
    """
    if not 2 <= second <= sites // 2:
        raise ValueError(f"second must be from 2 to half of the {sites} sites, not {second}")
    common, opposite = (_unit(_stream(seed, d, "direction", part).gaussian(d)) for part in range(2))
    truth = [STRENGTH * (COMMON * common + sign * opposite) for sign in (1.0, -1.0)]
    members = [0] * (sites - second) + [1] * second
    clusters = {f"cluster{member}-{members[:number].count(member)}": member for number, member in enumerate(members)}
    made = {name: _site(_stream(seed, d, name), truth[clusters[name]], n) for name in clusters}
    ranges = {f"x{number}": Range(centre=0.0, spread=1.0) for number in range(d)}
    spec = DataSpec(label="outcome", missing="drop-rows", ranges=ranges)
    return replace(logistic(f"clusters_d{d}", made, spec), clusters=clusters)


def _site(stream: RandomStream, coefficients: NDArray[np.float64], n: int) -> Site:
    x = stream.gaussian((n + TEST_ROWS) * len(coefficients)).reshape(n + TEST_ROWS, len(coefficients))
    risk = 1.0 / (1.0 + np.exp(-x @ coefficients))
    y = (stream.uniform(len(risk)) < risk).astype(np.float32)
    rows = x.astype(np.float32)
    return site_of(rows[:n], y[:n], rows[n:], y[n:])


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return vector / float(np.linalg.norm(vector))


def _stream(seed: int, *labels: str | int) -> RandomStream:
    return RandomStream(derive_key(b"securepfl benchmark two clusters.", seed, *labels))
