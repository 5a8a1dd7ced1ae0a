"""One hospital: it trains privately, contributes encrypted sums, applies answers, keeps a personal model.

client = Client(federation, "north", build_model, loader, keyring, folder)
post(client.contribute(invitation)); client.apply(answer); client.predict(x)
"""

import copy
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from securepfl.checkpoint import ClientState, Pending
from securepfl.crypto.envelope import Header, Kind, open_message, seal_message
from securepfl.crypto.keys import FederationKey, Identity, PublicIdentity
from securepfl.crypto.signing import LedgerSigner
from securepfl.crypto.similarity import cosine, sketch
from securepfl.errors import BudgetError, ConfigError, MessageError
from securepfl.exchange import Layouts, SumChannel
from securepfl.federation import Federation, initial_model
from securepfl.learning.coupling import couple, neighbours, pull_towards
from securepfl.learning.models import bce
from securepfl.learning.partition import Partition
from securepfl.learning.prediction import predict
from securepfl.learning.sparsity import add_residual, choose_support, new_residual
from securepfl.learning.trajectory import Trajectory
from securepfl.messages import Answer, Contribution, Decline, Invitation, decode, encode
from securepfl.privacy.accounting import Release, noise_multiplier_for
from securepfl.privacy.dpsgd import DPSettings, train_private, validate_model
from securepfl.privacy.ledger import Budget, Ledger
from securepfl.randomness import RandomStream, derive_key, fresh_key

BuildModel = Callable[[], nn.Module]
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Keyring:
    """What a hospital holds: its own identity, the key that only hospitals share, the coordinator's public keys."""

    identity: Identity
    federation_key: FederationKey
    coordinator: PublicIdentity


@dataclass(frozen=True)
class Simulation:
    """Marks a client as one of a simulation. `noise_key` (32 bytes) fixes its noise: repeatable, so not private."""

    noise_key: bytes | None = None

    def __repr__(self) -> str:
        return f"Simulation(seeded={self.noise_key is not None})"


def resolve_device(name: str) -> torch.device:
    """ "auto", "cpu" or "cuda" as a device. Raises ConfigError where CUDA is asked for and absent."""
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device {name!r}: must be auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device 'cuda': torch finds no CUDA device here; use --device auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


