"""All parties in one process: a simulation, and marked so. Still only bytes pass between them."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from securepfl.client import BuildModel, Client, Keyring, Simulation
from securepfl.coordinator import Coordinator
from securepfl.crypto.keys import FederationKey, Identity
from securepfl.data.tables import Table
from securepfl.errors import BudgetError
from securepfl.exchange import Layouts
from securepfl.federation import Federation
from securepfl.randomness import KEY_BYTES, derive_key
from securepfl.runtime.evaluation import compare_models, dataset_of
from securepfl.runtime.outcome import Communication, Observer, Outcome, RoundEvent, SiteOutcome


@dataclass(frozen=True)
class Hospital:
    """A simulated hospital's rows: training rows, and test rows that never train."""

    train: Table
    test: Table


@dataclass
class Traffic:
    """Bytes that each hospital sent and received so far."""

    upload: dict[str, int]
    download: dict[str, int]


def _seed_key(seed: int, purpose: str) -> bytes:
    """The 32-byte key from which a seeded simulation derives noise, rounding and support. No secret."""
    return derive_key(bytes(KEY_BYTES), "simulation", seed, purpose)


def _noise_key(seed: int | None) -> bytes | None:
    return None if seed is None else _seed_key(seed, "noise")


def simulate(
    federation: Federation,
    hospitals: Mapping[str, Hospital],
    build_model: BuildModel,
    folder: Path,
    *,
    ledgers: Path | None = None,
    seed: int | None = None,
    device: str = "auto",
    observe: Observer = lambda event: None,
) -> tuple[Outcome, dict[str, Client]]:
    """Run a bound federation to its end. Each party's state lies in `folder`/sites/NAME.

    `ledgers` holds NAME.jsonl for each hospital and outlives the run (default: `folder`/ledger). With `seed`,
    noise, rounding and support repeat: for simulation only, since whoever knows the seed can take the noise
    away. Returns the outcome and the clients, whose models are ready; close them.

    Raises BudgetError where too few hospitals have budget left for the first round.
    """
    started = time.perf_counter()
    coordinator, clients = _enrol(federation, hospitals, build_model, folder, ledgers, seed, device)
    with _closing_on_error(clients):
        traffic = Traffic(dict.fromkeys(clients, 0), dict.fromkeys(clients, 0))
        for number in range(1, federation.rounds + 1):
            _exchange(coordinator, clients, traffic)
            if number == 1:
                _check_budgets(federation, clients)
            observe(_event(federation, clients, traffic))
        metrics = {
            name: compare_models(clients[name], hospital.train, hospital.test, build_model, _noise_key(seed))
            for name, hospital in hospitals.items()
        }
        seconds = _seconds(coordinator, clients, time.perf_counter() - started)
        sites = {name: _site(clients[name], hospitals[name], metrics[name]) for name in hospitals}
        communication = _communication(federation, coordinator, clients, traffic)
        return Outcome(sites, communication, seconds, seed), clients


def local_parties(federation: Federation, root_key: bytes | None = None) -> tuple[dict[str, Keyring], Coordinator]:
    """Every hospital's keyring and the coordinator of a bound federation, made in this process.

    For simulations, tests and examples: in the field each party makes its own identity, and keys travel
    sealed. Here too the first hospital is the key steward and seals the federation key to each hospital.
    `root_key` fixes the support's and tags' seeds for a seeded simulation; encryption keys are the OS's always.
    """
    identities = {name: Identity.generate(name) for name in federation.roster}
    server = Identity.generate("coordinator")
    steward = identities[federation.roster[0]]
    needed = Layouts.of(federation).parameter_sets(federation)
    key = FederationKey.generate(needed, root_key=root_key)
    keyrings = {}
    for name, identity in identities.items():
        sealed = key.seal_for(identity.public, steward, federation.digest)
        opened = FederationKey.open(sealed, identity, steward.public, federation.digest)
        keyrings[name] = Keyring(identity, opened, server.public)
    public = {name: identity.public for name, identity in identities.items()}
    return keyrings, Coordinator(federation.without_budgets(), server, public, key.public_key)


def _enrol(
    federation: Federation,
    hospitals: Mapping[str, Hospital],
    build_model: BuildModel,
    folder: Path,
    ledgers: Path | None,
    seed: int | None,
    device: str,
) -> tuple[Coordinator, dict[str, Client]]:
    keyrings, coordinator = local_parties(federation, None if seed is None else _seed_key(seed, "federation"))
    clients: dict[str, Client] = {}
    with _closing_on_error(clients):
        for name, keyring in keyrings.items():
            clients[name] = Client(
                federation,
                name,
                build_model,
                dataset_of(hospitals[name].train),
                keyring,
                folder / "sites" / name,
                ledger=(ledgers or folder / "ledger") / f"{name}.jsonl",
                device=device,
                simulation=Simulation(_noise_key(seed)),
            )
    return coordinator, clients


