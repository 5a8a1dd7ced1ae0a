"""The hospital's side of a run over any engine: it takes what it is told, and its operator sees what happens.

with HospitalSession.open(config, data, folder, passphrase, out) as session:
    done = session.exchange(messages)   # from the hub, in order; done.replies and done.at go back
    if session.finished:
        session.finish()                # its result and its model, in `out`
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TextIO

from securepfl.crypto.messages.envelope import Header
from securepfl.errors import MessageError, SecurePFLError, StorageError, first_line
from securepfl.protocol.hospital import Exchanged, exchange
from securepfl.report.epsilon import finite
from securepfl.report.status import HospitalStanding, Trouble
from securepfl.runtime.logs import Log, failed, one_line, open_log
from securepfl.runtime.opening import Opened, open_client
from securepfl.runtime.own_result import RESULT, write_own
from securepfl.runtime.rounds_file import RoundsFile
from securepfl.runtime.status import StatusFile, now_text
from securepfl.runtime.traffic import Traffic
from securepfl.storage.folder import lock_folder

TRAFFIC: Final = "traffic"
"""In `out`: the bytes that went both ways."""


class HospitalSession:
    """A run at one hospital. Any thread may call; one at a time is inside. `out` is held by this process until `stop`.

    `at` is the last round that the hospital has applied, `finished` whether nothing more is to come: all rounds are
    applied, or the run is over for it (`client.ended`). `check` is called after each exchange, to raise a signal that a
    library swallowed in it. Raises StorageError where `out` is in use.
    """

    def __init__(self, opened: Opened, out: Path, *, log: Log | None = None) -> None:
        self._held = lock_folder(out)
        self.opened, self.client, self.out = opened, opened.client, out
        self.log = log or open_log(out, opened.client.name)
        self.upload = self.download = 0
        self._turn, self._started = threading.RLock(), now_text()
        self._heard: str | None = None
        self._error: Trouble | None = None
        self._stopped = False
        self.check: Callable[[], None] = lambda: None
        self._status = StatusFile(out)
        self._rounds = RoundsFile(self.client, opened.hospital.test)
        self._traffic, self._counted = self._opened_traffic(), self.client.round
        for note in opened.notes:
            self.log.warning("note", error=note)
        self._say("hospital began")
        self._show("running")

    @classmethod
    def open(
        cls,
        config: Path,
        data: Path,
        folder: Path,
        passphrase: bytes,
        out: Path,
        *,
        ledgers: Path | None = None,
        device: str = "auto",
        seed: int | None = None,
        console: TextIO | None = None,
    ) -> Self:
        """From files: see opening.open_client. Short log lines go to `console`."""
        opened = open_client(config, data, folder, passphrase, out, ledgers=ledgers, device=device, seed=seed)
        try:
            return cls(opened, out, log=open_log(out, opened.client.name, console))
        except BaseException:
            opened.client.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def name(self) -> str:
        """The hospital's."""
        return self.client.name

    @property
    def at(self) -> int:
        """The last round that it has applied."""
        return self.client.round

    @property
    def finished(self) -> bool:
        """Whether nothing more is to come."""
        return bool(self.client.ended) or self.client.round >= self.client.federation.exchanges

    @property
    def written(self) -> bool:
        """Whether `finish` has written all that it writes."""
        return (self.out / RESULT).exists()

    def exchange(self, messages: Sequence[bytes]) -> Exchanged:
        """Take messages of the hub's, in order. Never raises for what one of them or the model does: `failed` says it,
        and so does the log here. Raises StorageError once the session was stopped.
        """
        with self._turn:
            if self._stopped:
                raise StorageError(f"{self.name}: this session was stopped; start the same command again")
            started, before = time.perf_counter(), self.at
            done = exchange(self.client, messages)
            seconds = time.perf_counter() - started
            self.download += sum(map(len, messages))
            self.upload += sum(map(len, done.replies))
            self._heard = now_text()
            self._count(messages, done)
            self.check()
            if messages:
                self._note(messages, done, before, seconds)
                self._show("running")
            return done

    def finish(self) -> None:
        """Write what the hospital has of the run into `out`, once: result.json, its page (report.html), its personal
        model, and the experts that the settings release. All are private but the experts. Raises StorageError,
        LedgerError.
        """
        with self._turn:
            if not self.written:
                write_own(self.opened, self.out, self._traffic)
                self.log.info("wrote its result and its model", round=self.at)
            self._show("finished" if self.finished else "running")

    def problem(self, what: str, error: BaseException) -> None:
        """Something else went wrong on this side, the way to the hub say: log it, and show it in the status."""
        with self._turn:
            failed(self.log, what, error, round=self.at)
            self._wrong(f"{what}: {first_line(error)}")
            self._show("running")

    def stop(self) -> None:
        """Give the folders back. The same command goes on."""
        with self._turn:
            if self._stopped:
                return
            self._stopped = True
            state = "finished" if self.finished else "stopped"
            try:
                with suppress(SecurePFLError, OSError):  # a ledger that can't be read says so elsewhere
                    self._say(f"hospital {state}")
                    self._show(state)
            finally:
                self._traffic.close()
                self.client.close()
                self._held.close()

    def _note(self, messages: Sequence[bytes], done: Exchanged, before: int, seconds: float) -> None:
        for message in messages:
            kind, number = _place(message)
            self.log.info("was told", round=number, kind=kind, bytes=len(message))
        for reply in done.replies:
            kind, number = _place(reply)
            self.log.info("replies", round=number, kind=kind, bytes=len(reply))
        if done.at > before:
            self._say("applied", seconds=seconds)
            self._look()
        if done.failed is not None:
            failed(self.log, "could not do what it was told", done.failed, round=self.at)
            self._wrong(first_line(done.failed))

    def _opened_traffic(self) -> Traffic:
        try:
            return Traffic.kept(self.out / TRAFFIC, [self.name])
        except StorageError as error:  # bytes are for the page alone: they stop no run
            failed(self.log, "could not read its bytes so far", error, round=self.at)
            return Traffic.of([self.name])

    def _count(self, messages: Sequence[bytes], done: Exchanged) -> None:
        """Bytes both ways over all processes of the run, by purpose as the client tells it: what a killed process had
        not told yet counts with the envelopes.
        """
        parts, self.client.parts = self.client.parts, Counter[str]()
        try:
            for way, carried in (("download", messages), ("upload", done.replies)):
                for message in carried:
                    self._traffic.count(way, self.name, message)
            self._traffic.add(parts)
            if done.at > self._counted:
                self._counted = done.at
                self._traffic.over(done.at, {})
        except SecurePFLError as error:  # the page then has too few bytes; nothing else rests on them
            failed(self.log, "could not count its bytes", error, round=self.at)

    def _look(self) -> None:
        try:
            self._rounds.look()
        except SecurePFLError as error:  # the page has a gap then; nothing else rests on it
            failed(self.log, "could not judge this round's models", error, round=self.at)

    def _say(self, event: str, **fields: Any) -> None:
        ledger = self.client.ledger
        spent = ledger.spent()
        left, rounds = max(0.0, ledger.budget.epsilon - spent), self.client.federation.exchanges
        self.log.info(event, round=self.at, rounds=rounds, epsilon=finite(spent), left=left, **fields)

    def _wrong(self, line: str) -> None:
        self._error = Trouble(time=now_text(), line=one_line(line))

    def _show(self, state: str) -> None:
        client = self.client
        spent = client.ledger.spent()
        standing = HospitalStanding(
            party=client.name,
            state=state,
            started=self._started,
            updated=now_text(),
            run=client.session.run.hex(),
            federation=one_line(client.federation.name),
            rounds=client.federation.exchanges,
            round=client.round,
            heard=self._heard,
            epsilon=finite(spent),
            budget=client.ledger.budget.epsilon,
            epsilon_left=max(0.0, client.ledger.budget.epsilon - spent),
            delta=client.federation.privacy.delta,
            sat_out=list(client.sat_out),
            upload_bytes=self.upload,
            download_bytes=self.download,
            seconds={name: round(value, 3) for name, value in client.seconds.items()},
            named={name: one_line(what) for name, what in client.named.items()},
            evidence=[str(path) for path in client.evidence],
            ended=one_line(client.ended) or None,
            error=self._error,
        )
        self._status.put(standing, at_once=True)


def _place(message: bytes) -> tuple[str, int | None]:
    """Kind and round of a message, for a log."""
    try:
        header = Header.from_bytes(message)
    except MessageError:
        return "none", None
    return header.kind.name, header.round
