"""The hub's side of a run over any engine: a RoundLoop with a lock, a clock, logs, byte counts and a status.

with HubSession.open(config, folder, passphrase, out, patience=Patience(600.0)) as session:
    work = session.visit("north", at)               # [(kind, bytes), ...]: carry them there
    session.took("north", at, replies, told=work)   # what came back, and how many rounds it has applied now
    session.wait("north", 30.0)                     # until there may be something for it, or 30 s are over
"""

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TextIO

from securepfl.coordinator.coordinator import Coordinator
from securepfl.errors import MessageError, SecurePFLError, StorageError
from securepfl.protocol.loop import Patience, RoundLoop, Work
from securepfl.runtime.hub_record import HubRecord
from securepfl.runtime.logs import Log, failed, open_log
from securepfl.runtime.opening_hub import open_coordinator
from securepfl.runtime.status import StatusFile
from securepfl.storage.folder import lock_folder, storage_error

LINGER: Final = 600.0
"""Seconds for which a hub serves on after the last round, for hospitals that have not stated it."""


class HubSession:
    """A run at the hub. Any thread may call; one at a time is inside.

    `failure` is why the hub takes nothing more, for its operator to mend before the same command is given again; None
    while it goes on. `moved` is called, outside the lock, whenever there may be something new for hospitals. `out` is
    held by this process until `stop`. A bad reply is logged and costs its sender alone.

    Raises StorageError where `out` is in use.
    """

    def __init__(
        self,
        hub: Coordinator,
        out: Path,
        *,
        patience: Patience | None = None,
        log: Log | None = None,
        linger: float = LINGER,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._held = lock_folder(out)
        self.hub, self.out, self.loop = hub, out, RoundLoop(hub, patience or Patience())
        self.log = log or open_log(out, hub.identity.name)
        self.failure: Exception | None = None
        self.moved: Callable[[], None] = lambda: None
        self._turn, self._clock, self._linger = threading.Condition(), clock, linger
        self._over_since, self._ended, self._stopped, self._news = math.inf, False, False, False
        self.record = HubRecord(hub, self.loop, self.log, clock())
        self._status = StatusFile(out)
        self.log.info("hub began", rounds=hub.rounds, closed=hub.closed, hospitals=len(hub.roster))
        self._show(at_once=True)

    @classmethod
    def open(
        cls,
        config: Path,
        folder: Path,
        passphrase: bytes,
        out: Path,
        *,
        patience: Patience | None = None,
        console: TextIO | None = None,
        linger: float = LINGER,
    ) -> Self:
        """From files: see opening_hub.open_coordinator. Short log lines go to `console`."""
        hub = open_coordinator(config, folder, passphrase, out)
        try:
            log = open_log(out, hub.identity.name, console)
            return cls(hub, out, patience=patience, log=log, linger=linger)
        except BaseException:
            hub.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def roster(self) -> tuple[str, ...]:
        """All hospitals, by name."""
        return self.hub.roster

    @property
    def finished(self) -> bool:
        """Whether all rounds are over, and every hospital has stated the last one or a while has passed since."""
        with self._turn:
            self._note_end()
            return self._ended

    @property
    def over(self) -> bool:
        """Whether an engine may close its doors: the run is finished, or the hub failed or was stopped."""
        return self._stopped or self.failure is not None or self.finished

    def visit(self, name: str, at: int) -> Work:
        """Hospital `name` is here and has applied `at` rounds: what to carry to it now.

        Raises MessageError for a name that no hospital has or a number that is no round, StorageError where the hub
        takes nothing more.
        """
        with self._inside(name, at):
            self.record.here(name, at)
            self.loop.here(name, at)
            self._go_on()
            work = self.loop.next(name)
            self.record.told(name, work)
        return work

    def alive(self, name: str, at: int) -> None:
        """Hospital `name` works on what it was told, by this process or the one before. Raises as `visit`."""
        with self._inside(name, at):
            self.record.here(name, at)
            self.loop.here(name, at)
            self._go_on()

    def took(self, name: str, at: int, replies: Sequence[bytes], *, told: Work) -> None:
        """What hospital `name` replied to what it was `told`; it has applied `at` rounds now. Raises as `visit`."""
        with self._inside(name, at):
            if self.loop.at[name] is None:
                self.loop.here(name, at)
            self.record.came(name, replies)
            silent = name in self.loop.silent
            try:
                self.loop.took(name, at, replies, told=told)
            except (SecurePFLError, OSError):
                raise
            except Exception as defect:  # noqa: BLE001 - one hospital's message ends nobody else's round
                failed(self.log, "a defect met this hospital's message", defect, round=self.hub.number, hospital=name)
            if name in self.loop.silent and name not in self.loop.replied and not silent:
                self.record.failed(name)
            self._go_on()

    def gone(self, name: str) -> None:
        """Hospital `name` went, or starts anew: what it was told may not have come. Raises as `visit`."""
        with self._inside(name, 0):
            self.record.gone(name)
            self.loop.gone(name)
            self._go_on()

    def tick(self) -> None:
        """Go on where the time has come: to be called from time to time, once a second say."""
        with self._turn:
            if self.failure is None and not self._stopped:
                with self._kept():
                    self._go_on()
        self._call()

    def wait(self, name: str, seconds: float) -> bool:
        """Wait until there is something to tell hospital `name`, which said where it stands before (`visit`), or the
        run is over; whether that came within `seconds`.
        """
        until = self._clock() + seconds
        with self._turn:
            while not (self.over or self.loop.has_work(name)):
                now = self._clock()
                if now >= until:
                    return False
                self._turn.wait(max(0.0, min(until, max(self.loop.ends, now + 0.01)) - now))
                if self._clock() >= self.loop.ends and not self.over:
                    with self._kept():
                        self._go_on()
        self._call()
        return True

    def stop(self) -> None:
        """Take nothing more, and give the folder back. What hospitals sent and were sent lies there: the same command
        goes on.
        """
        with self._turn:
            if self._stopped:
                return
            self._note_end()
            state = "finished" if self._ended else "failed" if self.failure is not None else "stopped"
            self._stopped = True
            self.log.info(f"hub {state}", closed=self.hub.closed, rounds=self.hub.rounds)
            self._show(state, at_once=True)
            self.hub.stop()
            self._held.close()
            self._turn.notify_all()
        self.moved()

    @contextmanager
    def _inside(self, name: str, at: int) -> Iterator[None]:
        """Alone in the session, which takes messages, with a hospital of the roster."""
        if name not in self.hub.hospitals:
            raise MessageError(f"{name!r}: no hospital of this federation; it must enrol first")
        if not 0 <= at <= self.hub.rounds:
            raise MessageError(f"{name}: says that it has applied {at} of {self.hub.rounds} rounds; refused")
        with self._turn:
            self._check_open()
            with self._kept():
                yield
            self._check_open()
        self._call()

    def _check_open(self) -> None:
        if self.failure is not None:
            raise StorageError("the hub takes nothing more until its operator has mended it; try again later")
        if self._stopped:
            raise StorageError("the hub has stopped; try again when it is back")

    def _call(self) -> None:
        """Tell the engine, outside the lock, that something moved."""
        news, self._news = self._news, False
        if news:
            self.moved()

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Whatever the hub itself fails at ends this process's part: that is told once, and nothing is lost."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - its operator is told, and `failure` is what the command ends with
            self._fail(storage_error(self.out, error) if isinstance(error, OSError) else error)

    def _fail(self, error: Exception) -> None:
        if self.failure is None:
            self.failure = error
            failed(self.log, "the hub cannot go on", error, round=self.hub.number)
            self.record.stopped(error)
            self._show("failed", at_once=True)
        self._news = True
        self._turn.notify_all()

    def _go_on(self) -> None:
        now = self._clock()
        moved = self.loop.tick(now)
        stepped = self.record.changed(now)
        self._note_end()
        self._show(at_once=stepped)
        if moved or stepped or self._ended:
            self._news = True
            self._turn.notify_all()

    def _note_end(self) -> None:
        if self._ended or self.failure is not None:
            return
        over = not self.loop.asked and bool(self.hub.ended or self.hub.closed >= self.hub.rounds)
        now = self._clock()
        self._over_since = min(self._over_since, now) if over else math.inf
        missing = [name for name in self.hub.roster if self.hub.latest(name) < self.hub.closed]
        if over and ((self.loop.finished and not missing) or now >= self._over_since + self._linger):
            self._ended = True
            self.log.info("run over", closed=self.hub.closed, rounds=self.hub.rounds, without=missing or None)

    def _show(self, state: str = "running", *, at_once: bool = False) -> None:
        state = "finished" if self._ended and state == "running" else state
        self._status.put(self.record.status(state, self._clock()), at_once=at_once)
