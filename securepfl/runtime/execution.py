"""A plan carried out: all parties in one process, and the run's folder."""

import json
import math
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
from securepfl.outside.priors import PRIORS
from securepfl.report.ledger import README, SNAPSHOT
from securepfl.report.notes import notes_of
from securepfl.report.outcome import Observer, Outcome
from securepfl.report.pages.writing import write_own_page
from securepfl.report.result import result_of
from securepfl.runtime.evaluation import event_of, outcome_of
from securepfl.runtime.finetuned import release_finetuned
from securepfl.runtime.hospital import dataset_of, tested_by
from securepfl.runtime.local import SimulatedRun, root_key_of, simulate
from securepfl.runtime.planning import Plan
from securepfl.runtime.released import released_of
from securepfl.runtime.releasing import release_clusters, release_priors
from securepfl.runtime.resuming import Wanted, check_same
from securepfl.runtime.rounds_file import RoundsFile
from securepfl.runtime.simulated_keys import SimulatedKeys
from securepfl.runtime.spending import used_up, uses_up
from securepfl.runtime.traffic import failed_notes
from securepfl.settings.binding import initial_model
from securepfl.settings.federation import Federation
from securepfl.storage.folder import storage_error, write_bytes, write_json
from securepfl.storage.unfinished import Asked, RunFolder, command_for, is_unfinished

LEDGERS: Final = "ledger"
"""Folder of a run: of the ledgers that it alone has, or of snapshots of the hospitals' own."""

Display = Callable[[Mapping[str, float | None]], AbstractContextManager[Observer]]


