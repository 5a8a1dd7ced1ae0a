"""A hospital's own loop around the SDK: its own torch model, its own DataLoader, three calls a round."""

import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from securepfl import Client, Federation, Simulation, local_parties


def build_model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1), nn.Flatten(0))


def loader_of(rows: int) -> DataLoader:
    x = torch.randn(rows, 4)
    return DataLoader(TensorDataset(x, (x.sum(dim=1) > 0).float()), batch_size=64)


settings = {"rounds": 10, "model": {"kind": "own", "personal": ["2.*"]}, "training": {"learning_rate": 2.0}}
federation = Federation.from_mapping(settings).bound(("north", "south", "west"), build_model)
with tempfile.TemporaryDirectory() as folder:
    keyrings, coordinator = local_parties(federation)  # in the field, each party makes and keeps its own keys
    clients = {
        name: Client(federation, name, build_model, loader_of(400), keys, Path(folder, name), simulation=Simulation())
        for name, keys in keyrings.items()
    }
    for _ in range(federation.rounds):
        for name, invitation in coordinator.invite().items():
            coordinator.receive(clients[name].contribute(invitation))
        for name, answer in coordinator.close().items():
            clients[name].apply(answer)
    print("P(positive):", clients["north"].predict(torch.tensor([[1.0, 1, 1, 1], [-1, -1, -1, -1]])).round(3))
    print(f"spent: epsilon {clients['north'].ledger.spent():.3f} of {federation.budget_of('north'):g}")
