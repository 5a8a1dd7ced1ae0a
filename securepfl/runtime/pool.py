"""A simulation of many hospitals: their clients live in worker processes, the coordinator and its loop in this one, and
only bytes pass between them.

with Pool.started(keys, names, make, workers=8) as pool:
    for stage in stages(RoundLoop(coordinator), pool):
        print(stage)

Every hospital is whole: keys, folder, ledger and checks of its own. Processes are spawned, so the module that a program
starts from guards what it does (`if __name__ == "__main__":`), and `make` is a function of a module, or a partial of
one.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import msgspec

from securepfl import errors
from securepfl.crypto.keys.keys import FederationKey, Identity, Keyring, PublicIdentity
from securepfl.crypto.messages.envelope import Kind
from securepfl.errors import ConfigError, SecurePFLError
from securepfl.protocol.hospital import exchange
from securepfl.protocol.loop import RoundLoop, Work
from securepfl.randomness import fresh_key
from securepfl.runtime.simulated_keys import pair_secrets

if TYPE_CHECKING:  # it loads torch, which the coordinator's process does without
    from securepfl.client.client import Client

Make = Callable[[Keyring], "Client"]
"""Opens one hospital's client, in a worker process."""

_STARTED: Final = "spawn"
_ENDING: Final = 10.0
"""Seconds that a worker has to give its folders back."""


class Keys(msgspec.Struct, frozen=True, kw_only=True):
    """What hospitals of a simulation hold, as bytes: `private` by name, `pairs` the root of their pair secrets (empty
    where updates are not masked). In the field each hospital makes its own, and nobody has them all.
    """

    federation: bytes
    coordinator: bytes
    private: dict[str, bytes]
    public: dict[str, bytes]
    pairs: bytes = b""

    def __repr__(self) -> str:
        return f"Keys(of {len(self.private)} hospitals)"

    @classmethod
    def draw(
        cls, federation_key: FederationKey, coordinator: PublicIdentity, names: Sequence[str], *, masked: bool
    ) -> Self:
        """Fresh ones from the OS.

        >>> key, hub = FederationKey.generate(encrypted=False), Identity.generate("hub")
        >>> keys = Keys.draw(key, hub.public, ("north", "south"), masked=False)
        >>> keys.identities["north"] == keys.keyring("north").identity.public
        True
        """
        identities = {name: Identity.generate(name) for name in names}
        return cls(
            federation=bytes(federation_key.to_bytes()),
            coordinator=coordinator.to_bytes(),
            private={name: bytes(identity.to_private_bytes()) for name, identity in identities.items()},
            public={name: identity.public.to_bytes() for name, identity in identities.items()},
            pairs=fresh_key() if masked else b"",
        )

    @property
    def identities(self) -> dict[str, PublicIdentity]:
        """What the coordinator may know."""
        return {name: PublicIdentity.from_bytes(public) for name, public in self.public.items()}

    def of(self, names: Sequence[str]) -> "Keys":
        """Those of some hospitals alone."""
        return msgspec.structs.replace(self, private={name: self.private[name] for name in names})

    def keyring(self, name: str, known: Mapping[str, PublicIdentity] | None = None) -> Keyring:
        """One hospital's. `known` are all public identities, where they have been read already."""
        identity = Identity.from_private_bytes(name, self.private[name])
        pairs = pair_secrets(self.pairs, name, self.public)
        key, hub = FederationKey.from_bytes(self.federation), PublicIdentity.from_bytes(self.coordinator)
        return Keyring(identity, key, hub, known or self.identities, pairs)


class _Told(msgspec.Struct, frozen=True):
    name: str
    messages: list[bytes]


class _Came(msgspec.Struct, frozen=True):
    """`failed` is what a hospital's model or folder raised; `error` the class of what a worker could not begin for."""

    name: str
    at: int
    replies: list[bytes]
    seconds: float
    failed: str = ""
    error: str = ""


@dataclass(frozen=True)
class Visit:
    """What came of an exchange with hospital `name`: `at` is the last round that it has applied, `seconds` the CPU
    seconds that it took, `failed` what ended the exchange early, a line; empty where nothing did.
    """

    name: str
    at: int
    replies: tuple[bytes, ...]
    seconds: float
    failed: str = ""


@dataclass(frozen=True)
class Stage:
    """One exchange of a run with all hospitals that were asked. `kind` is that of the last message to each. CPU seconds
    of the coordinator's process and of all hospitals together, bytes of messages to and from them.
    """

    round: int
    kind: Kind
    asked: int
    hub: float
    hospitals: float
    down: int
    up: int
    failed: tuple[str, ...] = ()


