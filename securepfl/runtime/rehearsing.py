"""A hospital's training rehearsed with canaries in it, to see what an attacker would."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from securepfl.data.declared import Declared
from securepfl.data.demo import simulated_hospitals
from securepfl.data.loading import load_sites
from securepfl.data.split import split_table
from securepfl.errors import ConfigError
from securepfl.privacy.accounting.accounting import epsilon
from securepfl.privacy.audit.rehearsal import Told, audit
from securepfl.privacy.audit.report import AuditReport
from securepfl.privacy.audit.subject import Training
from securepfl.runtime.client_rounds import rehearsed
from securepfl.runtime.hospital import dataset_of
from securepfl.settings.binding import built_in
from securepfl.settings.federation import Federation
from securepfl.settings.tables import SiteSettings


@dataclass(frozen=True)
class Rehearsal:
    """One hospital's training as its rounds would do it, and what the accounting says that they cost."""

    site: str
    federation: Federation
    training: Training
    claimed: float

    def attack(self, canaries: int, runs: int, told: Told = lambda done, of: None) -> AuditReport:
        """All tests; `told` hears of each rehearsal that is over, and of how many there are. Nothing of it leaves the
        hospital, and no ledger knows of it.
        """
        return audit(
            self.training,
            epsilon=self.claimed,
            delta=self.federation.privacy.delta,
            canaries=canaries,
            runs=runs,
            rounds=self.federation.rounds,
            told=told,
        )


def rehearsal_of(federation: Federation, data: Path | None, site: str | None, device: str) -> Rehearsal:
    """What `site` (default: the first) would train on; without `data`, a hospital of the demo.

    Raises ConfigError for a model that only the SDK builds, shared noise, or a site that the data do not have.
    """
    if federation.model.kind == "own":
        raise ConfigError(
            '[model] kind = "own": rehearse it in your pipeline, by securepfl.runtime.client_rounds.rehearsed and '
            "securepfl.privacy.audit.rehearsal.audit"
        )
    spec: Declared
    if data is None:
        spec, tables = simulated_hospitals(0)
    else:
        declared = federation.data_spec
        if declared is None:
            raise ConfigError("the configuration has no [data] table: declare label, ranges and categories there")
        spec, tables = declared, load_sites(data, declared)
    site = sorted(tables)[0] if site is None else site
    if site not in tables:
        raise ConfigError(f"--site {site!r}: the data have {', '.join(sorted(tables))}")
    train, _ = split_table(tables[site], spec.split)
    bound = _bound(federation, spec, tables, site)
    dataset = dataset_of(train, federation.privacy.unit)
    training = rehearsed(bound, site, built_in(bound.model, spec), dataset, device=device)
    return Rehearsal(site, bound, training, _claimed(bound, training))


def _bound(federation: Federation, spec: Declared, sites: Iterable[str], site: str) -> Federation:
    """Bound to the hospitals that the data and the settings name, and to as many nameless ones as it needs to be a
    federation: a hospital may hold its own table alone. What they declare does not matter here.
    """
    build = built_in(federation.model, spec)
    names = sorted({*sites, *federation.sites})
    missing = [f"rehearsed-{number}" for number in range(max(0, federation.minimum - len(names)))]
    declared = federation.sites.get(site, SiteSettings())
    others = dict.fromkeys(missing, declared)
    return federation.replace(data=spec.to_mapping(), sites=federation.sites | others).bound([*names, *missing], build)


def _claimed(federation: Federation, training: Training) -> float:
    """What the accounting says that all rounds cost."""
    privacy = federation.privacy
    return epsilon([training.settings.release(privacy.unit, federation.rounds)], privacy.delta)


def report_of(rehearsal: Rehearsal, report: AuditReport) -> dict[str, Any]:
    """The report as JSON-able values, with what was rehearsed."""
    settings = rehearsal.training.settings
    return {
        "site": rehearsal.site,
        "unit": rehearsal.training.unit,
        "units": rehearsal.training.units,
        "rounds": rehearsal.federation.rounds,
        "noise_multiplier": settings.noise_multiplier,
        "sample_rate": settings.sample_rate,
    } | asdict(report)
