"""One round as one hospital sees it: what every step of it needs, computed once."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from securepfl.client.state import ClientState, Doubles
from securepfl.crypto.keys.keys import FederationKey, Keyring
from securepfl.crypto.messages.envelope import Header, open_message, seal_pieces
from securepfl.errors import MessageError
from securepfl.learning.sparse.support import choose_support
from securepfl.protocol.bounds import Allowance, SumBound
from securepfl.protocol.channels import Layouts, mask_context, round_context, run_digest
from securepfl.protocol.messages import NONCE_BYTES, AnyBody, Body, Rejoin, decode, encode_pieces
from securepfl.randomness import RandomStream, derive_key
from securepfl.settings.evaluation import Evaluation
from securepfl.settings.federation import Federation
from securepfl.settings.fixed import EXPLORATION


@dataclass(frozen=True)
class Session:
    """A hospital in a bound federation under one key: what all of its rounds have in common.

    `base` (32 bytes) is what messages are bound to, `run` the identifier of the run that it has joined, empty before
    the first message. `noise_key` fixes the noise of a seeded simulation; None is a real hospital's, or an unseeded
    one's. `most_bytes` bounds a message's body, `most_snapshot_bytes` that of one that holds the shared state.
    """

    federation: Federation
    keyring: Keyring = field(repr=False)
    noise_key: bytes | None = field(repr=False)
    base: bytes
    most_bytes: int
    most_snapshot_bytes: int
    run: bytes = b""

    @classmethod
    def of(cls, federation: Federation, keyring: Keyring, noise_key: bytes | None) -> Self:
        """Before it has joined a run. Raises ConfigError where the federation is not bound, or its sums fit no
        parameter set.
        """
        base = federation.session_digest(keyring.federation_key.commitment)
        layouts = federation.once(Layouts.of)
        most = layouts.most_bytes(federation), layouts.most_snapshot_bytes(federation)
        return cls(federation, keyring, noise_key, base, *most)

    def joining(self, run: bytes) -> Self:
        """In the run of that identifier."""
        return replace(self, run=run)

    def message(self, round_: int, body: Body, attempt: int = 0) -> bytes:
        """A sealed message to the coordinator about that round, and the attempt to answer it."""
        identity, coordinator = self.keyring.identity, self.keyring.coordinator
        header = Header(
            kind=body.kind,
            federation_digest=self.base,
            run=self.run,
            round=round_,
            attempt=attempt,
            sender=identity.public.fingerprint,
            receiver=coordinator.fingerprint,
        )
        return seal_pieces(header, encode_pieces(body), identity, coordinator)

    @cached_property
    def digest(self) -> bytes:
        """What the run's tags, masks, pads and ledger lines are bound to. 32 bytes; other for every run."""
        return run_digest(self.base, self.run)

    @property
    def longest_bytes(self) -> int:
        """A bound on the body of any message, for whoever carries them."""
        return max(self.most_bytes, self.most_snapshot_bytes)

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
    """The round of the message with `header`. `aggregate` [shared], or None before the first, is the last one's sum;
    `largest` the largest size of a shared parameter; `salt` the coordinator's, empty where the message had none.

    | what | follows from | so |
    |---|---|---|
    | `support` | the last aggregate, the round, a key of the hospitals | is the same at all of them |
    | `contexts` | settings, key, round, kind of sum | binds tags and pads to this round alone |
    | `mask_context` | the same, and the salt | masks never come twice |
    | `streams` | `fresh`; in a seeded simulation a label and the round | noise is fresh, or repeats under a seed |

    `fresh` (32 bytes) is the key that the OS gave for this round's contribution, empty in all its other steps.
    """

    session: Session
    header: Header
    shared: int
    aggregate: Doubles | None = field(repr=False)
    salt: bytes = b""
    largest: float = field(default=0.0, repr=False)
    fresh: bytes = field(default=b"", repr=False)

    @classmethod
    def open(
        cls,
        session: Session,
        message: bytes,
        form: type[AnyBody],
        state: ClientState,
        attempts: Collection[int] = (0,),
        *,
        number: int | None = None,
    ) -> tuple[Self, AnyBody]:
        """The round of a message to a hospital in `state`, and the message's body.

        A hospital that has joined no run is shown the message's. Raises MessageError for bytes that are not of this
        form, from the coordinator, to this hospital, of its run, of the round after the last one applied (or `number`)
        and of one of `attempts` to answer it, or have a salt of another length.
        """
        header, data = open_message(
            message,
            session.keyring.identity,
            [session.keyring.coordinator],
            kinds=(form.kind,),
            federation_digest=session.base,
            run=session.run or None,
            round=state.round + 1 if number is None else number,
            max_bytes=session.most_snapshot_bytes if form is Rejoin else session.most_bytes,
        )
        if header.attempt not in attempts:
            raise MessageError(
                f"{session.name}: attempt {header.attempt} at round {header.round}, where "
                f"{' or '.join(map(str, attempts))} is expected; refused"
            )
        body = decode(data, form)
        salt: bytes | None = getattr(body, "salt", None)
        if salt is not None and len(salt) != NONCE_BYTES:
            raise MessageError(f"{session.name}: a salt of {len(salt)} bytes in round {header.round}; refused")
        joined = session.joining(header.run)
        largest = float(np.abs(state.shared).max(initial=0.0))
        return cls(joined, header, state.shared.size, state.aggregate, salt or b"", largest), body

    @property
    def number(self) -> int:
        """From 1."""
        return self.header.round

    @cached_property
    def support(self) -> NDArray[np.bool_]:
        """The shared coordinates that travel, shape [shared]."""
        sparsity = self.session.federation.sparsity
        return choose_support(
            self.aggregate,
            self.shared,
            density=sparsity.density,
            block=sparsity.block,
            exploration=EXPLORATION,
            key=self.session.key.support_key,
            round_number=self.number,
        )

    @property
    def evaluates(self) -> bool:
        """Whether released metrics are summed in it, in the place of updates."""
        return self.session.federation.evaluates(self.number)

    def bound(self, senders: Collection[str]) -> SumBound:
        """What the sum of the updates of `senders` may be at most, or the update of one."""
        if self.evaluates:
            evaluation = self.session.federation.once(Evaluation.of)
            return SumBound.of_digits(evaluation.values, evaluation.levels, len(senders))
        return SumBound.over(
            self.session.federation,
            senders,
            round_=self.number,
            values=int(self.support.sum()),
            largest=self.largest,
        )

    @property
    def allowance(self) -> Allowance:
        """What this hospital's own update may be made of."""
        return Allowance.of(
            self.session.federation,
            self.session.name,
            round_=self.number,
            values=int(self.support.sum()),
            largest=self.largest,
        )

    @cached_property
    def contexts(self) -> Mapping[str, bytes]:
        """What tags and pads are bound to, by kind of sum: in every attempt the same, as nothing is sent twice."""
        return {kind: round_context(self.session.digest, kind, self.number) for kind in _KINDS}

    @cached_property
    def mask_context(self) -> bytes:
        """What the masks are bound to."""
        return mask_context(self.session.digest, self.number, 0, self.salt)

    @cached_property
    def streams(self) -> Mapping[str, RandomStream]:
        """Random streams by what they are for, each used once; in a seeded simulation they repeat. Raises ValueError
        where the round draws nothing.
        """
        key, name = self.session.noise_key, self.session.name
        if key is not None:
            return {use: RandomStream(derive_key(key, name, use, self.number)) for use in _USES}
        if not self.fresh:
            raise ValueError(f"{name}: round {self.number} was given no key to draw from")
        return {use: RandomStream(derive_key(self.fresh, "stream", use)) for use in _USES}

    def reply(self, body: Body) -> bytes:
        """A sealed reply to the message."""
        header = replace(self.header, kind=body.kind, sender=self.header.receiver, receiver=self.header.sender)
        return seal_pieces(header, encode_pieces(body), self.session.keyring.identity, self.session.keyring.coordinator)


_KINDS = ("update", "personal", "similarity")
_USES = ("noise", "sampling", "noise share", "update rounding", "personal rounding")
