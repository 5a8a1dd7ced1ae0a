"""All parties in one process: a simulation, and marked so. Still only bytes pass between them."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset

from securepfl.client.client import Client
from securepfl.client.identities import KnownAs
from securepfl.client.parts import BuildModel
from securepfl.client.records import Loss
from securepfl.client.run_kind import Simulation
from securepfl.coordinator.coordinator import Coordinator
from securepfl.crypto.keys.keys import FederationKey, Identity, Keyring
from securepfl.errors import BudgetError, ConfigError
from securepfl.protocol.rounds import drive
from securepfl.randomness import KEY_BYTES, derive_key, fresh_key
from securepfl.settings.federation import Federation
from securepfl.tasks.task import Task

TrainingSets = Mapping[str, DataLoader[Any] | Dataset[Any]]


@dataclass
class Traffic:
    """Bytes that each hospital sent and received so far, whole messages."""

    upload: dict[str, int] = field(default_factory=dict)
    download: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class SimulatedRun:
    """A simulation's parties after (or between) rounds, what travelled, and the seconds since it began. `clipped` has,
    for each hospital and round that it trained in, the fraction of its units that the clip shortened.
    """

    coordinator: Coordinator
    clients: Mapping[str, Client]
    traffic: Traffic
    started: float
    clipped: dict[str, list[float]] = field(default_factory=dict)

    def note_clipped(self) -> None:
        """After a round: what its training counted."""
        for name, client in self.clients.items():
            report = None if self.round in client.sat_out else client.last_training
            if report is not None and report.shortened_fraction is not None:
                self.clipped.setdefault(name, []).append(report.shortened_fraction)

    @property
    def round(self) -> int:
        """The last round that everyone applied."""
        return min(client.round for client in self.clients.values())

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of all hospitals' training, encryption and decryption, of the coordinator, and in total."""
        steps = ("train", "encrypt", "decrypt")
        summed = {step: sum(client.seconds[step] for client in self.clients.values()) for step in steps}
        aggregate, total = self.coordinator.seconds, time.perf_counter() - self.started
        ordered = {"train": summed["train"], "encrypt": summed["encrypt"], "aggregate": aggregate}
        return ordered | {"decrypt": summed["decrypt"], "total": total}


def noise_key(seed: int | None) -> bytes | None:
    """The key from which a seeded simulation derives its noise and rounding. No secret; None without a seed."""
    return None if seed is None else _seed_key(seed, "noise")


def _seed_key(seed: int, purpose: str) -> bytes:
    return derive_key(bytes(KEY_BYTES), "simulation", seed, purpose)


def local_parties(
    federation: Federation, root_key: bytes | None = None, folder: Path | None = None
) -> tuple[dict[str, Keyring], Coordinator]:
    """Every hospital's keyring and the coordinator of a bound federation, made in this process.

    For simulations, tests and examples: in the field each party makes its own identity, and keys travel sealed
    (`securepfl keys`). `root_key` fixes the support's and tags' seeds for a seeded simulation; encryption keys are
    always the OS's. `folder` is the coordinator's; None keeps its state in memory.

    >>> from torch import nn
    >>> settings = {"model": {"kind": "own"}, "encryption": {"scheme": "none"}}
    >>> bound = Federation.from_mapping(settings).bound(("north", "south", "west"), lambda: nn.Linear(4, 1), units=4)
    >>> keyrings, coordinator = local_parties(bound)
    >>> sorted(keyrings) == sorted(coordinator.hospitals)
    True
    """
    identities = {name: Identity.generate(name) for name in federation.roster}
    server = Identity.generate("coordinator")
    public = {name: identity.public for name, identity in identities.items()}
    key = FederationKey.generate(encrypted=federation.scheme.encrypted, root_key=root_key)
    pairs = {frozenset((one, other)): fresh_key() for one in identities for other in identities}
    keyrings = {
        name: Keyring(
            identity, key, server.public, public, {other: pairs[frozenset((name, other))] for other in identities}
        )
        for name, identity in identities.items()
    }
    coordinator = Coordinator(
        federation.without_budgets(),
        server,
        public,
        key_commitment=key.commitment,
        folder=folder,
    )
    return keyrings, coordinator


