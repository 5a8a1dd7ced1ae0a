"""The outcome of a whole run, from its parties and the hospitals' rows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from securepfl.client.client import Client
from securepfl.client.parts import BuildModel
from securepfl.data.table import Table
from securepfl.privacy.accounting.events import Unit
from securepfl.report.outcome import Communication, Outcome, RoundEvent, SiteOutcome, TrainingUnits
from securepfl.runtime.hospital import Hospital, labels_of
from securepfl.runtime.judging import Judged, curves_of, judged_models, local_model, scores_of
from securepfl.runtime.local import SimulatedRun, noise_key
from securepfl.settings.auto import clip_by_rule, facts_of
from securepfl.settings.federation import Federation
from securepfl.tasks.resampling import Scored
from securepfl.tasks.task import Task

_MOST_CLIPPED: Final = 0.9
"""Of a hospital's units: where the clip shortens more, a note says what to do."""


def event_of(run: SimulatedRun, notes: Sequence[str] = ()) -> RoundEvent:
    """What to show before the first round and after each."""
    clients, failed = run.clients, run.failed
    return RoundEvent(
        round=run.round,
        rounds=run.coordinator.rounds,
        trained=tuple(
            name for name, client in clients.items() if run.round not in client.sat_out and name not in failed
        ),
        failed=failed,
        epsilon={name: client.ledger.spent() for name, client in clients.items()},
        upload_bytes=dict(run.traffic.upload),
        download_bytes=dict(run.traffic.download),
        notes=tuple(notes),
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
    judged = {
        name: judged_models(client, hospitals[name], build_model, local_model(client, build_model, noise_key(seed)))
        for name, client in run.clients.items()
    }
    task = next(iter(run.clients.values())).task
    scores, pooled = scores_of(task, judged)
    return Outcome(
        sites={
            name: site_outcome(client, hospitals[name], judged[name], scores[name])
            for name, client in run.clients.items()
        },
        pooled=pooled,
        communication=_communication(federation, run),
        seconds=seconds,
        seed=seed,
        heads=dict(run.coordinator.heads),
        task=task,
        curves=curves_of(task, list(judged.values())),
    )


def _communication(federation: Federation, run: SimulatedRun) -> Communication:
    if federation.shape is None:
        raise ValueError("federation is not bound to a model: call Federation.bound first")
    dense = 4 * federation.shape.shared * federation.rounds * len(run.clients)
    upload, download = sum(run.traffic.upload.values()), sum(run.traffic.download.values())
    parts = dict(run.coordinator.parts)
    return Communication(
        rounds=federation.exchanges,
        upload_bytes=upload,
        download_bytes=download,
        float32_upload_bytes=dense,
        float32_download_bytes=dense,
        clipped_values=sum(client.clipped_values for client in run.clients.values()),
        parts=parts | {"envelopes": upload + download - sum(parts.values())},
    )


def site_outcome(client: Client, hospital: Hospital, judged: Judged, scores: Mapping[str, Scored]) -> SiteOutcome:
    """One hospital's own outcome, of the rows that it read from files."""
    train = hospital.train
    found = client_outcome(client, judged, scores, train=len(train), patients_named=hospital.test.patients is not None)
    rows = (*_row_notes(hospital, client.task), *_unit_notes(train, client.federation.privacy.unit))
    return replace(found, notes=(*rows, *found.notes), details=(*_patient_details(train), *found.details))


def client_outcome(
    client: Client, judged: Judged, scores: Mapping[str, Scored], *, train: int, patients_named: bool
) -> SiteOutcome:
    """One hospital's own outcome, whatever its rows are; `train` of them train."""
    clipped = client.shortened_fractions
    return SiteOutcome(
        train=train,
        units=_units(client),
        test=len(judged.labels),
        test_units=judged.unit_count,
        patients_named=patients_named,
        point=judged.points["personalised"],
        scores=scores,
        epsilon=client.ledger.spent(),
        epsilon_replace_one=client.ledger.spent_replace_one(),
        budget=client.ledger.budget.epsilon,
        clipped_fraction=sum(clipped) / len(clipped) if clipped else None,
        sat_out=client.sat_out,
        similarity=client.similarity,
        signal=client.signal,
        neighbours=tuple(sorted(client.neighbours)),
        coupled_rounds=client.coupled_rounds,
        notes=(*client.scan.notes, *clip_notes(client.federation, clipped), *_budget_notes(client)),
        details=tuple(_gradient_details(client)),
        curves=curves_of(client.task, [judged]),
    )


def _units(client: Client) -> TrainingUnits:
    scan = client.scan
    unusable = sum(kind.units for kind in scan.unusable)
    return TrainingUnits(scan.declared, scan.used, scan.cut, scan.padded, unusable, scan.largest)


def clip_notes(federation: Federation, clipped: Sequence[float]) -> list[str]:
    """What a clip that shortens nearly everybody, or nobody, means. `clipped`: the fraction in each round."""
    if not clipped:
        return []
    mean, ruled = sum(clipped) / len(clipped), clip_by_rule(federation)
    has_rule = facts_of(federation) is not None
    if mean > _MOST_CLIPPED:
        mend = "raise [privacy] clip and lower [training] learning_rate as much"
        mend += ', or leave both to "auto"' if has_rule else ""
        mend = "[data.ranges] or prevalence may not be what these data have" if ruled else mend
        return [f"the clip shortened over {_MOST_CLIPPED:.0%} of its units, which loses most of what they say: {mend}"]
    if mean == 0 and not ruled:
        mend = "lower [privacy] clip" + (', or leave it to "auto"' if has_rule else "")
        return [
            f"the clip shortened none of its units, and noise grows with it: {mend} (this count is private: between "
            "real hospitals choose by declared facts alone)"
        ]
    return []


def _row_notes(hospital: Hospital, task: Task) -> list[str]:
    notes = ["no row of it is left to test on: its metrics are null"] if not len(hospital.test) else []
    notes += [
        f"its {part} rows {lacking}{then}"
        for part, table, then in (
            ("training", hospital.train, ""),
            ("test", hospital.test, "; metrics that need more are null"),
        )
        if len(table) and (lacking := task.lacking(labels_of(table)))
    ]
    return notes


def _unit_notes(train: Table, unit: Unit) -> list[str]:
    if train.patients is None or unit != "record" or len(np.unique(train.patients)) == len(train):
        return []
    return ['some patients have several records; epsilon is per record: set [privacy] unit = "patient"']


def _patient_details(train: Table) -> list[str]:
    if train.patients is None:
        return []
    counts = np.unique(train.patients, return_counts=True)[1]
    return [f"its {len(train)} training records are of {len(counts)} patients, at most {counts.max()} of one"]


def _gradient_details(client: Client) -> list[str]:
    gradients = client.gradient_mode
    return [] if gradients is None else [f"gradients by record: {gradients.name}, as {gradients.reason}"]


def _budget_notes(client: Client) -> list[str]:
    privacy, notes = client.federation.privacy, list[str]()
    if client.sat_out:
        first, count = client.sat_out[0], len(client.sat_out)
        notes.append(
            f"sat out {count} round(s) from round {first}: its budget would have been exceeded, or a "
            "round that was interrupted stays charged; `securepfl audit budget` shows which"
        )
    if privacy.protects and privacy.delta > 1 / (10 * client.units):
        expected, units = privacy.delta * client.units, f"{client.units} training {privacy.unit}s"
        notes.append(
            f"delta {privacy.delta:g} is above 1/(10 n): n x delta = {expected:.3g} for {units}, and a mechanism with "
            f"that delta may publish as many outright; set delta to at most {1 / (10 * client.units):.1g}"
        )
    return notes
