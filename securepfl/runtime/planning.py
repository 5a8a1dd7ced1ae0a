"""What a run needs, from a configuration and tables: a bound federation, its hospitals' rows, and their ledgers."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from torch import nn

from securepfl.client.identities import KnownAs
from securepfl.data.declared import Declared
from securepfl.data.demo import declaration, simulated_hospitals
from securepfl.data.loading import left_out, load_sites
from securepfl.data.patients import of_several_sites, trained_and_tested
from securepfl.data.split import split_table
from securepfl.data.table import Table
from securepfl.errors import ConfigError, DataError, HospitalNote, ModelError
from securepfl.identifiers import asked_by
from securepfl.privacy.accounting.events import Unit
from securepfl.privacy.ledger.fingerprints import content_of
from securepfl.runtime.hospital import Hospital
from securepfl.settings.binding import built_in
from securepfl.settings.federation import Federation
from securepfl.settings.reading import read_toml


@dataclass(frozen=True)
class Plan:
    """What a run needs: a bound federation, its hospitals' rows, and where their registries of ledgers lie (None: the
    default). throwaway: what is spent protects nobody, so that ledgers lie in the run. earlier: where an earlier
    version kept this data's ledgers.
    """

    federation: Federation
    hospitals: Mapping[str, Hospital]
    build_model: Callable[[], nn.Module]
    notes: tuple[str, ...]
    ledgers: Path | None = None
    throwaway: bool = False
    earlier: Path | None = None

    @property
    def data_sets(self) -> dict[str, KnownAs]:
        """By what each hospital's training rows are known again, beside the features that train."""
        metrics = self.federation.release.metrics
        return {name: known_as(hospital, self.earlier, tests=metrics) for name, hospital in self.hospitals.items()}


def configured(
    config: Path | None, *, rounds: int | None = None, epsilon: float | None = None, plaintext: bool = False
) -> Federation:
    """The settings in `config` (None: the demo's), with the command line's in place of its own. Raises ConfigError."""
    federation = Federation.from_mapping(declared_in(None)) if config is None else Federation.read(config)
    if rounds is not None:
        federation = federation.replace(rounds=rounds)
    if epsilon is not None:
        federation = federation.changed("privacy", epsilon=epsilon)
    return federation.changed("encryption", scheme="none") if plaintext else federation


def declared_in(config: Path | None) -> dict[str, Any]:
    """The settings as `config` spells them, its defaults left out (None: the demo's, and what it says of its data).
    Raises ConfigError.
    """
    if config is not None:
        return read_toml(config)
    with as_file(files("securepfl.data") / "demo.toml") as path:
        return read_toml(path) | {"data": declaration().to_mapping()}


def plan_demo(federation: Federation, seed: int | None, ledgers: Path | None) -> Plan:
    """The simulated hospitals of data/demo.py. Raises ConfigError for --seed with --ledgers."""
    _check_seed(federation, seed, ledgers)
    spec, tables = simulated_hospitals(0 if seed is None else seed)
    note = (
        "patients and hospitals are simulated: drawn after the published means and covariances of 569 biopsies, at two "
        "families of scanners of four hospitals each and one unusual one, which report features the other way round"
    )
    plan = _plan(federation.replace(data=spec.to_mapping()), spec, tables, (note, spec.split_note))
    return replace(plan, ledgers=ledgers, throwaway=ledgers is None)


def plan_tables(
    federation: Federation, data: Path, seed: int | None, ledgers: Path | None, config: Path | None = None
) -> Plan:
    """The user's own tables. What is spent on them composes over runs, unless the run is seeded.

    Raises ConfigError, DataError or ModelError where declaration, data and model don't fit; what is wrong with the
    settings, under the name of `config`, the file that they came from.
    """
    spec, where = federation.data_spec, "" if config is None else f"{config}: "
    if spec is None:
        raise ConfigError(f"{where}no [data] table; declare label, ranges and categories there")
    _check_seed(federation, seed, ledgers)
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always", HospitalNote)
        tables = load_sites(data, spec)
    said = [str(note.message) for note in noted if issubclass(note.category, HospitalNote)]
    notes = (spec.split_note, *left_out(data, spec), *said)
    plan = _plan(federation, spec, tables, notes, where)
    # Without noise there is none to repeat, and experts leave a seeded run too: what trained so is told for good.
    throwaway = seed is not None and federation.privacy.protects
    return replace(plan, ledgers=ledgers, throwaway=throwaway, earlier=beside(data))


