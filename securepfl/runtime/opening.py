"""From files to a client: what a hospital's process opens on its own machine, whatever carries messages.

| in DIR | whose | what |
|---|---|---|
| state/ | hospital | its model, its keys' place in the run, its outgoing messages |
| log.jsonl, status.json | both | for operators: never a secret |
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from securepfl.client.client import Client
from securepfl.client.parts import BuildModel
from securepfl.client.run_kind import Simulation
from securepfl.data.loading import load_site
from securepfl.data.split import split_table
from securepfl.errors import BudgetError, ConfigError, HospitalNote, StorageError
from securepfl.runtime.enrolled import bind, check_enrolled, epoch_of
from securepfl.runtime.hospital import Hospital, dataset_of, tested_by
from securepfl.runtime.local import noise_key
from securepfl.runtime.planning import beside, known_as
from securepfl.storage.keys import load_holdings, private_file

STATE: Final = "state"


@dataclass(frozen=True)
class Opened:
    """A hospital's client, the rows that it trains and tests on, what makes its model, and what it should know of rows
    and client (`notes`).
    """

    client: Client
    hospital: Hospital
    build_model: BuildModel
    notes: tuple[str, ...] = ()


def open_client(
    config: Path,
    data: Path,
    folder: Path,
    passphrase: bytes,
    out: Path,
    *,
    ledgers: Path | None = None,
    device: str = "auto",
    seed: int | None = None,
) -> Opened:
    """The client of the hospital whose keys lie in `folder`, on its own rows in `data`; its state lies in `out`.

    `data` is a file of its own, a file with a site column or a folder, as `[data]` declares; of other hospitals nothing
    is taken. The hospital's name is its identity's. `ledgers` is its registry (None: the default). With `seed` noise
    repeats and protects nobody: for rehearsals and comparisons on data that anybody may see; its ledger is thrown away.

    Raises ConfigError where settings and keys don't fit, DataError, StorageError, and what Client raises.
    """
    if ledgers is not None and seed is not None:
        raise ConfigError("--seed and --ledgers: seeded noise protects nobody and is kept out of ledgers; drop one")
    holdings = load_holdings(folder, passphrase)
    name = holdings.identity.name
    if holdings.is_coordinator:
        raise StorageError(
            f"{private_file(folder)}: keys of the hub {name}, not a hospital's; name the hospital's folder with "
            "--folder, or use `securepfl serve` at the hub"
        )
    epoch = epoch_of(folder, holdings)
    federation, build_model = bind(config, epoch.hospitals)
    check_enrolled(config, federation, epoch)
    spec = federation.data_spec
    if spec is None:
        raise TypeError("a bound federation of files declares its data")
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always", HospitalNote)
        hospital = Hospital(*split_table(load_site(data, spec, name), spec.split))
        client = Client(
            federation,
            name,
            build_model,
            dataset_of(hospital.train, federation.privacy.unit),
            holdings.keyring(),
            out / STATE,
            testing=tested_by(hospital, federation),
            ledgers=ledgers,
            data_set=known_as(hospital, beside(data), tests=federation.release.metrics),
            device=device,
            simulation=None if seed is None else Simulation(noise_key(seed)),
        )
    if federation.release.metrics and not client.round and not client.affords_run:
        client.close()
        budget, run = client.ledger.budget.epsilon, client.spent_after_run
        raise BudgetError(
            f"{name}: this run with its released metrics would bring epsilon to {run:.3f}, and the budget is "
            f"{budget:g}: declare a larger one ([sites.{name}] budget) before the first round, or set [release] "
            "metrics = false at all hospitals"
        )
    said = [str(note.message) for note in noted if issubclass(note.category, HospitalNote)]
    return Opened(client, hospital, build_model, tuple(dict.fromkeys((*said, *client.ledger_notes))))
