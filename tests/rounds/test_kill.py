"""A hospital killed (SIGKILL) at random moments of a run, and started again on its folder each time.

The others and the coordinator live in this process, the victim in one of its own (killed_party.py), unseeded and no
simulation. After every death the driver reads what lies on disk and compares it with what it received itself.
benchmarks/kill.py does the same at length.
"""

import fcntl
import hashlib
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from forked import python
from killed_party import DONE, FRAME, NUMBER, READY, REFUSED, VERBS, receive, send
from parties import MODEL, NAMES, federation_of, rows_of

from securepfl.client.client import Client
from securepfl.client.pinning import with_pin
from securepfl.client.state import ClientState
from securepfl.coordinator.coordinator import Coordinator
from securepfl.crypto.keys.holdings import Epoch, Holdings
from securepfl.crypto.keys.keys import FederationKey, Identity, Keyring
from securepfl.crypto.keys.signing import LedgerSigner
from securepfl.privacy.accounting.accounting import Release, epsilon
from securepfl.privacy.accounting.calibration import noise_multiplier_for
from securepfl.privacy.ledger.summary import verify_ledger
from securepfl.randomness import fresh_key
from securepfl.settings.federation import Federation
from securepfl.storage.folder import lock_folder
from securepfl.storage.keys import KeyFolder

VICTIM = "birch"
OTHERS = tuple(name for name in NAMES if name != VICTIM)
PHRASE = "five words drawn at random"
KILLS = 20
KILLS_A_ROUND = 2
MASKED = {"encryption": {"masking": "pairwise"}, "coupling": {"strength": 0.0}, "similarity": {"every": 0}}


class KilledError(Exception):
    """The victim was killed before it replied."""


class RefusedError(Exception):
    """The victim's one-line error."""


class Nursery:
    """The process that forks the victim's lives."""

    def __init__(self, keys: Path, settings: dict) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        script, threads = Path(__file__).parents[1] / "killed_party.py", {"OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [*python(), script, str(theirs.fileno()), keys, json.dumps(settings)],
            stdin=subprocess.PIPE,
            pass_fds=[theirs.fileno()],
            env=os.environ | threads,
        )
        theirs.close()
        self._alive: int | None = None
        self._process.stdin.write(PHRASE.encode() + b"\n")
        self._process.stdin.close()

    def bear(self, words: dict) -> tuple[int, socket.socket]:
        ours, theirs = socket.socketpair()
        socket.send_fds(self._control, [json.dumps(words).encode()], [theirs.fileno()])
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
class Plan:
    """When a life ends: after `seconds` of the victim's own time. Where `step` is named, they count from its begin,
    and where `file` is too, from when that file changes in it; where that is "reply", it ends once its reply is read.
    """

    seconds: float
    step: str = ""
    file: str = ""


@dataclass
class Life:
    process: int
    link: socket.socket
    plan: Plan | None
    ready: bool = False
    doing: str = ""


