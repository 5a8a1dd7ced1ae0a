"""What a hospital's client is made of: everything checked before anything lies on disk."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from securepfl.client.comparing import Comparison
from securepfl.client.contents import contents_of
from securepfl.client.contributing import Contributor
from securepfl.client.disputing import Disputing
from securepfl.client.evaluating import Evaluator
from securepfl.client.features import are_cached, with_features
from securepfl.client.judging import Judge
from securepfl.client.masks import Masks
from securepfl.client.models import Models
from securepfl.client.records import Loss, TrainingSet
from securepfl.client.round import Session
from securepfl.client.scanning import Scanned, scan_units
from securepfl.client.sending import Sender
from securepfl.client.training import PHYSICAL_BATCH, LocalTraining, as_floats, dp_settings
from securepfl.client.unprotected import UnprotectedTraining
from securepfl.crypto.keys.keys import Keyring
from securepfl.errors import ConfigError
from securepfl.learning.personal.partition import Partition
from securepfl.learning.sparse.difference import load_solver
from securepfl.privacy.training.physical import fitting_batch
from securepfl.privacy.training.validation import validate_model
from securepfl.protocol.channels import SumChannel
from securepfl.settings.binding import initial_model
from securepfl.settings.federation import Federation
from securepfl.tasks.device import resolve_device
from securepfl.tasks.task import Task

BuildModel = Callable[[], nn.Module]


@dataclass(frozen=True)
class Parts:
    """The parts of one hospital's client that no round changes, and what was found in its data set; `records` are those
    that were handed in, which a ledger knows, whatever is made of them to train on.
    """

    session: Session
    models: Models
    training: LocalTraining | UnprotectedTraining
    sender: Sender
    masks: Masks
    contributor: Contributor
    disputing: Disputing
    scanned: Scanned
    records: TrainingSet
    evaluator: Evaluator | None

    @classmethod
    def of(
        cls,
        session: Session,
        name: str,
        build_model: BuildModel,
        training: DataLoader[Any] | Dataset[Any],
        tested: TrainingSet | None,
        task: Task,
        loss: Loss,
        device: str,
        physical_batch: int | None,
        seconds: dict[str, float],
    ) -> Self:
        """`tested` are the units that released metrics are about. Raises ConfigError, ModelError or DataError where
        model, data, keys and federation don't fit.
        """
        federation, key = session.federation, session.key
        model, place = cls._model(federation, name, build_model, session.keyring, resolve_device(device))
        partition = Partition.of(model, federation.model.personal)
        records, units = TrainingSet.of(training, name, federation.privacy.unit), federation.units_of(name)
        seen = with_features(records, model, place) if are_cached(federation.model, model) else records
        most = physical_batch or fitting_batch(model, seen.dataset, seen.unit)
        looked_at = physical_batch or min(PHYSICAL_BATCH, most)
        protects = federation.privacy.protects
        scanned = scan_units(seen, units, task, model, loss, place, name, looked_at, probed=protects)
        if seen is not records:  # a ledger knows records, whatever a start makes of them
            scanned = replace(scanned, contents=contents_of(records, range(records.found)))
        start = as_floats(partition.flatten_personal(model))
        if federation.sparsity.kind == "difference":
            load_solver()
        here = initial_model(build_model, federation, name)
        shift = as_floats(partition.flatten_shared(here)) - as_floats(partition.flatten_shared(model))
        local: LocalTraining | UnprotectedTraining
        if protects:
            settings = dp_settings(federation, units, federation.training.steps, most)
            local = LocalTraining(federation, model, partition, shift, scanned.records, loss, place, settings, units)
        else:
            local = UnprotectedTraining(federation, model, partition, shift, scanned.records, loss, place, units)
        masks = Masks.of(federation, session.keyring)
        sender = Sender(federation, SumChannel.open(federation, key), masks, start)
        comparison = Comparison.of(federation, name, key)
        contributor = Contributor(
            federation=federation, training=local, sender=sender, comparison=comparison, seconds=seconds
        )
        disputing = Disputing(federation, masks, Judge(federation, sender.channels, masks.masking, comparison))
        models = Models(model, partition, shift, start, own=as_floats(partition.flatten_personal(here)))
        evaluator = (
            None
            if tested is None
            else Evaluator.of(
                federation,
                task,
                tested,
                models=models,
                channel=sender.channels["update"],
                masks=masks,
                trained=scanned.feature_type,
                seconds=seconds,
            )
        )
        return cls(session, models, local, sender, masks, contributor, disputing, scanned, records, evaluator)

    @staticmethod
    def _model(
        federation: Federation, name: str, build_model: BuildModel, keyring: Keyring, device: torch.device
    ) -> tuple[nn.Module, torch.device]:
        """The model at its public start on the device, if settings, model and keys are those of the federation."""
        model = initial_model(build_model, federation).to(device)
        validate_model(model)
        bound = federation.bound(federation.roster, build_model)
        if bound.digest != federation.digest or name not in federation.roster:
            raise ConfigError(
                f"{name}: not in the roster, or the model is not the federation's; use the bound Federation"
            )
        if keyring.ceremony not in (b"", federation.ceremony_digest) or keyring.identity.name != name:
            raise ConfigError(
                f"{name}: these keys are another hospital's, or were made for other settings or another roster; "
                "load this hospital's, or let the steward run `securepfl keys rotate` with these settings"
            )
        return model, device
