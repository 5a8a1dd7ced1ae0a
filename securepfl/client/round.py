"""One round as one hospital sees it: what every step of it needs, computed once."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from securepfl.client.state import ClientState, Doubles
from securepfl.crypto.keys.keys import FederationKey, Keyring
from securepfl.crypto.messages.envelope import Header, Kind, open_message, seal_message
from securepfl.errors import MessageError
from securepfl.learning.sparse.support import choose_support
from securepfl.protocol.channels import Layouts, mask_context, round_context
from securepfl.protocol.messages import NONCE_BYTES, Body, encode
from securepfl.randomness import RandomStream, derive_key, fresh_key
from securepfl.settings.federation import Federation


@dataclass(frozen=True)
class Session:
    """A hospital in a bound federation under one key: what all of its rounds have in common.

    `digest` (32 bytes) is what messages, tags, masks and pads are bound to. `noise_key` fixes the noise of a seeded
    simulation; None is a real hospital's, or an unseeded one's. `most_bytes` bounds a message's body.
    """

    federation: Federation
    keyring: Keyring = field(repr=False)
    noise_key: bytes | None = field(repr=False)
    digest: bytes
    most_bytes: int

    @classmethod
    def of(cls, federation: Federation, keyring: Keyring, noise_key: bytes | None) -> Self:
        """Raises ConfigError where the federation is not bound, or its sums fit no parameter set."""
        digest = federation.session_digest(keyring.federation_key.commitment)
        return cls(federation, keyring, noise_key, digest, Layouts.of(federation).most_bytes(federation))

    @property
    def name(self) -> str:
        """The hospital's."""
        return self.keyring.identity.name

    @property
    def key(self) -> FederationKey:
        """The key that hospitals share."""
        return self.keyring.federation_key


@dataclass(frozen=True)
class Round:
    """The round of the message with `header`. `aggregate` [shared], or None before the first, is the last one's sum.

    | what | follows from | so |
    |---|---|---|
    | `support` | the last aggregate, the round, a key of the hospitals | is the same at all of them |
    | `context` | settings, key, round, attempt, kind of sum | binds tags and pads to this round alone |
    | `mask_context` | the same, and the coordinator's salt | masks never come twice |
    | `stream` | the OS; in a seeded simulation a label and the round | noise is fresh, or repeats under a seed |
    """

    session: Session
    header: Header
    shared: int
    aggregate: Doubles | None = field(repr=False)

    @classmethod
    def open(cls, session: Session, message: bytes, kind: Kind, state: ClientState) -> tuple[Self, bytes]:
        """The round of a message to a hospital in `state`, and the message's body.

        Raises MessageError for bytes that are not of this kind, from the coordinator, to this hospital, and of the
        round after the last one applied.
        """
        header, body = open_message(
            message,
            session.keyring.identity,
            [session.keyring.coordinator],
            kinds=(kind,),
            federation_digest=session.digest,
            round=state.round + 1,
            max_bytes=session.most_bytes,
        )
        if header.attempt:
            raise MessageError(
                f"{session.name}: attempt {header.attempt} at round {header.round}; no round is repeated"
            )
        return cls(session, header, state.shared.size, state.aggregate), body

    @property
    def number(self) -> int:
        """From 1."""
        return self.header.round

    @cached_property
    def support(self) -> NDArray[np.bool_]:
        """The shared coordinates that travel, shape [shared]."""
        federation = self.session.federation
        return choose_support(
            self.aggregate,
            self.shared,
            density=federation.sparsity.density,
            block=federation.sparsity.block,
            exploration=federation.sparsity.exploration,
            key=self.session.key.support_key,
            round_number=self.number,
        )

    def context(self, kind: str) -> bytes:
        """What tags and pads of one kind of sum are bound to."""
        return round_context(self.session.digest, kind, self.number, self.header.attempt)

    def mask_context(self, salt: bytes) -> bytes:
        """What the masks are bound to. Raises MessageError for a salt of another length."""
        if len(salt) != NONCE_BYTES:
            raise MessageError(f"{self.session.name}: a salt of {len(salt)} bytes in round {self.number}; refused")
        return mask_context(self.session.digest, self.number, self.header.attempt, salt)

    def stream(self, label: str) -> RandomStream:
        """A fresh stream from the OS; in a seeded simulation, the same one for the same label."""
        key = self.session.noise_key
        return RandomStream(fresh_key() if key is None else derive_key(key, self.session.name, label, self.number))

    def reply(self, kind: Kind, body: Body) -> bytes:
        """A sealed reply to the message."""
        header = replace(self.header, kind=kind, sender=self.header.receiver, receiver=self.header.sender)
        return seal_message(header, encode(body), self.session.keyring.identity, self.session.keyring.coordinator)
