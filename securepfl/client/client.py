"""One hospital: it trains privately, contributes encrypted sums, applies answers, keeps a personal model.

client = Client(federation, "north", build_model, loader, keyring, folder)
post(client.contribute(invitation)); client.apply(answer); client.predict(x)
"""

import copy
import hashlib
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from securepfl.client.answers import check_answer, open_answer
from securepfl.client.applying import Step
from securepfl.client.compared import compared_of, noise_of, set_noise
from securepfl.client.comparing import Comparison
from securepfl.client.labels import check_labels, feature_type, task_and_loss
from securepfl.client.masks import Masks
from securepfl.client.records import Loss, TrainingSet
from securepfl.client.run_kind import Simulation, kind_of, ledger_terms
from securepfl.client.snapshot import Snapshot
from securepfl.client.state import ClientState, Doubles, Floats, Pending
from securepfl.client.training import LocalTraining, as_floats, dp_settings
from securepfl.crypto.keys.keys import Keyring
from securepfl.crypto.keys.signing import LedgerSigner
from securepfl.crypto.messages.envelope import Header, Kind, open_message, seal_message
from securepfl.errors import BudgetError, ConfigError, LedgerError, MessageError, StorageError
from securepfl.learning.personal.partition import Partition
from securepfl.learning.personal.trajectory import alphas_by_part
from securepfl.learning.sparse.difference import load_solver
from securepfl.learning.sparse.shrinking import regularise
from securepfl.learning.sparse.support import add_residual, choose_support, new_residual
from securepfl.privacy.ledger.ledger import Ledger
from securepfl.privacy.training.dpsgd import TrainingReport, validate_model
from securepfl.privacy.training.gradients import GradientMode, choose_mode
from securepfl.protocol.channels import Encoded, Layouts, Masker, SumChannel, mask_context, round_context
from securepfl.protocol.messages import (
    NONCE_BYTES,
    Agreement,
    Answer,
    Contribution,
    Decline,
    Invitation,
    MaskShares,
    Reveal,
    Survivors,
    Unmask,
    decode,
    encode,
)
from securepfl.randomness import RandomStream, derive_key, fresh_key
from securepfl.settings.binding import initial_model
from securepfl.settings.federation import Federation
from securepfl.storage.folder import lock_folder
from securepfl.tasks.device import resolve_device
from securepfl.tasks.prediction import predict
from securepfl.tasks.task import Task

BuildModel = Callable[[], nn.Module]