class Client:
    """A hospital as a state machine over bytes: contribute(invitation) -> message, apply(answer).

    `build_model` makes the torch module; `training` is the hospital's DataLoader or map-style Dataset of (x, y):
    its items are the privacy units, its sampler is not used (full batch, or declared Poisson sampling).
    `loss(output, y)` gives one loss per record, shape [batch]. State lives in `folder` and survives a kill;
    the ledger in `ledger` (default: in `folder`) belongs to `data_set` (default: `name`) and composes over runs.

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
        loss: Loss = bce,
        device: str = "auto",
        simulation: Simulation | None = None,
    ) -> None:
        self.federation, self.name, self._digest = federation, name, federation.digest
        self.seconds = {"train": 0.0, "encrypt": 0.0, "decrypt": 0.0}
        self._keyring, self._loss, self._simulation = keyring, loss, simulation
        self.device = resolve_device(device)
        self._model = initial_model(build_model, federation.model.seed).to(self.device)
        validate_model(self._model)
        self._partition = Partition.of(self._model, federation.model.personal)
        bound = federation.bound(federation.roster, build_model)
        if bound.digest != self._digest or name not in federation.roster:
            raise ConfigError(
                f"{name}: not in the roster, or the model is not the federation's; use the bound Federation"
            )
        self._dataset, self._collate = _dataset_of(training)
        self.units = len(self._dataset)  # type: ignore[arg-type]
        self._start = _numpy(self._partition.flatten_personal(self._model))
        self._channels = SumChannel.open(federation, keyring.federation_key)
        self._most_bytes = Layouts.of(federation).most_bytes(federation)
        self._similarity = keyring.federation_key.similarity_cipher() if federation.similarity.every else None
        self._settings = dp_settings(federation, self.units, federation.training.steps)
        self._path = folder / "state.safetensors"
        self._state = self._load_or_start()
        self.ledger = Ledger.open(
            ledger or folder / "ledger.jsonl",
            site=name,
            data_set=data_set or name,
            run=self._state.run,
            budget=Budget(federation.budget_of(name), federation.privacy.delta),
            signer=LedgerSigner(keyring.identity, trusting=simulation is not None),
            simulation=simulation is not None,
            seeded=simulation is not None and simulation.noise_key is not None,
        )

    def contribute(self, invitation: bytes) -> bytes:
        """Answer an invitation: train, reserve the budget first, and return one sealed message.

        The same round asked again gives the same bytes, without new noise. A hospital whose budget would be
        exceeded declines. Raises MessageError for bytes that are not this round's invitation.
        """
        header, data = self._open(invitation, Kind.INVITATION)
        decode(data, Invitation)
        state = self._state
        if state.pending is not None:
            return state.pending.message
        if header.round > self.federation.rounds:
            raise MessageError(f"{self.name}: invited to round {header.round} of {self.federation.rounds}")
        reservation = self._reserve(header)
        state.pending = self._declined(header) if reservation is None else self._contribution(header)
        state.save(self._path)
        if reservation is not None:
            self.ledger.settle(reservation, self._release())
        return state.pending.message

    def apply(self, answer: bytes) -> None:
        """Take the round's answer: step the shared parameters, couple the personal ones, move the trajectory.

        Raises MessageError for bytes that are not this round's answer, AggregateError where a sum fails its
        check; the state is then as before.
        """
        header, data = self._open(answer, Kind.ANSWER)
        body = decode(data, Answer)
        state, pending = self._state, self._state.pending
        if pending is None:
            raise MessageError(f"{self.name}: an answer to round {header.round} is not awaited")
        started = time.perf_counter()
        step = self._shared_step(header, body)
        mean = self._neighbourhood_mean(header, body)
        average = self._consensus(header, body)
        row = self._row(body)
        self.seconds["decrypt"] += time.perf_counter() - started

        state.round, state.pending = header.round, None
        state.aggregate = step if body.aggregate is not None else state.aggregate
        state.shared = (state.shared - step).astype(np.float32)
        if pending.trained and (body.aggregate is None or self.name not in body.survivors):
            state.residual += pending.sent
        if mean is not None:
            coupled = couple(torch.from_numpy(state.personal), torch.from_numpy(mean), state.pull)
            state.personal = _numpy(coupled)
        state.average_personal = average if average is not None else state.average_personal
        if pending.trained:
            self._move_trajectory(pending.local_shared)
        if row:
            self._choose_neighbours(row)
        state.save(self._path)

    @property
    def round(self) -> int:
        """The last round whose answer was applied; 0 at the start."""
        return self._state.round

    @property
    def similarity(self) -> Mapping[str, float]:
        """This hospital's own row: cosine similarity of accumulated updates, by other hospital. Empty before one."""
        return dict(self._state.similarity)

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

    def shared_model(self) -> nn.Module:
        """A copy with the shared parameters and, after the last round, the hospitals' average personal ones."""
        average = self._state.average_personal
        return self._model_with(self._state.shared, self._start if average is None else average)

    def predict(self, features: Tensor | NDArray[Any]) -> NDArray[np.float64]:
        """The personal model's probabilities for features [n, ...]."""
        return predict(self.personal_model(), features)

    def release_expert(self) -> tuple[nn.Module, dict[str, Any]]:
        """The personal model for use outside, with its audit record: written to the ledger before it is returned.

        Costs nothing beyond what the rounds spent: the model is post-processing of this hospital's releases.
        Raises ConfigError where the federation does not release experts.
        """
        if not self.federation.release.experts:
            raise ConfigError("experts are not released in this federation: set [release] experts = true")
        model = self.personal_model()
        record = {
            "federation": self._digest.hex(),
            "rounds": self.round,
            "epsilon": self.ledger.spent(),
            "delta": self.federation.privacy.delta,
            "unit": self.federation.privacy.unit,
        }
        self.ledger.record("expert-release", record)
        return model, {"site": self.name, "ledger_head": self.ledger.head, **record}

    def close(self) -> None:
        """Give the ledger's lock back. The client can't be used afterwards."""
        self.ledger.close()

    # Below: one step each of contribute and apply.

    def _reserve(self, header: Header) -> str | None:
        """The reservation of this round's release, or None where the hospital must sit the round out.

        It sits out where the budget would be exceeded, and where a killed process reserved this round and left
        no message: what it spent stays counted, and no second noise is drawn for it.
        """
        federation = self._digest.hex()
        if self.ledger.has_reserved(federation=federation, round=header.round, attempt=header.attempt):
            return None
        try:
            return self.ledger.reserve(
                self._release(), federation=federation, round=header.round, attempt=header.attempt
            )
        except BudgetError:
            return None

    def _contribution(self, header: Header) -> Pending:
        state, federation = self._state, self.federation
        support = self._support(header.round)
        started = time.perf_counter()
        shared, personal = self._train(support, header)
        self.seconds["train"] += time.perf_counter() - started
        started = time.perf_counter()
        gradient = (state.shared - shared).astype(np.float64)
        corrected = add_residual(gradient * federation.weight_share(self.name), state.residual)
        encoded = self._channels["update"].encode(
            corrected[support],
            self.name,
            self._context("update", header),
            self._stream("rounding", header.round),
        )
        sent = np.zeros_like(state.residual)
        sent[support] = encoded.sent
        state.residual = new_residual(corrected, sent)
        state.personal = personal
        size = gradient.size
        state.accumulated[:size] += gradient
        state.accumulated[size:] = personal - self._start
        state.clipped += encoded.clipped
        body = Contribution(
            update=encoded.data,
            personal=self._personal_part(header),
            sketch=self._sketch_part(header.round),
            neighbours=state.neighbours,
            head=self.ledger.head,
        )
        message = self._seal(header, Kind.CONTRIBUTION, encode(body))
        self.seconds["encrypt"] += time.perf_counter() - started
        return Pending(message, True, sent, shared)

    def _declined(self, header: Header) -> Pending:
        state = self._state
        state.sat_out.append(header.round)
        message = self._seal(header, Kind.DECLINE, encode(Decline()))
        return Pending(message, False, np.zeros_like(state.residual), state.shared)

    def _train(self, support: NDArray[np.bool_], header: Header) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """One private local training from (shared, personal): the new pair, each [size]."""
        self._partition.load_shared(self._model, torch.from_numpy(self._state.shared))
        self._partition.load_personal(self._model, torch.from_numpy(self._state.personal))
        train_private(
            self._model,
            self._dataset,
            self._loss,
            self._settings,
            noise=self._stream("noise", header.round),
            sampling=self._stream("sampling", header.round),
            masks=self._partition.mask_from_support(support),
            device=self.device,
            units=self.units,
            collate=self._collate,
        )
        return _numpy(self._partition.flatten_shared(self._model)), _numpy(
            self._partition.flatten_personal(self._model)
        )

    def _support(self, round_: int) -> NDArray[np.bool_]:
        sparsity = self.federation.sparsity
        return choose_support(
            self._state.aggregate,
            self._state.shared.size,
            density=sparsity.density,
            block=sparsity.block,
            exploration=sparsity.exploration,
            key=self._keyring.federation_key.support_key,
            round_number=round_,
        )

    def _personal_part(self, header: Header) -> bytes | None:
        """The encrypted personal component, when neighbourhoods or the last round's average need it."""
        every, final = self.federation.similarity.every, header.round == self.federation.rounds
        coupled = self.federation.coupling.strength > 0 and header.round > every
        if "personal" not in self._channels or not (coupled or final):
            return None
        encoded = self._channels["personal"].encode(
            (self._state.personal - self._start).astype(np.float64),
            self.name,
            self._context("personal", header),
            self._stream("personal-rounding", header.round),
        )
        self._state.clipped += encoded.clipped
        return encoded.data

    def _sketch_part(self, round_: int) -> bytes | None:
        """Encrypted operands of the accumulated update, in the rounds that ask for similarity."""
        every = self.federation.similarity.every
        if self._similarity is None or round_ % every or round_ == self.federation.rounds:
            return None
        key = derive_key(self._keyring.federation_key.support_key, "sketch", round_)
        dimensions = self.federation.similarity.dimensions
        return self._similarity.encrypt_sketch(sketch(self._state.accumulated, dimensions, key))

    def _shared_step(self, header: Header, body: Answer) -> NDArray[np.float64]:
        """The weighted mean update, zero outside the support and where no sum was formed."""
        step = np.zeros(self._state.shared.size)
        if body.aggregate is None:
            return step
        if len(set(body.survivors)) < self.federation.minimum or not set(body.survivors) <= set(self.federation.roster):
            raise MessageError(f"{self.name}: round {header.round} names too few or unknown survivors")
        support = self._support(header.round)
        weights = dict.fromkeys(body.survivors, 1)
        total = self._channels["update"].decode(
            body.aggregate, weights, self._context("update", header), int(support.sum())
        )
        step[support] = total / sum(self.federation.weight_share(name) for name in body.survivors)
        return step

    def _row(self, body: Answer) -> dict[str, float]:
        """This hospital's own cosines, from the encrypted products with other hospitals' sketches."""
        if not body.products:
            return {}
        if self._similarity is None or not set(body.products) <= set(self.federation.roster) - {self.name}:
            raise MessageError(f"{self.name}: similarities that were not asked for")
        products = {other: self._similarity.decrypt_product(data) for other, data in body.products.items()}
        return {other: cosine(product) for other, product in sorted(products.items())}

    def _neighbourhood_mean(self, header: Header, body: Answer) -> NDArray[np.float32] | None:
        """The mean personal component of the neighbours asked for, or None where no sum came."""
        if body.neighbourhood is None:
            return None
        asked, got = self._state.neighbours, body.neighbours
        if len(got) < 3 or any(asked.get(name) != weight for name, weight in got.items()):
            raise MessageError(f"{self.name}: round {header.round} answers another neighbourhood than was asked")
        return self._personal_mean(header, body.neighbourhood, got)

    def _consensus(self, header: Header, body: Answer) -> NDArray[np.float32] | None:
        """The average personal component of all survivors, in the last round."""
        if body.consensus is None:
            return None
        if len(body.survivors) < self.federation.minimum:
            raise MessageError(f"{self.name}: round {header.round} averages too few hospitals")
        return self._personal_mean(header, body.consensus, dict.fromkeys(body.survivors, 1))

    def _personal_mean(self, header: Header, data: bytes, weights: dict[str, int]) -> NDArray[np.float32]:
        total = self._channels["personal"].decode(data, weights, self._context("personal", header), self._start.size)
        return (self._start + total / sum(weights.values())).astype(np.float32)

    def _move_trajectory(self, local_shared: NDArray[np.float32]) -> None:
        state = self._state
        trajectory = Trajectory(self.federation.trajectory.alpha)
        trajectory.load_state_dict({name: torch.from_numpy(part) for name, part in state.trajectory.items()})
        local = {"shared": local_shared, "personal": state.personal}
        trajectory.move({name: torch.from_numpy(part) for name, part in local.items()})
        state.trajectory = {name: _numpy(part) for name, part in trajectory.state_dict().items()}

    def _choose_neighbours(self, row: dict[str, float]) -> None:
        state, coupling = self._state, self.federation.coupling
        state.similarity = row
        chosen = neighbours(row, coupling.neighbours)
        state.pull = pull_towards(row, chosen, coupling.strength)
        state.neighbours = dict.fromkeys(chosen, 1) if state.pull > 0 else {}

    def _release(self) -> Release:
        settings = self._settings
        return Release(
            noise_multiplier=settings.noise_multiplier,
            sample_rate=settings.sample_rate,
            steps=settings.steps,
            unit=self.federation.privacy.unit,
        )

    def _stream(self, label: str, round_: int) -> RandomStream:
        """A fresh stream from the OS; in a seeded simulation, the same one for the same (label, round)."""
        if self._simulation is None or self._simulation.noise_key is None:
            return RandomStream(fresh_key())
        return RandomStream(derive_key(self._simulation.noise_key, self.name, label, round_))

    def _context(self, kind: str, header: Header) -> bytes:
        """Binds a sum's tag to this federation, round, attempt and kind of sum."""
        return self._digest + f"{kind}/{header.round}/{header.attempt}".encode()

    def _open(self, data: bytes, kind: Kind) -> tuple[Header, bytes]:
        return open_message(
            data,
            self._keyring.identity,
            [self._keyring.coordinator],
            kinds=(kind,),
            federation_digest=self._digest,
            round=self._state.round + 1,
            max_bytes=self._most_bytes,
        )

    def _seal(self, header: Header, kind: Kind, body: bytes) -> bytes:
        """A reply to the message with `header`."""
        reply = replace(header, kind=kind, sender=header.receiver, receiver=header.sender)
        return seal_message(reply, body, self._keyring.identity, self._keyring.coordinator)

    def _model_with(self, shared: NDArray[np.float32], personal: NDArray[np.float32]) -> nn.Module:
        model = copy.deepcopy(self._model)
        self._partition.load_shared(model, torch.from_numpy(shared))
        self._partition.load_personal(model, torch.from_numpy(personal))
        return model.eval()

    def _load_or_start(self) -> ClientState:
        """The stored state, or a fresh one: stored at once, so that its run keeps its name in the ledger."""
        digest = self._digest.hex()
        if self._path.exists():
            return ClientState.load(self._path, digest)
        shared = _numpy(self._partition.flatten_shared(self._model))
        state = ClientState(
            federation=digest,
            run=secrets.token_hex(8),
            round=0,
            shared=shared,
            personal=self._start.copy(),
            residual=np.zeros(shared.size),
            accumulated=np.zeros(shared.size + self._start.size),
        )
        state.save(self._path)
        return state


def _numpy(vector: Tensor) -> NDArray[np.float32]:
    """A flat parameter vector as a float32 array of its own. Once a round, not in a training loop."""
    return vector.detach().cpu().numpy().astype(np.float32).copy()


def _dataset_of(training: DataLoader[Any] | Dataset[Any]) -> tuple[Dataset[Any], Callable[..., Any] | None]:
    if isinstance(training, DataLoader):
        return training.dataset, training.collate_fn
    return training, None


def dp_settings(federation: Federation, units: int, steps: int) -> DPSettings:
    """DP-SGD for `steps` steps on `units` records, with noise that spends epsilon over the whole run's steps."""
    privacy, training = federation.privacy, federation.training
    rate = privacy.rate_for(units)
    return DPSettings(
        noise_multiplier=noise_multiplier_for(privacy.epsilon, privacy.delta, rate, federation.rounds * training.steps),
        clip=privacy.clip,
        sample_rate=rate,
        steps=steps,
        learning_rate=training.learning_rate,
        physical_batch=training.physical_batch,
    )
