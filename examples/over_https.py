"""A hub and three hospitals over HTTPS on this machine, each in a thread, with the hospitals' own torch model.

In the field each is a process on a machine of its own: the hub calls `serve`, a hospital calls `join`, with what
`load_credentials(folder, passphrase)` reads after `securepfl keys certificate`.
"""

import queue
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from securepfl import Client, Federation, Simulation, local_parties
from securepfl.runtime.https import join, local_credentials, serve


def build_model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1), nn.Flatten(0))


def loader_of(rows: int) -> DataLoader:
    return DataLoader(TensorDataset(x := torch.randn(rows, 4), (x.sum(dim=1) > 0).float()), batch_size=64)


settings = {"rounds": 5, "model": {"kind": "own", "personal": ["2.*"]}, "training": {"learning_rate": 2.0}}
federation = Federation.from_mapping(settings).bound(("north", "south", "west"), build_model, units=40)
with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(4) as machines:
    keyrings, coordinator = local_parties(federation)  # in the field, each party makes and keeps its own keys
    hub, hospitals = local_credentials(coordinator)
    ports: queue.Queue[int] = queue.Queue()
    out = Path(folder, "hub")
    serving = machines.submit(serve, coordinator, hub, out, host="127.0.0.1", port=0, ready=ports.put)
    url = f"https://127.0.0.1:{ports.get(timeout=60)}"
    clients = {
        name: Client(federation, name, build_model, loader_of(400), keys, Path(folder, name), simulation=Simulation())
        for name, keys in keyrings.items()
    }
    parts = [machines.submit(join, client, url, hospitals[name], say=print) for name, client in clients.items()]
    print("the run is over:", all(part.result() for part in (*parts, serving)))
    print("P(positive):", clients["north"].predict(torch.tensor([[1.0, 1, 1, 1], [-1, -1, -1, -1]])).round(3))
