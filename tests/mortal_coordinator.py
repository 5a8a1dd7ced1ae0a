"""A run whose coordinator is killed (SIGKILL) at every step and at random moments, and started again on its folder.

The hospitals live in this process, the coordinator in one of its own (killed_coordinator.py). The run is seeded, so
that every hospital must end exactly where it ends in a run whose coordinator nobody kills.
"""

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
from forked import python
from killed_coordinator import FRAME, NUMBER, Words, receive, send
from parties import MODEL, NAMES, close_all, exchange, federation_of, rows_of

from securepfl.client.client import Client
from securepfl.client.run_kind import Simulation
from securepfl.coordinator.folder_store import FolderStore
from securepfl.crypto.keys.identity import PublicIdentity
from securepfl.crypto.messages.envelope import Header, Kind
from securepfl.errors import MessageError
from securepfl.protocol.rounds import drive
from securepfl.runtime.local import local_parties

ROOT, NOISE = b"r" * 32, b"n" * 32
TABLES = {"privacy": {"epsilon": 1e4, "budget": 1e6}}
MASKED = {"encryption": {"masking": "pairwise"}, "coupling": {"strength": 0.0}, "similarity": {"every": 0}}
RECEIVED = {
    Kind.CONTRIBUTION: "take contribution",
    Kind.AGREEMENT: "take signature",
    Kind.REVEAL: "take shares",
    Kind.RECEIPT: "take receipt",
}
MOMENTS = ("before", "stored", "random", "reply lost")
"""When a life ends: before its step, once that changed a file, at a random moment of it, or when its reply was written
and nobody got it.
"""


class KilledError(Exception):
    """The coordinator was killed before it replied, or its reply was lost."""