@contextmanager
def _closing_on_error(clients: dict[str, Client]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for client in clients.values():
            client.close()
        raise


def _exchange(coordinator: Coordinator, clients: Mapping[str, Client], traffic: Traffic) -> None:
    """One round. What passes between a client and the coordinator is bytes, counted here."""
    for name, invitation in coordinator.invite().items():
        message = clients[name].contribute(invitation)
        coordinator.receive(message)
        traffic.download[name] += len(invitation)
        traffic.upload[name] += len(message)
    for name, answer in coordinator.close().items():
        clients[name].apply(answer)
        traffic.download[name] += len(answer)


def _check_budgets(federation: Federation, clients: Mapping[str, Client]) -> None:
    left = [name for name, client in clients.items() if not client.sat_out]
    if len(left) < federation.minimum:
        raise BudgetError(
            f"only {len(left)} hospital(s) have budget left for a round, a sum needs {federation.minimum}: raise "
            "[privacy] budget, use another ledger folder (--ledgers), or run a seeded simulation (--seed)"
        )


def _event(federation: Federation, clients: Mapping[str, Client], traffic: Traffic) -> RoundEvent:
    number = max(client.round for client in clients.values())
    return RoundEvent(
        round=number,
        rounds=federation.rounds,
        trained=tuple(name for name, client in clients.items() if number not in client.sat_out),
        epsilon={name: client.ledger.spent() for name, client in clients.items()},
        upload_bytes=dict(traffic.upload),
        download_bytes=dict(traffic.download),
    )


def _seconds(coordinator: Coordinator, clients: Mapping[str, Client], total: float) -> dict[str, float]:
    summed = {step: sum(client.seconds[step] for client in clients.values()) for step in ("train", "encrypt", "decrypt")}
    return {
        "train": summed["train"],
        "encrypt": summed["encrypt"],
        "aggregate": coordinator.seconds,
        "decrypt": summed["decrypt"],
        "total": total,
    }


def _communication(
    federation: Federation, coordinator: Coordinator, clients: Mapping[str, Client], traffic: Traffic
) -> Communication:
    if federation.shape is None:
        raise ValueError("federation is not bound to a model: call Federation.bound first")
    dense = 4 * federation.shape.shared * federation.rounds * len(clients)
    upload, download = sum(traffic.upload.values()), sum(traffic.download.values())
    parts = dict(coordinator.parts)
    return Communication(
        rounds=federation.rounds,
        upload_bytes=upload,
        download_bytes=download,
        float32_upload_bytes=dense,
        float32_download_bytes=dense,
        clipped_values=sum(client.clipped_values for client in clients.values()),
        parts=parts | {"envelopes": upload + download - sum(parts.values())},
    )


def _site(client: Client, hospital: Hospital, metrics: Mapping[str, Any]) -> SiteOutcome:
    return SiteOutcome(
        train=len(hospital.train.labels),
        test=len(hospital.test.labels),
        metrics=metrics,
        epsilon=client.ledger.spent(),
        epsilon_replace_one=client.ledger.spent_replace_one(),
        budget=client.federation.budget_of(client.name),
        sat_out=client.sat_out,
        similarity=client.similarity,
        notes=_notes(client, hospital),
    )


def _notes(client: Client, hospital: Hospital) -> tuple[str, ...]:
    """What the output must say about a hospital."""
    notes = []
    for part, table in (("training", hospital.train), ("test", hospital.test)):
        if len(set(table.labels.tolist())) < 2:
            notes.append(f"{client.name}: its {part} rows hold one class; metrics that need two are null")
    if client.sat_out:
        first, count = client.sat_out[0], len(client.sat_out)
        notes.append(f"{client.name}: sat out {count} round(s) from round {first}: its budget would have been exceeded")
    privacy = client.federation.privacy
    if privacy.delta > 1 / (10 * client.units):
        notes.append(
            f"{client.name}: delta {privacy.delta:g} is above 1/(10 n): n x delta = {privacy.delta * client.units:.3g} "
            f"for {client.units} training records"
        )
    patients = hospital.train.patients
    if patients is not None and len(set(patients.tolist())) < len(patients):
        notes.append(f"{client.name}: some patients have several records; epsilon is per record, not per patient")
    return tuple(notes)
