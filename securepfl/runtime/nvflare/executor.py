"""Runs in a site's job process: carries bytes between the hub's tasks and the hospital's agent, and holds nothing.

Keys, torch, data and ledger are the agent's, behind a Unix socket whose place stands in the kit's own
local/securepfl.json, never in a job. An agent that is down is one error reply: the job goes on for everybody.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal

from securepfl.errors import AgentError, first_line
from securepfl.protocol.hospital import Exchanged
from securepfl.runtime.agent.asking import ask
from securepfl.runtime.nvflare.kit import local_settings

_LOOK: Final = 0.5


class SecurepflExecutor(Executor):  # type: ignore[misc]
    """Asks the agent once a task."""

    def __init__(self) -> None:
        super().__init__()
        self._socket = Path()

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Learn where the agent listens when a job starts."""
        if event_type == EventType.START_RUN:
            local = Path(fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT).get_site_config_dir())
            self._socket = Path(local_settings(local)["socket"])

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """Bring the messages to the agent and its replies back. Never raises for what the agent does."""
        try:
            done = _asked(self._socket, shareable.get("messages", []), abort_signal)
        except AgentError as error:
            self.log_error(fl_ctx, first_line(error), fire_event=False)
            return make_reply(ReturnCode.EXECUTION_EXCEPTION)
        if done.failed is not None:
            self.log_error(fl_ctx, first_line(done.failed), fire_event=False)
        reply = Shareable()
        reply["at"], reply["replies"] = done.at, list(done.replies)
        return reply


def _asked(socket: Path, messages: Sequence[bytes], abort_signal: Signal) -> Exchanged:
    """What the agent replies, however long it trains; given up where the job is ended. Raises AgentError."""
    outcome: list[Exchanged | AgentError] = []

    def run() -> None:
        try:
            outcome.append(ask(socket, messages))
        except AgentError as error:
            outcome.append(error)

    asking = threading.Thread(target=run, daemon=True)
    asking.start()
    while asking.is_alive() and not abort_signal.triggered:
        asking.join(_LOOK)
    if not outcome:
        raise AgentError(f"{socket}: the job was ended meanwhile; the agent keeps its reply")
    if isinstance(outcome[0], AgentError):
        raise outcome[0]
    return outcome[0]
