"""At the hub: sees that NVFlare runs one job of ours until the run itself is over.

A job is a session of the run, not the run. NVFlare ends it for everybody where one site's job process dies, never
takes it up again after a restart of its server, and never lets a site into a job that began without it. The run lies
in the hub's folder: the next job goes on with it.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from securepfl.errors import StorageError
from securepfl.runtime.logs import Log
from securepfl.runtime.nvflare.engine import UnreachableError
from securepfl.runtime.nvflare.session import JobSession
from securepfl.runtime.status import held

LOOK: Final = 0.5
"""Seconds between two looks at the run's folder, which cost nothing."""
_ASK: Final = 5.0
"""Seconds between two questions to the server while somebody is missing."""
_START: Final = 120.0
"""Seconds that a submitted job may take until its controller has opened the hub's folder."""
_GATHER: Final = 10.0
"""Seconds for which a job waits for more hospitals once enough are connected."""
_TRIES: Final = 3
"""Jobs in a row that may fail at the hub's own folder before a person must look."""
_BACKOFF: Final = (1.0, 60.0)
_REJOIN: Final = (10.0, 600.0)
"""Seconds between two jobs for the sake of the same absent hospitals: doubled while it did not bring them in."""


class Engine(Protocol):
    """What the supervisor needs of FlareEngine."""

    def connected(self) -> frozenset[str]:
        """Sites that are connected."""

    def submit(self, job: Path) -> str:
        """Submit a job: its id."""

    def running(self) -> dict[str, str]:
        """Jobs that are not over: their status by id."""

    def abort(self, job: str) -> bool:
        """End a job; False where it does not run."""


@dataclass
class Supervisor:
    """Of the run in `out`, whose hospitals are `roster`; `least` of them are needed for a job.

    `job` is a folder that a job is submitted from. Every decision is a line in the log.
    """

    engine: Engine
    job: Path
    out: Path
    roster: Collection[str]
    least: int
    log: Log
    clock: Callable[[], float] = time.monotonic
    current: str = ""
    _since: float = 0.0
    _gathered: float | None = None
    _seen: frozenset[str] = frozenset()
    _asked: float = -_ASK
    _failures: int = 0
    _not_before: float = 0.0
    _brought: dict[str, tuple[float, float]] = field(default_factory=dict)
    _forgotten: set[str] = field(default_factory=set)
    _said: str = ""

    def step(self) -> bool:
        """Look, and do what is due; True when the run is over. Raises StorageError where the hub's folder fails."""
        session = JobSession.read(self.out)
        alive = held(self.out)
        if session is not None and session.finished and not alive:
            self.log.info("run over", job=session.job)
            return True
        try:
            if alive and session is not None:
                self._keep(session)
            elif self.current:
                self._await(session)
            else:
                self._submit()
        except UnreachableError as error:
            self._say("server not reachable", error=str(error))
            self._not_before = self.clock() + self._pause()
        return False

    def stop(self) -> None:
        """End the job, so that nobody is asked for anything more until this is started again."""
        self._ended(self._running())

    def _keep(self, session: JobSession) -> None:
        """A job runs: end it where an absent hospital is connected, and so waits outside."""
        if self.current != session.job:
            self._say("job runs", job=session.job)
            self.current = session.job
        self._failures, now = 0, self.clock()
        present = [name for name in session.hospitals if name not in session.absent]
        for name in present:
            self._brought.pop(name, None)
        if not session.absent or now - self._asked < _ASK:
            return
        self._asked = now
        outside = sorted(set(session.absent) & self.engine.connected())
        due = [name for name in outside if now >= self._brought.get(name, (0.0, 0.0))[0]]
        if not due:
            return
        for name in due:
            pause = min(max(2 * self._brought.get(name, (0.0, 0.0))[1], _REJOIN[0]), _REJOIN[1])
            self._brought[name] = (now + pause, pause)
        self.log.info("job ended to bring in who is connected and not in it", job=session.job, hospitals=due)
        self.engine.abort(session.job)
        self._over()

    def _await(self, session: JobSession | None) -> None:
        """A job was submitted or has ended: which, and why."""
        failure = session.failure if session is not None and session.job == self.current else ""
        if failure and self._failures >= _TRIES:
            raise StorageError(f"the hub cannot go on: {failure}")
        now = self.clock()
        if now - self._asked < LOOK or now < self._not_before:
            return
        self._asked = now
        status = self.engine.running().get(self.current)
        started = session is not None and session.job == self.current
        if status is not None and not started and now - self._since < _START:
            return
        self._failures += 1
        why = failure or status or "over"
        self.log.warning("job ended", job=self.current, failures=self._failures, error=why)
        self._over()

    def _over(self) -> None:
        self.current, self._gathered, self._asked = "", None, -_ASK
        self._not_before = self.clock() + (self._pause() if self._failures else 0.0)

    def _submit(self) -> None:
        """No job: submit one when everybody, or enough for a while, is connected. Never beside another."""
        now = self.clock()
        if now < self._not_before or now - self._asked < LOOK:
            return
        self._asked = now
        if self._ended(self._running()):
            self._not_before = now + 1.0
            return
        connected = self.engine.connected() & set(self.roster)
        if connected != self._seen or self._gathered is None:
            self._seen, self._gathered = connected, now
            missing = sorted(set(self.roster) - connected)
            self._say("connected", hospitals=sorted(connected), missing=missing or None)
        enough = len(connected) >= self.least and now - self._gathered >= _GATHER
        if enough or len(connected) == len(self.roster):
            self.current, self._since = self.engine.submit(self.job), now
            self.log.info("job submitted", job=self.current, hospitals=sorted(connected))

    def _running(self) -> list[str]:
        """Jobs that the server runs or is about to; what a restarted server only remembers is none."""
        return sorted(self.engine.running().keys() - self._forgotten)

    def _ended(self, jobs: Collection[str]) -> bool:
        """End jobs: whether any of them ran."""
        for job in jobs:
            if self.engine.abort(job):
                self._say("NVFlare still has a job: ended", job=job)
            else:
                self._forgotten.add(job)
        return not self._forgotten.issuperset(jobs)

    def _pause(self) -> float:
        return min(_BACKOFF[0] * 2.0 ** min(self._failures, 10), _BACKOFF[1])

    def _say(self, event: str, **fields: object) -> None:
        """Log what has not just been said."""
        said = f"{event} {fields}"
        if said != self._said:
            self.log.info(event, **fields)
        self._said = said
