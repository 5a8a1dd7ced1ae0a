"""Whom a hospital is coupled with: its neighbours on the similarity graph, chosen from its own row of similarities.

A k-nearest-neighbour choice is not symmetric, an edge of the network lasso is: `symmetric_core` keeps those that both
ends chose.
"""

from collections.abc import Collection, Mapping
from math import isfinite
from typing import Literal, get_args

GraphKind = Literal["knn", "threshold", "complete"]

LEAST_NEIGHBOURS = 3
"""A sum over fewer hospitals' personal parameters would show too much of each."""


def choose_neighbours(
    row: Mapping[str, float], *, kind: GraphKind, k: int, threshold: float, minimum: int
) -> tuple[str, ...]:
    """This hospital's neighbours, most similar first; ties by name.

    `row` maps each *other* hospital to its cosine similarity (debiased ones can pass 1). "knn": the `k` most similar of
    those above 0, since who points elsewhere is no neighbour; "threshold": those with a similarity of at least
    `threshold`; "complete": all. Where these are fewer than `minimum`, nobody: a sum over fewer would show single
    hospitals. Raises ValueError for an unknown kind, minimum < 1, a
    similarity that is not finite, k < minimum ("knn") or a threshold that is not finite ("threshold").
    """
    _check(row, kind, k, threshold, minimum)
    ranked = sorted(row, key=lambda name: (-row[name], name))
    if kind == "knn":
        ranked = [name for name in ranked if row[name] > 0][:k]
    elif kind == "threshold":
        ranked = [name for name in ranked if row[name] >= threshold]
    return tuple(ranked) if len(ranked) >= minimum else ()


def symmetric_core(lists: Mapping[str, Collection[str]], minimum: int) -> dict[str, tuple[str, ...]]:
    """The edges of which both ends list the other, among hospitals with at least `minimum` such edges, sorted.

    A hospital with fewer drops out, and its edges with it, until all that remain have enough (a k-core): so an edge
    acts at both ends or at none. A coordinator can compute it from all hospitals' choices. Raises ValueError where a
    hospital lists itself.
    """
    for name, own in lists.items():
        if name in own:
            raise ValueError(f"{name!r} lists itself as a neighbour: leave it out of its own row")
    kept = {name: {other for other in own if name in lists.get(other, ())} for name, own in lists.items()}
    while few := [name for name, own in kept.items() if len(own) < minimum]:
        for name in few:
            for other in kept.pop(name):
                if other in kept:
                    kept[other].discard(name)
    return {name: tuple(sorted(own)) for name, own in kept.items()}


def _check(row: Mapping[str, float], kind: str, k: int, threshold: float, minimum: int) -> None:
    if kind not in get_args(GraphKind):
        raise ValueError(f"kind must be one of {', '.join(get_args(GraphKind))}, not {kind!r}")
    if minimum < 1:
        raise ValueError(f"minimum must be at least 1, not {minimum}")
    if kind == "knn" and k < minimum:
        raise ValueError(f"k must be at least minimum={minimum}, not {k}: no neighbourhood would ever be large enough")
    if kind == "threshold" and not isfinite(threshold):
        raise ValueError(f"threshold must be finite, not {threshold}")
    for name, similarity in row.items():
        if not isfinite(similarity):
            raise ValueError(f"similarity to {name!r} must be finite, not {similarity}")
