"""A world's federation in one process: what the same run over an engine is compared with.

    python -m loopback.local WORLD SEED

Keys, data and settings are the parties' own files, as are the folders. One line of JSON a round goes to stdout.
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from forked import python

from loopback.world import HUB, SEED, World
from securepfl import Client, Coordinator
from securepfl.protocol.rounds import drive
from securepfl.runtime.opening import open_client
from securepfl.runtime.opening_hub import open_coordinator


class Carrier:
    """Brings messages to the clients, and counts their bytes."""

    def __init__(self, clients: dict[str, Client]) -> None:
        self.clients, self.bytes = clients, 0

    def ask(self, name: str, message: bytes) -> bytes:
        reply = self.clients[name].handle(message)
        self.bytes += len(message) + len(reply)
        return reply


def run_locally(world: World, seed: int = SEED) -> list[dict]:
    """Run `world` to its end in a process of its own: each round's number, seconds, CPU seconds and bytes."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*python(), "-m", "loopback.local", world.root, str(seed)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    return list(map(json.loads, done.stdout.splitlines()[:-1]))


def opened(world: World, seed: int) -> tuple[Coordinator, dict[str, Client]]:
    clients = {
        name: open_client(
            world.federation,
            world.data(name),
            world.folder(name),
            world.passphrase(name).encode(),
            world.run(name),
            device="cpu",
            seed=seed,
        ).client
        for name in world.hospitals
    }
    secret = world.passphrase(HUB).encode()
    return open_coordinator(world.federation, world.folder(HUB), secret, world.run(HUB)), clients


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