@dataclass
class Victim:
    """The victim of one run as the driver sees it: what it was told, what it sent, how it died.

    `sent` holds by round the bytes that left it, `again` the rounds that it reserved and was killed in before it stored
    a message, which it makes again, `before` how many rounds earlier runs released, `phases` the deaths.
    """

    nursery: Nursery
    federation: Federation
    keyring: Keyring
    folder: Path
    ledger: Path
    coordinator: Coordinator
    before: int = 0
    draw: np.random.Generator = field(default_factory=np.random.default_rng)
    life: Life | None = None
    number: int = 0
    kills_due: int = 0
    asked: list[tuple[str, bytes]] = field(default_factory=list)
    invited: list[bytes] = field(default_factory=list)
    sent: dict[int, bytes] = field(default_factory=dict)
    again: set[int] = field(default_factory=set)
    phases: Counter = field(default_factory=Counter)
    sent_again: int = 0
    unfinished: int = 0
    epsilon: float = 0.0
    verified: bytes = b""
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.session = self.coordinator.rules.session.hex()
        self.state_file = self.folder / "state.safetensors"
        self.files = {"ledger": self.ledger, "state": self.state_file}
        self.round_release = release_of(self.federation, 1)
        self.steps = (
            ["contribute", "sign_survivors", "reveal", "apply"] if self.federation.masked else ["contribute", "apply"]
        )
        self.kinds = itertools.cycle(("file", "reply", "step", "all"))
        self.restarts, self.replies = itertools.cycle(("step", "all")), itertools.cycle(self.steps)
        self.changes = itertools.cycle([("contribute", "ledger"), *((step, "state") for step in self.steps)])

    # What a runtime would do: hand messages over, and after a death all of the round's again.

    def begin(self, number: int, kills: int) -> None:
        self.number, self.kills_due, self.asked = number, kills, []
        if kills and number:
            if self.life is None:
                self._start(None)
            self.life.plan = self._plan(from_start=False)

    def ask(self, verb: str, message: bytes) -> bytes:
        """The victim's reply, through as many deaths as it takes."""
        while True:
            try:
                if self.life is None and self._live():
                    return b""
                reply = self._say(verb, message)
            except KilledError:
                continue
            self.asked.append((verb, message))
            return reply

    def end(self) -> None:
        """The kills that are left fall between the rounds, or at a start."""
        self.asked = []
        while self.kills_due:
            try:
                if self.life is None:
                    self._start(Plan(self.draw.uniform(0, self._usual("start"))))
                self._kill()
            except KilledError:
                continue

    def report(self) -> dict:
        if self.life is None:
            self._live()
        return json.loads(self._say("report", b""))

    def stop(self) -> None:
        """An orderly end, if it lives."""
        if self.life is not None:
            self.life.link.close()
            assert self.nursery.status() == 0
            self.life = None

    def _live(self) -> bool:
        """Start again and hand over what this round brought so far; whether the round turns out to be over."""
        told = self._start(self._plan() if self.kills_due else None)
        if self.asked and told["round"] == self.number:
            self._check_refuses_old(self.asked[0][1])
            return True
        for verb, message in self.asked:
            self._say(verb, message)
        return False

    def _check_refuses_old(self, invitation: bytes) -> None:
        """KilledError after its last step was stored: the old invitation must not bring new noise."""
        size = self.ledger.stat().st_size
        with pytest.raises(RefusedError):
            self._say("contribute", invitation)
        assert self.ledger.stat().st_size == size

    # Life and death.

    def _plan(self, *, from_start: bool = True) -> Plan:
        """In turn: after a file changed, after a reply, in a random step, uniform over all that the life has to do.

        The first two hit the same moments on any machine, however busy; they need a life that has started.
        """
        kind = next(self.restarts if from_start else self.kinds)
        if kind == "file":
            return Plan(self.draw.uniform(0, 0.003), *next(self.changes))
        if kind == "reply":
            return Plan(0.0, next(self.replies), "reply")
        steps = ["start"] * from_start + self.steps
        if kind == "step":
            step = str(self.draw.choice(steps))
            return Plan(self.draw.uniform(0, self._usual(self._timed_as(step))), step)
        return Plan(self.draw.uniform(0, sum(self._usual(self._timed_as(step)) for step in steps)))

    def _timed_as(self, step: str) -> str:
        return "contribute again" if step == "contribute" and self.number in self.sent else step

    def _usual(self, step: str) -> float:
        """Seconds that `step` takes."""
        return median(self.seconds.get(step, [0.002]))

    def _start(self, plan: Plan | None) -> dict:
        places = {"folder": str(self.folder), "ledgers": str(self.ledger.parent.parent)}
        words = {"epoch": self.keyring.federation_key.epoch, **places}
        self.life = Life(*self.nursery.bear(words), plan)
        kind, body = self._wait("start")
        if kind == REFUSED:
            self.stop()
            raise RefusedError(body.decode())
        assert kind == READY
        self.life.ready = True
        self._check_ledger()
        return json.loads(body)

    def _say(self, verb: str, message: bytes) -> bytes:
        self.life.doing = verb
        send(self.life.link, VERBS[verb], message)
        kind, reply = self._wait(verb)
        self.life.doing = ""
        if kind == REFUSED:
            raise RefusedError(reply.decode())
        assert kind == DONE
        self._note(verb, reply)
        plan = self.life.plan
        if plan is not None and (plan.step, plan.file) == (verb, "reply"):
            raise self._kill()
        return reply

    def _wait(self, step: str) -> tuple[bytes, bytes]:
        """The next frame. Raises KilledError where the life's planned moment comes before it."""
        life, plan, timed_as, started = self.life, self.life.plan, self._timed_as(step), time.perf_counter()
        counting = started if plan is not None and plan.step in ("", step) and not plan.file else None
        watched = self.files.get(plan.file) if plan is not None and plan.step == step else None
        marks = None if watched is None else _marks(watched)
        while True:
            left = None if counting is None else counting + plan.seconds - time.perf_counter()
            if left is not None and left <= 0:
                raise self._kill()
            if select.select([life.link], [], [], 1e-4 if watched is not None and left is None else left)[0]:
                frame, now = receive(life.link), time.perf_counter()
                if counting is not None:
                    plan.seconds -= now - counting
                self.seconds.setdefault(timed_as, []).append(now - started)
                return frame
            if counting is None and watched is not None and _marks(watched) != marks:
                counting, plan.step, plan.file = time.perf_counter(), "", ""

    def _kill(self) -> KilledError:
        """SIGKILL; then what lies on disk must agree with what was received."""
        life, self.life = self.life, None
        os.kill(life.process, signal.SIGKILL)
        status = self.nursery.status()
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, "it died by itself"
        self.kills_due -= 1
        left = self._drain(life)
        self.phases[self._phase(life, left)] += 1
        self._check_dead_ledger()
        self._check_stored()
        return KilledError()

    def _drain(self, life: Life) -> bool:
        """Whether a reply had left the process by its death; it counts as sent."""
        data = _rest(life.link)
        if len(data) < FRAME.size or not life.doing:
            return bool(data)
        kind, size = FRAME.unpack(data[: FRAME.size])
        assert kind == DONE and size == len(data) - FRAME.size
        self._note(life.doing, data[FRAME.size :])
        return True

    def _note(self, verb: str, reply: bytes) -> None:
        """A round's contribution leaves the process once; ever after it is these bytes."""
        if verb == "contribute":
            self.sent_again += self.number in self.sent
            assert self.sent.setdefault(self.number, reply) == reply

    # What lies on disk.

    def _lines(self) -> list[dict]:
        data = self.ledger.read_bytes() if self.ledger.exists() else b""
        return [json.loads(line) for line in data.split(b"\n")[:-1]]

    def state(self) -> ClientState:
        """Raises StorageError where it is torn."""
        return with_pin(ClientState.load(self.state_file, self.federation.digest.hex()), self.folder)

    def _phase(self, life: Life, left: bool) -> str:
        """Where the life ended, as its folder tells."""
        if not life.ready:
            return "start: " + ("state stored or read" if self.state_file.exists() and self.state() else "no state yet")
        state = self.state()
        if not life.doing:
            return "between messages"
        return f"{life.doing}: " + ("sent" if left else self._phase_of(life.doing, state))

    def _phase_of(self, step: str, state: ClientState) -> str:
        """Where a step ended whose reply did not leave."""
        if step == "contribute":
            return self._contribution_phase(state)
        if state.round == self.number:
            return "stored, not said"
        marks = {
            "sign_survivors": state.pending.agreed,
            "reveal": state.pending.revealed,
            "apply": state.pending.answer,
        }
        if step == "apply":
            return "answer pinned" if marks[step] else "nothing stored"
        return "stored, not sent" if marks[step] else "not stored"

    def _contribution_phase(self, state: ClientState) -> str:
        if self.number in self.sent:
            return "sent before, not yet again"
        reserved = [line for line in self._lines() if line["kind"] == "reservation" and self._is_ours(line)]
        if state.pending is None and reserved:
            self.again.add(self.number)
            return "reserved, not stored"
        if state.pending is None:
            return "not reserved"
        if not state.pending.trained:
            return "refusal stored, not sent"
        settled = {line["id"] for line in self._lines() if line["kind"] == "settlement"}
        return "settled, not sent" if reserved[0]["id"] in settled else "stored, not settled"

    def _is_ours(self, line: dict) -> bool:
        return (line["federation"], line["round"]) == (self.session, self.number)

    def spent(self, rounds: int) -> float:
        """Epsilon of so many rounds, from the driver's own knowledge of the noise."""
        return epsilon([self.round_release] * rounds, self.federation.privacy.delta)

    @property
    def released(self) -> int:
        """Rounds whose contribution left the process, in all runs on the ledger."""
        return self.before + len(self.sent)

    def _check_dead_ledger(self) -> None:
        """Nothing that stood there before changed, and its last whole line says no less than was released."""
        data = self.ledger.read_bytes() if self.ledger.exists() else b""
        assert data.startswith(self.verified)
        self.unfinished += bool(data) and not data.endswith(b"\n")
        if lines := data.split(b"\n")[:-1]:
            assert self.spent(self.released) <= json.loads(lines[-1])["epsilon"]

    def _check_stored(self) -> None:
        """Whatever left the process is on disk until the round is over."""
        if self.number in self.sent and (state := self.state()).round < self.number:
            assert state.pending is not None and state.pending.message == self.sent[self.number]

    def _check_ledger(self) -> None:
        """It verifies, says no less than before or than was released, and continues what the coordinator knows."""
        data = self.ledger.read_bytes()
        found = verify_ledger(self.ledger, LedgerSigner(self.keyring.identity, trusting=False).verify)
        assert not found.seeded and not found.simulation and data.startswith(self.verified)
        assert max(self.spent(self.released), self.epsilon) <= found.epsilon <= self.federation.budget_of(VICTIM)
        self.epsilon, self.verified = found.epsilon, data
        head = self.coordinator.heads.get(VICTIM)
        assert head is None or head in {hashlib.sha256(line).hexdigest() for line in data.split(b"\n")}


