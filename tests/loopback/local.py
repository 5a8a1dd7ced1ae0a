"""A world's federation in one process: what the same run over an engine is compared with.

    python -m loopback.local WORLD SEED

Keys, data and settings are the parties' own files, as are the folders. One line of JSON a round goes to stdout.
"""

import json
import resource
import sys
import time
from pathlib import Path

from loopback.world import HUB, World
from securepfl import Client, Coordinator, Federation, load_coordinator, load_keyring
from securepfl.client.run_kind import Simulation
from securepfl.data.reading import read_columns, wanted_of
from securepfl.data.source import Source
from securepfl.data.split import split_table
from securepfl.data.tables import _table
from securepfl.protocol.rounds import drive
from securepfl.runtime.hospital import dataset_of
from securepfl.runtime.local import noise_key
from securepfl.settings.binding import built_in


class Carrier:
    """Brings messages to the clients, and counts their bytes."""

    def __init__(self, clients: dict[str, Client]) -> None:
        self.clients, self.bytes = clients, 0

    def ask(self, name: str, message: bytes) -> bytes:
        reply = self.clients[name].handle(message)
        self.bytes += len(message) + len(reply)
        return reply


def opened(world: World, seed: int) -> tuple[Coordinator, dict[str, Client]]:
    federation = Federation.read(world.federation)
    spec = federation.data_spec
    build = built_in(federation.model, spec)
    bound = federation.bound(world.hospitals, build)
    clients = {}
    for name in world.hospitals:
        path = world.data(name)
        table = _table(name, Source.of(path, read_columns(path, wanted_of(spec))), spec, labelled=True)
        clients[name] = Client(
            bound,
            name,
            build,
            dataset_of(split_table(table, spec.split)[0]),
            load_keyring(world.folder(name), world.passphrase(name)),
            world.run(name),
            simulation=Simulation(noise_key(seed)),
            device="cpu",
        )
    keys = load_coordinator(world.folder(HUB), world.passphrase(HUB))
    coordinator = Coordinator(
        bound.without_budgets(),
        keys.identity,
        keys.hospitals,
        key_commitment=keys.key_commitment,
        folder=world.run(HUB),
    )
    return coordinator, clients


def main() -> None:
    root, seed = Path(sys.argv[1]), int(sys.argv[2])
    hospitals = tuple(sorted(path.parent.name for path in root.glob("*/rows.csv")))
    coordinator, clients = opened(World(root, hospitals), seed)
    carrier = Carrier(clients)
    while coordinator.closed < coordinator.federation.rounds:
        started, cpu, before = time.perf_counter(), time.process_time(), carrier.bytes
        refused = drive(coordinator, carrier)
        if refused:
            raise refused[0].reason
        told = {
            "round": coordinator.closed,
            "seconds": time.perf_counter() - started,
            "cpu": time.process_time() - cpu,
            "bytes": carrier.bytes - before,
        }
        print(json.dumps(told), flush=True)
    for client in clients.values():
        client.close()
    coordinator.stop()
    print(json.dumps({"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}), flush=True)


if __name__ == "__main__":
    main()
