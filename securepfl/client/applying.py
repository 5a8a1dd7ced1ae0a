"""What an opened answer does to a hospital's state: the end of a round."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from securepfl.client.answers import Opened
from securepfl.client.comparing import Compared, noise_of, set_noise
from securepfl.client.neighbours import choose_neighbours
from securepfl.client.round import Round
from securepfl.client.state import ClientState, Doubles, Floats, Pending
from securepfl.learning.personal.coupling import couple
from securepfl.learning.personal.lasso import proximal_step
from securepfl.learning.personal.partition import Partition
from securepfl.learning.personal.trajectory import Trajectory
from securepfl.learning.sparse.support import add_residual
from securepfl.settings.federation import Federation
from securepfl.settings.tables import TrajectorySettings

Alpha = float | Mapping[str, Tensor]


@dataclass(frozen=True)
class Step:
    """One round's answer as a hospital takes it.

    `included`: whether this hospital's own update is in the sum. `start`, shape [p], is the personal parameters' common
    start. `compared`: what it compared in the round. `alpha`: how the trajectory weighs history.
    """

    round_: Round
    opened: Opened
    included: bool
    start: Floats
    compared: Compared
    alpha: Alpha

    @property
    def federation(self) -> Federation:
        """The round's settings."""
        return self.round_.session.federation

    def take(self, state: ClientState, pending: Pending, noise_variance: float) -> None:
        """Move `state` to the end of the round. `noise_variance`: what training added to each coordinate."""
        opened = self.opened
        state.round, state.pending = self.round_.number, None
        if opened.step is not None:
            state.aggregate = np.zeros(state.shared.size)
            state.aggregate[self.round_.support] = opened.step
            state.shared = (state.shared - state.aggregate).astype(np.float32)
        # A masked update that may have been unmasked is never sent again under another list. Only a sum without it
        # proves that its masks are still on: too few can have signed another list.
        lost = not self.included if opened.step is not None else not self.federation.masked
        if lost and self.federation.sparsity.feedback:
            state.residual = add_residual(state.residual, pending.sent)
        mixture = self.federation.trajectory.of == "mixture"
        if pending.trained and not mixture:
            # With shared noise a hospital's own step is not private enough to keep: only the sum is.
            local = state.shared if self.federation.shares_noise else pending.local_shared
            _move_trajectory(state, local, state.personal, self.alpha)
        self._couple(state, pending, noise_variance)
        # It begins with the first round that the hospital trained in: one without training has spent nothing yet.
        if mixture and (pending.trained or state.trajectory):
            _move_trajectory(state, state.shared, state.personal, self.alpha)
        if opened.consensus is not None:
            state.average_personal = (self.start + opened.consensus).astype(np.float32)
        if opened.row:
            choose_neighbours(self.federation, state, self.compared.norm, opened.row)

    def _couple(self, state: ClientState, pending: Pending, noise_variance: float) -> None:
        """Draw the personal parameters to the neighbourhood's.

        The known noise stays as it was, though averaging lessens it: neighbours soon carry each other's, so that it
        isn't known by how much. A mean of vectors of some deviation has at most that deviation.
        """
        lasso = self.federation.lasso is not None
        if lasso and pending.trained:
            set_noise(state, noise_of(state).plus(self.start.size, noise_variance))
        if self.opened.neighbourhood is None:
            return
        mean = self.start + self.opened.neighbourhood
        if not lasso:
            towards = torch.from_numpy(mean.astype(np.float32))
            state.personal = couple(torch.from_numpy(state.personal), towards, state.pull).numpy()
        elif pending.personal is not None:
            state.personal = self._proximal(state, pending.personal, mean)

    def _proximal(self, state: ClientState, sent: Floats, mean: Doubles) -> Floats:
        """The network lasso's step from what was sent, given the weighted mean of the neighbours'."""
        training = self.federation.training
        rate = training.learning_rate * training.steps
        total = state.weight_unit * sum(self.opened.weights.values())
        z, trained = (torch.from_numpy(vector.astype(np.float64)) for vector in (sent, state.personal))
        return proximal_step(z, trained, torch.from_numpy(total * mean), total, rate).numpy().astype(np.float32)


def alpha_of(settings: TrajectorySettings, partition: Partition) -> Alpha:
    """How the trajectory weighs history: the one alpha, or of both parts each number's own, by its parameter's name."""
    if not isinstance(settings.alpha, dict):
        return settings.alpha
    parts = {"shared": partition.shared, "personal": partition.personal}
    return {
        part: torch.tensor(
            [settings.alpha_of(name) for name in names for _ in range(math.prod(partition.shapes[name]))],
            dtype=torch.float32,
        )
        for part, names in parts.items()
    }


def _move_trajectory(state: ClientState, shared: Floats, personal: Floats, alpha: Alpha) -> None:
    trajectory = Trajectory(alpha)
    trajectory.load_state_dict({name: torch.from_numpy(part) for name, part in state.trajectory.items()})
    trajectory.move({"shared": torch.from_numpy(shared), "personal": torch.from_numpy(personal)})
    state.trajectory = {name: part.numpy().astype(np.float32).copy() for name, part in trajectory.state_dict().items()}
