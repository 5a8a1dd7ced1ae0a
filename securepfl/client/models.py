"""The models that a hospital's state stands for."""

from dataclasses import dataclass

from torch import nn

from securepfl.client.state import ClientState, Floats
from securepfl.client.training import as_floats
from securepfl.learning.personal.partition import Partition


@dataclass(frozen=True)
class Models:
    """`template` is the federation's model, `start` [p] its personal parameters' common start, and `own` [p] what this
    hospital starts from: another bias where it declares a prevalence of its own. Where that bias is shared, `shift` [d]
    is what the hospital adds to it in its personal model, a public constant.
    """

    template: nn.Module
    partition: Partition
    shift: Floats
    start: Floats
    own: Floats

    def starts(self) -> tuple[Floats, Floats]:
        """The public start: shared [d] and this hospital's personal [p] parameters."""
        return as_floats(self.partition.flatten_shared(self.template)), self.own

    def initial(self) -> nn.Module:
        """A copy of what this hospital starts from."""
        shared, _ = self.starts()
        return self.partition.filled(self.template, shared + self.shift, self.own).eval()

    def personal(self, state: ClientState) -> nn.Module:
        """A copy of the personal model: the trajectory average, or the current mixture before any training."""
        average = state.trajectory or {"shared": state.shared, "personal": state.personal}
        shared = average["shared"] + self.shift
        return self.partition.filled(self.template, shared, average["personal"]).eval()

    def with_personal(self, state: ClientState, personal: Floats) -> nn.Module:
        """A copy with the shared parameters and these `personal` ones [p]."""
        return self.partition.filled(self.template, state.shared, personal).eval()

    def shared(self, state: ClientState) -> nn.Module | None:
        """A copy with the shared parameters and the hospitals' average personal ones, or None where there are personal
        parameters and no average of them.
        """
        average = state.average_personal
        if average is None and self.start.size:
            return None
        return self.partition.filled(self.template, state.shared, self.start if average is None else average).eval()