def _rest(link: socket.socket) -> bytes:
    """What the other side wrote before it died. It dies without having read a request: a reset, after the data."""
    data = b""
    with link, suppress(ConnectionResetError):
        while part := link.recv(2**20):
            data += part
    return data


def _marks(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_ino, status.st_size


# The parties.


def keys_of(federation: Federation, identities: dict, epoch: int) -> tuple[dict, Coordinator]:
    """Keyrings of one epoch by hospital, and its coordinator."""
    server, public = Identity.generate("coordinator"), {name: identities[name].public for name in NAMES}
    key = FederationKey.generate(encrypted=True, epoch=epoch)
    pairs = {frozenset((one, other)): fresh_key() for one in NAMES for other in NAMES}
    keyrings = {
        name: Keyring(
            identities[name],
            key,
            server.public,
            public,
            {other: pairs[frozenset((name, other))] for other in NAMES},
            ceremony=federation.ceremony_digest,
        )
        for name in NAMES
    }
    return keyrings, Coordinator(federation.without_budgets(), server, public, key_commitment=key.commitment)


def stored(keyring: Keyring, federation: Federation) -> Epoch:
    """An epoch as the victim's key folder holds it."""
    key = keyring.federation_key
    return Epoch(
        number=key.epoch,
        federation_digest=federation.ceremony_digest,
        predecessor=b"",
        steward=NAMES[0],
        coordinator=keyring.coordinator,
        hospitals=keyring.hospitals,
        commitment=key.commitment,
        key=key,
        pair_secrets=keyring.pair_secrets,
    )


def release_of(federation: Federation, rounds: int) -> Release:
    """What `rounds` rounds release, by the settings alone: few rows, so full batches."""
    privacy, steps = federation.privacy, federation.training.steps
    noise = noise_multiplier_for(privacy.epsilon, privacy.delta, 1.0, federation.rounds * steps)
    return Release(noise_multiplier=noise, sample_rate=1.0, steps=rounds * steps)


def settings_of(masked: bool, rounds: int) -> dict:
    """The victim's budget holds one round more than a run takes; the others' two runs."""
    base = {"rounds": rounds, "privacy": {"epsilon": 4.0, "budget": 20.0}} | (MASKED if masked else {})
    release = release_of(federation_of(**base), rounds + 1)
    return base | {"sites": {VICTIM: {"budget": epsilon([release], 1e-5) * (1 + 1e-9)}}}


@contextmanager
def others_of(federation: Federation, keyrings: dict, folder: Path, ledgers: Path):
    clients = {
        name: Client(
            federation,
            name,
            MODEL,
            rows_of(name),
            keyrings[name],
            folder / name,
            ledgers=ledgers,
            device="cpu",
        )
        for name in OTHERS
    }
    yield clients
    for client in clients.values():
        client.close()


def carry(coordinator: Coordinator, others: dict, victim: Victim, messages: dict, verb: str) -> None:
    """One exchange: each gets its message, the coordinator the replies."""
    for name, message in messages.items():
        reply = victim.ask(verb, message) if name == VICTIM else getattr(others[name], verb)(message)
        if verb != "apply":
            coordinator.receive(reply)


def play(coordinator: Coordinator, others: dict, victim: Victim, number: int, kills: int) -> tuple[str, ...]:
    """One round; the survivors."""
    victim.begin(number, kills)
    invitations = coordinator.invite()
    victim.invited.append(invitations[VICTIM])
    carry(coordinator, others, victim, invitations, "contribute")
    survivors = coordinator.survivors
    if coordinator.federation.masked:
        carry(coordinator, others, victim, coordinator.fix_survivors(), "sign_survivors")
        carry(coordinator, others, victim, coordinator.unmask(), "reveal")
    carry(coordinator, others, victim, coordinator.close(), "apply")
    victim.end()
    return survivors


def check_folder(victim: Victim, others: dict) -> None:
    """Nothing torn, nothing half written, no lock, and the same shared parameters as everywhere."""
    assert not list(victim.folder.rglob("*.partial")) and victim.coordinator.evidence == {}
    lock_folder(victim.folder).close()
    with victim.ledger.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    state = victim.state()
    assert state.pending is None and state.round == victim.number
    for client in others.values():
        np.testing.assert_array_equal(state.shared, client.state.shared)


@dataclass(frozen=True)
class Trial:
    """What `kills` kills in two runs on one ledger came to."""

    first: Victim
    second: Victim

    def __str__(self) -> str:
        first, phases = self.first, self.first.phases + self.second.phases
        counts = "".join(f"{count:6d} {phase}\n" for phase, count in sorted(phases.items()))
        return (
            f"{'masked' if first.federation.masked else 'unmasked'}: {sum(phases.values())} kills, "
            f"{first.federation.rounds} rounds and a second run\n{counts}"
            f"  rounds made again {len(first.again)}, sat out 0, contributions sent again {first.sent_again}, "
            f"unfinished last lines {first.unfinished + self.second.unfinished}\n"
            f"  epsilon in the ledger {first.epsilon:.6g}, of what was sent {first.spent(first.released):.6g}, "
            f"budget {first.federation.budget_of(VICTIM):.6g}"
        )


def trial(folder: Path, masked: bool, kills: int) -> Trial:
    """Two runs on one data set with so many kills: a tenth at the second's start, two a round in the first."""
    at_start = kills // 10
    # None in the first round, whose steps are timed.
    settings = settings_of(masked, 1 + -(-(kills - at_start) // KILLS_A_ROUND))
    federation, identities = federation_of(**settings), {name: Identity.generate(name) for name in NAMES}
    (first, hub), (second, hub_again) = (keys_of(federation, identities, epoch) for epoch in (0, 1))
    epochs = tuple(stored(keyrings[VICTIM], federation) for keyrings in (first, second))
    ledgers, keys = folder / "ledgers", folder / "party"
    with KeyFolder.create(keys, Holdings(identities[VICTIM], False, epochs), PHRASE.encode()):
        nursery = Nursery(keys, settings)
    try:
        ledger = ledgers / VICTIM / f"{VICTIM}.jsonl"
        victim = Victim(nursery, federation, first[VICTIM], folder / "one" / VICTIM, ledger, hub)
        with others_of(federation, first, folder / "one", ledgers) as others:
            run_to_the_end(victim, others, kills - at_start)
        elsewhere = Victim(nursery, federation, first[VICTIM], folder / "elsewhere", ledger, hub)
        with pytest.raises(RefusedError, match="took part from another folder"):
            elsewhere.ask("contribute", victim.invited[0])
        elsewhere.stop()
        again = Victim(nursery, federation, second[VICTIM], folder / "two" / VICTIM, ledger, hub_again, victim.released)
        again.seconds["start"] = victim.seconds["start"]
        with others_of(federation, second, folder / "two", ledgers) as others:
            run_out_of_budget(again, others, at_start, victim.epsilon)
    finally:
        nursery.close()
    return Trial(victim, again)


def run_to_the_end(victim: Victim, others: dict, kills: int) -> None:
    """The first run, with kills in every round but the first."""
    rounds = victim.federation.rounds
    for number in range(1, rounds + 1):
        due = min(KILLS_A_ROUND, kills - victim.phases.total()) if number > 1 else 0
        survivors = play(victim.coordinator, others, victim, number, due)
        assert set(survivors) == set(NAMES), "no round is sat out, whenever it was killed"
    told = victim.report()
    victim.stop()
    assert told["sat_out"] == [] and len(victim.sent) == rounds
    # Whatever was killed, each round was reserved once.
    assert told["spent"] == victim.epsilon == pytest.approx(victim.spent(rounds), rel=1e-12)
    assert told["spent"] <= victim.federation.budget_of(VICTIM)
    assert victim.released and victim.sent_again
    check_folder(victim, others)


def run_out_of_budget(victim: Victim, others: dict, kills: int, spent: float) -> None:
    """A second run on the same data under new keys: one round is left, then the hospital sits out and others go on."""
    victim.begin(0, kills)
    victim.end()
    told = victim.report()
    assert told["spent"] == spent and not told["affords_run"]
    present = [VICTIM in play(victim.coordinator, others, victim, number, 0) for number in (1, 2, 3)]
    assert present == [True, False, False]
    told = victim.report()
    victim.stop()
    assert told["sat_out"] == [2, 3] and spent < told["spent"] <= victim.federation.budget_of(VICTIM)
    assert all(client.round == 3 and client.sat_out == () for client in others.values())
    check_folder(victim, others)


@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
def test_a_hospital_killed_at_random_moments_never_spends_twice_nor_forgets(tmp_path, masked):
    found = trial(tmp_path, masked, KILLS)
    print(f"\n{found}")
    assert (found.first.phases + found.second.phases).total() == KILLS
