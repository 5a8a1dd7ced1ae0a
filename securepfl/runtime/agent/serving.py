"""A hospital's agent: its own process and user, with keys, rows and ledger, behind a Unix socket.

What carries messages between hub and hospital asks it (asking.py) and holds nothing that is worth stealing; a crash on
either side is an error on the other, and the next question is answered as if there had been none.
"""

import grp
import os
import pwd
import socket
import stat
import struct
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from securepfl.crypto.messages.envelope import OVERHEAD_BYTES
from securepfl.errors import ConfigError, MessageError, StorageError, first_line
from securepfl.runtime.agent.wire import Outcome, Reply, read_request, reply_parts
from securepfl.runtime.visits import HospitalSession
from securepfl.storage.folder import storage_error

_CREDENTIALS: Final = struct.Struct("iII")
_LONGEST_PATH: Final = 107
_AT_ONCE: Final = 20
"""Messages of the largest size that one request may have: as many answers as a hub keeps, and what it asks now."""
_PATIENCE: Final = 60.0
_SLOWEST: Final = 2**20
"""Bytes a second that a request must come at, after _PATIENCE seconds."""
_QUIET: Final = 10.0
"""Seconds between two log lines on the same user who may not ask."""
FAILED: Final = "the agent could not do what it was told; its own log says why"


@contextmanager
def listening(path: Path, group: str | None = None) -> Iterator[socket.socket]:
    """A listening socket at `path` that its owner may open (mode 600), or its owner and `group` (660); gone when the
    block ends.

    A socket that a killed agent left is replaced. Raises ConfigError for a path or group that can't be had,
    StorageError where an agent serves there, or `path` is something else.
    """
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise ConfigError(f"--socket {path}: longer than {_LONGEST_PATH} bytes, which sockets can't be; name another")
    number = _group_of(group)
    _clear(path)
    with _bound(path, number) as listener:
        try:
            yield listener
        finally:
            with suppress(OSError):
                path.unlink()


def _bound(path: Path, number: int | None) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
        if number is not None:
            os.chown(path, -1, number)
            path.chmod(0o660)
        listener.listen(8)
    except OSError as error:
        listener.close()
        raise storage_error(path, error) from None
    finally:
        os.umask(before)
    return listener


def serve(session: HospitalSession, listener: socket.socket, users: Collection[int]) -> None:
    """Answer one connection after the other, of processes that run as one of `users` (their numbers), until a signal or
    `session.check` raises. Whatever one connection does ends none after it.
    """
    session.log.info("agent serves", socket=str(listener.getsockname()), users=sorted(users))
    said: dict[int, float] = {}
    while True:
        connection, _ = listener.accept()
        with connection:
            if _stranger(session, connection, users, said):
                continue
            try:
                _one(session, connection)
            except Exception as error:  # noqa: BLE001 - one question's fault is no reason not to answer the next
                session.problem("a question was not answered", error)
                why = first_line(error) if isinstance(error, MessageError) else "its own log says why"
                with suppress(OSError):
                    _send(connection, Reply(Outcome.REFUSED, text=why))
        session.check()
        if session.finished and not session.written:
            try:
                session.finish()
            except Exception as error:  # noqa: BLE001 - the agent serves on: others may still need this hospital's receipt
                session.problem("its result could not be written", error)


def _stranger(
    session: HospitalSession, connection: socket.socket, users: Collection[int], said: dict[int, float]
) -> bool:
    """Whether a user asks who may not. It is told so; log and status are once in a while, since they cost the disk's
    time, which would otherwise be taken from those who may.
    """
    user, now = peer_of(connection), time.monotonic()
    if user in users:
        return False
    why = f"user {user} may not ask; allow it with --user, or find out who asks"
    if now - said.get(user, -_QUIET) >= _QUIET:
        said[user] = now
        session.problem("a question was not answered", MessageError(why))
    with suppress(OSError):
        _send(connection, Reply(Outcome.REFUSED, text=why))
    session.check()
    return True


def _one(session: HospitalSession, connection: socket.socket) -> None:
    most = _AT_ONCE * (session.client.session.longest_bytes + OVERHEAD_BYTES)
    connection.settimeout(_PATIENCE)
    late = threading.Timer(_PATIENCE + most / _SLOWEST, _cut, [connection])
    late.daemon = True
    late.start()
    try:
        with connection.makefile("rb") as file:
            messages = read_request(file, most)
    finally:
        late.cancel()
    done = session.exchange(messages)
    outcome, text = (Outcome.DONE, "") if done.failed is None else (Outcome.FAILED, FAILED)
    _send(connection, Reply(outcome, done.at, session.finished, text, done.replies))


def _send(connection: socket.socket, reply: Reply) -> None:
    connection.settimeout(_PATIENCE)
    for part in reply_parts(reply):
        connection.sendall(part)


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def peer_of(connection: socket.socket) -> int:
    """The number of the user whose process is at the other end, as the kernel knows it."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(credentials)[1])


def user_numbers(users: Collection[str]) -> frozenset[int]:
    """Users by name or number. Raises ConfigError for one that this machine doesn't know.

    >>> user_numbers(["root", "1000"]) == {0, 1000}
    True
    """
    found = set()
    for user in users:
        try:
            found.add(int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid)
        except (KeyError, ValueError):
            raise ConfigError(f"--user {user}: no such user on this machine; make it, or name another") from None
    return frozenset(found)


def _group_of(group: str | None) -> int | None:
    try:
        return None if group is None else grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigError(f"--group {group}: no such group on this machine; make it, or name another") from None


def _clear(path: Path) -> None:
    """Take a socket away that nobody serves any more."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise StorageError(f"{path}: is there, and no socket; name another with --socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(5.0)
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
                return
        raise StorageError(f"{path}: an agent serves there; stop it, or name another with --socket")
    except FileNotFoundError:
        return
    except TimeoutError:
        raise StorageError(f"{path}: an agent serves there; stop it, or name another with --socket") from None
    except OSError as error:
        raise storage_error(path, error) from None
