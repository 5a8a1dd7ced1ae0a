"""Coupling of personal parameters over a similarity graph with unit weights.

This is one averaging step of the quadratic coupling, sum over edges of ||z_i - z_j||^2 / 2, and not the
network lasso (network_lasso.py), whose edge norms need distances as well. Unit weights leak less and are the default.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor


def pull_towards(row: Mapping[str, float], names: Sequence[str], strength: float) -> float:
    """How far to move to the neighbours' mean, in [0, 1]: strength x mean cosine, and 0 where it is negative.

    A row of noise has a mean near 0, so the pull fades where the graph is not visible. Sketched cosines can
    pass 1; the pull cannot. No neighbours, no pull. Raises ValueError where `strength` is outside [0, 1].
    """
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"strength must be in [0, 1], not {strength}")
    if not names:
        return 0.0
    mean = sum(row[name] for name in names) / len(names)
    return strength * min(1.0, max(0.0, mean))


def couple(z: Tensor, neighbour_mean: Tensor, pull: float) -> Tensor:
    """z + pull (neighbour_mean - z), a new tensor [p] on the device of z.

    Where every hospital has as many neighbours as the others, edges are mutual and pulls are equal, the mean
    over each connected component is kept. Raises ValueError where `pull` is outside [0, 1] or shapes differ.
    """
    if not 0.0 <= pull <= 1.0:
        raise ValueError(f"pull must be in [0, 1], not {pull}")
    if z.shape != neighbour_mean.shape:
        raise ValueError(f"z {tuple(z.shape)} and neighbour_mean {tuple(neighbour_mean.shape)} differ in shape")
    return z + pull * (neighbour_mean.to(z) - z)
