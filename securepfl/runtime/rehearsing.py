"""A hospital's training rehearsed with canaries in it, to see what an attacker would."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from securepfl.client.training import dp_settings
from securepfl.data.breast_cancer import simulated_hospitals
from securepfl.data.tables import load_sites, split_table
from securepfl.errors import ConfigError
from securepfl.learning.personal.partition import Partition
from securepfl.learning.sparse.support import choose_support
from securepfl.privacy.accounting.accounting import epsilon
from securepfl.privacy.audit.rehearsal import audit
from securepfl.privacy.audit.report import AuditReport
from securepfl.privacy.audit.subject import Training
from securepfl.randomness import fresh_key
from securepfl.runtime.hospital import dataset_of
from securepfl.settings.binding import built_in, initial_model
from securepfl.settings.federation import Federation
from securepfl.settings.fixed import EXPLORATION
from securepfl.tasks.device import resolve_device
from securepfl.tasks.registry import task_named


@dataclass(frozen=True)
class Rehearsal:
    """One hospital's training as its rounds would do it, and what the accounting says that they cost."""

    site: str
    federation: Federation
    training: Training
    claimed: float

    def attack(self, canaries: int, runs: int) -> AuditReport:
        """All tests. Nothing of it leaves the hospital, and no ledger knows of it."""
        federation = self.federation
        delta, rounds = federation.privacy.delta, federation.rounds
        return audit(self.training, epsilon=self.claimed, delta=delta, canaries=canaries, runs=runs, rounds=rounds)


def rehearsal_of(federation: Federation, data: Path | None, site: str | None, device: str) -> Rehearsal:
    """What `site` (default: the first) would train on; without `data`, a hospital of the demo.

    Raises ConfigError for a model that only the SDK builds, shared noise, or a site that the data do not have.
    """
    if federation.shares_noise:
        raise ConfigError(
            "[shared_noise]: no hospital can rehearse noise that all make; rehearse the same settings without the table"
        )
    if federation.model.kind == "own":
        raise ConfigError(
            '[model] kind = "own": rehearse it with securepfl.privacy.audit.rehearsal.audit in your pipeline'
        )
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
    privacy, dataset = federation.privacy, dataset_of(train, federation.privacy.unit)
    settings = dp_settings(federation, len(dataset), federation.training.steps)
    model = initial_model(built_in(federation.model, spec), federation, site)
    training = Training(
        model,
        dataset,
        task_named(federation.model.task, **spec.label_options).loss,
        settings,
        units=len(dataset),
        device=resolve_device(device),
        unit=privacy.unit,
        masks=_masks_of(federation, model),
    )
    claimed = settings.release(privacy.unit, federation.rounds)
    return Rehearsal(site, federation, training, epsilon([claimed], privacy.delta))


def _masks_of(federation: Federation, model: Any) -> dict[str, Any]:
    """A support like a first round's, drawn anew."""
    sparsity, partition = federation.sparsity, Partition.of(model, federation.model.personal)
    support = choose_support(
        None,
        partition.shared_size,
        density=sparsity.density,
        block=sparsity.block,
        exploration=EXPLORATION,
        key=fresh_key(),
        round_number=1,
    )
    return dict(partition.mask_from_support(support))


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