class Pool:
    """Hospitals in worker processes, each with a share of them. `at` is the last round that each has applied.

    A worker is told one hospital's messages at a time, so memory here is what one exchange takes a worker.
    """

    def __init__(self, workers: Mapping[Connection, tuple[BaseProcess, tuple[str, ...]]]) -> None:
        self._workers = dict(workers)
        self.at: dict[str, int] = {}

    @classmethod
    def started(cls, keys: Keys, make: Make, workers: int) -> Self:
        """With every hospital's client open. Raises what opening one raised, ConfigError for no worker."""
        names = sorted(keys.private)
        if not workers >= 1:
            raise ConfigError(f"workers = {workers}: must be at least 1")
        context, started = multiprocessing.get_context(_STARTED), {}
        for share in (tuple(names[number::workers]) for number in range(min(workers, len(names)))):
            here, there = context.Pipe()
            process = context.Process(target=_work, args=(there, make), daemon=True)
            process.start()
            there.close()
            here.send_bytes(msgspec.msgpack.encode(keys.of(share)))
            started[here] = (process, share)
        pool = cls(started)
        try:
            for connection, (_, share) in started.items():
                for _ in share:
                    pool._noted(pool._received(connection))
        except BaseException:
            pool.close()
            raise
        return pool

    def exchange(self, next_for: Callable[[str], Work]) -> Iterator[tuple[Visit, Work]]:
        """Tell every hospital what `next_for` gives for it, if anything, as many at once as there are workers: each
        visit as it ends, in no order, with what was told.
        """
        waiting = {connection: list(reversed(share)) for connection, (_, share) in self._workers.items()}
        busy: dict[Connection, Work] = {}
        for connection, names in waiting.items():
            self._tell(connection, names, next_for, busy)
        while busy:
            for ready in wait(list(busy)):
                if isinstance(ready, Connection):
                    came, told = self._received(ready), busy.pop(ready)
                    yield self._noted(came), told
                    self._tell(ready, waiting[ready], next_for, busy)

    def _tell(
        self,
        connection: Connection,
        names: list[str],
        next_for: Callable[[str], Work],
        busy: dict[Connection, Work],
    ) -> None:
        """Tell the worker's next hospital something, if there is one to be told anything."""
        while names:
            name = names.pop()
            if told := next_for(name):
                busy[connection] = told
                connection.send_bytes(msgspec.msgpack.encode(_Told(name, [message for _, message in told])))
                return

    def _received(self, connection: Connection) -> _Came:
        try:
            came = msgspec.msgpack.decode(connection.recv_bytes(), type=_Came)
        except EOFError:
            process, share = self._workers[connection]
            process.join(_ENDING)
            raise SecurePFLError(
                f"a process with {len(share)} hospitals ({share[0]} ...) ended with code {process.exitcode}; see what "
                "it printed, give it memory, and start again on the same folders"
            ) from None
        if came.error:
            raise getattr(errors, came.error, SecurePFLError)(came.failed)
        return came

    def _noted(self, came: _Came) -> Visit:
        self.at[came.name] = came.at
        return Visit(came.name, came.at, tuple(came.replies), came.seconds, came.failed)

    def close(self) -> None:
        """Have all folders given back and end the workers."""
        for connection in self._workers:
            connection.close()
        for process, _ in self._workers.values():
            process.join(_ENDING)
            if process.is_alive():
                process.terminate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def stages(loop: RoundLoop, pool: Pool, clock: Callable[[], float] = time.monotonic) -> Iterator[Stage]:
    """Carry a run to its end, an exchange at a time: what each cost, once it is over. Raises MessageError where the
    coordinator cannot go on, or hospitals that answer nothing leave it waiting.
    """
    for name, at in pool.at.items():
        loop.here(name, at)
    while True:
        began = time.process_time()
        loop.tick(clock())
        number, asked, kind = loop.hub.number, 0, Kind.INVITATION
        hospitals, down, up, failed = 0.0, 0, 0, list[str]()
        for visit, told in pool.exchange(loop.next):
            loop.took(visit.name, visit.at, visit.replies, told=told)
            asked, (kind, _) = asked + 1, told[-1]
            hospitals, up = hospitals + visit.seconds, up + sum(map(len, visit.replies))
            down += sum(len(message) for _, message in told)
            failed += [f"{visit.name}: {visit.failed}"] if visit.failed else []
        if not asked:
            break
        yield Stage(number, kind, asked, time.process_time() - began, hospitals, down, up, tuple(failed))
    if not loop.finished:
        raise errors.MessageError(
            f"round {loop.hub.number}: {len(loop.waiting)} hospitals answer nothing and too few are left to go on; see "
            "what failed there"
        )


def _work(connection: Connection, make: Make) -> None:
    """A worker: open its hospitals, then hand each the messages that come for it, until the pipe is closed."""
    clients: dict[str, Client] = {}
    try:
        keys = msgspec.msgpack.decode(connection.recv_bytes(), type=Keys)
        known = keys.identities
        for name in keys.private:
            began = time.process_time()
            clients[name] = make(keys.keyring(name, known))
            _reply(connection, _Came(name, clients[name].round, [], time.process_time() - began))
        while True:
            told = msgspec.msgpack.decode(connection.recv_bytes(), type=_Told)
            began = time.process_time()
            done = exchange(clients[told.name], told.messages)
            seconds, why = time.process_time() - began, "" if done.failed is None else _reason(done.failed)
            _reply(connection, _Came(told.name, done.at, list(done.replies), seconds, why))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        pass
    except Exception as failed:  # noqa: BLE001 - whatever a model raises is told to who started the pool
        kind = type(failed).__name__ if isinstance(failed, SecurePFLError) else "SecurePFLError"
        _reply(connection, _Came("", 0, [], 0.0, _reason(failed), kind))
    finally:
        for client in clients.values():
            client.close()


def _reason(failed: Exception) -> str:
    """Our own messages hold nothing of a hospital's data; what a model of one's own raises may."""
    return str(failed) if isinstance(failed, SecurePFLError) else type(failed).__name__


def _reply(connection: Connection, came: _Came) -> None:
    connection.send_bytes(msgspec.msgpack.encode(came))
