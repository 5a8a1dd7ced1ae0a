"""What a hospital makes of one other hospital's contribution, when all of a round's are opened.

It judges by what it computes itself, of bytes that the other signed. Nothing here draws noise or costs budget: under
local noise each part is a release of its own, which the other's ledger has paid for.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from securepfl.client.comparing import Comparison
from securepfl.client.round import Round
from securepfl.client.state import Pending
from securepfl.crypto.masks.graph import Masking
from securepfl.crypto.masks.opening import opened_mask
from securepfl.crypto.sums.contribution import check_and_unpack
from securepfl.crypto.sums.parameters import top_level
from securepfl.crypto.sums.words import Words
from securepfl.errors import AggregateError, MessageError
from securepfl.protocol.channels import SumChannel
from securepfl.protocol.messages import Evidence, Part
from securepfl.settings.federation import Federation, SumKind


@dataclass(frozen=True)
class Judge:
    """One hospital's means to judge others. `masking` is None where updates are not masked."""

    federation: Federation
    channels: Mapping[str, SumChannel]
    masking: Masking | None
    comparison: Comparison

    def broken(self, round_: Round, body: Evidence, pending: Pending) -> tuple[Part, ...]:
        """Which of the parts shown break the rules of the round, sorted.

        | part | breaks the rules where |
        |---|---|
        | update | masks are not those committed to, the tag is not its own, it is off the grid or beyond its bound |
        | personal | the tag is not its own, or a digit is off the grid |
        | sketch | it is none, or says different things to different hospitals; or the keys sent with it are none |
        """
        return tuple(sorted(part for part in body.parts if not self._sound(round_, body, part, pending)))

    def _sound(self, round_: Round, body: Evidence, part: Part, pending: Pending) -> bool:
        if part == "sketch":
            return self.comparison.sound(round_, body.sender, body.parts[part], body.evaluation, pending.nonces)
        try:
            self._check_summand(round_, body, part)
        except (AggregateError, MessageError):
            return False
        return True

    def _check_summand(self, round_: Round, body: Evidence, part: SumKind) -> None:
        """Decrypt a sum over this one contribution. Raises AggregateError or MessageError where it is none."""
        channel = self.channels[part]
        layout, index = channel.layout, channel.clients[body.sender]
        total = self.federation.scheme_of(part).total(layout)
        total.add(body.parts[part])
        mask = self._mask(round_, body, channel) if part == "update" else None
        slots = channel.cipher.decrypt(total.answer(mask), layout)
        levels = check_and_unpack(slots, layout, {index: 1}, channel.tag_key, round_.contexts[part])
        if part == "update":
            round_.bound([body.sender]).check(levels, 1, top_level(layout.bits))

    def _mask(self, round_: Round, body: Evidence, channel: SumChannel) -> Words | None:
        if self.masking is None:
            return None
        layout = channel.layout
        return opened_mask(
            self.masking,
            round_.mask_context,
            channel.clients[body.sender],
            body.commitments,
            body.secrets,
            layout.slots,
            layout.parameters.plain_modulus,
        )