class Nursery:
    """The process that forks the coordinator's lives, on `folder`."""

    def __init__(self, folder: Path) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        script = Path(__file__).with_name("killed_coordinator.py")
        self._process = subprocess.Popen(
            [*python(), script, str(theirs.fileno()), folder],
            stdin=subprocess.PIPE,
            pass_fds=[theirs.fileno()],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        theirs.close()
        self._alive: int | None = None
        self.public = PublicIdentity.from_bytes(self._control.recv(2**16))

    def tell(self, words: Words) -> None:
        self._process.stdin.write(msgspec.msgpack.encode(words))
        self._process.stdin.close()

    def bear(self) -> tuple[int, socket.socket]:
        ours, theirs = socket.socketpair()
        socket.send_fds(self._control, [b"live"], [theirs.fileno()])
        theirs.close()
        (self._alive,) = NUMBER.unpack(self._control.recv(NUMBER.size))
        return self._alive, ours

    def status(self) -> int:
        """The exit status of the life that was born last, once it is dead."""
        self._alive = None
        return NUMBER.unpack(self._control.recv(NUMBER.size))[0]

    def close(self) -> None:
        if self._alive is not None:
            os.kill(self._alive, signal.SIGKILL)
        self._control.close()
        self._process.wait()


@dataclass
class Mortal:
    """The coordinator as a runtime sees it, a Hub for `drive`: it dies where `plans` says so, by (step, moment)."""

    nursery: Nursery
    folder: Path
    masked: bool
    plans: list[tuple[str, str]] = field(default_factory=list)
    draw: np.random.Generator = field(default_factory=np.random.default_rng)
    life: tuple[int, socket.socket] | None = None
    deaths: Counter = field(default_factory=Counter)
    left: int | None = None
    torn: int = 0
    seconds: dict[str, list[float]] = field(default_factory=dict)
    answers: dict[tuple[int, str], bytes] = field(default_factory=dict)
    begun: dict[int, bytes] = field(default_factory=dict)

    def owed(self):
        return self._noted(self._ask("owed"))

    def invite(self):
        messages = self._ask("invite")
        self.report()
        return messages

    def fix_survivors(self):
        return self._ask("fix_survivors")

    def unmask(self):
        return self._ask("unmask")

    def close(self):
        return self._noted(self._ask("close"))

    def settle(self):
        return self._ask("settle")

    @property
    def over(self):
        return self.report()["over"]

    @property
    def ended(self):
        return self.report()["ended"]

    @property
    def settled(self):
        return self.report()["settled"]

    def receive(self, message):
        return self._ask("receive", message, RECEIVED[Header.from_bytes(message).kind])

    def report(self):
        told = self._ask("report")
        if told["open"] is not None:
            assert self.begun.setdefault(told["open"], told["salt"]) == told["salt"], "a round has one salt"
        return told

    def stop(self) -> None:
        """An orderly end, if it lives."""
        if self.life is not None:
            self.life[1].close()
            assert self.nursery.status() == 0
            self.life = None

    def _noted(self, messages):
        """A hospital's answer to a round is the same bytes for ever."""
        for name, message in messages.items():
            assert self.answers.setdefault((Header.from_bytes(message).round, name), message) == message
        return messages

    def _ask(self, verb: str, body: bytes = b"", step: str = ""):
        step = step or verb
        if self.life is None:
            self._start()
        moment = self.plans[0][1] if self._is_due(step) else ""
        if moment == "before":
            raise self._kill(step, self._records(), "")
        before = self._records() if moment else ()
        marks = self._marks() if moment == "stored" else None
        send(self.life[1], [verb, body])
        if moment:
            self._wait(step, moment, marks)
            raise self._kill(step, before, moment)
        started = time.perf_counter()
        reply, error = receive(self.life[1])
        self.seconds.setdefault(step, []).append(time.perf_counter() - started)
        if error:
            raise MessageError(error)
        return reply

    def _is_due(self, step: str) -> bool:
        """Of messages of one kind any may be the one at which the coordinator dies."""
        if not self.plans or self.plans[0][0] != step:
            return False
        if self.left is None:
            self.left = int(self.draw.integers(len(NAMES))) if step.startswith("take") else 0
        self.left -= 1
        return self.left < 0

    def _start(self) -> None:
        self.life = self.nursery.bear()
        while self.plans and self.plans[0][0] == "start":
            before = self._records()
            time.sleep(self.draw.uniform(0, self._usual("start")))
            self._kill("start", before, "random")
            self.life = self.nursery.bear()
        started = time.perf_counter()
        assert receive(self.life[1]) == "ready"
        self.seconds.setdefault("start", []).append(time.perf_counter() - started)

    def _usual(self, step: str) -> float:
        return median(self.seconds.get(step, [0.005]))

    def _wait(self, step: str, moment: str, marks) -> None:
        """Until the planned moment of a step comes, or its reply."""
        link, started = self.life[1], time.perf_counter()
        if moment == "reply lost":
            select.select([link], [], [])
        elif moment == "random":
            select.select([link], [], [], self.draw.uniform(0, 1.2 * self._usual(step)))
        else:
            while self._marks() == marks and not select.select([link], [], [], 0)[0]:
                assert time.perf_counter() < started + 60
            time.sleep(self.draw.choice([0.0, self.draw.uniform(0, 0.004)]))

    def _kill(self, step: str, before: tuple, moment: str) -> KilledError:
        """SIGKILL; then the folder tells where that was."""
        (process, link), self.life = self.life, None
        os.kill(process, signal.SIGKILL)
        status = self.nursery.status()
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, "it died by itself"
        said = moment != "" and _said(link)
        link.close()
        after = self._records()
        assert after[: len(before)] == before or after[0] != before[0], "what lay on disk stays"
        where = "replied, reply lost" if said else "on disk, not said" if after != before else "nothing on disk yet"
        self.deaths[step, "before it" if moment == "" else where] += 1
        self.plans.pop(0)
        self.left = None
        return KilledError()

    def _marks(self) -> tuple:
        found = {}
        for path in self.folder.glob("*.journal"):
            with suppress(FileNotFoundError):  # the last round's goes when the next begins
                found[path.name] = path.stat().st_size
        return tuple(sorted(found.items()))

    def _records(self) -> tuple[bytes, ...]:
        """The round's records as a copy of the folder holds them."""
        if not self.folder.exists():
            return ()
        with TemporaryDirectory() as copied:
            copy = Path(copied) / "copy"
            shutil.copytree(self.folder, copy)
            sizes = {path: path.stat().st_size for path in copy.glob("round-*")}
            store = FolderStore(copy)
            found = tuple(map(msgspec.msgpack.encode, store.records()))
            store.close()
            self.torn += any(path.exists() and path.stat().st_size < size for path, size in sizes.items())
        return found


def _said(link: socket.socket) -> bool:
    """Whether a whole reply had left the process by its death."""
    data = b""
    with suppress(ConnectionResetError):
        while part := link.recv(2**20):
            data += part
    return len(data) >= FRAME.size and len(data) == FRAME.size + FRAME.unpack(data[: FRAME.size])[0]


@dataclass
class Carried:
    """Carries messages to the clients."""

    clients: dict

    def ask(self, name, message):
        return self.clients[name].handle(message)


def clients_of(federation, keyrings, folder):
    return {
        name: Client(
            federation, name, MODEL, rows_of(name), keyring, folder / name, device="cpu", simulation=Simulation(NOISE)
        )
        for name, keyring in keyrings.items()
    }


def plans_of(masked: bool, kills: int) -> list[tuple[str, str]]:
    """So many kills, at every step and moment in turn, in the order in which a round comes by."""
    steps = ["start", "invite", "take contribution"]
    steps += ["fix_survivors", "take signature", "unmask", "take shares"] if masked else []
    steps += ["close", "take receipt", "owed"]
    turns = range(-(-kills // len(steps)))
    planned = [(step, MOMENTS[(turn + place) % len(MOMENTS)]) for turn in turns for place, step in enumerate(steps)]
    return planned[:kills]


def run_to_the_end(mortal: Mortal, clients: dict, rounds: int) -> dict:
    """All rounds, through as many deaths as are planned; what the coordinator reports at last."""
    carrier = Carried(clients)
    while True:
        try:
            told = mortal.report()
            if told["closed"] < rounds:
                assert drive(mortal, carrier) == ()
                continue
            for name, answer in mortal.owed().items():
                mortal.receive(carrier.ask(name, answer))
            assert mortal.owed() == {}
            return mortal.report()
        except KilledError:
            continue


def check_same_end(calm: Client, found: Client, rounds: int) -> None:
    """No round was lost, none was spent twice or forgotten: state and budget are those of the undisturbed run."""
    assert found.round == calm.round == rounds and found.state.pending is None
    for name in ("shared", "personal", "residual", "compared", "aggregate", "average_personal"):
        np.testing.assert_array_equal(getattr(found.state, name), getattr(calm.state, name), err_msg=name)
    assert found.state.trajectory.keys() == calm.state.trajectory.keys()
    for name, part in calm.state.trajectory.items():
        np.testing.assert_array_equal(found.state.trajectory[name], part)
    assert found.ledger.spent() == calm.ledger.spent()
    lines = [json.loads(line) for line in found.ledger.path.read_text().splitlines()]
    reserved = {line["id"]: line["round"] for line in lines if line["kind"] == "reservation"}
    settled = [line["id"] for line in lines if line["kind"] == "settlement"]
    assert sorted(reserved.values()) == list(range(1, rounds + 1))
    assert sorted(settled) == sorted(reserved)


def trial(folder: Path, masked: bool, kills: int) -> Mortal:
    """A seeded run with so many kills beside one without."""
    plans = plans_of(masked, kills)
    rounds = 3 + sum(step == "close" for step, _ in plans)
    federation = federation_of(rounds=rounds, **TABLES, **(MASKED if masked else {}))
    keyrings, hub = local_parties(federation, ROOT)
    calm = clients_of(federation, keyrings, folder / "calm")
    for _ in range(rounds):
        exchange(hub, calm)
    nursery = Nursery(folder / "coordinator")
    try:
        key, people = keyrings[NAMES[0]].federation_key, hub.hospitals.values()
        nursery.tell(Words(federation.without_budgets(), [public.to_bytes() for public in people], key.commitment))
        mortal = Mortal(nursery, folder / "coordinator", masked, plans)
        theirs = {name: replace(keyring, coordinator=nursery.public) for name, keyring in keyrings.items()}
        clients = clients_of(federation, theirs, folder / "killed")
        told = run_to_the_end(mortal, clients, rounds)
        mortal.stop()
    finally:
        nursery.close()
    assert mortal.plans == [] and mortal.deaths.total() == kills
    assert len(set(mortal.begun.values())) == len(mortal.begun) == rounds, "every round a salt of its own"
    assert told["parts"] == hub.parts and told["evidence"] == 0
    for name in NAMES:
        check_same_end(calm[name], clients[name], rounds)
    close_all(calm)
    close_all(clients)
    return mortal


def table(mortal: Mortal) -> str:
    """The deaths by step and moment."""
    counts = "".join(f"{count:6d} {step}: {where}\n" for (step, where), count in sorted(mortal.deaths.items()))
    return (
        f"{'masked' if mortal.masked else 'unmasked'}: {mortal.deaths.total()} kills in {len(mortal.begun)} rounds, "
        f"0 rounds lost, 0 budgets wrong, torn tails cut {mortal.torn}\n{counts}"
    )
