"""A hospital's own comparison on its test rows, and the outcome of a whole run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import TensorDataset

from securepfl.client.client import Client
from securepfl.client.parts import BuildModel
from securepfl.client.training import dp_settings
from securepfl.data.tables import Table
from securepfl.errors import ConfigError
from securepfl.privacy.accounting.events import Unit
from securepfl.privacy.training.dpsgd import train_private
from securepfl.privacy.training.units import PatientDataset, group_records
from securepfl.randomness import RandomStream, derive_key, fresh_key
from securepfl.report.outcome import Communication, Metrics, Outcome, RoundEvent, SiteOutcome
from securepfl.runtime.local import SimulatedRun, noise_key
from securepfl.settings.binding import initial_model
from securepfl.settings.federation import Federation
from securepfl.tasks.prediction import predict
from securepfl.tasks.task import Task, baseline_metrics


@dataclass(frozen=True)
class Hospital:
    """A simulated hospital's rows: training rows, and test rows that never train. Both labelled."""

    train: Table
    test: Table

    def __post_init__(self) -> None:
        if self.train.labels is None or self.test.labels is None:
            raise ValueError(f"{self.train.site}: training and test rows must be labelled")


def labels_of(table: Table) -> NDArray[Any]:
    """The labels [n, ...] of a labelled table. Raises ValueError for an unlabelled one."""
    if table.labels is None:
        raise ValueError(f"{table.site}: rows are not labelled")
    return table.labels


def dataset_of(table: Table, unit: Unit = "record") -> TensorDataset | PatientDataset:
    """A labelled table as items (features float32 [d], label float32), or as patients with all their rows.

    A label that is a number is float64.

    Raises ConfigError where the unit is the patient and no column names them.
    """
    features, labels = torch.from_numpy(table.features), torch.from_numpy(labels_of(table))
    # Numbers stay as they are, so that the limits they were read under hold for them still.
    labels = labels if labels.is_floating_point() else labels.float()
    if unit == "record":
        return TensorDataset(features, labels)
    if table.patients is None:
        raise ConfigError('[privacy] unit = "patient": declare the column that names them, [data] patient = "..."')
    return group_records(features, labels, table.patients)


def event_of(run: SimulatedRun) -> RoundEvent:
    """What to show after a round."""
    clients = run.clients
    return RoundEvent(
        round=run.round,
        rounds=run.coordinator.federation.rounds,
        trained=tuple(name for name, client in clients.items() if run.round not in client.sat_out),
        epsilon={name: client.ledger.spent() for name, client in clients.items()},
        upload_bytes=dict(run.traffic.upload),
        download_bytes=dict(run.traffic.download),
    )


def outcome_of(
    federation: Federation,
    run: SimulatedRun,
    hospitals: Mapping[str, Hospital],
    build_model: BuildModel,
    seed: int | None,
) -> Outcome:
    """Evaluate a finished simulation at every hospital."""
    seconds = run.seconds
    sites = {
        name: _site(client, hospitals[name], compare_models(client, hospitals[name], build_model, noise_key(seed)))
        for name, client in run.clients.items()
    }
    communication, heads = _communication(federation, run), dict(run.coordinator.heads)
    return Outcome(sites, communication, seconds, seed, heads, _task_of(run))


def _task_of(run: SimulatedRun) -> Task:
    return next(iter(run.clients.values())).task


def compare_models(
    client: Client, hospital: Hospital, build_model: BuildModel, key: bytes | None
) -> dict[str, Metrics]:
    """Test metrics of the four models. They are exact functions of private rows: for the hospital's eyes.

    The local model trains on the hospital's rows with as many noisy steps, of the same noise, as the client
    took; in a real deployment that would be a second release from the same rows.
    """
    models = {
        "personalised": client.personal_model(),
        "shared": client.shared_model(),
        "local": _local_model(client, hospital.train, build_model, key),
    }
    task, truth = client.task, labels_of(hospital.test)
    compared: dict[str, Metrics] = {
        name: dict.fromkeys(metric.name for metric in task.metrics)
        if model is None
        else task.evaluate(predict(model, hospital.test.features, task), truth)
        for name, model in models.items()
    }
    return compared | {"majority": baseline_metrics(task, labels_of(hospital.train), truth)}


