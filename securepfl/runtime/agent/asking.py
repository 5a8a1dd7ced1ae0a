"""Asking a hospital's agent: for a process that carries messages, and holds no key, no row and no model."""

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final

from securepfl.errors import AgentError, MessageError
from securepfl.protocol.hospital import Exchanged
from securepfl.runtime.agent.wire import Outcome, Reply, read_reply, request_parts

MOST_BYTES: Final = 2**34
"""Of all replies to one request: the agent is one's own, and this bounds what a wrong program at its socket can do."""
_CONNECT: Final = 10.0


def ask(path: Path, messages: Sequence[bytes], *, seconds: float | None = None) -> Exchanged:
    """Have the agent at the socket `path` take the hub's messages in order; with none, where it stands.

    `seconds` is how long its reply may take: None waits as long as it trains, and ends at once where it dies. `failed`
    is an AgentError where a message could not be taken: what came before still goes back, and the agent's own log says
    why. Raises AgentError where there is no agent, it refuses, or it died meanwhile: ask again once it is back, it
    gives the same replies.
    """
    return exchanged(told(path, messages, seconds=seconds))


def told(path: Path, messages: Sequence[bytes], *, seconds: float | None = None) -> Reply:
    """As `ask`, with whether anything more is to come."""
    try:
        with _connected(path) as agent, agent.makefile("rb") as file:
            agent.settimeout(_CONNECT if seconds is None else seconds)
            unheard = _sent(agent, messages)
            agent.settimeout(seconds)
            reply = _read(file, unheard)
    except TimeoutError:
        raise AgentError(f"{path}: the agent did not reply in time; it may train still, ask again later") from None
    except MessageError as error:
        raise AgentError(f"{path}: {error}") from None
    except OSError as error:
        raise AgentError(f"{path}: the agent died meanwhile ({error.strerror}); ask again once it is back") from None
    if reply.outcome == Outcome.REFUSED:
        raise AgentError(f"{path}: the agent refused ({reply.text})")
    return reply


def _sent(agent: socket.socket, messages: Sequence[bytes]) -> OSError | None:
    """Why the messages could not be sent to their end: it may have refused without hearing them, and says so then."""
    try:
        for part in request_parts(messages):
            agent.sendall(part)
    except (BrokenPipeError, ConnectionResetError) as error:
        return error
    return None


def _read(file: BinaryIO, unheard: OSError | None) -> Reply:
    try:
        return read_reply(file, MOST_BYTES)
    except MessageError as error:
        raise unheard or error from None


def exchanged(reply: Reply) -> Exchanged:
    """A reply as an engine takes it."""
    failed = AgentError(reply.text) if reply.outcome == Outcome.FAILED else None
    return Exchanged(reply.at, reply.replies, failed)


def _connected(path: Path) -> socket.socket:
    agent = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    agent.settimeout(_CONNECT)
    try:
        agent.connect(str(path))
    except (OSError, ValueError) as error:
        agent.close()
        raise AgentError(_unreached(path, error)) from None
    return agent


def _unreached(path: Path, error: OSError | ValueError) -> str:
    match error:
        case FileNotFoundError() | ConnectionRefusedError():
            return f"{path}: no agent serves there; start `securepfl agent` with this --socket"
        case PermissionError():
            return (
                f"{path}: may not be opened by this user; start the agent with --group of a group that it is in, and "
                "let that group enter the folder"
            )
        case OSError():
            return f"{path}: the agent cannot be reached ({error.strerror or error})"
    return f"{path}: no path of a socket; name a shorter one"
