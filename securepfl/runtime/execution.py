"""A plan carried out: all parties in one process, and the run's folder."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from securepfl.errors import SecurePFLError, StorageError
from securepfl.learning.personal.partition import Partition
from securepfl.outside.experts import SHARED, write_expert
from securepfl.report.notes import notes_of
from securepfl.report.outcome import Observer, Outcome
from securepfl.report.page import page_of
from securepfl.report.result import result_of
from securepfl.runtime.evaluation import event_of, outcome_of
from securepfl.runtime.hospital import dataset_of
from securepfl.runtime.local import SimulatedRun, simulate
from securepfl.runtime.planning import Plan
from securepfl.settings.binding import initial_model
from securepfl.settings.federation import Federation
from securepfl.storage.folder import new_folder, storage_error, write_bytes, write_json

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
        ledgers = plan.ledgers or folder / "ledger"
        with _rounds(plan, folder, ledgers, seed, device, display, failures) as run:
            with _noted(failures):
                outcome = outcome_of(plan.federation, run, plan.hospitals, plan.build_model, seed)
                result = _result(plan, outcome, seed)
                write_json(folder / "result.json", result)
            with _noted(failures):
                write_json(folder / "heads.json", dict(run.coordinator.heads))
            with _noted(failures):
                if plan.federation.release.experts and seed is None:
                    _release(plan.federation, run, folder / "experts")
        with _noted(failures):
            if plan.ledgers is not None:
                _copy_ledgers(plan.federation.roster, plan.ledgers, folder / "ledger")
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


def _copy_ledgers(names: Iterable[str], ledgers: Path, folder: Path) -> None:
    try:
        folder.mkdir()
        for name in names:
            shutil.copy2(ledgers / f"{name}.jsonl", folder)
    except OSError as error:
        raise storage_error(folder, error) from None


def _result(plan: Plan, outcome: Outcome, seed: int | None) -> dict[str, Any]:
    """result.json's content."""
    partition = _partition_of(plan)
    return result_of(plan.federation, outcome) | {
        "model": {"shared": list(partition.shared), "personal": list(partition.personal)},
        "notes": notes_of(plan.federation, partition, outcome, seed, plan.notes),
    }


def _partition_of(plan: Plan) -> Partition:
    """The parameters' names, adapters' included, that `[model] personal` stands for."""
    settings = plan.federation.model
    return Partition.of(initial_model(plan.build_model, plan.federation), settings.personal)


@contextmanager
def _rounds(
    plan: Plan,
    folder: Path,
    ledgers: Path,
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

            def observe(run: SimulatedRun) -> None:
                with _noted(failures):
                    show(event_of(run))

            run = stack.enter_context(
                simulate(
                    federation,
                    training,
                    plan.build_model,
                    folder / "sites",
                    ledgers=ledgers,
                    coordinator_folder=folder / "coordinator",
                    seed=seed,
                    device=device,
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
