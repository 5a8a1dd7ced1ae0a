"""All parties in one process: a simulation, and marked so. Still only bytes pass between them."""

import itertools
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from torch.utils.data import DataLoader, Dataset

from securepfl.client.client import Client
from securepfl.client.identities import KnownAs
from securepfl.client.parts import BuildModel
from securepfl.client.records import Loss
from securepfl.client.run_kind import Simulation
from securepfl.coordinator.coordinator import Coordinator
from securepfl.crypto.keys.keys import Keyring
from securepfl.crypto.messages.envelope import Kind
from securepfl.errors import (
    ConfigError,
    HospitalNote,
    MessageError,
    SecurePFLError,
    StorageError,
    first_line,
)
from securepfl.protocol.hospital import Exchanged
from securepfl.protocol.hospital import exchange as exchanged
from securepfl.protocol.loop import Patience, RoundLoop
from securepfl.protocol.rounds import Refusal, left_over, receive
from securepfl.randomness import KEY_BYTES, derive_key
from securepfl.runtime.simulated_keys import SimulatedKeys
from securepfl.runtime.spending import check_budgets
from securepfl.runtime.traffic import Failure, Traffic
from securepfl.settings.federation import Federation
from securepfl.storage.folder import write_bytes
from securepfl.tasks.task import Task

TrainingSets = Mapping[str, DataLoader[Any] | Dataset[Any]]

TRACEBACK: Final = "failure.txt"
"""In a hospital's folder: the traceback of its last failure. It may hold private values."""

_A_PASS: Final = Patience(1.0)
"""A step waits one pass over all hospitals: the loop's clock counts passes."""


@dataclass(frozen=True)
class SimulatedRun:
    """A simulation's parties after (or between) rounds, what travelled, and the seconds since it began. `check` is
    called after each failure of a hospital, and may raise.
    """

    coordinator: Coordinator
    clients: Mapping[str, Client]
    traffic: Traffic
    started: float
    check: Callable[[], None] = field(default=lambda: None, repr=False)

    @property
    def round(self) -> int:
        """The last round that is over."""
        return self.coordinator.closed

    @property
    def failed(self) -> tuple[str, ...]:
        """The hospitals that failed in the last round that is over."""
        return tuple({its.hospital: None for its in self.traffic.failures if its.round == self.round})

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of all hospitals' training, encryption and decryption, of the coordinator, and in total; of earlier
        processes too, where the run was resumed.
        """
        steps = ("train", "encrypt", "decrypt")
        summed = {step: sum(client.seconds[step] for client in self.clients.values()) for step in steps}
        aggregate, total = self.coordinator.seconds, time.perf_counter() - self.started
        ordered = {"train": summed["train"], "encrypt": summed["encrypt"], "aggregate": aggregate}
        ordered |= {"decrypt": summed["decrypt"], "total": total}
        return {step: spent + self.traffic.before.get(step, 0.0) for step, spent in ordered.items()}

    def note(self, name: str, error: Exception) -> None:
        """Tell that hospital `name` failed. Its traceback lies in its folder: what a model of one's own raises may
        quote private values, which no note holds.
        """
        number = self.coordinator.number
        self.traffic.fail(Failure(number, name, _reason(error)))
        with suppress(StorageError):
            write_bytes(self.clients[name].folder / TRACEBACK, "".join(traceback.format_exception(error)).encode())
        warnings.warn(
            f"round {number}: {name} failed and is left out until the next ({_reason(error)}; "
            f"{self.clients[name].folder / TRACEBACK} has the traceback)",
            HospitalNote,
            stacklevel=2,
        )


def _reason(error: Exception) -> str:
    """Why a hospital failed, without anything of its data: only our own messages are known to hold none."""
    if isinstance(error, SecurePFLError):
        return first_line(error)
    return f"{type(error).__name__}: {error.strerror}" if isinstance(error, OSError) else type(error).__name__


def noise_key(seed: int | None) -> bytes | None:
    """The key from which a seeded simulation derives its noise and rounding. No secret; None without a seed."""
    return None if seed is None else _seed_key(seed, "noise")


def _seed_key(seed: int, purpose: str) -> bytes:
    return derive_key(bytes(KEY_BYTES), "simulation", seed, purpose)


def root_key_of(seed: int | None) -> bytes | None:
    """The key from which a seeded simulation derives its support and tags. No secret; None without a seed."""
    return None if seed is None else _seed_key(seed, "federation")


def local_parties(
    federation: Federation, root_key: bytes | None = None, folder: Path | None = None, keys: SimulatedKeys | None = None
) -> tuple[dict[str, Keyring], Coordinator]:
    """Every hospital's keyring and the coordinator of a bound federation, made in this process.

    For simulations, tests and examples: in the field each party makes its own identity, and keys travel sealed
    (`securepfl keys`). `root_key` fixes the support's and tags' seeds for a seeded simulation; encryption keys are
    always the OS's. `folder` is the coordinator's; None keeps its state in memory. `keys` are those of an earlier
    process that used the folder; None makes new ones.

    >>> from torch import nn
    >>> settings = {"model": {"kind": "own"}, "encryption": {"scheme": "none"}}
    >>> bound = Federation.from_mapping(settings).bound(("north", "south", "west"), lambda: nn.Linear(4, 1), units=4)
    >>> keyrings, coordinator = local_parties(bound)
    >>> sorted(keyrings) == sorted(coordinator.hospitals)
    True
    """
    if not federation.roster:
        raise ConfigError("the federation is not bound to hospitals yet; call Federation.bound first")
    keys = keys or SimulatedKeys.generate(federation, root_key)
    keyrings = keys.keyrings()
    coordinator = Coordinator(
        federation.without_budgets(),
        keys.coordinator,
        next(iter(keyrings.values())).hospitals,
        key_commitment=keys.key.commitment,
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
    testing: TrainingSets | None = None,
    ledgers: Path | None = None,
    data_sets: Mapping[str, str | KnownAs] | None = None,
    coordinator_folder: Path | None = None,
    seed: int | None = None,
    device: str = "auto",
    loss: Loss | None = None,
    task: str | Task | None = None,
    physical_batch: int | None = None,
    keys: SimulatedKeys | None = None,
    counts: Path | None = None,
    check: Callable[[], None] = lambda: None,
    begin: Callable[[SimulatedRun], None] = lambda run: None,
    observe: Callable[[SimulatedRun], None] = lambda run: None,
) -> Iterator[SimulatedRun]:
    """Run a bound federation to its last round and yield its parties, which are closed afterwards.

    `training` holds each hospital's DataLoader or Dataset, `testing` what it held out where metrics are released.
    State lies in `folder`/NAME; `ledgers`/NAME.jsonl
    (default: `folder`/NAME/ledger.jsonl) outlive the run. The coordinator's state lies in `coordinator_folder`, None
    keeps it in memory. `begin` is called before the first round, `observe` after every one. A hospital that fails is
    left out of the step, warned of (HospitalNote), and asked again in the next round; then `check` is called. `loss`,
    `task` and `physical_batch`: as in Client. With `seed`, noise, rounding and support repeat: for simulation only,
    since whoever knows the seed can subtract the noise.

    To go on with a run whose process ended, hand in what it had: all folders, `coordinator_folder` and the `counts`
    (a file, see Traffic.kept) included, the data, and its `keys`.

    Raises ConfigError where `training` doesn't fit the roster, and BudgetError, before anything is spent, where too
    few hospitals have budget for all rounds. Where more hospitals fail than a sum can miss, it raises what the first of
    them did.

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
    keyrings, coordinator = local_parties(federation, root_key_of(seed), coordinator_folder, keys)
    clients: dict[str, Client] = {}
    traffic = Traffic()
    try:
        traffic = Traffic.of(keyrings) if counts is None else Traffic.kept(counts, keyrings)
        for name, keyring in keyrings.items():
            clients[name] = Client(
                federation,
                name,
                build_model,
                training[name],
                keyring,
                folder / name,
                testing=(testing or {}).get(name),
                ledgers=ledgers,
                data_set=(data_sets or {}).get(name),
                device=device,
                loss=loss,
                task=task,
                physical_batch=physical_batch,
                simulation=Simulation(noise_key(seed)),
            )
        run = SimulatedRun(coordinator, clients, traffic, started, check)
        check_budgets(federation, clients)
        begin(run)
        for _ in run_rounds(run):
            observe(run)
        yield run
    finally:
        for client in clients.values():
            client.close()
        coordinator.stop()
        traffic.close()


