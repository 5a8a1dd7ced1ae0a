"""A plan carried out: all parties in one process, and the run's folder."""

import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from securepfl.learning.personal.partition import Partition
from securepfl.outside.experts import SHARED, write_expert
from securepfl.report.notes import notes_of
from securepfl.report.outcome import Observer, Outcome
from securepfl.report.page import page_of
from securepfl.report.result import result_of
from securepfl.runtime.evaluation import dataset_of, event_of, outcome_of
from securepfl.runtime.local import SimulatedRun, simulate
from securepfl.runtime.planning import Plan
from securepfl.settings.binding import initial_model
from securepfl.settings.federation import Federation
from securepfl.storage.folder import new_folder, write_bytes, write_json

Display = Callable[[Mapping[str, float]], AbstractContextManager[Observer]]


def execute(plan: Plan, out: Path, *, seed: int | None, device: str, display: Display) -> dict[str, Any]:
    """Run `plan` and write its folder `out`: it appears whole, or not at all. Returns result.json's content.

    Raises what simulate raises, and StorageError where `out` holds something or can't be written.
    """
    federation = plan.federation
    budgets = {name: federation.budget_of(name) for name in federation.roster}
    with new_folder(out) as folder:
        ledgers = plan.ledgers or folder / "ledger"
        outcome = _train(plan, folder, ledgers, seed, device, display(budgets))
        if plan.ledgers is not None:
            (folder / "ledger").mkdir()
            for name in federation.roster:
                shutil.copy2(ledgers / f"{name}.jsonl", folder / "ledger")
        result = result_of(federation, outcome)
        partition = _partition_of(plan)
        result["model"] = {"shared": list(partition.shared), "personal": list(partition.personal)}
        result["notes"] = notes_of(federation, partition, outcome, seed, plan.notes)
        write_json(folder / "result.json", result)
        write_json(folder / "heads.json", dict(outcome.heads))
        write_bytes(folder / "report.html", page_of(result).encode())
    return result


def _partition_of(plan: Plan) -> Partition:
    """The parameters' names, adapters' included, that `[model] personal` stands for."""
    settings = plan.federation.model
    return Partition.of(initial_model(plan.build_model, settings), settings.personal)


def _train(
    plan: Plan,
    folder: Path,
    ledgers: Path,
    seed: int | None,
    device: str,
    display: AbstractContextManager[Observer],
) -> Outcome:
    """All rounds, then each hospital's own comparison, then the release of experts where it is declared."""
    unit = plan.federation.privacy.unit
    training = {name: dataset_of(hospital.train, unit) for name, hospital in plan.hospitals.items()}
    with ExitStack() as stack:
        with display as show:
            run = stack.enter_context(
                simulate(
                    plan.federation,
                    training,
                    plan.build_model,
                    folder / "sites",
                    ledgers=ledgers,
                    seed=seed,
                    device=device,
                    observe=lambda run: show(event_of(run)),
                )
            )
        outcome = outcome_of(plan.federation, run, plan.hospitals, plan.build_model, seed)
        if plan.federation.release.experts and seed is None:
            _release(plan.federation, run, folder / "experts")
        return outcome


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
