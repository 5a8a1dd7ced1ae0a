"""The sum of some survivors' updates made anew, once their masks are opened or there are none."""

from collections.abc import Callable, Collection, Mapping

from securepfl.coordinator.round import OpenRound
from securepfl.crypto.masks.opening import opened_mask
from securepfl.crypto.sums.words import Words, add
from securepfl.protocol.messages import Contribution

Contributed = Callable[[str], Contribution | None]


def total_of(
    round_: OpenRound, contributed: Contributed, secrets: Mapping[str, bytes]
) -> Callable[[Collection[str]], bytes | None]:
    """What gives the sum over some hospitals of a round, each less the mask whose `secrets` it opened; None over fewer
    than form one. It raises MessageError where somebody's secrets are not those that it committed to.
    """

    def total(names: Collection[str]) -> bytes | None:
        if len(names) < round_.rules.federation.least_in_sum:
            return None
        summed = round_.rules.sum_of("update")
        modulus = round_.rules.layouts.update.parameters.plain_modulus
        mask: Words | None = None
        for name in names:
            body = contributed(name)
            if body is None:
                continue
            summed.add(body.update)
            if body.masks is not None:
                own = mask_of(round_, name, body.masks.commitments, secrets.get(name, b""))
                mask = own if mask is None else add(mask, own, modulus)
        return summed.answer(mask)

    return total


def mask_of(round_: OpenRound, name: str, commitments: bytes, secrets: bytes) -> Words:
    """The mask that hospital `name` put on its update. Raises MessageError for secrets that it did not commit to."""
    rules, layout = round_.rules, round_.rules.layouts.update
    index, modulus = rules.federation.places[name], layout.parameters.plain_modulus
    return opened_mask(rules.masking, round_.mask_context, index, commitments, secrets, layout.slots, modulus)
