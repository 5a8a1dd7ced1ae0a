"""`securepfl run`: data, a bound federation, all parties in one process, and the run's folder."""

import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from torch import nn

from securepfl.data.breast_cancer import simulated_hospitals
from securepfl.data.schema import DataSpec
from securepfl.data.tables import load_sites, split_table
from securepfl.errors import ConfigError, DataError, ModelError
from securepfl.learning.personal.partition import Partition
from securepfl.outside.experts import SHARED, write_expert
from securepfl.report.coupling import never_coupled
from securepfl.report.outcome import Observer, Outcome
from securepfl.report.page import page_of
from securepfl.report.result import result_of
from securepfl.runtime.evaluation import Hospital, dataset_of, event_of, outcome_of
from securepfl.runtime.local import SimulatedRun, simulate
from securepfl.settings.binding import initial_model
from securepfl.settings.federation import Federation
from securepfl.settings.idle import idle_settings
from securepfl.storage.folder import new_folder, write_bytes, write_json
from securepfl.tasks.models import build_model

_NAMED = 3
"""Of the personal parameters, how many a note names; result.json names all."""

Display = Callable[[Mapping[str, float]], AbstractContextManager[Observer]]


@dataclass(frozen=True)
class Plan:
    """What a run needs: a bound federation, its hospitals' rows, and where their ledgers lie (None: in the run)."""

    federation: Federation
    hospitals: Mapping[str, Hospital]
    build_model: Callable[[], nn.Module]
    ledgers: Path | None
    notes: tuple[str, ...]


def configured(
    config: Path | None, *, rounds: int | None = None, epsilon: float | None = None, plaintext: bool = False
) -> Federation:
    """The settings in `config` (None: the demo's), with the command line's in place of its own. Raises ConfigError."""
    if config is None:
        with as_file(files("securepfl.data") / "breast_cancer.toml") as path:
            federation = Federation.read(path)
    else:
        federation = Federation.read(config)
    if rounds is not None:
        federation = federation.replace(rounds=rounds)
    if epsilon is not None:
        federation = federation.changed("privacy", epsilon=epsilon)
    return federation.changed("encryption", scheme="none") if plaintext else federation


def plan_demo(federation: Federation, seed: int | None, ledgers: Path | None) -> Plan:
    """Four simulated hospitals from scikit-learn's breast-cancer data. Raises ConfigError for --seed with --ledgers."""
    _check_seed(seed, ledgers)
    spec, tables = simulated_hospitals(0 if seed is None else seed)
    note = (
        "the four hospitals are simulated: scikit-learn's breast-cancer data (569 biopsies), split into unequal "
        "parts with made-up scanner calibrations"
    )
    return _plan(federation.replace(data=spec.to_mapping()), spec, tables, ledgers, (note, spec.split_note))


def plan_tables(
    federation: Federation, data: Path, seed: int | None, ledgers: Path | None, config: Path | None = None
) -> Plan:
    """The user's own tables. Ledgers lie beside the data and compose over runs, unless the run is seeded.

    Raises ConfigError, DataError or ModelError where declaration, data and model don't fit; what is wrong with the
    settings, under the name of `config`, the file that they came from.
    """
    spec, where = federation.data_spec, "" if config is None else f"{config}: "
    if spec is None:
        raise ConfigError(f"{where}no [data] table; declare label, ranges and categories there")
    _check_seed(seed, ledgers)
    if ledgers is None and seed is None:
        ledgers = data.resolve().parent / f"{data.resolve().name}.ledgers"
    return _plan(federation, spec, load_sites(data, spec), ledgers, (spec.split_note,), where)


def _check_seed(seed: int | None, ledgers: Path | None) -> None:
    if ledgers is not None and seed is not None:
        raise ConfigError("--seed and --ledgers: seeded noise protects nobody and is kept out of ledgers; drop one")


