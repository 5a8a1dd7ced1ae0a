"""A hub and hospitals as processes of one machine over NVFlare: real kits, real agents, real kills."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from enrolled import World, enrol_all
from ports import free_port

from securepfl.runtime.nvflare import ceremony

HOSPITALS = ("alder", "birch", "cedar", "damson")


def world_with_kits(root: Path, *, rounds: int, scheme: str = "tcp") -> World:
    """An enrolled federation whose parties have taken all four steps."""
    world, exchange = enrol_all(root, rounds=rounds, names=HOSPITALS), root / "exchange"
    exchange.mkdir()
    ceremony.init(world.holdings("hub"), world.folder("hub"), exchange, "localhost", free_port(), scheme)
    for name in world.names:
        ceremony.request(world.holdings(name), world.folder(name), exchange)
    assert ceremony.approve(world.holdings("hub"), world.folder("hub"), exchange)[-1] == "complete"
    for name in world.names:
        ceremony.install(world.holdings(name), world.folder(name), exchange, socket_of(world, name))
    return world


def socket_of(world: World, name: str) -> Path:
    return world.folder(name) / "agent.sock"


class Lab:
    """Starts and ends the processes of a world, each by its id."""

    def __init__(self, world: World, logs: Path, *, seed: int = 7) -> None:
        self.world, self.logs, self.seed = world, logs, seed
        self.running: dict[str, subprocess.Popen] = {}
        logs.mkdir(exist_ok=True)

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        for what in list(self.running):
            self.kill(what)

    def start(self, what: str, *arguments: object) -> subprocess.Popen:
        command = [sys.executable, "-m", "securepfl", *map(str, arguments)]
        with (self.logs / f"{what}.log").open("ab") as log:
            self.running[what] = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
        return self.running[what]

    def engine(self, name: str) -> subprocess.Popen:
        """The server (hub) or a site."""
        return self.start(f"engine-{name}", "machines", "nvflare", "start", "--folder", self.world.folder(name))

    def agent(self, name: str) -> subprocess.Popen:
        world = self.world
        places = ("--data", world.data(name), "--folder", world.folder(name), "--out", world.out(name))
        options = ("--socket", socket_of(world, name), "--passphrase-file", world.secret)
        return self.start(f"agent-{name}", "agent", world.config, *places, *options, "--seed", self.seed)

    def supervisor(self, *options: object) -> subprocess.Popen:
        world = self.world
        places = ("--folder", world.folder("hub"), "--out", world.out("hub"), "--passphrase-file", world.secret)
        return self.start("supervisor", "machines", "nvflare", "run", world.config, *places, *options)

    def everything(self, *options: object) -> None:
        for name in self.world.names:
            self.agent(name)
        for name in ("hub", *self.world.names):
            self.engine(name)
        self.supervisor(*options)

    def job_processes(self, name: str) -> list[int]:
        """The processes below a server or a site: those of its job."""
        parent = self.running[f"engine-{name}"].pid
        return [pid for pid in children(parent) if b"nvflare" in command_of(pid)]

    def kill(self, what: str, number: int = signal.SIGKILL) -> None:
        """End one process of ours. Job processes below it see that it went, and end by themselves."""
        process = self.running.pop(what)
        process.send_signal(number)
        process.wait(30)

    def kill_job_process(self, name: str) -> None:
        """The process of the running job below a server or a site."""
        below = self.job_processes(name)
        assert below, f"{name} runs no job process"
        os.kill(below[-1], signal.SIGKILL)

    def logged(self, event: str) -> list[dict]:
        """What the hub logged under this name."""
        path = self.world.out("hub") / "log.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [entry for entry in map(json.loads, lines) if entry["event"] == event]

    def closed(self) -> int:
        """Rounds that are over."""
        return max((entry["round"] for entry in self.logged("round over")), default=0)

    def reach(self, closed: int, seconds: float = 180.0) -> float:
        """Wait until so many rounds are over: the seconds that it took."""
        began = time.monotonic()
        reached = until(lambda: self.closed() >= closed, seconds)
        said = self.logs / "supervisor.log"
        assert reached, f"{self.closed()} of {closed} rounds; the supervisor: {said.read_text()[-2000:]}"
        return time.monotonic() - began


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in task.read_text().split()]
    return found


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def until(condition, seconds: float, step: float = 0.2) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(step)
    return False
