"""A patient's consent withdrawn: a line in each ledger that counts their records, which train no more from then on."""

from dataclasses import dataclass
from pathlib import Path

from securepfl.client.contents import contents_of
from securepfl.client.identities import KnownAs, identities_of
from securepfl.client.records import TrainingSet
from securepfl.crypto.keys.identity import Identity
from securepfl.crypto.keys.signing import LedgerSigner
from securepfl.data.loading import load_site
from securepfl.data.schema import DataSpec
from securepfl.data.table import Table
from securepfl.data.tables import left_out_wholly
from securepfl.errors import ConfigError, DataError
from securepfl.identifiers import told_by
from securepfl.privacy.ledger.history import Withdrawn
from securepfl.privacy.ledger.ledger import Budget, Ledger, Terms
from securepfl.privacy.ledger.summary import LedgerSummary
from securepfl.report.ledger import verified
from securepfl.runtime.hospital import dataset_of
from securepfl.runtime.planning import identities_in, patients_in
from securepfl.settings.federation import Federation
from securepfl.storage.registry import Kind, Registry


@dataclass(frozen=True)
class Written:
    """A ledger with the withdrawal, what it says once verified, and what the withdrawal touches."""

    ledger: Path
    summary: LedgerSummary

    @property
    def last(self) -> Withdrawn:
        """The latest withdrawal in it."""
        return self.summary.withdrawals[-1]


def withdraw(config: Path, data: Path, site: str, place: Path, identity: Identity | None) -> tuple[Written, ...]:
    """Write into `site`'s ledgers at `place` that the patients in `data` withdrew their consent.

    data: rows of those who withdraw and of nobody else, in the form that `config` declares. identity: the hospital's,
    which signs ledgers of real runs; None where only simulations counted these records. What was spent stays as it was.

    Raises ConfigError, DataError, and what Registry.withdraw raises; nothing is written then, or some of the ledgers.
    """
    federation = Federation.read(config)
    spec = federation.data_spec
    if spec is None:
        raise ConfigError(f"{config}: no [data] table; declare label, ranges and categories there")
    if identity is not None and identity.name != site:
        raise ConfigError(f"--folder: holds the keys of {identity.name}, not of {site}; name {site}'s own")
    table = load_site(data, spec, site)
    lost = left_out_wholly(data, spec, site) if isinstance(spec, DataSpec) else 0
    if lost:
        what = "row(s)" if spec.patient is None else "patient(s)"
        raise DataError(
            f'{data}: {lost} {what} would be left out, as no row is complete (missing = "drop-rows"), and their '
            "withdrawal forgotten; complete a row of each, or take out those who never trained"
        )
    unit = federation.privacy.unit
    records = TrainingSet.of(dataset_of(table, unit), site, unit)
    spelled = [word.encode() for patient in patients_in(table) for word in told_by(patient)]
    known = KnownAs(spec.id, {**identities_in(table), "spelling": spelled})
    identities = identities_of(records, contents_of(records, range(records.found)), known, site)

    def opener(kind: Kind, path: Path, data_set: str, earlier: frozenset[bytes]) -> Ledger:
        signer = _signer(kind, path, identity, site, earlier)
        # The budget of such a session is the one that it finds.
        budget = Budget(federation.privacy.epsilon, federation.privacy.delta)
        terms = Terms(site, data_set, budget, simulation=kind != "real", seeded=False, keep_budget=True)
        return Ledger.open(path, terms, signer)

    paths = Registry(place, site).withdraw(identities, known.id, _units(table, unit), opener)
    return tuple(Written(path, verified(path, None, None)) for path in paths)


def _units(table: Table, unit: str) -> int:
    return len(table) if table.patients is None or unit == "record" else len(set(table.patients.tolist()))


def _signer(kind: Kind, path: Path, identity: Identity | None, site: str, earlier: frozenset[bytes]) -> LedgerSigner:
    if kind != "real":
        return LedgerSigner(Identity.generate(site), trusting=True)
    if identity is None:
        raise ConfigError(f"{path}: counts real runs, so {site} signs the withdrawal: name its folder with --folder")
    return LedgerSigner(identity, trusting=False, earlier=earlier)
