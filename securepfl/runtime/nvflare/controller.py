"""Runs in the server's job process: carries bytes between the hub's session and the hospitals' job processes.

Where the hub's folder lies stands in the kit's own local/securepfl.json, never in a job. At most one task stands for a
hospital. What it holds is worked out when the hospital fetches it, so nobody is sent to work on a round that is over.
"""

import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from nvflare.apis.client import Client
from nvflare.apis.controller_spec import ClientTask, Task
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from securepfl.errors import SecurePFLError, first_line
from securepfl.protocol.loop import Patience, Work
from securepfl.runtime.hub import HubSession
from securepfl.runtime.nvflare.job import TASK
from securepfl.runtime.nvflare.kit import local_settings
from securepfl.runtime.nvflare.session import AGENT, ASKED, HERE, SILENT, JobSession
from securepfl.storage.keys import read_passphrase

_TICK: Final = 0.5
_AGAIN: Final = 2.0
"""Seconds until a hospital whose agent is down is asked again."""
_SILENT: Final = 15.0
"""Seconds without a sign of life after which a hospital's job process is dead: it gives one each HEARTBEAT."""
_BEGIN: Final = 60.0
"""Seconds that a hospital's job process may take to begin."""


class SecurepflController(Controller):  # type: ignore[misc]
    """Opens a HubSession when the job starts, and ends when the run is over or the hub fails."""

    def __init__(self) -> None:
        super().__init__(task_check_period=0.05)
        self._turn, self._news = threading.Lock(), threading.Event()
        self._tasks: dict[str, Task] = {}
        self._told: dict[str, Work] = {}
        self._at: dict[str, int | None] = {}
        self._state: dict[str, str] = {}
        self._since: dict[str, float] = {}
        self._heard: dict[str, float] = {}
        self._session: HubSession | None = None

    def set_communicator(self, communicator: Any) -> None:
        """Have NVFlare's signs of life noted here too: it forgets whose site was restarted under a job."""
        super().set_communicator(communicator)
        told = communicator.client_is_active

        def heard(client_name: str, reason: str, fl_ctx: FLContext) -> None:
            self._heard[client_name] = time.monotonic()
            told(client_name, reason, fl_ctx)

        communicator.client_is_active = heard

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Open the hub's folder. What is wrong with it ends the job, and the supervisor reads why."""
        settings = local_settings(Path(fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT).get_site_config_dir()))
        self._job, self._out = fl_ctx.get_job_id(), Path(settings["out"])
        try:
            passphrase = read_passphrase(Path(settings["passphrase_file"]))
            folder, patience = Path(settings["folder"]), Patience(settings["deadline"])
            self._session = HubSession.open(Path(settings["config"]), folder, passphrase, self._out, patience=patience)
        except Exception as error:
            mendable = isinstance(error, SecurePFLError)
            self._tell(failure=first_line(error) if mendable else f"{type(error).__name__}: {first_line(error)}")
            raise
        self._session.moved = self._news.set
        invited, now = {client.name for client in fl_ctx.get_engine().get_clients()}, time.monotonic()
        for name in self._session.roster:
            self._at[name], self._since[name] = None, now
            self._state[name] = ASKED if name in invited else SILENT
            self._heard.setdefault(name, now + _BEGIN - _SILENT)
        self._tell()

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Give out tasks until the run is over."""
        session = self._opened
        while not abort_signal.triggered and not session.over:
            session.tick()
            for name in session.roster:
                self._care_for(name, time.monotonic(), fl_ctx)
            self._news.wait(_TICK)
            self._news.clear()

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Give the hub's folder back."""
        if self._session is not None:
            failure = self._session.failure
            finished = self._session.finished
            self._session.stop()
            self._tell(finished=finished, failure="" if failure is None else first_line(failure))

    def process_result_of_unknown_task(
        self, client: Client, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None:
        """A reply to a task that was given up: the hospital is asked again, and sends the same."""

    @property
    def _opened(self) -> HubSession:
        if self._session is None:
            raise RuntimeError("the job did not start")
        return self._session

    def _care_for(self, name: str, now: float, fl_ctx: FLContext) -> None:
        """See that a task stands for a hospital where there is something for it."""
        session = self._opened
        with self._turn:
            if self._state[name] != SILENT and now - self._heard[name] > _SILENT:
                if (task := self._tasks.pop(name, None)) is not None:
                    self.cancel_task(task, fl_ctx=fl_ctx)
                self._lost(name, SILENT)
            standing, waited = name in self._tasks, now - self._since[name]
            due = self._at[name] is None and (self._state[name] != AGENT or waited > _AGAIN)
        if standing or not (due or (self._at[name] is not None and session.wait(name, 0.0))):
            return
        task = Task(
            TASK,
            Shareable(),
            before_task_sent_cb=self._fetched,
            result_received_cb=self._replied,
            task_done_cb=self._done,
        )
        with self._turn:
            self._tasks[name] = task
            if self._state[name] != SILENT:
                self._now(name, ASKED)
        self.send(task, fl_ctx, targets=[name])

    def _fetched(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        """A hospital's job process fetches its task: put in what there is for it now."""
        name, at = client_task.client.name, self._at[client_task.client.name]
        told: Work = [] if at is None else self._opened.visit(name, at)
        client_task.task.data["messages"] = [message for _, message in told]
        with self._turn:
            self._told[name] = told
            self._now(name, HERE)

    def _replied(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        name, reply, client_task.result = client_task.client.name, client_task.result, None
        client_task.task.data.clear()
        with self._turn:
            self._tasks.pop(name, None)  # the next one need not wait until NVFlare puts this one away
            told = self._told.pop(name, [])
        try:
            at, replies = _checked(reply, told)
            self._opened.took(name, at, replies, told=told)
        except (ValueError, SecurePFLError) as error:
            self.log_error(fl_ctx, f"{name}: {first_line(error)}", fire_event=False)
            with self._turn:
                self._lost(name, AGENT)
            return
        with self._turn:
            self._at[name] = at
        self._news.set()

    def _done(self, task: Task, fl_ctx: FLContext) -> None:
        """A task is over. Where it still stands nobody replied: its hospital's job process is dead."""
        with self._turn:
            for name in [name for name, standing in self._tasks.items() if standing is task]:
                del self._tasks[name]
                self._lost(name, SILENT)

    def _lost(self, name: str, state: str) -> None:
        self._at[name] = None
        self._told.pop(name, None)
        self._now(name, state)
        with suppress(SecurePFLError):  # a hub that takes nothing more is told of in control_flow
            self._opened.gone(name)

    def _now(self, name: str, state: str) -> None:
        if self._state[name] != state:
            self._state[name] = state
            self._tell()
        self._since[name] = time.monotonic()

    def _tell(self, *, finished: bool = False, failure: str = "") -> None:
        JobSession(job=self._job, hospitals=dict(self._state), finished=finished, failure=failure).write(self._out)


def _checked(reply: Any, told: Work) -> tuple[int, list[bytes]]:
    """(rounds applied, replies) of what a job process sent. Raises ValueError."""
    if not isinstance(reply, Shareable) or reply.get_return_code() != ReturnCode.OK:
        raise ValueError("its agent does not answer: see its site's log")
    at, replies = reply.get("at"), reply.get("replies")
    if type(at) is not int or not isinstance(replies, list) or len(replies) > len(told):
        raise ValueError("a reply that no executor of ours sends")
    if not all(isinstance(part, bytes) for part in replies):
        raise ValueError("a reply that no executor of ours sends")
    return at, replies
