"""One dishonest hospital among honest ones: what it sends in place of what it should, well signed and sealed.

It has all that a hospital has: the key, its own masks, its own code. Each trick takes what an honest client made.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import numpy as np
from forging import opened_by_coordinator, opened_by_hospital, to_coordinator
from parties import Carried

from securepfl.crypto.keys.keys import FederationKey
from securepfl.crypto.masks.edges import SECRET_BYTES
from securepfl.crypto.masks.opening import opened_mask
from securepfl.crypto.messages.envelope import Header, Kind
from securepfl.crypto.similarity.scheme import similarity_scheme
from securepfl.crypto.sums.parameters import top_level
from securepfl.crypto.sums.tags import expected_tag
from securepfl.crypto.sums.words import add, subtract
from securepfl.errors import SecurePFLError
from securepfl.protocol.messages import Opened, Receipt

BAD = "birch"


@dataclass(frozen=True)
class Scene:
    """A message that the coordinator sent to the dishonest hospital, and the `reply` that its code made."""

    hub: object
    client: object
    message: bytes
    reply: bytes

    @property
    def body(self):
        return opened_by_coordinator(self.hub, self.reply)

    def sent(self, **changes):
        """The contribution with some parts replaced, signed."""
        return to_coordinator(self.client, msgspec.structs.replace(self.body, **changes))

    @property
    def round_(self):
        round_, _ = opened_by_hospital(self.client, self.message)
        return round_

    def resummed(self, part, changed: Callable, under_masks=True):
        """The bytes of `part` with other slots, masked as they were: `changed` takes (slots, layout, tag)."""
        channel, round_ = self.client._parts.sender.channels[part], self.round_
        layout, data, context = channel.layout, getattr(self.body, part), round_.contexts[part]
        total = self.client.federation.scheme_of(part).total(layout)
        total.add(data)
        slots = channel.cipher.decrypt(total.answer(), layout)
        mask = self._mask(part, layout) if under_masks else None
        index, modulus = channel.clients[self.client.name], layout.parameters.plain_modulus

        def tag(values):
            return expected_tag(values, layout, {index: 1}, channel.tag_key, context)

        plain = slots if mask is None else subtract(slots, mask, modulus)
        plain = changed(plain, layout, tag)
        return channel.cipher.encrypt(plain if mask is None else add(plain, mask, modulus), layout)

    def _mask(self, part, layout):
        masks = self.client._parts.masks
        if part != "update" or masks.masking is None:
            return None
        round_, pending = self.round_, self.client.state.pending
        index = self.client.federation.roster.index(self.client.name)
        secrets, commitments = masks.opened(round_, pending), self.body.masks.commitments
        modulus = layout.parameters.plain_modulus
        return opened_mask(masks.masking, round_.mask_context, index, commitments, secrets, layout.slots, modulus)


def _off_by_one(slots, layout, tag):
    slots[-1] = (slots[-1] + np.uint64(1)) % np.uint64(layout.parameters.plain_modulus)
    return slots


def _off_the_grid(slots, layout, tag):
    """Every digit as large as a sum over all may have, so that the sum can't be right whatever others sent."""
    values, digit = np.zeros(layout.value_slots, dtype=np.uint64), layout.clients * top_level(layout.bits)
    for _ in range(layout.fields):
        values = values * np.uint64(layout.base) + np.uint64(digit)
    return np.concatenate([values, tag(values)])


def wrong_tag(scene):
    return scene.sent(update=scene.resummed("update", _off_by_one, under_masks=False))


def digits_off_the_grid(scene):
    return scene.sent(update=scene.resummed("update", _off_the_grid))


def wrong_personal_part(scene):
    return scene.sent(personal=scene.resummed("personal", _off_by_one))


def wrong_sketch(scene):
    """A sketch under a key of its own: of the right form, and it fits nobody's. In clear, numbers that are none."""
    client, comparison = scene.client, scene.client._parts.contributor.comparison
    if not client.federation.scheme.encrypted:
        return scene.sent(sketch=b"\xff\xff\xff\x7f" * (len(scene.body.sketch) // 4))
    way, other = similarity_scheme(client.federation.scheme.similarity), FederationKey.generate(encrypted=True)
    cipher = way.cipher(other.similarity_key, other.similarity_he_key, comparison.shape)
    index, context = client.federation.roster.index(client.name), scene.round_.contexts["similarity"]
    ones = np.ones(comparison.shape.dimensions, dtype=np.int64)
    return scene.sent(sketch=cipher.encrypt(ones, 1.0, index, context, {index: bytes(16)}))


def garbage(scene):
    return b"no message" * 40


def altered(scene):
    return scene.reply[:-1] + bytes([scene.reply[-1] ^ 1])


def another_form(scene):
    return to_coordinator(scene.client, b"\x80", Kind.CONTRIBUTION)


def two_messages(scene):
    """Both are as they should be, but for the nonce: the first is taken."""
    scene.hub.receive(scene.reply)
    return scene.sent(nonce=bytes(16))


def silence(scene):
    return b""


def refuses(*parts):
    """A receipt that says that these parts failed, though they did not."""

    def trick(scene):
        place = Header.from_bytes(scene.message)
        keyring = scene.client.session.keyring
        body = Receipt(statement=None, refused=parts)
        return scene.client.session.message(place.round, body, place.attempt) if keyring else b""

    return trick


def other_masks(scene):
    """Committed to, for two of its neighbours: their masks would not cancel."""
    masks = scene.body.masks
    commitments = masks.commitments[: -2 * SECRET_BYTES] + bytes(2 * SECRET_BYTES)
    return scene.sent(masks=msgspec.structs.replace(masks, commitments=commitments))


def opens_other_masks(scene):
    place = Header.from_bytes(scene.message)
    secrets = bytes(len(opened_by_coordinator(scene.hub, scene.reply).secrets))
    return scene.client.session.message(place.round, Opened(secrets=secrets), place.attempt)


@dataclass
class Hostile(Carried):
    """Carries honest replies; for the dishonest hospital what a trick makes of them, by the kind of message replied to.

    `asked` keeps (receiver, message, reply) as Carried does. A client that raises replies nothing.
    """

    hub: object = None
    tricks: dict = field(default_factory=dict)

    def ask(self, name, message):
        try:
            reply = b"" if name in self.away else self.clients[name].handle(message)
        except SecurePFLError as error:
            self.errors.append((name, error))
            reply = b""
        kind = Header.from_bytes(message).kind
        if name == BAD and reply and kind in self.tricks:
            reply = self.tricks[kind](Scene(self.hub, self.clients[name], message, reply))
        self.asked.append((name, message, reply))
        return reply

    errors: list = field(default_factory=list)