def beside(data: Path) -> Path:
    """Where an earlier version kept the ledgers of all that was ever spent on `data`, one file a hospital."""
    whole = data.resolve()
    return whole.parent / f"{whole.name}.ledgers"


def known_as(hospital: Hospital, earlier: Path | None, *, tests: bool = False) -> KnownAs:
    """By what a hospital's training rows are known again, beside the features that train; and its test rows, where it
    `tests` by what is released. All rows are asked for withdrawn consent.
    """
    train, test = hospital.train, hospital.test
    both = (train, test)
    beside = {"features": [content_of(row) or b"" for row in test.features], **identities_in(test)}
    beside["spelling"] = [word.encode() for patient in patients_in(*both) for word in asked_by(patient)]
    return KnownAs(
        by=identities_in(*(both if tests else (train,))),
        earlier=() if earlier is None else (earlier / f"{train.site}.jsonl",),
        beside=beside,
    )


def identities_in(*tables: Table) -> dict[str, Sequence[bytes]]:
    """What rows and their patients are known by."""
    found: dict[str, Sequence[bytes]] = {
        kind: [digest for each in tables for digest in each.known[kind].tolist()] for kind in tables[0].known
    }
    patients = patients_in(*tables)
    return found | ({"patient": [patient.encode() for patient in patients]} if patients else {})


def patients_in(*tables: Table) -> list[str]:
    """Each patient's id once, sorted; none where no column names them."""
    return sorted({str(patient) for each in tables if each.patients is not None for patient in each.patients})


def _check_seed(federation: Federation, seed: int | None, ledgers: Path | None) -> None:
    if ledgers is not None and seed is not None and federation.privacy.protects:
        raise ConfigError("--seed and --ledgers: seeded noise protects nobody and is kept out of ledgers; drop one")


def _plan(
    federation: Federation,
    spec: Declared,
    tables: Mapping[str, Table],
    notes: tuple[str, ...],
    where: str = "",
) -> Plan:
    settings = federation.model
    if settings.kind == "own":
        raise ConfigError(
            f'{where}[model] kind = "own": `securepfl run` builds "mlp" or "logistic"; use the SDK for your own'
        )
    build = built_in(settings, spec)
    hospitals, without = _hospitals(tables, spec)
    notes = (*notes, *without.values(), *_patients_of_several(hospitals, spec, federation.privacy.unit))
    present = {name: settings for name, settings in federation.sites.items() if name not in without}
    try:
        bound = federation.replace(sites=present).bound(hospitals, build)
    except (ConfigError, ModelError) as error:
        raise type(error)("; ".join([f"{where}{error}", *without.values()])) from None
    return Plan(bound, hospitals, build, notes)


def _hospitals(tables: Mapping[str, Table], spec: Declared) -> tuple[dict[str, Hospital], dict[str, str]]:
    """Each hospital's training and test rows, and by name why others have nothing to train on and are left out."""
    found, without = {}, {}
    for name, table in sorted(tables.items()):
        try:
            found[name] = Hospital(*split_table(table, spec.split))
        except DataError as error:
            without[name] = f"left out of this run: {error}"
    return found, without


def _patients_of_several(hospitals: Mapping[str, Hospital], spec: Declared, unit: Unit) -> list[str]:
    """Notes on patients whose ids stand at several hospitals. Raises DataError where the unit is the patient, unless
    each hospital's ids are its own.
    """
    found = of_several_sites({name: hospital.train for name, hospital in hospitals.items()})
    if found is None:
        return _tested_elsewhere(hospitals, spec)
    if spec.patient_scope == "hospital":
        return [f'{found.split(" (")[0]}, and are different people there: [data] patient_scope = "hospital" says so']
    if unit == "patient":
        raise DataError(
            f'{found}, and [privacy] unit = "patient" counts each person once: keep a patient\'s rows at one site, or, '
            'where each hospital numbers its own patients, declare [data] patient_scope = "hospital". Between real '
            "hospitals nobody can see this: agree beforehand who enters a patient of several"
        )
    told = f"{found}: each spends on them, and epsilon is per record of one site"
    return [told, *_tested_elsewhere(hospitals, spec)]


def _tested_elsewhere(hospitals: Mapping[str, Hospital], spec: Declared) -> list[str]:
    """A note on patients who train at one hospital and test at another."""
    if spec.patient_scope == "hospital":
        return []
    train = {name: hospital.train for name, hospital in hospitals.items()}
    count = trained_and_tested(train, {name: hospital.test for name, hospital in hospitals.items()})
    told = "the ids of {} patient(s) of test rows stand in training rows of another site: metrics count them as unseen"
    return [told.format(count)] if count else []
