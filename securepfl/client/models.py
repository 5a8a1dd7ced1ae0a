"""The models that a hospital's state stands for."""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from securepfl.client.state import ClientState, Floats
from securepfl.client.training import as_floats
from securepfl.learning.personal.partition import Partition


@dataclass(frozen=True)
class Models:
    """`template` is the federation's model, `start` [p] its personal parameters' common start."""

    template: nn.Module
    partition: Partition
    start: Floats

    def starts(self) -> tuple[Floats, Floats]:
        """The public start: shared [d] and personal [p] parameters."""
        return as_floats(self.partition.flatten_shared(self.template)), self.start

    def personal(self, state: ClientState) -> nn.Module:
        """A copy of the personal model: the trajectory average, or the current mixture before any training."""
        average = state.trajectory or {"shared": state.shared, "personal": state.personal}
        return self._with(average["shared"], average["personal"])

    def shared(self, state: ClientState) -> nn.Module | None:
        """A copy with the shared parameters and the hospitals' average personal ones, or None where there are personal
        parameters and no average of them.
        """
        average = state.average_personal
        if average is None and self.start.size:
            return None
        return self._with(state.shared, self.start if average is None else average)

    def _with(self, shared: NDArray[np.float32], personal: NDArray[np.float32]) -> nn.Module:
        model = copy.deepcopy(self.template)
        self.partition.load_shared(model, torch.from_numpy(shared))
        self.partition.load_personal(model, torch.from_numpy(personal))
        return model.eval()