class Client:
    """A hospital as a state machine over bytes: contribute(invitation) -> message, apply(answer); where updates are
    masked, agree(survivors) -> message and reveal(request) -> message between the two.

    `build_model` makes the torch module; `training` is the hospital's DataLoader or map-style Dataset of (x, y):
    its items are the privacy units, records or patients (x [r, ...], y [r, ...]) as `[privacy] unit` says, and batches
    are drawn anew (full, or declared Poisson sampling).
    `task` (default: the federation's) is a name or a Task: it says which labels are legal, the loss, and what `predict`
    returns. `loss(output, y)` in place of the task's gives one loss per record, shape [batch]; without a task anywhere,
    labels need only be finite and `predict` returns the model's outputs as they are.
    State lives in `folder` and survives a kill; the ledger in `ledger` (default: in `folder`) belongs to `data_set`
    (default: `name`) and composes over runs.
    `last_training` tells of this process's last round with local noise, also how many units held NaN or infinity and
    counted as zero. It is exact and private: for the hospital's own eyes.

    Raises ConfigError, ModelError or DataError where model, data and federation don't fit, LedgerError and
    StorageError where the ledger or folder can't be used.
    """

    def __init__(
        self,
        federation: Federation,
        name: str,
        build_model: BuildModel,
        training: DataLoader[Any] | Dataset[Any],
        keyring: Keyring,
        folder: Path,
        *,
        ledger: Path | None = None,
        data_set: str | None = None,
        loss: Loss | None = None,
        task: str | Task | None = None,
        device: str = "auto",
        simulation: Simulation | None = None,
    ) -> None:
        self.federation, self.name, self._digest = federation, name, federation.digest
        self._epoch = keyring.federation_key.epoch
        self._session = federation.session_digest(keyring.federation_key.commitment)
        self.seconds = {"train": 0.0, "encrypt": 0.0, "decrypt": 0.0}
        self.last_training: TrainingReport | None = None
        self.coupled_rounds = 0  # in this process, as the seconds: how often it was drawn to neighbours
        self._keyring, self._simulation = keyring, simulation
        self.device = resolve_device(device)
        self._model = initial_model(build_model, federation.model).to(self.device)
        validate_model(self._model)
        self._partition = Partition.of(self._model, federation.model.personal)
        bound = federation.bound(federation.roster, build_model)
        if bound.digest != self._digest or name not in federation.roster:
            raise ConfigError(
                f"{name}: not in the roster, or the model is not the federation's; use the bound Federation"
            )
        if keyring.ceremony not in (b"", federation.ceremony_digest) or keyring.identity.name != name:
            raise ConfigError(
                f"{name}: these keys are another hospital's, or were made for other settings or another roster; "
                "load this hospital's, or let the steward run `securepfl keys rotate` with these settings"
            )
        self._training = TrainingSet.of(training, name, federation.privacy.unit)
        self.task, own_loss = task_and_loss(federation, task, loss)
        check_labels(self._training, self.task, self._model, self.device, name, federation.training.physical_batch)
        self._training.try_out(self._model, own_loss, self.device, name)
        self._feature_type = feature_type(self._training)
        _check_normaliser(federation, self.units, name)
        self._start = as_floats(self._partition.flatten_personal(self._model))
        if federation.sparsity.kind == "difference":
            load_solver()
        self._alphas = alphas_by_part(self._partition, federation.trajectory.alpha, federation.trajectory.layers)
        self._channels = SumChannel.open(federation, keyring.federation_key)
        self._masks = Masks.of(federation, keyring)
        self._most_bytes = Layouts.of(federation).most_bytes(federation)
        self._comparison = Comparison.of(federation, name, keyring.federation_key)
        self._local = LocalTraining(
            federation,
            self._model,
            self._partition,
            self._training,
            own_loss,
            self.device,
            dp_settings(federation, self.units, federation.training.steps),
        )
        self._path = folder / "state.safetensors"
        self._lock = lock_folder(folder)
        try:
            self._state = self._load_or_start()
            self.ledger = self._open_ledger(ledger or folder / "ledger.jsonl", data_set or name)
        except BaseException:
            self._lock.close()
            raise

    def contribute(self, invitation: bytes) -> bytes:
        """Answer an invitation: train, reserve the budget first, and return one sealed message.

        The same round asked again gives the same bytes, without new noise. A hospital whose budget would be
        exceeded declines. The message is on disk before it is returned. Raises MessageError for bytes that are
        not this round's invitation, LedgerError or StorageError where ledger or state can't be written.
        """
        header, data = self._open(invitation, Kind.INVITATION)
        body = decode(data, Invitation)
        if self._state.pending is not None and self._state.pending.message:
            return self._state.pending.message
        self._check_invitation(header.round, body)
        masker = self._masks.under(self._mask_context(header, body.salt))
        reservation = self._reserve(header)
        state = copy.deepcopy(self._state)
        if reservation is None:
            state.pending = self._decline(state, header, body)
        else:
            state.pending = self._contribution(state, header, body, masker)
        self._commit(state)
        if reservation is not None:
            self.ledger.settle(reservation, self._local.release())
        return state.pending.message

    def agree(self, survivors: bytes) -> bytes:
        """Sign the list of hospitals whose masked updates are in the sum: one list a round, and the same one again.

        Raises MessageError for bytes that are not this round's list, a list too short for the masks to hide anybody, or
        another list than was signed; StorageError.
        """
        header, data = self._open(survivors, Kind.SURVIVORS)
        body, state = decode(data, Survivors), copy.deepcopy(self._state)
        pending, listed, salt = state.pending or self._nothing_sent(state), body.survivors, body.salt.hex()
        if pending.agreed not in ((), listed) or pending.salt not in ("", salt):
            raise MessageError(f"{self.name}: another survivor list or salt came for round {header.round}; refused")
        signature = self._masks.sign(listed, self._mask_context(header, body.salt))
        state.pending = replace(pending, agreed=listed, salt=salt)
        self._commit(state)
        return self._seal(header, Kind.AGREEMENT, encode(Agreement(signature=signature)))

    def reveal(self, request: bytes) -> bytes:
        """Reveal this hospital's shares of what the signed list's sum still carries, and nothing else.

        Raises MessageError where this hospital signed no list, too few signatures verify over the one that it signed,
        or shares were altered.
        """
        header, data = self._open(request, Kind.UNMASK)
        body, state = decode(data, Unmask), copy.deepcopy(self._state)
        pending = state.pending
        if pending is None or not pending.agreed:
            raise MessageError(f"{self.name}: asked to reveal in round {header.round} before it signed a survivor list")
        blobs = hashlib.sha256(encode(Unmask(signatures={}, blobs=body.blobs))).hexdigest()
        if pending.revealed not in ("", blobs):
            raise MessageError(f"{self.name}: revealed other shares in round {header.round} before; refused")
        shares = self._masks.shares(pending.agreed, self._mask_context(header, bytes.fromhex(pending.salt)), body)
        state.pending = replace(pending, revealed=blobs)
        self._commit(state)
        return self._seal(header, Kind.REVEAL, encode(Reveal(shares=shares)))

    def apply(self, answer: bytes) -> None:
        """Take the round's answer: step the shared parameters, move the trajectory, couple the personal ones.

        A hospital that sent nothing in the round takes the step all the same. Raises MessageError for bytes that
        are not this round's answer, AggregateError where what they hold fails its check; the model is then as before.
        """
        header, data = self._open(answer, Kind.ANSWER)
        body = decode(data, Answer)
        check_answer(body, header.round, self.name, self.federation, self._state)
        state = copy.deepcopy(self._state)
        pending = state.pending or self._nothing_sent(state)
        state.pending = self._pinned(pending, answer)
        self._commit(state)

        started = time.perf_counter()
        support = self._support(state, header.round)
        contexts = {kind: self._context(kind, header) for kind in self._channels}
        nonces = {other: bytes.fromhex(nonce) for other, nonce in pending.nonces.items()}
        compared = compared_of(state, self.federation.similarity.gate)
        row = self._comparison.opener(compared, header.round, self._context("similarity", header), nonces)
        opened = open_answer(body, self._channels, row, contexts, int(support.sum()), state.neighbours)
        self.seconds["decrypt"] += time.perf_counter() - started
        state = copy.deepcopy(state)
        step = Step(self.federation, header.round, support, opened, self.name in body.survivors, self._start, compared)
        step.take(state, pending, self._alphas, self._local.noise_variance)
        self._commit(state)
        self.coupled_rounds += opened.neighbourhood is not None

    def snapshot(self) -> bytes:
        """The shared state for late and new hospitals, encrypted: the coordinator may keep it. Make it anew after a
        key rotation.
        """
        return self._snapshot(self._state).seal(self._keyring.federation_key.snapshot_key, self._session)

    def join(self, snapshot: bytes, digests: Mapping[str, str]) -> None:
        """Start from the shared state of a run under way, in place of the public start; the personal part starts anew.

        `digests` are those that hospitals sent with their latest contributions (Coordinator.states), by name. Raises
        MessageError where the snapshot does not open or is not the state that all of them hold, StorageError where
        this hospital has already taken part.
        """
        state, key = copy.deepcopy(self._state), self._keyring.federation_key.snapshot_key
        if state.round or state.pending is not None:
            raise StorageError(f"{self._path}: has taken part in rounds already; a newcomer needs a new folder")
        opened = Snapshot.open(snapshot, key, self._session, state.shared.size)
        others = [digest for name, digest in digests.items() if name in self.federation.roster and name != self.name]
        opened.check_agreement(others, self.federation.minimum - 1, key, self._session)
        state.round, state.shared, state.aggregate = opened.round, opened.shared, opened.aggregate
        self._commit(state)

    @property
    def units(self) -> int:
        """Training records or patients: the declared constant by which a step divides."""
        return self._training.units

    @property
    def gradient_mode(self) -> GradientMode:
        """How each unit's gradient is had from this model, and why that way."""
        return choose_mode(self._model, unit=self._training.unit, physical_batch=self._local.settings.physical_batch)

    @property
    def affords_run(self) -> bool:
        """Whether the budget covers all rounds that are left."""
        rounds = self.federation.rounds - self.round
        if self.ledger.has_reserved(federation=self._session.hex(), round=self.round + 1, attempt=0):
            rounds -= 1
        return rounds < 1 or not self.ledger.would_exceed(self._local.release(rounds))

    @property
    def round(self) -> int:
        """The last round whose answer was applied; 0 at the start."""
        return self._state.round

    @property
    def similarity(self) -> Mapping[str, float]:
        """This hospital's own row: cosine similarity of what is compared, less its noise, by other hospital.

        Empty before one, without those whose signal doesn't pass the gate, and where this hospital's own doesn't.
        """
        return dict(self._state.similarity)

    @property
    def distances(self) -> Mapping[str, float]:
        """The same row as Euclidean distances."""
        return dict(self._state.distances)

    @property
    def signal(self) -> float | None:
        """How far what this hospital compared last stood out of its noise (compare it with [similarity] gate), or None
        before the first comparison.
        """
        return self._state.signal

    @property
    def neighbours(self) -> Mapping[str, int]:
        """The hospitals to which this one is coupled now, with their integer weights."""
        return dict(self._state.neighbours)

    @property
    def clipped_values(self) -> int:
        """How many values of this hospital were outside the grid's limits so far."""
        return self._state.clipped

    @property
    def sat_out(self) -> tuple[int, ...]:
        """The rounds in which this hospital declined."""
        return tuple(self._state.sat_out)

    def personal_model(self) -> nn.Module:
        """A copy of the personal model: the trajectory average, or the current mixture before any training."""
        trajectory = self._state.trajectory or {
            "shared": self._state.shared,
            "personal": self._state.personal,
        }
        return self._model_with(trajectory["shared"], trajectory["personal"])

    def shared_model(self) -> nn.Module | None:
        """A copy with the shared parameters and the hospitals' average personal ones.

        Where some parameters are personal: None before a round has given that average, the last one or, with coupling,
        the one before, or where that round
        formed no sum.
        """
        average = self._state.average_personal
        if average is None and self._start.size:
            return None
        return self._model_with(self._state.shared, self._start if average is None else average)

    def predict(self, features: Tensor | NDArray[Any]) -> NDArray[np.float64]:
        """What the task makes of the personal model's outputs for features [n, ...].

        The probability of 1 [n] (binary) or of each class or label [n, k], a number in the label's unit [n]
        (regression), or, with a loss of one's own and no task, the outputs themselves. Integers stay integers where
        training's were. Raises ModelError where the model fails on these features.
        """
        return predict(self.personal_model(), features, self.task, trained=self._feature_type)

    def release(self, expert: Literal["personal", "shared"]) -> tuple[nn.Module, dict[str, Any]]:
        """A model for use outside, with its audit record: written to the ledger before it is returned.

        "personal" is this hospital's own, "shared" the one that all hospitals hold. Neither costs more than the rounds
        spent: they are post-processing of what was released. Raises ConfigError where the federation does not
        release experts, the run is seeded (its noise hides nothing), or there is no shared model.
        """
        if not self.federation.release.experts:
            raise ConfigError("experts are not released in this federation: set [release] experts = true")
        if kind_of(self._simulation) == "seeded":
            raise ConfigError("a seeded simulation releases no expert: run without --seed")
        model = self.personal_model() if expert == "personal" else self.shared_model()
        if model is None:
            raise ConfigError("there is no shared model to release: the last round formed no sum")
        record = {
            "expert": expert,
            "federation": self._digest.hex(),
            "rounds": self.round,
            "epsilon": self.ledger.spent(),
            "delta": self.federation.privacy.delta,
            "unit": self.federation.privacy.unit,
        }
        self.ledger.record("expert-release", record)
        return model, {"site": self.name, "ledger_head": self.ledger.head, **record}

    def close(self) -> None:
        """Give the folder's and the ledger's locks back. The client can't be used afterwards."""
        self.ledger.close()
        self._lock.close()

    # Below: one step each of contribute and apply. They change a copy of the state, which counts once it is on disk.

    def _commit(self, state: ClientState) -> None:
        state.save(self._path)
        self._state = state

    def _check_invitation(self, round_: int, body: Invitation) -> None:
        """Nothing is spent on a round that is over, past the last, or of other hospitals. Raises MessageError."""
        if body.round != round_ or round_ > self.federation.rounds or body.roster != self.federation.roster:
            raise MessageError(f"{self.name}: invited to round {round_} of a run of other rounds or hospitals")
        if not time.time() <= body.deadline or self._state.pending is not None:
            raise MessageError(f"{self.name}: invited to round {round_} too late; wait for the next")

    def _reserve(self, header: Header) -> str | None:
        """The reservation of this round's release, or None where the hospital must sit the round out.

        It sits out where the budget would be exceeded, and where a killed process reserved this round and left
        no message: what it spent stays counted, and no second noise is drawn for it.
        """
        federation = self._session.hex()
        if self.ledger.has_reserved(federation=federation, round=header.round, attempt=header.attempt):
            return None
        try:
            return self.ledger.reserve(
                self._local.release(), federation=federation, round=header.round, attempt=header.attempt
            )
        except BudgetError:
            return None

    def _decline(self, state: ClientState, header: Header, invitation: Invitation) -> Pending:
        state.sat_out.append(header.round)
        message = self._seal(header, Kind.DECLINE, encode(Decline()))
        return replace(self._nothing_sent(state), message=message, salt=invitation.salt.hex())

    @staticmethod
    def _nothing_sent(state: ClientState) -> Pending:
        return Pending(b"", False, np.zeros_like(state.residual), state.shared)

    def _contribution(
        self, state: ClientState, header: Header, invitation: Invitation, masker: Masker | None
    ) -> Pending:
        before, nonces, untrained = self._snapshot(state), invitation.nonces, state.personal
        if self.federation.shares_noise:
            update, pending = self._part_of_step(state, header, masker)
        else:
            update, pending = self._own_update(state, header, masker)
        started = time.perf_counter()
        # The network lasso steps from where gradients were taken; so those are sent and compared, not the trained ones.
        sent = untrained if self.federation.coupling.kind == "lasso" else state.personal
        part = self._personal_part(sent, header)
        state.clipped += update.clipped + (0 if part is None else part.clipped)
        if self.federation.similarity.of == "personal":
            state.compared = (sent - self._start).astype(np.float64)
        compared = compared_of(state, self.federation.similarity.gate)
        sketched = self._comparison.upload(
            compared, header.round, self._context("similarity", header), nonces, bytes.fromhex(state.nonce)
        )
        if sketched is not None:
            state.signal = compared.signal.ratio
        state.nonce = secrets.token_hex(NONCE_BYTES)
        masked = update.masked
        body = Contribution(
            update=update.data,
            personal=None if part is None else part.data,
            sketch=sketched,
            neighbours=state.neighbours,
            head=self.ledger.head,
            nonce=bytes.fromhex(state.nonce),
            state=before.digest(self._keyring.federation_key.snapshot_key, self._session),
            masks=None if masked is None else MaskShares(blobs=masked.blobs, commitments=masked.commitments),
        )
        message = self._seal(header, Kind.CONTRIBUTION, encode(body))
        self.seconds["encrypt"] += time.perf_counter() - started
        received = {name: nonce.hex() for name, nonce in nonces.items()}
        return replace(pending, message=message, nonces=received, salt=invitation.salt.hex(), personal=sent)

    def _own_update(self, state: ClientState, header: Header, masker: Masker | None) -> tuple[Encoded, Pending]:
        """Train with this hospital's own noise, and send what earlier rounds left behind with the update."""
        support, noise, sampling = self._support(state, header.round), *self._training_streams(header)
        started, before, sparsity = time.perf_counter(), state.personal, self.federation.sparsity
        moving = support if self.federation.trains_support else np.ones_like(support)
        shared, state.personal, self.last_training = self._local.train(state, moving, noise=noise, sampling=sampling)
        trained = time.perf_counter()
        gradient = (state.shared - shared).astype(np.float64)
        self._follow(state, gradient, before, int(moving.sum()))
        corrected = add_residual(gradient * self.federation.weight_share(self.name), state.residual)
        sparse = corrected
        if sparsity.kind in ("soft", "difference"):
            sparse = regularise(corrected, sparsity.kind, sparsity.strength)
        update = self._encode("update", sparse[support], header, masker)
        sent = np.zeros_like(state.residual)
        sent[support] = update.sent
        if sparsity.feedback:
            state.residual = new_residual(corrected, sent)
        self._count_seconds(started, trained)
        return update, Pending(b"", True, sent, shared)

    def _follow(self, state: ClientState, gradient: Doubles, before: Floats, moving: int) -> None:
        """Keep account of what is compared and of the noise in it, after training from `before`."""
        added, noise = self._local.noise_variance, noise_of(state)
        if self.federation.similarity.of == "updates":
            state.compared[: gradient.size] += gradient
            state.compared[gradient.size :] += before - state.personal
            set_noise(state, noise.plus(moving + before.size, added))
        elif self.federation.coupling.kind == "unit":
            set_noise(state, noise.plus(before.size, added))

    def _part_of_step(self, state: ClientState, header: Header, masker: Masker | None) -> tuple[Encoded, Pending]:
        """This hospital's part of a step under shared noise. Nothing of it is kept: it is private in the sum only."""
        support, noise, sampling = self._support(state, header.round), *self._training_streams(header)
        started = time.perf_counter()
        integers, state.personal = self._local.common_step(
            state, support, noise=noise, sampling=sampling, shares=self._stream("noise share", header.round)
        )
        trained, context = time.perf_counter(), self._context("update", header)
        update = self._channels["update"].encode_integers(integers, self.name, context, masker)
        self._count_seconds(started, trained)
        return update, Pending(b"", True, np.zeros_like(state.residual), state.shared)

    def _training_streams(self, header: Header) -> tuple[RandomStream, RandomStream]:
        return self._stream("noise", header.round), self._stream("sampling", header.round)

    def _count_seconds(self, started: float, trained: float) -> None:
        """Training until `trained`, encryption until now."""
        self.seconds["train"] += trained - started
        self.seconds["encrypt"] += time.perf_counter() - trained

    def _support(self, state: ClientState, round_: int) -> NDArray[np.bool_]:
        sparsity = self.federation.sparsity
        return choose_support(
            state.aggregate,
            state.shared.size,
            density=sparsity.density,
            block=sparsity.block,
            exploration=sparsity.exploration,
            key=self._keyring.federation_key.support_key,
            round_number=round_,
        )

    def _encode(self, kind: str, values: NDArray[np.float64], header: Header, masker: Masker | None = None) -> Encoded:
        stream = self._stream(f"{kind} rounding", header.round)
        return self._channels[kind].encode(values, self.name, self._context(kind, header), stream, masker)

    def _personal_part(self, sent: Floats, header: Header) -> Encoded | None:
        """The encrypted personal component, when neighbourhoods or the average over all need it."""
        if "personal" not in self._channels or not self.federation.schedule.personal_due(header.round):
            return None
        return self._encode("personal", (sent - self._start).astype(np.float64), header)

    def _pinned(self, pending: Pending, answer: bytes) -> Pending:
        """Bind the round to this answer before any of it is decrypted: a hospital decrypts one answer a round."""
        fingerprint = hashlib.sha256(answer).hexdigest()
        if pending.answer not in ("", fingerprint):
            raise MessageError(f"{self.name}: another answer to this round came before; refused")
        return replace(pending, answer=fingerprint)

    def _stream(self, label: str, round_: int) -> RandomStream:
        """A fresh stream from the OS; in a seeded simulation, the same one for the same (label, round)."""
        if self._simulation is None or self._simulation.noise_key is None:
            return RandomStream(fresh_key())
        return RandomStream(derive_key(self._simulation.noise_key, self.name, label, round_))

    def _context(self, kind: str, header: Header) -> bytes:
        return round_context(self._session, kind, header.round, header.attempt)

    def _mask_context(self, header: Header, salt: bytes) -> bytes:
        """What this round's masks are bound to. Raises MessageError for a salt of another length."""
        if len(salt) != NONCE_BYTES:
            raise MessageError(f"{self.name}: a salt of {len(salt)} bytes in round {header.round}; refused")
        return mask_context(self._session, header.round, header.attempt, salt)

    def _open(self, data: bytes, kind: Kind) -> tuple[Header, bytes]:
        header, body = open_message(
            data,
            self._keyring.identity,
            [self._keyring.coordinator],
            kinds=(kind,),
            federation_digest=self._session,
            round=self._state.round + 1,
            max_bytes=self._most_bytes,
        )
        if header.attempt:
            raise MessageError(f"{self.name}: attempt {header.attempt} at round {header.round}; no round is repeated")
        return header, body

    def _snapshot(self, state: ClientState) -> Snapshot:
        return Snapshot(state.round, state.shared, state.aggregate)

    def _seal(self, header: Header, kind: Kind, body: bytes) -> bytes:
        """A reply to the message with `header`."""
        reply = replace(header, kind=kind, sender=header.receiver, receiver=header.sender)
        return seal_message(reply, body, self._keyring.identity, self._keyring.coordinator)

    def _model_with(self, shared: NDArray[np.float32], personal: NDArray[np.float32]) -> nn.Module:
        model = copy.deepcopy(self._model)
        self._partition.load_shared(model, torch.from_numpy(shared))
        self._partition.load_personal(model, torch.from_numpy(personal))
        return model.eval()

    def _open_ledger(self, path: Path, data_set: str) -> Ledger:
        """The data set's ledger; one that doesn't know what this folder's run spent is the wrong one."""
        terms = ledger_terms(self.federation, self.name, data_set, self._simulation)
        signer = LedgerSigner(self._keyring.identity, trusting=terms.simulation)
        ledger = Ledger.open(path, terms, signer, run=self._state.run)
        trained = bool(self._state.trajectory) or (self._state.pending is not None and self._state.pending.trained)
        if trained and not ledger.knows_run:
            ledger.close()
            raise LedgerError(f"{path}: does not hold what this run spent; give the ledger that the run began with")
        if ledger.serves_other_run(self._session.hex()):
            ledger.close()
            raise LedgerError(
                f"{path}: another run of this hospital has used these keys under these settings, and masks and tags "
                "must not come twice; go on in that run's folder, or rotate the keys"
            )
        return ledger

    def _load_or_start(self) -> ClientState:
        """The stored state, or a fresh one: stored at once, so that its run keeps its name in the ledger."""
        shared, digest = as_floats(self._partition.flatten_shared(self._model)), self._digest.hex()
        compared = self._start.size + (shared.size if self.federation.similarity.of == "updates" else 0)
        fresh = ClientState.fresh(
            digest, self._epoch, kind_of(self._simulation), shared, self._start, compared=compared
        )
        if self._path.exists():
            return ClientState.load(self._path, digest).going_on_as(fresh, self._path)
        fresh.save(self._path)
        return fresh


def _check_normaliser(federation: Federation, units: int, name: str) -> None:
    normaliser = federation.privacy.normaliser
    if federation.shares_noise and normaliser is not None and units > normaliser:
        raise ConfigError(
            f"{name}: {units} training units, but [privacy] normaliser = {normaliser} declares those of all hospitals "
            "together; declare more"
        )
