"""Which parameters should be personal, asked on one hospital's rows and charged to its ledger."""

from pathlib import Path
from typing import Any

import msgspec
from torch import nn

from securepfl.client.run_kind import Simulation
from securepfl.client.suggestion import suggest_partition
from securepfl.crypto.keys.keys import Identity
from securepfl.data.declared import Declared
from securepfl.data.loading import load_sites
from securepfl.data.split import split_table
from securepfl.errors import ConfigError, StorageError
from securepfl.outside.experts import SHARED, read_experts
from securepfl.runtime.hospital import Hospital, dataset_of
from securepfl.runtime.planning import beside, known_as
from securepfl.settings.binding import built_in
from securepfl.settings.federation import Federation


def suggest(
    config: Path, data: Path, site: str, run: Path, epsilon: float, ledgers: Path, device: str
) -> dict[str, Any]:
    """What `site` would gain most from keeping personal, as JSON-able values, charged to its ledger at `ledgers`.

    The start is the shared model that `run` released. As in `securepfl run` the hospital is simulated: each call signs
    with a new key. Raises ConfigError, DataError or StorageError where settings, rows and run do not fit, BudgetError.
    """
    federation = Federation.read(config)
    spec, model = federation.data_spec, federation.model
    if spec is None:
        raise ConfigError(f"{config}: no [data] table; declare label, ranges and categories there")
    if model.kind == "own":
        raise ConfigError(f'{config}: [model] kind = "own": ask with securepfl.suggest_partition in your pipeline')
    tables = load_sites(data, spec)
    if site not in tables:
        raise ConfigError(f"--site {site!r}: the data have {', '.join(sorted(tables))}")
    hospital = Hospital(*split_table(tables[site], spec.split))
    suggestion = suggest_partition(
        federation,
        site,
        built_in(model, spec),
        dataset_of(hospital.train, federation.privacy.unit),
        Identity.generate(site),
        ledgers=ledgers,
        data_set=known_as(hospital, beside(data)),
        epsilon=epsilon,
        start=_start(run, spec),
        device=device,
        simulation=Simulation(),
    )
    found: dict[str, Any] = msgspec.to_builtins(suggestion)
    return found


def _start(run: Path, spec: Declared) -> nn.Module:
    """The shared model that `run` released. Raises StorageError where there is none, or its inputs are others."""
    experts = read_experts(run / "experts")
    if SHARED not in experts.models:
        raise StorageError(f"{run}: released no shared model, as its last round formed no sum; name another run")
    if experts.spec.to_mapping() != spec.to_mapping():
        raise StorageError(f"{run}: ran on other [data]; name a run of these settings")
    return experts.models[SHARED]
