"""The hub's port: who is let in, how many at once, and how long they may take over it.

uvicorn speaks HTTP; the sockets are accepted here, because it puts no bound on handshakes that never end, and tells an
application nothing of certificates. Here a connection has a certificate of the hub's root before HTTP begins, and
requests carry whose it is in their scope (`peer_of`).
"""

import asyncio
import logging
import signal
import socket
import ssl
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from securepfl.crypto.keys.certificates import Holder
from securepfl.errors import MessageError, first_line
from securepfl.runtime.https.limits import Limits
from securepfl.runtime.https.tls import holder_shown

_PEER: Final = "securepfl.peer"
_MOST_HEADER: Final = 2**14
_GRACE: Final = 10
"""Seconds that requests under way have when the server stops."""

Refused = Callable[[str, str], None]
"""Told of who was turned away (a hospital's name or an address) and why."""


def peer_of(scope: Mapping[str, Any]) -> Holder:
    """Whose certificate a request came with. Raises MessageError where none was shown."""
    holder = scope.get(_PEER)
    if not isinstance(holder, Holder):
        raise MessageError("no certificate was shown; refused")
    return holder


@dataclass
class Guests:
    """The connections of one server, by whose certificate they showed: role, name and identity, so that a certificate
    of an earlier identity, which may be why there is a new one, closes no connection of the hospital itself.
    """

    limits: Limits
    refused: Refused
    of: dict[Holder, list["GuestProtocol"]] = field(default_factory=lambda: defaultdict(list))
    shaking: Counter[str] = field(default_factory=Counter)

    def enter(self, guest: "GuestProtocol", holder: Holder) -> None:
        """One more connection of `holder`. The oldest gives way: it may be one whose other end is long gone."""
        self.of[holder].append(guest)
        if len(self.of[holder]) > self.limits.connections:
            self.refused(holder.name, f"more than {self.limits.connections} connections; closed its oldest")
            self.of[holder].pop(0).transport.abort()

    def leave(self, guest: "GuestProtocol", holder: Holder) -> None:
        """It is closed."""
        if guest in self.of[holder]:
            self.of[holder].remove(guest)
        if not self.of[holder]:
            del self.of[holder]


class _Words(logging.Logger):
    """Where uvicorn's words on a hospital's requests go: a line in the hub's own log, and not one for each request."""

    def __init__(self, guests: Guests, name: str) -> None:
        super().__init__("securepfl.guest", logging.WARNING)
        self._guests, self._name = guests, name

    def handle(self, record: logging.LogRecord) -> None:
        """A fault of ours goes on to uvicorn's own log, with its traceback."""
        if record.exc_info:
            logging.getLogger("uvicorn.error").handle(record)
        else:
            self._guests.refused(self._name, record.getMessage())


class GuestProtocol(H11Protocol):
    """HTTP for somebody whose certificate was looked at. A header that does not come in time ends the connection."""

    guests: Guests
    guest: Holder | None = None
    late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Look at the certificate, and let it be known to the application."""
        super().connection_made(transport)
        try:
            holder = holder_shown(transport.get_extra_info("ssl_object"))
        except MessageError as error:
            self.guests.refused(str(transport.get_extra_info("peername")), first_line(error))
            transport.abort()
            return
        application = self.app

        async def with_peer(scope: Any, receive: Any, send: Any) -> None:
            scope[_PEER] = holder
            await application(scope, receive, send)

        self.app = with_peer
        self.guest, self.logger = holder, _Words(self.guests, holder.name)
        self.guests.enter(self, holder)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        super().connection_lost(exc)
        self._unwatch()
        if self.guest is not None:
            self.guests.leave(self, self.guest)

    def data_received(self, data: bytes) -> None:
        """Some of a request, or of its header."""
        idle = self.cycle is None or self.cycle.response_complete
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._unwatch()
        elif idle and self.late is None:
            self._watch()

    def _watch(self) -> None:
        self.late = self.loop.call_later(self.guests.limits.shake, self._too_late)

    def _unwatch(self) -> None:
        if self.late is not None:
            self.late.cancel()
            self.late = None

    def _too_late(self) -> None:
        self.late = None
        if not self.transport.is_closing():
            name = self.guest.name if self.guest else ""
            self.guests.refused(name, f"no whole request header within {self.guests.limits.shake:g} s")
            self.transport.abort()


class GuestServer(uvicorn.Server):
    """uvicorn behind `listener`, for guests with a certificate. A signal stops it in order and is not raised again."""

    def __init__(self, app: Any, listener: socket.socket, context: ssl.SSLContext, guests: Guests) -> None:
        protocol = type("BoundGuestProtocol", (GuestProtocol,), {"guests": guests})
        super().__init__(
            uvicorn.Config(
                app,
                interface="asgi3",
                http=protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=int(guests.limits.idle),
                h11_max_incomplete_event_size=_MOST_HEADER,
                timeout_graceful_shutdown=_GRACE,
            )
        )
        self.listener, self.context, self.guests = listener, context, guests
        self.servers = []
        self._door: asyncio.Task[None] | None = None
        self._shaking: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the door."""
        await self.lifespan.startup()
        self.listener.setblocking(False)
        self._door = asyncio.get_running_loop().create_task(self._accept())
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the door, and let those inside finish."""
        for task in (self._door, *self._shaking):
            if task is not None:
                task.cancel()
        self.listener.close()
        await super().shutdown()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the server, which is what was asked: its caller goes on."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(self.listener)
            except OSError as error:  # out of file handles, say: those inside go on
                self.guests.refused("", f"no connection can be accepted ({error.strerror})")
                await asyncio.sleep(0.2)
                continue
            host = str(address[0])
            limits = self.guests.limits
            full = len(self.server_state.connections) + len(self._shaking) >= limits.sockets
            if full or self.guests.shaking[host] >= limits.strangers:
                self.guests.refused(host, "too many connections without a certificate at once; turned away")
                connection.close()
                continue
            self.guests.shaking[host] += 1
            self._start(self._let_in(connection, host))
            await asyncio.sleep(0)  # those inside go on, however many come

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._shaking.add(task)
        task.add_done_callback(self._shaking.discard)

    async def _let_in(self, connection: socket.socket, host: str) -> None:
        guests = self.guests
        try:
            with suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            await asyncio.get_running_loop().connect_accepted_socket(
                self._protocol, connection, ssl=self.context, ssl_handshake_timeout=guests.limits.shake
            )
        except ssl.SSLError as error:
            guests.refused(host, f"no certificate of this hub's root, or none that is valid ({_reason(error)})")
            connection.close()
        except OSError:  # it went, or took too long
            connection.close()
        finally:
            guests.shaking[host] -= 1
            if not guests.shaking[host]:
                del guests.shaking[host]

    def _protocol(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )


def _reason(error: ssl.SSLError) -> str:
    verify = getattr(error, "verify_message", None)
    return str(verify or error.reason or "TLS").lower().replace("_", " ")