def _plan(
    federation: Federation,
    spec: DataSpec,
    tables: Mapping[str, Any],
    ledgers: Path | None,
    notes: tuple[str, ...],
    where: str = "",
) -> Plan:
    settings = federation.model
    if settings.kind == "own":
        raise ConfigError(
            f'{where}[model] kind = "own": `securepfl run` builds "mlp" or "logistic"; use the SDK for your own'
        )
    build = partial(build_model, settings.kind, len(spec.feature_names), settings.hidden, settings.seed)
    hospitals = {name: Hospital(*split_table(table, spec.split)) for name, table in sorted(tables.items())}
    for name, hospital in hospitals.items():
        if not len(hospital.train):
            raise DataError(f"site {name}: no training rows after the split; give it more rows or leave it out")
    if federation.privacy.unit == "patient":
        _check_patients(hospitals)
    try:
        bound = federation.bound(hospitals, build)
    except (ConfigError, ModelError) as error:
        raise type(error)(f"{where}{error}") from None
    return Plan(bound, hospitals, build, ledgers, notes)


def _check_patients(hospitals: Mapping[str, Hospital]) -> None:
    """A patient of two hospitals would be spent on by both, and neither ledger would say so. Raises DataError."""
    home: dict[str, str] = {}
    for name, hospital in hospitals.items():
        patients = hospital.train.patients
        for patient in [] if patients is None else set(patients.tolist()):
            if home.setdefault(patient, name) != name:
                raise DataError(
                    f'sites {home[patient]} and {name} both have rows of one patient, and [privacy] unit = "patient" '
                    "counts each once: keep a patient's rows at one site, or number patients by site"
                )


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
        result["notes"] = notes_of(plan, outcome, partition, seed)
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


def notes_of(plan: Plan, outcome: Outcome, partition: Partition, seed: int | None) -> list[str]:
    """What a reader must know about a run before believing or passing on its figures."""
    notes = [
        "simulation: all parties ran in one process; the metrics are exact functions of private rows, "
        "not covered by epsilon, and not for publication",
        *plan.notes,
    ]
    if seed is not None:
        notes.append(
            f"seeded (--seed {seed}): whoever knows the seed can subtract the noise, so this run protects nobody; "
            "no expert is released, and its ledgers stay in its folder"
        )
    if isinstance(rule := plan.federation.model.personal, str):
        notes.append(f'[model] personal = "{rule}" is {_in_words(partition)}')
    shared = [name for name in partition.shared if ".adapter." in name]
    if plan.federation.model.adapters is not None and shared:
        notes.append(
            f"[model] adapters: {len(shared)} of their parameters are shared, as [model] personal leaves them out; set "
            'personal = "adapters", or "auto"'
        )
    if not plan.federation.encrypted:
        seen = "hidden by masks alone" if plan.federation.masked else "which could read each of them"
        notes.append(f"--plaintext: updates travelled unencrypted to the coordinator, {seen}")
    if plan.federation.shares_noise:
        privacy = plan.federation.privacy
        notes.append(
            f"shared noise: epsilon holds while at most {privacy.colluders} hospital(s) give their share of it away "
            f"and at most {privacy.dropouts} are missing from a sum; it is an RDP bound, and covers no single update"
        )
    if all(value is None for value in outcome.mean()["shared"].values()):
        notes.append("no shared model: the last round formed no sum, so nobody has the average personal part")
    if seed is None and not plan.federation.release.experts:
        notes.append("no expert is released, so `securepfl route` has nothing to use: set [release] experts = true")
    notes += idle_settings(plan.federation) + never_coupled(plan.federation, outcome.sites)
    return notes + _grouped(outcome)


def _in_words(partition: Partition) -> str:
    names, size = partition.personal, partition.personal_size
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{rest}: {size:,} of {size + partition.shared_size:,} parameters"


def _grouped(outcome: Outcome) -> list[str]:
    """The hospitals' notes, each said once for all hospitals that it is about."""
    about: dict[str, list[str]] = {}
    for name, site in outcome.sites.items():
        for note in site.notes:
            about.setdefault(note, []).append(name)
    return [f"{', '.join(names)}: {note}" for note, names in about.items()]
