"""A small federation for tests: real keys, real ciphertexts, real DP-SGD, few rows."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from zlib import crc32

import msgspec
import pytest
import torch
from torch.utils.data import TensorDataset

from securepfl.client import parts
from securepfl.client.client import Client
from securepfl.client.run_kind import Simulation
from securepfl.client.state import ClientState
from securepfl.client.training import as_floats
from securepfl.crypto.messages.envelope import Header, Kind
from securepfl.learning.personal.partition import Partition
from securepfl.learning.sparse.support import choose_support
from securepfl.protocol.channels import SumChannel
from securepfl.protocol.rounds import drive
from securepfl.runtime.local import local_parties
from securepfl.settings.binding import initial_model
from securepfl.settings.federation import Federation
from securepfl.settings.fixed import EXPLORATION
from securepfl.tasks.models import build_model

FEATURES = 6
MODEL = partial(build_model, "mlp", FEATURES)
NAMES = ("alder", "birch", "cedar", "damson")


def federation_of(names=NAMES, **tables) -> Federation:
    defaults = {
        "rounds": 3,
        "model": {"personal": ["head.*"]},
        "sparsity": {"density": 0.5},
        "similarity": {"every": 1},
        "coupling": {"strength": 0.5},
        "release": {"experts": True},
    }
    return Federation.from_mapping(defaults | tables).bound(names, MODEL, units=40)


def rows_of(name: str, count: int = 40) -> TensorDataset:
    generator = torch.Generator().manual_seed(crc32(name.encode()))
    x = torch.randn(count, FEATURES, generator=generator)
    return TensorDataset(x, (x[:, 0] + 0.3 * x[:, 1] > 0).float())


SCANS = {}
scan_units = parts.scan_units


def scan_once(records, declared, task, model, loss, device, site, physical_batch, **options):
    """What the real scan finds, which takes more than half of making a client, and is the same for the same rows at the
    same start: one that fails, or looks at other than plain tensors, is made anew.
    """
    if type(records.dataset) is not TensorDataset:
        return scan_units(records, declared, task, model, loss, device, site, physical_batch, **options)
    numbers = (*records.dataset.tensors, *model.state_dict().values())
    told = tuple((one.dtype, one.shape, one.detach().cpu().numpy().tobytes()) for one in numbers)
    trained = tuple((name, one.requires_grad) for name, one in model.named_parameters())
    # Methods of two equal tasks are not equal themselves.
    own = loss.__func__ if getattr(loss, "__self__", None) == task else loss
    key = (told, trained, str(model), records.collate, records.unit, declared, task, own, device, site)
    key += (physical_batch, *options.items())
    if key not in SCANS:
        SCANS[key] = scan_units(records, declared, task, model, loss, device, site, physical_batch, **options)
    found = SCANS[key]
    return replace(found, records=replace(found.records, dataset=records.dataset))


@contextmanager
def scanned_once(model) -> Iterator[None]:
    """Within, hospitals of the same rows and the model of these tests are scanned once in a process."""
    with pytest.MonkeyPatch.context() as patch:
        if model is MODEL:
            patch.setattr(parts, "scan_units", scan_once)
        yield


def parties(federation, folder, root_key=None, noise_key=None, *, rows=None, tested=None, model=MODEL, **options):
    """(coordinator, clients by name); `noise_key` seeds the noise, `root_key` the support and tags. Each folder has
    ledgers of its own, so that runs beside one another do not share a budget."""
    if noise_key is None:
        options.setdefault("ledgers", folder / "ledgers")
    keyrings, coordinator = local_parties(federation, root_key)
    with scanned_once(model):
        clients = {
            name: Client(
                federation,
                name,
                model,
                rows_of(name) if rows is None else rows[name],
                keyring,
                folder / name,
                testing=None if tested is None else tested[name],
                device="cpu",
                simulation=Simulation(noise_key),
                **options,
            )
            for name, keyring in keyrings.items()
        }
    return coordinator, clients


def support_of(client, number):
    """The shared coordinates that travel in round `number`, which must be the next one."""
    state, sparsity = client.state, client.federation.sparsity
    return choose_support(
        state.aggregate,
        state.shared.size,
        density=sparsity.density,
        block=sparsity.block,
        exploration=EXPLORATION,
        key=client.session.key.support_key,
        round_number=number,
    )


def partition_of(client, model=MODEL):
    """What is shared and what is personal of the client's model."""
    settings = client.federation.model
    return Partition.of(initial_model(model, client.federation), settings.personal)


def start_of(client, model=MODEL):
    """The personal parameters at the public start, as a hospital holds them."""
    return as_floats(partition_of(client, model).flatten_personal(initial_model(model, client.federation)))


def channels_of(client):
    """The client's sums by kind."""
    return SumChannel.open(client.federation, client.session.key)


@dataclass
class Carried:
    """Carries messages to the clients; keeps (receiver, message, reply) in order. Those who are `away` get nothing, and
    `swap(name, reply)` may alter what a client sends.
    """

    clients: Mapping[str, Client]
    away: Collection[str] = ()
    swap: Callable[[str, bytes], bytes] = lambda name, reply: reply
    asked: list[tuple[str, bytes, bytes]] = field(default_factory=list)

    def ask(self, name, message):
        reply = b"" if name in self.away else self.swap(name, self.clients[name].handle(message))
        self.asked.append((name, message, reply))
        return reply

    def messages(self, kind):
        """The coordinator's messages of one kind by receiver."""
        return {name: message for name, message, _ in self.asked if Header.from_bytes(message).kind == kind}

    def replies(self, kind):
        """What was replied to them by sender."""
        return {name: reply for name, message, reply in self.asked if Header.from_bytes(message).kind == kind}


def exchange(coordinator, clients):
    """One round; returns (contributions, answers) by name."""
    carried = Carried(clients)
    assert drive(coordinator, carried) == ()
    return carried.replies(Kind.INVITATION), carried.messages(Kind.ANSWER)


def reopened(client, rows=None, testing=None, **changes):
    """The client after a restart; some fields of the state in its folder are set before, as by whoever edits it."""
    client.close()
    if changes:
        path = client.folder / "state.safetensors"
        state = ClientState.load(path, client.federation.digest.hex())
        msgspec.structs.replace(state, **changes).save(path)
    with scanned_once(MODEL):
        return Client(
            client.federation,
            client.name,
            MODEL,
            rows_of(client.name) if rows is None else rows,
            client.session.keyring,
            client.folder,
            testing=testing,
            ledgers=client.ledger.path.parent.parent,
            device="cpu",
            simulation=Simulation(client.session.noise_key),
        )


def close_all(clients):
    for client in clients.values():
        client.close()
