"""The network lasso (Hallac, Leskovec and Boyd, KDD 2015) by majorisation, as one hospital runs it.

Objective, over the personal parameters z_n of all hospitals:

    F(Z) = sum_n f_n(z_n) + strength * sum over edges {i, j} of ||z_i - z_j||_2

With 1/N before the first sum, as in Zhao et al. (arXiv 2306.14483), a lambda there is strength = N * lambda here.

**Majoriser.** No additive scheme computes a norm, but for every c > 0, ||v|| <= ||v||^2 / (2c) + c/2, with equality at
c = ||v||. With c = max(distance, floor), w = strength / c and m = (z_i + z_j) / 2 at the points sent, the square
separates by ||a - b||^2 <= 2 ||a - m||^2 + 2 ||b - m||^2, with equality at the points sent. So hospital i minimises

    f_i(z_i) + <g, z - z_i> + ||z - z_i||^2 / (2 eta) + sum_j w_ij ||z - m_ij||^2

whose solution needs only S = sum_j w_ij z_j and W = sum_j w_ij: see `proximal_step`. All hospitals step at the same
time and F with the floor falls, for fresh and symmetric weights and eta at most 1 / (Lipschitz constant of the
gradients). A pull all the way to the neighbours' last points, the obvious step, is no majoriser: it swaps the points
of two close hospitals round after round.

**A round of one hospital** sends z, trains from it, gets S back, steps; the distances between the points sent in
round t give the weights of round t + 1.

    m = edge_weights(distances, floor, bits)        # integers, the same at both ends of an edge
    unit = weight_unit(strength, floor, bits)
    z = proximal_step(z, trained, unit * (sum_j m_j z_j), unit * (sum_j m_j), learning_rate)

**The floor's bias.** With a floor the penalty is quadratic within it, and the minimum is at most
strength * (number of edges) * floor / 2 above F's. A floor that is small from the start leaves hospitals stuck where
they first met (W is huge there); so it is annealed (`floor_at`).

**Precision of integer weights.** A weight is floor / max(distance, floor) in steps of 1 / (2^bits - 1): the pull of an
edge is off by at most the fraction distance / (2 * floor * (2^bits - 1)), and gone from floor * 2 * (2^bits - 1) on. At
12 bits and a floor of 1.5e-3: by 8 % at distance 1. Rounded weights are still a falling function of the distance, hence
a majoriser of a penalty that is concave in the squared distance: the step stays stable.
"""

from collections.abc import Mapping
from math import isfinite
from typing import Final

from torch import Tensor

MAX_WEIGHT_BITS: Final = 32


def floor_at(round_: int, start: float = 0.3, end: float = 1e-3, factor: float = 0.985) -> float:
    """The floor under distances in round 0, 1, ...: start * factor^round, never below `end`.

    Relative: multiply it by a public scale, the typical distance between two hospitals. Everyone must use the same one.
    A floor below all distances changes nothing but the rounding, for the worse. So whoever sees all the weights may
    count only rounds in which some pair stood at the floor (a weight of 2^bits - 1), and tell the count: where nothing
    fuses, 6 bits then do what 12 do without. Raises ValueError for a negative round, or unless
    0 < end <= start and 0 < factor <= 1.
    """
    if round_ < 0:
        raise ValueError(f"round_ must not be negative, not {round_}")
    if not 0 < end <= start or not isfinite(start):
        raise ValueError(f"end must be in (0, start], not {end} with start={start}")
    if not 0 < factor <= 1:
        raise ValueError(f"factor must be in (0, 1], not {factor}")
    return max(end, start * factor**round_)


def weight_unit(strength: float, floor: float, bits: int) -> float:
    """What an integer weight of 1 stands for: (strength / floor) / (2^bits - 1), in units of 1 / distance.

    Raises ValueError for a strength that is negative or not finite, a floor that is not positive, or bits not in
    [1, MAX_WEIGHT_BITS].
    """
    if not 0 <= strength < float("inf"):
        raise ValueError(f"strength must be finite and not negative, not {strength}")
    _check_grid(floor, bits)
    return strength / floor / _largest(bits)


def edge_weights(distances: Mapping[str, float], floor: float, bits: int) -> dict[str, int]:
    """Integer weights in [0, 2^bits - 1], one a neighbour: strength / max(distance, floor) in `weight_unit`s.

    The strength cancels. The same floating-point distance gives the same integer at both ends. An end whose distance
    differs in its last digits can be off by one: then both must take the smaller. Raises ValueError for a distance that
    is negative or not finite, a floor that is not positive, or bits not in [1, MAX_WEIGHT_BITS].
    """
    _check_grid(floor, bits)
    for name, distance in distances.items():
        if not 0 <= distance < float("inf"):
            raise ValueError(f"distance to {name!r} must be finite and not negative, not {distance}")
    return {name: round(_largest(bits) * floor / max(distance, floor)) for name, distance in distances.items()}


def proximal_step(
    z: Tensor, trained: Tensor, weighted_sum: Tensor, total_weight: float, learning_rate: float
) -> Tensor:
    """The majoriser's minimum, a new tensor [p] on the device of z:

        z + (learning_rate * (S - W z) + (trained - z)) / (1 + 2 * learning_rate * W)

    `z` is what was sent and trained from; `trained` = z - learning_rate * gradient, one plain gradient step;
    `weighted_sum` S = sum_j w_j z_j and `total_weight` W = sum_j w_j over the same neighbours, in real units. All three
    vectors may be relative to one common origin. W = 0 gives `trained`: local training. After several local
    steps, `learning_rate` is the sum of theirs and the fixed point is off by local drift, as in FedAvg. A momentum or
    an adaptive rate in local training has no learning rate that fits. The step along what a group of fused hospitals
    has in common shrinks by 1 + 2 * learning_rate * W: a strength far beyond what fuses them only slows them down.
    Raises ValueError for shapes that differ, a W that is negative or not finite, or a learning rate that is not
    positive and finite.
    """
    for name, vector in (("trained", trained), ("weighted_sum", weighted_sum)):
        if vector.shape != z.shape:
            raise ValueError(f"{name} {tuple(vector.shape)} and z {tuple(z.shape)} differ in shape")
    if not 0 <= total_weight < float("inf"):
        raise ValueError(f"total_weight must be finite and not negative, not {total_weight}")
    if not 0 < learning_rate < float("inf"):
        raise ValueError(f"learning_rate must be positive and finite, not {learning_rate}")
    pull = weighted_sum.to(z) - total_weight * z
    return z + (learning_rate * pull + (trained.to(z) - z)) / (1.0 + 2.0 * learning_rate * total_weight)


def _largest(bits: int) -> int:
    return (1 << bits) - 1


def _check_grid(floor: float, bits: int) -> None:
    if not 0 < floor < float("inf"):
        raise ValueError(f"floor must be positive and finite, not {floor}")
    if not 1 <= bits <= MAX_WEIGHT_BITS:
        raise ValueError(f"bits must be in [1, {MAX_WEIGHT_BITS}], not {bits}")
