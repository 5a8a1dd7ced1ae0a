"""What turns a hospital's state into its contribution to a round: train, send the update, and beside it, when due, the
personal component and the sketch.
"""

import secrets
import time
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from securepfl.client.comparing import Comparison, compared_of
from securepfl.client.round import Round
from securepfl.client.sending import Sender
from securepfl.client.snapshot import Snapshot
from securepfl.client.state import ClientState, Floats, Pending
from securepfl.client.training import LocalTraining
from securepfl.client.unprotected import UnprotectedTraining
from securepfl.privacy.training.dpsgd import TrainingReport
from securepfl.protocol.messages import NONCE_BYTES, Contribution, Invitation, MaskShares
from securepfl.protocol.standing import digests_of, parts_of, sign_parts
from securepfl.settings.federation import Federation
from securepfl.settings.fixed import GATE

_SURE: Final = 1e9


@dataclass(frozen=True)
class Made:
    """A contribution, what is kept of it until its answer (the sealed message excepted), and what training reported,
    for the hospital alone; None where nothing was trained. `own`: its noisy counts, where released metrics are summed.
    """

    body: Contribution
    pending: Pending
    report: TrainingReport | None
    own: tuple[int, ...] | None = None


def signed_contribution(round_: Round, body: Contribution) -> Contribution:
    """`body` with this hospital's signature over its parts."""
    digests = digests_of(parts_of(body), b"" if body.masks is None else body.masks.commitments)
    session = round_.session
    stands = sign_parts(session.keyring.identity, session.digest, round_.number, digests)
    return msgspec.structs.replace(body, stands=stands)


@dataclass(frozen=True)
class Contributor:
    """A hospital's parts that a contribution passes through. `seconds` counts what "train" and "encrypt" took."""

    federation: Federation
    training: LocalTraining | UnprotectedTraining
    sender: Sender
    comparison: Comparison
    seconds: dict[str, float]

    def make(self, round_: Round, state: ClientState, invitation: Invitation, head: str) -> Made:
        """Train from `state` and change it to what this hospital carries on. `head`: the latest hash of its ledger."""
        digest = Snapshot.of(state).digest(round_.session.key.snapshot_key, round_.session.digest)
        untrained = state.personal
        started = time.perf_counter()
        trained = self.training.train(round_, state)
        encrypting = time.perf_counter()
        update, sent = self.sender.update(round_, state, trained)
        # The network lasso steps from where gradients were taken; so those are sent and compared, not the trained ones.
        personal = untrained if self.federation.lasso is not None else state.personal
        part = self.sender.personal(round_, personal)
        state.clipped += update.clipped + (0 if part is None else part.clipped)
        sketch = self._sketch(round_, state, personal, invitation)
        state.nonce = secrets.token_hex(NONCE_BYTES)
        masked = update.masked
        body = Contribution(
            update=update.data,
            personal=None if part is None else part.data,
            sketch=sketch,
            neighbours=state.neighbours,
            head=head,
            nonce=bytes.fromhex(state.nonce),
            state=digest,
            masks=None if masked is None else MaskShares(blobs=masked.blobs, commitments=masked.commitments),
            stands=b"",
            evaluation=self.comparison.evaluation(held=invitation.held),
        )
        self.seconds["train"] += encrypting - started
        self.seconds["encrypt"] += time.perf_counter() - encrypting
        nonces = {name: nonce.hex() for name, nonce in invitation.nonces.items()}
        # Under shared noise a masked update alone is not private: what would open it is not kept.
        opens = masked is not None and not self.federation.shares_noise
        kept = Pending(
            message=b"",
            trained=True,
            sent=sent,
            local_shared=trained.shared,
            personal=personal,
            nonces=nonces,
            own_mask=masked.own.hex() if masked is not None and opens else "",
        )
        return Made(signed_contribution(round_, body), kept, trained.report)

    def _sketch(self, round_: Round, state: ClientState, personal: Floats, invitation: Invitation) -> bytes | None:
        """The encrypted sketch, in the rounds in which one is due."""
        if self.federation.compares == "personal":
            state.compared = (personal - self.sender.start).astype(np.float64)
        compared = compared_of(state, GATE)
        sketch = self.comparison.upload(round_, compared, invitation.nonces, bytes.fromhex(state.nonce))
        if sketch is not None:
            state.signal = min(compared.signal.ratio, _SURE)  # without noise it has no bound
        return sketch
