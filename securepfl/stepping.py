"""What an opened answer does to a hospital's state: the end of a round."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from securepfl.answers import Opened
from securepfl.checkpoint import ClientState, Floats, Pending
from securepfl.crypto.similarity import Similarity, distance
from securepfl.exchange import LEAST_NEIGHBOURS
from securepfl.federation import Federation
from securepfl.learning.coupling import couple, neighbours, pull_towards
from securepfl.learning.sparsity import add_residual
from securepfl.learning.trajectory import Trajectory


@dataclass(frozen=True)
class Step:
    """One round's answer as a hospital takes it.

    `support`, shape [d], is the round's. `included`: whether this hospital's own update is in the sum. `start`, shape
    [p], is the personal parameters' common start.
    """

    round: int
    support: NDArray[np.bool_]
    opened: Opened
    included: bool
    start: Floats

    def take(self, state: ClientState, pending: Pending, federation: Federation) -> None:
        """Move `state` to the end of the round."""
        opened = self.opened
        state.round, state.pending = self.round, None
        if opened.step is not None:
            state.aggregate = np.zeros(state.shared.size)
            state.aggregate[self.support] = opened.step
            state.shared = (state.shared - state.aggregate).astype(np.float32)
        # A masked update that may have been unmasked is never sent again under another list. Only a sum without it
        # proves that its masks are still on: too few can have signed another list.
        if not self.included if opened.step is not None else not federation.masked:
            state.residual = add_residual(state.residual, pending.sent)
        if pending.trained:
            # With shared noise a hospital's own step is not private enough to keep: only the sum is.
            local = state.shared if federation.shares_noise else pending.local_shared
            _move_trajectory(state, local, federation.trajectory.alpha)
        if opened.neighbourhood is not None:
            mean = torch.from_numpy((self.start + opened.neighbourhood).astype(np.float32))
            state.personal = couple(torch.from_numpy(state.personal), mean, state.pull).numpy()
        if opened.consensus is not None:
            state.average_personal = (self.start + opened.consensus).astype(np.float32)
        if opened.row:
            _choose_neighbours(state, opened.row, federation)


def _move_trajectory(state: ClientState, local_shared: Floats, alpha: float) -> None:
    trajectory = Trajectory(alpha)
    trajectory.load_state_dict({name: torch.from_numpy(part) for name, part in state.trajectory.items()})
    local = {"shared": local_shared, "personal": state.personal}
    trajectory.move({name: torch.from_numpy(part) for name, part in local.items()})
    state.trajectory = {name: part.numpy().astype(np.float32).copy() for name, part in trajectory.state_dict().items()}


def _choose_neighbours(state: ClientState, similar: dict[str, Similarity], federation: Federation) -> None:
    coupling, norm = federation.coupling, float(np.linalg.norm(state.accumulated))
    row = state.similarity = {name: found.cosine for name, found in similar.items()}
    state.distances = {name: distance(norm, found) for name, found in similar.items()}
    chosen = neighbours(row, coupling.neighbours, LEAST_NEIGHBOURS)
    state.pull = pull_towards(row, chosen, coupling.strength)
    state.neighbours = sorted(chosen) if state.pull > 0 else []
