"""A plan carried out: all parties in one process, and the run's folder."""

import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from securepfl.errors import HospitalNote, SecurePFLError, StorageError
from securepfl.learning.personal.partition import Partition
from securepfl.outside.experts import SHARED, write_expert
from securepfl.report.ledger import README, SNAPSHOT
from securepfl.report.notes import notes_of
from securepfl.report.outcome import Observer, Outcome
from securepfl.report.page import page_of
from securepfl.report.result import result_of
from securepfl.runtime.evaluation import event_of, outcome_of
from securepfl.runtime.hospital import dataset_of
from securepfl.runtime.local import SimulatedRun, simulate
from securepfl.runtime.planning import Plan
from securepfl.runtime.spending import used_up, uses_up
from securepfl.settings.binding import initial_model
from securepfl.settings.federation import Federation
from securepfl.storage.folder import new_folder, storage_error, write_bytes, write_json

LEDGERS: Final = "ledger"
"""Folder of a run: of the ledgers that it alone has, or of snapshots of the hospitals' own."""

Display = Callable[[Mapping[str, float]], AbstractContextManager[Observer]]


def execute(plan: Plan, out: Path, *, seed: int | None, device: str, display: Display) -> dict[str, Any]:
    """Run `plan` and write its folder `out`; returns result.json's content.

    Before the last round is over, `out` appears not at all. From there on the budget is spent, so it appears whatever
    else fails, with all that could be written. Raises what simulate raises, and StorageError where `out` holds
    something or not all could be written.
    """
    failures: list[Exception] = []
    result: dict[str, Any] = {}
    with new_folder(out) as folder:
        with _rounds(plan, folder, seed, device, display, failures) as run:
            with _noted(failures):
                outcome = outcome_of(plan.federation, run, plan.hospitals, plan.build_model, seed)
                result = _result(plan, run, outcome, seed)
                write_json(folder / "result.json", result)
            with _noted(failures):
                write_json(folder / "heads.json", dict(run.coordinator.heads))
            with _noted(failures):
                if plan.federation.release.experts and seed is None:
                    _release(plan.federation, run, folder / "experts")
        with _noted(failures):
            _tell_ledgers(plan, run, folder / LEDGERS, seed)
        with _noted(failures):
            if result:
                write_bytes(folder / "report.html", page_of(result).encode())
    if failures:
        raise _incomplete(failures, folder, out)
    return result


@contextmanager
def _noted(failures: list[Exception]) -> Iterator[None]:
    """Whatever fails in the block is told later: first comes what else there is to keep."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - raised by execute, once the folder stands
        failures.append(error)


def _incomplete(failures: Sequence[Exception], folder: Path, out: Path) -> Exception:
    """What went wrong first, told of the folder as it is called now; a defect of ours stays as it was raised."""
    first = failures[0]
    if not isinstance(first, SecurePFLError | OSError):
        return first
    said = str(first).replace(str(folder), str(out))
    return StorageError(f"{said}; the rounds are over and their budget is spent: {out} holds all that could be written")


def _tell_ledgers(plan: Plan, run: SimulatedRun, folder: Path, seed: int | None) -> None:
    """What a reader of the run's folder must know of its ledgers; copies of those that live elsewhere."""
    if plan.throwaway:
        why = "its data are public" if seed is None else "its noise is seeded and protects nobody"
        told = f"The ledgers of this run alone: {why}, so no other ledger counts it.\n"
    else:
        told = (
            f"Snapshots of {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, when this run ended. The ledgers live on elsewhere, "
            "and only they know what was spent since:\n\n"
        )
        told += "".join(f"{name}: {client.ledger.path.absolute()}\n" for name, client in run.clients.items())
    try:
        if not plan.throwaway:
            folder.mkdir()
            for name, client in run.clients.items():
                shutil.copy2(client.ledger.path, folder / f"{name}{SNAPSHOT}")
    except OSError as error:
        raise storage_error(folder, error) from None
    write_bytes(folder / README, told.encode())


def _result(plan: Plan, run: SimulatedRun, outcome: Outcome, seed: int | None) -> dict[str, Any]:
    """result.json's content."""
    partition = _partition_of(plan)
    told = [
        f"{name}: {note}"
        for name, client in run.clients.items()
        for note in (*client.scan.warnings, *client.ledger_notes)
    ]
    told += [] if plan.throwaway else used_up(run.clients)
    return result_of(plan.federation, outcome) | {
        "model": {"shared": list(partition.shared), "personal": list(partition.personal)},
        "notes": notes_of(plan.federation, partition, outcome, seed, (*plan.notes, *told)),
    }


def _partition_of(plan: Plan) -> Partition:
    """The parameters' names, adapters' included, that `[model] personal` stands for."""
    settings = plan.federation.model
    return Partition.of(initial_model(plan.build_model, plan.federation), settings.personal)


@contextmanager
def _rounds(
    plan: Plan,
    folder: Path,
    seed: int | None,
    device: str,
    display: Display,
    failures: list[Exception],
) -> Iterator[SimulatedRun]:
    """All rounds, shown as they go; yields the parties after the last. A display that fails stops no round."""
    federation, unit = plan.federation, plan.federation.privacy.unit
    training = {name: dataset_of(hospital.train, unit) for name, hospital in plan.hospitals.items()}
    with ExitStack() as stack:
        with display({name: federation.budget_of(name) for name in federation.roster}) as show:

            def begin(run: SimulatedRun) -> None:
                with _noted(failures):
                    show(event_of(run, [] if plan.throwaway else uses_up(run.clients)))

            def observe(run: SimulatedRun) -> None:
                with _noted(failures):
                    show(event_of(run))

            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore", HospitalNote)  # they stand in the result
            run = stack.enter_context(
                simulate(
                    federation,
                    training,
                    plan.build_model,
                    folder / "sites",
                    ledgers=folder / LEDGERS if plan.throwaway else plan.ledgers,
                    data_sets=plan.data_sets,
                    coordinator_folder=folder / "coordinator",
                    seed=seed,
                    device=device,
                    begin=begin,
                    observe=observe,
                )
            )
        yield run


def _release(federation: Federation, run: SimulatedRun, folder: Path) -> None:
    """The hospitals' explicit release, each with its ledger line: their own models, and the shared one."""
    spec = federation.data_spec
    if spec is None:
        raise ValueError("a run's federation declares its data")
    for name, client in run.clients.items():
        model, record = client.release("personal")
        write_expert(folder / f"{name}.safetensors", model, record, federation.model, spec)
    if all(client.shared_model() is not None for client in run.clients.values()):
        released = [client.release("shared") for client in run.clients.values()]
        dearest = max((record for _, record in released), key=lambda record: float(record["epsilon"]))
        shared = {**dearest, "site": "all", "ledger_head": [record["ledger_head"] for _, record in released]}
        write_expert(folder / f"{SHARED}.safetensors", released[0][0], shared, federation.model, spec)