def execute(
    plan: Plan,
    out: Path,
    *,
    seed: int | None,
    device: str,
    display: Display,
    asked: Asked | None = None,
    resume: bool = False,
    check: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Run `plan` and write its folder `out`; returns result.json's content.

    `out` appears before the first round. Whatever ends the process from there on, it stays, and `resume` goes on with
    the run there: `asked` must be what it began with. Where it fails before anything is spent, `out` is gone again.
    `check` is called after each failure of a hospital, and may raise.

    Raises what simulate raises, ConfigError and DataError where a run to be resumed began with something else, and
    StorageError where `out` holds something, is none to be resumed or in use, or not all could be written.
    """
    asked = asked or Wanted(seed=seed, device=device).asked_for(plan)
    with _folder(plan, out, asked, seed, resume) as folder:
        unseen: list[Exception] = []
        failures: list[Exception] = []
        with _rounds(plan, folder, seed, device, display, unseen, check) as run:
            result = _written(plan, out, run, seed, failures)
        if not failures:
            folder.end()
        if failures or unseen:
            raise _incomplete([*failures, *unseen], out)
    return result


@contextmanager
def _folder(plan: Plan, out: Path, asked: Asked, seed: int | None, resume: bool) -> Iterator[RunFolder]:
    if resume:
        with RunFolder.reopen(out) as folder:
            check_same(folder.asked, asked, out)
            yield folder
    else:
        keys = SimulatedKeys.generate(plan.federation, root_key_of(seed)).to_bytes()
        with RunFolder.begin(out, asked, keys) as folder:
            yield folder


def _written(plan: Plan, out: Path, run: SimulatedRun, seed: int | None, failures: list[Exception]) -> dict[str, Any]:
    """Write all that a run leaves, after its last round; what cannot be written joins the `failures`."""
    result: dict[str, Any] = {}
    path, protects = out / "result.json", plan.federation.privacy.protects
    leaves = plan.federation.release.experts and (seed is None or not protects)
    without: list[str] = []
    with _noted(failures):
        if leaves:  # what it costs stands in the result
            without = release_finetuned(run.clients, out / "experts")
            without += release_priors(plan.federation, run.clients, out / "experts" / PRIORS)
    with _noted(failures):
        if path.exists():  # an earlier process wrote it, and failed at something else
            result = json.loads(path.read_bytes())
        elif not failures:  # what is still to be spent would be missing in it
            outcome = outcome_of(plan.federation, run, plan.hospitals, plan.build_model, seed)
            result = _result(plan, run, outcome, seed, without)
            write_json(path, result)
    with _noted(failures):
        write_json(out / "heads.json", dict(run.coordinator.heads))
    with _noted(failures):
        if leaves:
            _release(plan.federation, run, out / "experts")
    with _noted(failures):
        _tell_ledgers(plan, run, out / LEDGERS, seed)
    with _noted(failures):
        if path.exists():  # the page is made of the folder's files
            write_own_page(out)
    return result


@contextmanager
def _noted(failures: list[Exception]) -> Iterator[None]:
    """Whatever fails in the block is told later: first comes what else there is to keep."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - raised by execute, once the folder stands
        failures.append(error)


def _incomplete(failures: Sequence[Exception], out: Path) -> Exception:
    """What went wrong first, and how to go on; a defect of ours stays as it was raised."""
    first = failures[0]
    if not isinstance(first, SecurePFLError | OSError):
        return first
    rest = f", and the rest comes with `{command_for(out)}`" if is_unfinished(out) else ""
    return StorageError(
        f"{first}; the rounds are over and their budget is spent: {out} holds all that could be written{rest}"
    )


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
            folder.mkdir(exist_ok=True)
            for name, client in run.clients.items():
                shutil.copy2(client.ledger.path, folder / f"{name}{SNAPSHOT}")
    except OSError as error:
        raise storage_error(folder, error) from None
    write_bytes(folder / README, told.encode())


def _result(
    plan: Plan, run: SimulatedRun, outcome: Outcome, seed: int | None, without: Sequence[str] = ()
) -> dict[str, Any]:
    """result.json's content; `without` says what was not released."""
    partition = _partition_of(plan)
    told = [f"{name}: {note}" for name, client in run.clients.items() for note in client.ledger_notes]
    told += [] if plan.throwaway else used_up(run.clients)
    told += [*failed_notes(run.traffic.failures), *without]
    held = next((client for client in run.clients.values() if client.released_by), next(iter(run.clients.values())))
    notes = notes_of(plan.federation, partition, outcome, seed, (*plan.notes, *told))
    return result_of(plan.federation, outcome) | {
        "released": released_of(held, seeded=seed is not None),
        "model": {"shared": list(partition.shared), "personal": list(partition.personal)},
        "notes": notes.all,
        "weights": notes.weights,
    }


def _partition_of(plan: Plan) -> Partition:
    """The parameters' names, adapters' included, that `[model] personal` stands for."""
    settings = plan.federation.model
    return Partition.of(initial_model(plan.build_model, plan.federation), settings.personal)


@contextmanager
def _rounds(
    plan: Plan,
    folder: RunFolder,
    seed: int | None,
    device: str,
    display: Display,
    failures: list[Exception],
    check: Callable[[], None],
) -> Iterator[SimulatedRun]:
    """All rounds, shown as they go; yields the parties after the last. A display that fails stops no round."""
    federation, unit = plan.federation, plan.federation.privacy.unit
    training = {name: dataset_of(hospital.train, unit) for name, hospital in plan.hospitals.items()}
    with ExitStack() as stack:
        protects = federation.privacy.protects
        with display({name: federation.budget_of(name) if protects else None for name in federation.roster}) as show:
            told = _event_notes()

            files: list[RoundsFile] = []

            def begin(run: SimulatedRun) -> None:
                folder.spending()
                told(run)  # an earlier process showed those
                files.extend(RoundsFile(client, plan.hospitals[name].test) for name, client in run.clients.items())
                with _noted(failures):
                    show(event_of(run, [] if plan.throwaway else uses_up(run.clients)))

            def observe(run: SimulatedRun) -> None:
                with _noted(failures):
                    show(event_of(run, told(run)))
                with _noted(failures):
                    for file in files:
                        file.look()

            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore", HospitalNote)  # they stand in the result, and on the display
            run = stack.enter_context(
                simulate(
                    federation,
                    training,
                    plan.build_model,
                    folder.path / "sites",
                    testing=_tested(plan),
                    ledgers=folder.path / LEDGERS if plan.throwaway else plan.ledgers,
                    data_sets=plan.data_sets,
                    coordinator_folder=folder.path / "coordinator",
                    seed=seed,
                    device=device,
                    keys=SimulatedKeys.from_bytes(folder.keys),
                    counts=folder.counts,
                    check=check,
                    begin=begin,
                    observe=observe,
                )
            )
        yield run


def _tested(plan: Plan) -> dict[str, Any] | None:
    """What each hospital held out, where metrics are released."""
    found = {name: tested_by(hospital, plan.federation) for name, hospital in plan.hospitals.items()}
    return found if plan.federation.release.metrics else None


def _event_notes() -> Callable[[SimulatedRun], list[str]]:
    """What gives the failures that came since it was asked last, a line each."""
    told = 0

    def new(run: SimulatedRun) -> list[str]:
        nonlocal told
        failures, told = run.traffic.failures[told:], len(run.traffic.failures)
        return [
            f"round {its.round}: {its.hospital} failed and was left out of the step ({its.reason})" for its in failures
        ]

    return new


def _release(federation: Federation, run: SimulatedRun, folder: Path) -> None:
    """The hospitals' explicit release, each with its ledger line: their own models, and the shared one."""
    spec = federation.data_spec
    if spec is None:
        raise ValueError("a run's federation declares its data")
    for name, client in run.clients.items():
        path = folder / f"{name}.safetensors"
        if not path.exists():  # an earlier process may have written it
            model, record = client.release("personal")
            write_expert(path, model, record, federation.model, spec, client.session.keyring.identity)
    if not (folder / f"{SHARED}.safetensors").exists() and all(
        client.shared_model() is not None for client in run.clients.values()
    ):
        released = {name: client.release("shared") for name, client in run.clients.items()}
        spent = {name: record["epsilon"] for name, (_, record) in released.items()}
        dearest = max(released, key=lambda name: math.inf if spent[name] is None else spent[name])
        model, record = released[dearest]
        heads = [record["ledger_head"] for _, record in released.values()]
        signer = run.clients[dearest].session.keyring.identity
        shared = {**record, "site": "all", "ledger_head": heads}
        write_expert(folder / f"{SHARED}.safetensors", model, shared, federation.model, spec, signer)
    release_clusters(federation, run.clients, folder)
