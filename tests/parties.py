"""A small federation for tests: real keys, real ciphertexts, real DP-SGD, few rows."""

from functools import partial
from zlib import crc32

import torch
from torch.utils.data import TensorDataset

from securepfl.client.client import Client
from securepfl.client.run_kind import Simulation
from securepfl.runtime.local import local_parties
from securepfl.settings.federation import Federation
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
    return Federation.from_mapping(defaults | tables).bound(names, MODEL)


def rows_of(name: str, count: int = 40) -> TensorDataset:
    generator = torch.Generator().manual_seed(crc32(name.encode()))
    x = torch.randn(count, FEATURES, generator=generator)
    return TensorDataset(x, (x[:, 0] + 0.3 * x[:, 1] > 0).float())


def parties(federation, folder, root_key=None, noise_key=None, *, rows=None, model=MODEL, **options):
    """(coordinator, clients by name); `noise_key` seeds the noise, `root_key` the support and tags."""
    keyrings, coordinator = local_parties(federation, root_key)
    clients = {
        name: Client(
            federation,
            name,
            model,
            rows_of(name) if rows is None else rows[name],
            keyring,
            folder / name,
            device="cpu",
            simulation=Simulation(noise_key),
            **options,
        )
        for name, keyring in keyrings.items()
    }
    return coordinator, clients


def exchange(coordinator, clients):
    """One round; returns (contributions, answers) by name."""
    sent = {name: clients[name].contribute(invitation) for name, invitation in coordinator.invite().items()}
    for message in sent.values():
        coordinator.receive(message)
    answers = coordinator.close()
    for name, answer in answers.items():
        clients[name].apply(answer)
    return sent, answers


def close_all(clients):
    for client in clients.values():
        client.close()
