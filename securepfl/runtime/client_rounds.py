"""A hospital's rounds rehearsed by its client: for an audit, which sees what the client's own streams give."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

from securepfl.client.labels import task_and_loss
from securepfl.client.parts import BuildModel, Parts
from securepfl.client.records import Loss
from securepfl.client.round import Round, Session
from securepfl.client.state import ClientState
from securepfl.client.training import PHYSICAL_BATCH, LocalTraining, as_floats
from securepfl.crypto.messages.envelope import RUN_BYTES, Header, Kind
from securepfl.errors import ConfigError, ModelError
from securepfl.learning.sparse.support import choose_support
from securepfl.privacy.audit.subject import Training
from securepfl.privacy.training.canaries import Canaries
from securepfl.privacy.training.dpsgd import DPSettings
from securepfl.randomness import fresh_key
from securepfl.runtime.local import local_parties
from securepfl.settings.federation import Federation
from securepfl.settings.fixed import EXPLORATION
from securepfl.tasks.task import Task


def rehearsed(
    federation: Federation,
    name: str,
    build_model: BuildModel,
    training: DataLoader[Any] | Dataset[Any],
    *,
    loss: Loss | None = None,
    task: str | Task | None = None,
    device: str = "auto",
) -> Training:
    """What hospital `name` of a bound federation trains with, for `audit`: by the rounds of a client of its own, under
    keys that are thrown away. No ledger, no message and no state is written.

    The rounds train the same coordinates, those of one support, so that each can be watched over all of them. Raises as
    Client does, and ConfigError under shared noise, which no hospital makes alone.

    >>> from securepfl.privacy.audit.rehearsal import audit
    >>> from torch.utils.data import TensorDataset
    >>> def build_model():
    ...     return nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
    >>> settings = {"rounds": 2, "model": {"kind": "own"}, "encryption": {"scheme": "none"}}
    >>> bound = Federation.from_mapping(settings).bound(("north", "south", "west"), build_model, units=4)
    >>> rows = TensorDataset(torch.eye(4), torch.tensor([0.0, 1.0, 0.0, 1.0]))
    >>> training = rehearsed(bound, "north", build_model, rows, device="cpu")
    >>> audit(training, epsilon=4.0, delta=1e-5, canaries=10, runs=3, rounds=2).canaries
    10
    """
    if federation.shares_noise:
        raise ConfigError(
            "[shared_noise]: no hospital can rehearse noise that all make; rehearse the same settings without the table"
        )
    if not federation.privacy.protects:
        raise ConfigError('[privacy] protection = "none": there is no noise to rehearse; set protection = "dp"')
    keyrings, _ = local_parties(federation)
    session = Session.of(federation, keyrings[name], None).joining(bytes(RUN_BYTES))
    chosen_task, own_loss = task_and_loss(federation, task, loss)
    of_data = training, None, chosen_task, own_loss
    parts = Parts.of(session, name, build_model, *of_data, device, PHYSICAL_BATCH, _seconds())
    if not isinstance(parts.training, LocalTraining):
        raise TypeError("a federation that protects trains with noise")
    local = _of_usable(parts.training)
    support = _support(federation, local.partition.shared_size)
    return Training(
        local.model,
        local.training.dataset,
        local.loss,
        local.settings,
        units=local.units,
        device=local.device,
        unit=local.training.unit,
        masks=local.partition.mask_from_support(support),
        collate=local.training.collate,
        trainer=ClientRounds(session, local, support),
    )


def _of_usable(local: LocalTraining) -> LocalTraining:
    """With a data set of the units that train alone: a rehearsal looks at some by themselves."""
    records = local.training
    usable = [place for place in range(records.found) if place not in records.skipped]
    used: Subset[Any] = Subset(records.dataset, usable)
    return replace(local, training=replace(records, dataset=used, skipped=frozenset(), scanned=None))


def _seconds() -> dict[str, float]:
    return {"train": 0.0, "encrypt": 0.0, "decrypt": 0.0}


def _support(federation: Federation, shared: int) -> NDArray[np.bool_]:
    """Like a first round's, drawn anew; all of the coordinates where only the sending is sparse."""
    if not federation.trains_support:
        return np.ones(shared, dtype=np.bool_)
    sparsity = federation.sparsity
    return choose_support(
        None,
        shared,
        density=sparsity.density,
        block=sparsity.block,
        exploration=EXPLORATION,
        key=fresh_key(),
        round_number=1,
    )


@dataclass(frozen=True)
class _Rehearsed(Round):
    """A round whose support is given, not chosen; all else, its random streams above all, is a round's."""

    given: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, dtype=np.bool_), repr=False)

    @cached_property
    def support(self) -> NDArray[np.bool_]:
        return self.given


@dataclass(frozen=True)
class ClientRounds:
    """A Trainer: each call is the next round of one client, in one run, as contribute trains it."""

    session: Session
    local: LocalTraining
    support: NDArray[np.bool_]
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __call__(
        self,
        subject: Training,
        model: nn.Module,
        dataset: Dataset[Any],
        settings: DPSettings,
        canaries: Canaries | None,
    ) -> None:
        """Train `model` in place. Raises ModelError where training fails: noise alone, which a round sends then, would
        pass for a training that was looked at.
        """
        partition = self.local.partition
        rehearsing = replace(
            self.local,
            training=replace(self.local.training, dataset=dataset),  # with canaries, which no scan saw
            settings=settings,
            units=subject.units,
            canaries=canaries,
        )
        state = self._state(as_floats(partition.flatten_shared(model)), as_floats(partition.flatten_personal(model)))
        trained = rehearsing.train(self._round(state), state)
        if trained.report.failed:
            raise ModelError(f"{self.session.name}: the rehearsal's training failed ({trained.report.failed})")
        partition.load_shared(model, torch.from_numpy(trained.shared))
        partition.load_personal(model, torch.from_numpy(state.personal))

    def _state(self, shared: NDArray[np.float32], personal: NDArray[np.float32]) -> ClientState:
        federation = self.local.federation
        compared = personal.size + (shared.size if federation.compares == "updates" else 0)
        epoch = self.session.key.epoch
        return ClientState.fresh(federation.digest.hex(), epoch, "real", shared, personal, compared=compared)

    def _round(self, state: ClientState) -> Round:
        keyring = self.session.keyring
        header = Header(
            kind=Kind.INVITATION,
            federation_digest=self.session.base,
            run=self.session.run,
            round=next(self.numbers),
            attempt=0,
            sender=keyring.coordinator.fingerprint,
            receiver=keyring.identity.public.fingerprint,
        )
        return _Rehearsed(self.session, header, state.shared.size, None, fresh=fresh_key(), given=self.support)
