"""How what a hospital trained becomes what it sends.

An update: add what earlier rounds left behind, as much of it as a round allows (protocol/bounds.py) -> regularise ->
keep the support -> quantise, tag, mask, encrypt.
A personal component: its difference to the common start -> quantise, tag, encrypt.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from securepfl.client.masks import Masks
from securepfl.client.round import Round
from securepfl.client.state import ClientState, Doubles, Floats
from securepfl.client.training import Trained
from securepfl.learning.sparse.shrinking import regularise
from securepfl.learning.sparse.support import add_residual, new_residual
from securepfl.protocol.channels import Encoded, SumChannel
from securepfl.settings.federation import Federation


@dataclass(frozen=True)
class Sender:
    """A hospital's way out. `start` [p] is the personal parameters' common start."""

    federation: Federation
    channels: Mapping[str, SumChannel]
    masks: Masks
    start: Floats

    def update(self, round_: Round, state: ClientState, trained: Trained) -> tuple[Encoded, Doubles]:
        """The encrypted update, and the values [shared] that it stands for; what is left over stays in the state.

        Under shared noise nothing of a hospital's own step is kept: it is private in the sum only.
        """
        channel, name, sent = self.channels["update"], round_.session.name, np.zeros_like(state.residual)
        masker, context = self.masks.under(round_), round_.contexts["update"]
        if trained.integers is not None:
            return channel.encode_integers(trained.integers, name, context, masker), sent
        sparsity, support, allowance = self.federation.sparsity, round_.support, round_.allowance
        own, held = trained.gradient * self.federation.weight_share(name), state.residual.copy()
        held[support] = allowance.due(held[support])
        sparse = add_residual(own, held)
        if sparsity.kind in ("soft", "difference"):
            sparse = regularise(sparse, sparsity.kind, sparsity.strength)
        values = allowance.cut(sparse[support])
        update = channel.encode(values, name, context, round_.streams["update rounding"], masker)
        sent[support] = update.sent
        if sparsity.feedback:
            state.residual = new_residual(add_residual(own, state.residual), sent)
        return update, sent

    def personal(self, round_: Round, sent: Floats) -> Encoded | None:
        """The encrypted personal component, when neighbourhoods or the average over all need it."""
        if "personal" not in self.channels or not self.federation.schedule.personal_due(round_.number):
            return None
        values, stream = (sent - self.start).astype(np.float64), round_.streams["personal rounding"]
        return self.channels["personal"].encode(values, round_.session.name, round_.contexts["personal"], stream)
