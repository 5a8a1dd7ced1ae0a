"""The hub as a process: one port for hospitals, and one on loopback for whoever watches it."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from securepfl.coordinator.coordinator import Coordinator
from securepfl.crypto.keys.certificates import COORDINATOR
from securepfl.errors import ConfigError, StorageError, first_line
from securepfl.protocol.loop import Patience
from securepfl.runtime.https.hub import HubApplication
from securepfl.runtime.https.limits import Limits
from securepfl.runtime.https.monitor import monitor_server
from securepfl.runtime.https.peers import Guests, GuestServer
from securepfl.runtime.https.tls import server_context, show
from securepfl.runtime.hub import HubSession
from securepfl.storage.certificates import Credentials

_TICK: Final = 0.5
_LOOKED: Final = 30.0
"""Seconds between two looks for renewed certificates."""
_FAREWELL: Final = 2.0
"""Seconds for which a hub whose run is over still answers polls that were about to come."""
_BACKLOG: Final = 1024


def serve(
    coordinator: Coordinator,
    credentials: Credentials,
    out: Path,
    *,
    host: str = "0.0.0.0",  # noqa: S104 - hospitals reach it from elsewhere; TLS asks for their certificates
    port: int = 8443,
    monitor: int | None = None,
    patience: Patience | None = None,
    limits: Limits | None = None,
    ready: Callable[[int], None] = lambda port: None,
    stop: threading.Event | None = None,
) -> bool:
    """Serve a coordinator's run to its hospitals until it is over, `stop` is set, or Ctrl-C or SIGTERM come: whether it
    is over.

    Log, status and long messages on their way lie in `out`. `port` 0 is a free one; `ready` is told which, once
    hospitals may come. `monitor` is a port on 127.0.0.1 for /healthz and /metrics (None: none). `patience`: how long
    a step waits for hospitals. Called again with the same folders it goes on.

    Raises ConfigError where the port cannot be had, StorageError where the folder is in use or the hub could not
    write: nothing is lost, and it goes on when called again. A whole run is in examples/over_https.py.
    """
    with HubSession(coordinator, out, patience=patience) as session:
        return serve_session(
            session, credentials, host=host, port=port, monitor=monitor, limits=limits, ready=ready, stop=stop
        )


def serve_session(
    session: HubSession,
    credentials: Credentials,
    *,
    host: str,
    port: int,
    monitor: int | None = None,
    limits: Limits | None = None,
    ready: Callable[[int], None] = lambda port: None,
    stop: threading.Event | None = None,
) -> bool:
    """As `serve`, for a session that stands. Raises the session's failure."""
    if credentials.holder.role != COORDINATOR:
        raise ConfigError(f"{credentials.place}: a hospital's certificate; name the hub's folder")
    listener = listen(host, port)
    try:
        watching = None if monitor is None else listen("127.0.0.1", monitor)
    except BaseException:
        listener.close()
        raise
    with listener:
        asyncio.run(_serve(session, credentials, listener, watching, limits or Limits(), ready, stop))
    if session.failure is not None:
        raise session.failure
    return session.finished


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ConfigError where it cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no such port"
        raise ConfigError(
            f"{host}:{port}: cannot be listened on ({reason}); name another with --host or --port"
        ) from None


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"{host}:{port}"


async def _serve(
    session: HubSession,
    credentials: Credentials,
    listener: socket.socket,
    watching: socket.socket | None,
    limits: Limits,
    ready: Callable[[int], None],
    stop: threading.Event | None,
) -> None:
    application = HubApplication(session, session.out / "spool", limits)
    application.open()
    context = server_context(credentials)
    server = GuestServer(application.application, listener, context, Guests(limits, application.refused))
    others = [asyncio.create_task(_renewing(context, credentials, session))]
    if watching is not None:
        others.append(asyncio.create_task(monitor_server(application, server).serve([watching])))
    port = listener.getsockname()[1]
    session.log.info("serves", address=_address(listener), monitor=None if watching is None else _address(watching))
    ended = asyncio.create_task(_until_over(application, server, partial(ready, port), stop))
    try:
        await server.serve()
    finally:
        for task in (*others, ended):
            task.cancel()
        await asyncio.gather(*others, ended, return_exceptions=True)
        application.close()


async def _until_over(
    application: HubApplication, server: GuestServer, ready: Callable[[], None], stop: threading.Event | None
) -> None:
    """Have the session go on by the clock; end the server when the run is over, or the hub cannot go on."""
    while not server.started:
        await asyncio.sleep(0.01)
    ready()
    while not server.should_exit:
        await application.tick()
        if application.session.over:
            application.wake()
            await asyncio.sleep(_FAREWELL)
        if application.session.over or (stop is not None and stop.is_set()):
            server.should_exit = True
        else:
            await asyncio.sleep(_TICK)
    application.stopping = True
    application.wake()


async def _renewing(context: ssl.SSLContext, credentials: Credentials, session: HubSession) -> None:
    """Show renewed certificates without a restart, and warn each day before they end."""
    warned = ""
    while True:
        for line in credentials.expiry(datetime.now(UTC)):
            day = f"{datetime.now(UTC):%Y-%m-%d}{line}"
            if day != warned:
                session.log.warning("certificate", error=line.removeprefix("note: "))
            warned = day
        await asyncio.sleep(_LOOKED)
        try:
            renewed = await asyncio.to_thread(credentials.renewed)
            if renewed is not None:
                show(context, renewed)
                credentials = renewed
                session.log.info("shows a renewed certificate")
        except StorageError as error:
            session.log.warning("certificate", error=first_line(error))
