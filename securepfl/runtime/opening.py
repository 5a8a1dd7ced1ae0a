"""From files to parties: what a hub's or a hospital's process opens on its own machine, whatever carries messages.

| in DIR | whose | what |
|---|---|---|
| coordinator/ | hub | all that decides, from which a killed hub goes on |
| state/ | hospital | its model, its keys' place in the run, its outgoing messages |
| log.jsonl, status.json | both | for operators: never a secret |
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from torch import nn

from securepfl.client.client import Client
from securepfl.client.run_kind import Simulation
from securepfl.coordinator.coordinator import Coordinator
from securepfl.crypto.keys.holdings import Epoch, Holdings
from securepfl.data.tables import load_site, split_table
from securepfl.errors import ConfigError, HospitalNote, SecurePFLError, StorageError
from securepfl.runtime.hospital import Hospital, dataset_of
from securepfl.runtime.local import noise_key
from securepfl.runtime.planning import beside, known_as
from securepfl.settings.binding import built_in
from securepfl.settings.federation import Federation
from securepfl.storage.keys import load_holdings, private_file

COORDINATOR: Final = "coordinator"
STATE: Final = "state"


@dataclass(frozen=True)
class Opened:
    """A hospital's client, the rows that it trains and tests on, and what it should know of both (`notes`)."""

    client: Client
    hospital: Hospital
    notes: tuple[str, ...] = ()


def open_coordinator(config: Path, folder: Path, passphrase: bytes, out: Path) -> Coordinator:
    """The coordinator of the federation in `config`, with the keys in `folder`; what it keeps lies in `out`.

    From declarations alone: no row is read. How long a step waits is the loop's business (Patience), so the
    coordinator takes a step's messages for as long as the step lasts. Raises ConfigError where settings and keys don't
    fit, StorageError where keys or folder can't be used.
    """
    holdings = load_holdings(folder, passphrase)
    if not holdings.is_coordinator:
        raise StorageError(
            f"{private_file(folder)}: keys of hospital {holdings.identity.name}, not the hub's; name the hub's folder "
            "with --folder, or use `securepfl join` at a hospital"
        )
    epoch = _epoch_of(folder, holdings)
    federation, _ = _bound(config, epoch)
    return Coordinator(
        federation.without_budgets(),
        holdings.identity,
        epoch.hospitals,
        key_commitment=epoch.commitment,
        folder=out / COORDINATOR,
    )


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
    epoch = _epoch_of(folder, holdings)
    federation, build_model = _bound(config, epoch)
    spec = federation.data_spec
    if spec is None:
        raise TypeError("a bound federation of files declares its data")
    hospital = Hospital(*split_table(load_site(data, spec, name), spec.split))
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always", HospitalNote)
        client = Client(
            federation,
            name,
            build_model,
            dataset_of(hospital.train, federation.privacy.unit),
            holdings.keyring(),
            out / STATE,
            ledgers=ledgers,
            data_set=known_as(hospital.train, beside(data)),
            device=device,
            simulation=None if seed is None else Simulation(noise_key(seed)),
        )
    said = [str(note.message) for note in noted if issubclass(note.category, HospitalNote)]
    return Opened(client, hospital, tuple(dict.fromkeys((*said, *client.ledger_notes))))


def _epoch_of(folder: Path, holdings: Holdings) -> Epoch:
    try:
        return holdings.epoch()
    except StorageError as error:
        raise StorageError(f"{private_file(folder)}: {error}") from None


def _bound(config: Path, epoch: Epoch) -> tuple[Federation, Callable[[], nn.Module]]:
    """The settings in `config` bound to the enrolled hospitals, and what builds the model. Raises ConfigError, also
    for settings other than those that were enrolled.
    """
    federation = Federation.read(config)
    spec = federation.data_spec
    if spec is None:
        raise ConfigError(f"{config}: no [data] table; declare label, ranges and categories there")
    if federation.model.kind == "own":
        raise ConfigError(
            f'{config}: [model] kind = "own": files build "mlp" or "logistic"; open Client and Coordinator in your own '
            "pipeline for a model of your own"
        )
    build_model = built_in(federation.model, spec)
    try:
        bound = federation.bound(epoch.hospitals, build_model)
    except SecurePFLError as error:
        raise type(error)(f"{config}: {error}") from None
    if bound.ceremony_digest != epoch.federation_digest:
        raise ConfigError(
            f"{config}: other settings than those enrolled in epoch {epoch.number}; use the very file of the ceremony, "
            "or enrol this one (`securepfl keys rotate`)"
        )
    return bound, build_model