@contextmanager
def simulate(
    federation: Federation,
    training: TrainingSets,
    build_model: BuildModel,
    folder: Path,
    *,
    ledgers: Path | None = None,
    data_sets: Mapping[str, str | KnownAs] | None = None,
    coordinator_folder: Path | None = None,
    seed: int | None = None,
    device: str = "auto",
    loss: Loss | None = None,
    task: str | Task | None = None,
    physical_batch: int | None = None,
    begin: Callable[[SimulatedRun], None] = lambda run: None,
    observe: Callable[[SimulatedRun], None] = lambda run: None,
) -> Iterator[SimulatedRun]:
    """Run a bound federation to its last round and yield its parties, which are closed afterwards.

    `training` holds each hospital's DataLoader or Dataset. State lies in `folder`/NAME; `ledgers`/NAME.jsonl
    (default: `folder`/NAME/ledger.jsonl) outlive the run. The coordinator's state lies in `coordinator_folder`, None
    keeps it in memory. `begin` is called before the first round, `observe` after every one. `loss`, `task` and
    `physical_batch`: as in Client. With `seed`, noise, rounding and support repeat: for simulation only, since whoever
    knows the seed can subtract the noise.

    Raises ConfigError where `training` doesn't fit the roster, and BudgetError, before anything is spent, where too
    few hospitals have budget for all rounds.

    >>> from tempfile import TemporaryDirectory
    >>> import torch
    >>> from torch import nn
    >>> from torch.utils.data import TensorDataset
    >>> training = dict.fromkeys(
    ...     ("north", "south", "west"), TensorDataset(torch.eye(4), torch.tensor([0.0, 1.0, 0.0, 1.0]))
    ... )
    >>> def build_model():
    ...     return nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
    >>> settings = {"rounds": 1, "model": {"kind": "own"}, "encryption": {"scheme": "none"}}
    >>> bound = Federation.from_mapping(settings).bound(training, build_model, units=4)
    >>> with TemporaryDirectory() as folder, simulate(
    ...     bound, training, build_model, Path(folder, "run"), ledgers=Path(folder, "ledgers")
    ... ) as run:
    ...     run.round, run.clients["north"].predict(torch.eye(4)).shape
    (1, (4,))
    """
    training = {str(name): records for name, records in training.items()}
    if set(training) != set(federation.roster):
        raise ConfigError("the training sets are not those of the federation's roster; give one for each hospital")
    started = time.perf_counter()
    root_key = None if seed is None else _seed_key(seed, "federation")
    keyrings, coordinator = local_parties(federation, root_key, coordinator_folder)
    clients: dict[str, Client] = {}
    try:
        for name, keyring in keyrings.items():
            clients[name] = Client(
                federation,
                name,
                build_model,
                training[name],
                keyring,
                folder / name,
                ledgers=ledgers,
                data_set=(data_sets or {}).get(name),
                device=device,
                loss=loss,
                task=task,
                physical_batch=physical_batch,
                simulation=Simulation(noise_key(seed)),
            )
        run = SimulatedRun(coordinator, clients, Traffic(dict.fromkeys(clients, 0), dict.fromkeys(clients, 0)), started)
        _check_budgets(federation, clients)
        begin(run)
        for _ in range(federation.rounds):
            exchange(run)
            run.note_clipped()
            observe(run)
        yield run
    finally:
        for client in clients.values():
            client.close()
        coordinator.stop()


def exchange(run: SimulatedRun) -> None:
    """One round. What passes between a client and the coordinator is bytes, counted here.

    In one process nobody forges a reply: one that is refused is a fault of the program, so it is raised (MessageError),
    once the round is over for all.
    """
    for refusal in drive(run.coordinator, _InProcess(run.clients, run.traffic)):
        raise refusal.reason


@dataclass(frozen=True)
class _InProcess:
    """Carries messages to clients in this process, and counts their bytes."""

    clients: Mapping[str, Client]
    traffic: Traffic

    def ask(self, name: str, message: bytes) -> bytes:
        reply = self.clients[name].handle(message)
        self.traffic.download[name] += len(message)
        self.traffic.upload[name] += len(reply)
        return reply


def _check_budgets(federation: Federation, clients: Mapping[str, Client]) -> None:
    """Where too few can pay for the last round, it would form no sum: say so before anything is spent."""
    able = [name for name, client in clients.items() if client.affords_run]
    if len(able) < federation.least_in_sum:
        raise BudgetError(
            f"{len(able)} of {len(clients)} hospitals have budget left for all {federation.rounds} rounds, and a sum "
            f"needs {federation.least_in_sum}, so the last rounds would form none: declare larger budgets "
            "([privacy] budget, or [sites.NAME] budget) or fewer rounds; the ledgers hold what earlier runs spent on "
            "the same records, whatever they were called (`securepfl audit ledgers` lists them)"
        )
