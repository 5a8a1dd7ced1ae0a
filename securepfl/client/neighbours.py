"""From a hospital's row of similarities to its graph: whom it is drawn to, how strongly, with which weights.

Where hospitals are compared in groups that rotate (protocol/groups.py), the row grows over rounds. Cosine and distance
of an entry are both of the round in which they were computed, from both hospitals' norms of that round, each less its
noise: so an older one needs nothing more to be read, and stays as it was until a newer one comes.
"""

from collections.abc import Mapping

from securepfl.client.state import ClientState
from securepfl.crypto.similarity.scheme import Similarity, distance
from securepfl.learning.personal.coupling import pull_towards
from securepfl.learning.personal.graph import LEAST_NEIGHBOURS
from securepfl.learning.personal.graph import choose_neighbours as most_similar
from securepfl.learning.personal.lasso import edge_weights, floor_at, weight_unit
from securepfl.protocol.groups import rotates
from securepfl.settings.federation import Federation
from securepfl.settings.fixed import GRAPH_ROUNDS, WEIGHT_BITS
from securepfl.settings.tables import LassoSettings


def choose_neighbours(
    federation: Federation, state: ClientState, own: float, similar: Mapping[str, Similarity]
) -> None:
    """Keep in `state` the row as this hospital sees it, and from it the graph, its weights and the pull.

    `own` is the norm of this hospital's own signal. Who is not visible over the noise, or sees nobody, is coupled to
    nobody, and forgets what it saw before.
    """
    seen = {name: found for name, found in similar.items() if own > 0 and found.norm > 0}
    older = [name for name in state.similarity if name not in similar] if rotates(federation) and own > 0 else []
    cosines = {name: state.similarity[name] for name in older} | {name: found.cosine for name, found in seen.items()}
    apart = {name: state.distances[name] for name in older} | {n: distance(own, found) for n, found in seen.items()}
    # In the roster's order, whenever each was met. With one group they are in it as they come.
    row = state.similarity = _ordered(cosines) if older else cosines
    state.distances = _ordered(apart) if older else apart
    kept = _graph(federation.coupling.neighbours, state, row)
    state.pull = pull_towards(row, kept, federation.coupling.strength)
    weights = _edge_weights(federation.lasso, state, {name: state.distances[name] for name in kept})
    # Sorted: their order would tell the coordinator who is nearest.
    state.neighbours = dict(sorted(weights.items())) if len(weights) >= LEAST_NEIGHBOURS else {}


def _ordered(row: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(row.items()))


def _graph(most: int, state: ClientState, row: Mapping[str, float]) -> list[str]:
    """The neighbours so far, while they are enough and the graph is young enough; else at most `most` chosen anew."""
    kept = [name for name in state.neighbours if name in row]
    if len(kept) >= LEAST_NEIGHBOURS and state.round - state.graph_round < GRAPH_ROUNDS:
        return kept
    state.graph_round = state.round
    return list(most_similar(row, most, LEAST_NEIGHBOURS))


def _edge_weights(lasso: LassoSettings | None, state: ClientState, distances: Mapping[str, float]) -> dict[str, int]:
    """The integer weights of the edges to those in `distances`: the network lasso's, or one for each."""
    if lasso is None:
        return dict.fromkeys(distances if state.pull > 0 else [], 1)
    floor = lasso.scale * floor_at(state.round)
    state.weight_unit = weight_unit(lasso.penalty, floor, WEIGHT_BITS)
    weights = edge_weights(distances, floor, WEIGHT_BITS)
    return {name: weight for name, weight in weights.items() if weight > 0}
