"""What turns a hospital's state into its contribution to a round.

train -> add what earlier rounds left behind -> regularise -> keep the support -> quantise, tag, mask, encrypt. Beside
it, when due: the encrypted personal component and the encrypted sketch.
"""

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np

from securepfl.client.comparing import Comparison, compared_of, noise_of, set_noise
from securepfl.client.masks import Masks
from securepfl.client.round import Round
from securepfl.client.snapshot import Snapshot
from securepfl.client.state import ClientState, Doubles, Floats, Pending
from securepfl.client.training import LocalTraining, Trained
from securepfl.crypto.messages.envelope import Kind
from securepfl.errors import MessageError
from securepfl.learning.sparse.shrinking import regularise
from securepfl.learning.sparse.support import add_residual, new_residual
from securepfl.privacy.training.dpsgd import TrainingReport
from securepfl.protocol.channels import Encoded, Masker, SumChannel
from securepfl.protocol.messages import NONCE_BYTES, Contribution, Decline, Invitation, MaskShares
from securepfl.settings.federation import Federation


@dataclass(frozen=True)
class Made:
    """A contribution as it is kept until its answer, and what training reported, for the hospital alone: None where
    noise is shared.
    """

    pending: Pending
    report: TrainingReport | None


@dataclass(frozen=True)
class Contributor:
    """A hospital's parts that a contribution passes through. `start` [p] is the personal parameters' common start.

    `seconds` counts what "train" and "encrypt" took.
    """

    federation: Federation
    training: LocalTraining
    channels: Mapping[str, SumChannel]
    masks: Masks
    comparison: Comparison
    start: Floats
    seconds: dict[str, float]

    def make(self, round_: Round, state: ClientState, invitation: Invitation, head: str) -> Made:
        """Train from `state`, change it to what this hospital carries on, and seal what it sends.

        `head` is the latest hash of its ledger.
        """
        digest, untrained = (
            Snapshot.of(state).digest(round_.session.key.snapshot_key, round_.session.digest),
            state.personal,
        )
        masker = self.masks.under(round_.mask_context(invitation.salt))
        update, pending, report = self._update(round_, state, masker)
        started = time.perf_counter()
        # The network lasso steps from where gradients were taken; so those are sent and compared, not the trained ones.
        sent = untrained if self.federation.coupling.kind == "lasso" else state.personal
        part = self._personal_part(round_, sent)
        state.clipped += update.clipped + (0 if part is None else part.clipped)
        sketch = self._sketch(round_, state, sent, invitation.nonces)
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
        )
        message = round_.reply(Kind.CONTRIBUTION, body)
        self.seconds["encrypt"] += time.perf_counter() - started
        received = {name: nonce.hex() for name, nonce in invitation.nonces.items()}
        kept = msgspec.structs.replace(
            pending, message=message, nonces=received, salt=invitation.salt.hex(), personal=sent
        )
        return Made(kept, report)

    def _update(
        self, round_: Round, state: ClientState, masker: Masker | None
    ) -> tuple[Encoded, Pending, TrainingReport | None]:
        if self.federation.shares_noise:
            return *self._part_of_step(round_, state, masker), None
        return self._own_update(round_, state, masker)

    def _own_update(
        self, round_: Round, state: ClientState, masker: Masker | None
    ) -> tuple[Encoded, Pending, TrainingReport]:
        """Train with this hospital's own noise, and send what earlier rounds left behind with the update."""
        started = time.perf_counter()
        trained = self.training.own_update(round_, state)
        encrypting = time.perf_counter()
        gradient = (state.shared - trained.shared).astype(np.float64)
        self._follow(state, trained, gradient)
        state.personal = trained.personal
        corrected = add_residual(gradient * self.federation.weight_share(round_.session.name), state.residual)
        support = round_.support
        update = self._encode("update", round_, self._regularised(corrected)[support], masker)
        sent = np.zeros_like(state.residual)
        sent[support] = update.sent
        if self.federation.sparsity.feedback:
            state.residual = new_residual(corrected, sent)
        self._count(started, encrypting)
        return update, Pending(message=b"", trained=True, sent=sent, local_shared=trained.shared), trained.report

    def _part_of_step(self, round_: Round, state: ClientState, masker: Masker | None) -> tuple[Encoded, Pending]:
        """This hospital's part of a step under shared noise. Nothing of it is kept: it is private in the sum only."""
        started = time.perf_counter()
        integers, state.personal = self.training.common_step(round_, state)
        encrypting = time.perf_counter()
        channel, context = self.channels["update"], round_.context("update")
        update = channel.encode_integers(integers, round_.session.name, context, masker)
        self._count(started, encrypting)
        nothing = np.zeros_like(state.residual)
        return update, Pending(message=b"", trained=True, sent=nothing, local_shared=state.shared)

    def _follow(self, state: ClientState, trained: Trained, gradient: Doubles) -> None:
        """Keep account of what is compared and of the noise in it, before the state's personal part moves."""
        added, noise, before = self.training.noise_variance, noise_of(state), state.personal
        if self.federation.similarity.of == "updates":
            state.compared[: gradient.size] += gradient
            state.compared[gradient.size :] += before - trained.personal
            set_noise(state, noise.plus(trained.moved + before.size, added))
        elif self.federation.coupling.kind == "unit":
            set_noise(state, noise.plus(before.size, added))

    def _regularised(self, corrected: Doubles) -> Doubles:
        sparsity = self.federation.sparsity
        if sparsity.kind in ("soft", "difference"):
            return regularise(corrected, sparsity.kind, sparsity.strength)
        return corrected

    def _personal_part(self, round_: Round, sent: Floats) -> Encoded | None:
        """The encrypted personal component, when neighbourhoods or the average over all need it."""
        if "personal" not in self.channels or not self.federation.schedule.personal_due(round_.number):
            return None
        return self._encode("personal", round_, (sent - self.start).astype(np.float64))

    def _sketch(self, round_: Round, state: ClientState, sent: Floats, nonces: Mapping[str, bytes]) -> bytes | None:
        """The encrypted sketch, in the rounds in which one is due."""
        if self.federation.similarity.of == "personal":
            state.compared = (sent - self.start).astype(np.float64)
        compared = compared_of(state, self.federation.similarity.gate)
        sketch = self.comparison.upload(round_, compared, nonces, bytes.fromhex(state.nonce))
        if sketch is not None:
            state.signal = compared.signal.ratio
        return sketch

    def _encode(self, kind: str, round_: Round, values: Doubles, masker: Masker | None = None) -> Encoded:
        name, stream = round_.session.name, round_.stream(f"{kind} rounding")
        return self.channels[kind].encode(values, name, round_.context(kind), stream, masker)

    def _count(self, started: float, encrypting: float) -> None:
        """Training until `encrypting`, encryption until now."""
        self.seconds["train"] += encrypting - started
        self.seconds["encrypt"] += time.perf_counter() - encrypting


def check_invitation(round_: Round, body: Invitation, state: ClientState) -> None:
    """Nothing is spent on a round that is over, past the last, of other hospitals, or open already. Raises
    MessageError.
    """
    number, name, federation = round_.number, round_.session.name, round_.session.federation
    if body.round != number or number > federation.rounds or body.roster != federation.roster:
        raise MessageError(f"{name}: invited to round {number} of a run of other rounds or hospitals")
    if not time.time() <= body.deadline or state.pending is not None:
        raise MessageError(f"{name}: invited to round {number} too late; wait for the next")
    round_.mask_context(body.salt)


def declined(round_: Round, state: ClientState, invitation: Invitation) -> Pending:
    """A refusal, for a hospital that sits the round out."""
    state.sat_out.append(round_.number)
    message = round_.reply(Kind.DECLINE, Decline())
    return msgspec.structs.replace(nothing_sent(state), message=message, salt=invitation.salt.hex())


def nothing_sent(state: ClientState) -> Pending:
    """What a hospital that sent nothing in a round keeps of it."""
    return Pending(message=b"", trained=False, sent=np.zeros_like(state.residual), local_shared=state.shared)
