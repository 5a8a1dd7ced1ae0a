"""A world's federation over HTTPS: a hub that serves, hospitals that join, each a process of its own."""

import re
from dataclasses import dataclass, field

from loopback.processes import Processes, free_port, until
from loopback.world import HUB, PROGRAM, SEED, World

START = 60.0
"""Seconds for a process to be up, on a machine that others use too."""


@dataclass
class Https:
    """Starts parties of `world`; the same again goes on in the same folders."""

    world: World
    processes: Processes
    seed: int | None = SEED
    deadline: float = 600.0
    port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def words(self, name: str, *options: object) -> list[object]:
        """The command that starts a party."""
        world = self.world
        folder = ("--folder", world.folder(name), "--out", world.run(name))
        secret = ("--passphrase-file", world.passphrase_file(name))
        if name == HUB:
            place = ("--host", "127.0.0.1", "--port", self.port, "--deadline", self.deadline)
            return [*PROGRAM, "serve", world.federation, *folder, *place, *secret, *options]
        noise = ("--ledgers", world.ledgers(name)) if self.seed is None else ("--seed", self.seed)
        where = ("--data", world.data(name), "--hub", self.url, "--device", "cpu")
        return [*PROGRAM, "join", world.federation, *where, *folder, *noise, *secret, *options]

    def start(self, name: str, *options: object, **environment: str) -> int:
        return self.processes.start(name, self.words(name, *options), **environment)

    def start_all(self) -> None:
        for name in (HUB, *self.world.hospitals):
            self.start(name)

    def serves(self) -> None:
        """Wait until the hub listens."""
        until(lambda: "serves" in self.processes.said(HUB), START, "the hub serves")

    def closed(self) -> int:
        """Rounds that the hub has closed, by its log."""
        found = re.findall(r"round (\d+): round over", self.processes.said(HUB))
        return max(map(int, found), default=0)

    def finish(self, seconds: float) -> None:
        """Wait until everybody has ended by itself, in order. Raises AssertionError with what was said where not."""
        for name in (*self.world.hospitals, HUB):
            code = self.processes.wait(name, seconds)
            if code:
                raise AssertionError(f"{name} ended with {code}:\n{self.processes.said(name)[-2000:]}")