def run_rounds(run: SimulatedRun) -> Iterator[int]:
    """Run the rounds that are left, one at a time, to the last: their numbers. Raises what `exchange` raises."""
    if run.coordinator.closed:  # the process before may have ended while its last answers went out
        _settle(run)
    while run.round < run.coordinator.rounds:
        exchange(run)
        yield run.round


def exchange(run: SimulatedRun) -> None:
    """One round. What passes between a client and the coordinator is bytes, counted here.

    Whatever a hospital raises leaves it out of the step, and the round goes on for the others; the next round asks it
    again. Where more fail than a sum can miss, what the first of them raised is raised, before more is spent. In one
    process nobody forges a reply: one that the coordinator refuses is a fault of the program, so it is raised
    (MessageError), once the round is over for all; and so is why a run has ended before its last round.
    """
    if run.coordinator.ended:
        raise MessageError(run.coordinator.ended)
    hub, failed = run.coordinator, dict[str, Exception]()
    loop = RoundLoop(hub, _A_PASS, until=hub.closed + 1)
    for name, client in run.clients.items():
        loop.here(name, client.round)
    for passes in itertools.count():
        run.traffic.sync()
        loop.tick(passes)
        if loop.between:
            break
        for name in run.clients:
            _visit(run, loop, name, failed)
    run.traffic.over(run.round, run.seconds)
    for refusal in loop.refused:
        raise refusal.reason


def _settle(run: SimulatedRun) -> None:
    """Carry what is owed of the last round that is over, and begin no other."""
    hub, refused = run.coordinator, list[Refusal]()
    for asked in left_over(hub):
        for name, message in asked.items():
            done = _carry(run, name, [message])
            refused += filter(None, (receive(hub, name, reply) for reply in done.replies))
            if done.failed is not None:
                run.note(name, done.failed)
    for refusal in refused:
        raise refusal.reason


def _visit(run: SimulatedRun, loop: RoundLoop, name: str, failed: dict[str, Exception]) -> None:
    """Carry to one hospital what it is to be told, and back what it replies. `failed` are those that failed so far."""
    hub, told = run.coordinator, loop.next(name)
    if not told:
        return
    done = _carry(run, name, [message for _, message in told])
    loop.took(name, done.at, done.replies, told=told)
    if done.failed is None:
        return
    failed.setdefault(name, done.failed)
    left = len(hub.roster) - len(failed)
    if loop.kind == Kind.INVITATION:
        left = min(left, len(hub.contributed) + len(loop.waiting))
    if left < hub.least:
        raise next(iter(failed.values()))
    run.note(name, done.failed)


def _carry(run: SimulatedRun, name: str, messages: list[bytes]) -> Exchanged:
    done = exchanged(run.clients[name], messages)
    for message in messages:
        run.traffic.count("download", name, message)
    for reply in done.replies:
        run.traffic.count("upload", name, reply)
    if done.failed is not None:
        run.check()
    return done
