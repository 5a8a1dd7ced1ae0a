"""The hub's admin connection to its own NVFlare server. Made again whenever it breaks."""

from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Any, Final, TypeVar

from nvflare.fuel.flare_api.api_spec import InternalError, JobNotFound, JobNotRunning
from nvflare.fuel.flare_api.flare_api import Session, new_secure_session

from securepfl.errors import first_line
from securepfl.runtime.nvflare.hardening import SUPERVISOR

_SECONDS: Final = 10.0
_RECENT: Final = 20
_OVER: Final = "FINISHED"
T = TypeVar("T")


class UnreachableError(Exception):
    """The server did not do it: it is down, starting, or says why."""


class FlareEngine:
    """Jobs and sites of the server, seen by the account whose kit lies in `kit`. Each call raises UnreachableError."""

    def __init__(self, kit: Path) -> None:
        self._kit = kit
        self._session: Session | None = None

    def connected(self) -> frozenset[str]:
        """The sites that are connected now."""
        clients = self._call(lambda session: session.get_connected_client_list())
        return frozenset(client.name for client in clients)

    def submit(self, job: Path) -> str:
        """Submit the job in this folder: its id."""
        return str(self._call(lambda session: session.submit_job(str(job.resolve()))))

    def running(self) -> dict[str, str]:
        """Jobs that are not over, by id, and NVFlare's word for where they stand."""
        jobs: list[dict[str, Any]] = self._call(lambda session: session.list_jobs(limit=_RECENT, reverse=True))
        standing = {str(job["job_id"]): str(job["status"]) for job in jobs}
        return {job: status for job, status in standing.items() if not status.startswith(_OVER)}

    def abort(self, job: str) -> bool:
        """End a job; False where it does not run: a server that was killed believes for ever that its job does."""

        def end(session: Any) -> bool:
            try:
                session.abort_job(job)
            except (InternalError, JobNotRunning, JobNotFound) as error:
                if "not running" not in str(error):
                    raise
                return False
            return True

        return self._call(end)

    def close(self) -> None:
        """End the connection."""
        session, self._session = self._session, None
        if session is not None:
            with suppress(Exception):
                session.close()

    def _call(self, do: Callable[[Any], T]) -> T:
        try:
            if self._session is None:
                with redirect_stdout(StringIO()):  # it prints what it does
                    self._session = new_secure_session(SUPERVISOR, str(self._kit.resolve()), timeout=_SECONDS)
            return do(self._session)
        except Exception as error:  # noqa: BLE001 - NVFlare raises many kinds, bare RuntimeErrors among them
            self.close()
            raise UnreachableError(first_line(error)) from None
