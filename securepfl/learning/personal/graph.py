"""Whom a hospital is coupled with: its neighbours on the similarity graph, chosen from its own row of similarities.

A k-nearest-neighbour choice is not symmetric, an edge of the network lasso is: `symmetric_core` keeps those that both
ends chose.
"""

from collections.abc import Collection, Mapping
from math import isfinite

LEAST_NEIGHBOURS = 3
"""A sum over fewer hospitals' personal parameters would show too much of each."""


def choose_neighbours(row: Mapping[str, float], k: int, minimum: int) -> tuple[str, ...]:
    """This hospital's neighbours: the `k` most similar of those above 0, most similar first; ties by name.

    `row` maps each *other* hospital to its cosine similarity (debiased ones can pass 1); who points elsewhere is no
    neighbour. Where these are fewer than `minimum`, nobody: a sum over fewer would show single hospitals. Raises
    ValueError for minimum < 1, k < minimum or a similarity that is not finite.

    >>> choose_neighbours({"east": 0.9, "north": 0.2, "south": -0.4, "west": 0.9}, k=3, minimum=3)
    ('east', 'west', 'north')
    """
    _check(row, k, minimum)
    ranked = sorted((name for name in row if row[name] > 0), key=lambda name: (-row[name], name))[:k]
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


def _check(row: Mapping[str, float], k: int, minimum: int) -> None:
    if minimum < 1:
        raise ValueError(f"minimum must be at least 1, not {minimum}")
    if k < minimum:
        raise ValueError(f"k must be at least minimum={minimum}, not {k}: no neighbourhood would ever be large enough")
    for name, similarity in row.items():
        if not isfinite(similarity):
            raise ValueError(f"similarity to {name!r} must be finite, not {similarity}")
