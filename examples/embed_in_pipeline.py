"""A hospital's own loop around the SDK: its own torch model, its own DataLoader, bytes in and bytes out."""

import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from securepfl import Client, Federation, Simulation, local_parties
from securepfl.protocol.rounds import drive


def build_model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1), nn.Flatten(0))


def loader_of(rows: int) -> DataLoader:
    return DataLoader(TensorDataset(x := torch.randn(rows, 4), (x.sum(dim=1) > 0).float()), batch_size=64)


class InProcess(dict[str, Client]):  # in the field: your socket, queue or folder
    def ask(self, name: str, message: bytes) -> bytes:
        return self[name].handle(message)  # contribute(message) or apply(message), as the message says


settings = {"rounds": 10, "model": {"kind": "own", "personal": ["2.*"]}, "training": {"learning_rate": 2.0}}
federation = Federation.from_mapping(settings).bound(("north", "south", "west"), build_model, units=40)
with tempfile.TemporaryDirectory() as folder:
    keyrings, coordinator = local_parties(federation)  # in the field, each party makes and keeps its own keys
    clients = {
        name: Client(federation, name, build_model, loader_of(400), keys, Path(folder, name), simulation=Simulation())
        for name, keys in keyrings.items()
    }
    for _ in range(federation.rounds):  # each: invite -> contribute -> close -> apply
        for refusal in drive(coordinator, InProcess(clients)):
            print(f"left out: {refusal.hospital}: {refusal.reason}")
    print("P(positive):", clients["north"].predict(torch.tensor([[1.0, 1, 1, 1], [-1, -1, -1, -1]])).round(3))
    print(f"spent: epsilon {clients['north'].ledger.spent():.3f} of {federation.budget_of('north'):g}")