def _local_model(client: Client, train: Table, build_model: BuildModel, key: bytes | None) -> nn.Module:
    federation = client.federation
    # Adapters correct what is shared: a model that shares nothing would only spread its budget over more numbers.
    model = initial_model(build_model, federation.changed("model", adapters=None), client.name)
    rounds, unit = federation.rounds - len(client.sat_out), federation.privacy.unit
    if rounds:
        train_private(
            model,
            dataset_of(train, unit),
            client.task.loss,
            dp_settings(federation, client.units, steps=rounds * federation.training.steps),
            noise=_stream(key, client.name, "local noise"),
            sampling=_stream(key, client.name, "local sampling"),
            device=client.device,
            units=client.units,
            unit=unit,
        )
    return model


def _stream(key: bytes | None, *labels: str) -> RandomStream:
    return RandomStream(fresh_key() if key is None else derive_key(key, *labels))


def _communication(federation: Federation, run: SimulatedRun) -> Communication:
    if federation.shape is None:
        raise ValueError("federation is not bound to a model: call Federation.bound first")
    dense = 4 * federation.shape.shared * federation.rounds * len(run.clients)
    upload, download = sum(run.traffic.upload.values()), sum(run.traffic.download.values())
    parts = dict(run.coordinator.parts)
    return Communication(
        rounds=federation.rounds,
        upload_bytes=upload,
        download_bytes=download,
        float32_upload_bytes=dense,
        float32_download_bytes=dense,
        clipped_values=sum(client.clipped_values for client in run.clients.values()),
        parts=parts | {"envelopes": upload + download - sum(parts.values())},
    )


def _site(client: Client, hospital: Hospital, metrics: Mapping[str, Metrics]) -> SiteOutcome:
    return SiteOutcome(
        train=len(hospital.train),
        test=len(hospital.test),
        metrics=metrics,
        epsilon=client.ledger.spent(),
        epsilon_replace_one=client.ledger.spent_replace_one(),
        budget=client.ledger.budget.epsilon,
        sat_out=client.sat_out,
        similarity=client.similarity,
        signal=client.signal,
        neighbours=tuple(sorted(client.neighbours)),
        coupled_rounds=client.coupled_rounds,
        notes=(*_row_notes(hospital, client.task, client.federation.privacy.unit), *_budget_notes(client)),
    )


def _row_notes(hospital: Hospital, task: Task, unit: Unit) -> list[str]:
    notes = ["no row of it is left to test on: its metrics are null"] if not len(hospital.test) else []
    notes += [
        f"its {part} rows {lacking}{then}"
        for part, table, then in (
            ("training", hospital.train, ""),
            ("test", hospital.test, "; metrics that need more are null"),
        )
        if len(table) and (lacking := task.lacking(labels_of(table)))
    ]
    return [*notes, *_patient_notes(hospital.train, unit)]


def _patient_notes(train: Table, unit: Unit) -> list[str]:
    if train.patients is None:
        return []
    counts = np.unique(train.patients, return_counts=True)[1]
    notes = [f"its {len(train)} training records are of {len(counts)} patients, at most {counts.max()} of one"]
    if unit == "record" and counts.max() > 1:
        notes.append('some patients have several records; epsilon is per record: set [privacy] unit = "patient"')
    return notes


def _budget_notes(client: Client) -> list[str]:
    privacy, gradients = client.federation.privacy, client.gradient_mode
    notes = [f"gradients by record: {gradients.name}, as {gradients.reason}"]
    if client.sat_out:
        first, count = client.sat_out[0], len(client.sat_out)
        notes.append(
            f"sat out {count} round(s) from round {first}: its budget would have been exceeded, or a "
            "round that was interrupted stays charged; `securepfl audit budget` shows which"
        )
    if privacy.delta > 1 / (10 * client.units):
        expected, units = privacy.delta * client.units, f"{client.units} training {privacy.unit}s"
        notes.append(
            f"delta {privacy.delta:g} is above 1/(10 n): n x delta = {expected:.3g} for {units}, and a mechanism with "
            f"that delta may publish as many outright; set delta to at most {1 / (10 * client.units):.1g}"
        )
    return notes
