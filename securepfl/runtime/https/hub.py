"""The hub's half: an application (ASGI) that lets hospitals of the roster say where they stand, and answers with what
they are told next. What is told, when, is HubSession's business.
"""

import asyncio
import hashlib
import json
import secrets
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from securepfl.crypto.keys.certificates import HOSPITAL
from securepfl.crypto.messages.envelope import OVERHEAD_BYTES
from securepfl.errors import MessageError, SecurePFLError, StorageError, first_line
from securepfl.protocol.loop import Work
from securepfl.runtime.https.limits import Bucket, Limits
from securepfl.runtime.https.peers import peer_of
from securepfl.runtime.https.spool import Spool
from securepfl.runtime.https.wire import (
    AWAY,
    DIGEST_BYTES,
    HEADER,
    MOST_EXCHANGE,
    PIECE,
    PROTOCOL,
    TOKEN_BYTES,
    Standing,
    Told,
    apart,
    encode,
    items_of,
    read_standing,
)
from securepfl.runtime.hub import HubSession

_Result = TypeVar("_Result")
_BLOCK: Final = 2**20
_QUIET: Final = 10.0
"""Seconds between two log lines of the same kind on the same hospital."""
_SHORT: Final = 4
"""Digits of the length of a body that costs no memory to speak of."""
_BODIES: Final = 32
"""Bodies of up to a piece that are in memory at once; of longer ones, _LONG_BODIES."""
_LONG_BODIES: Final = 2
_PAST_VISITS: Final = 16
_MOST_SIGN: Final = 2**10


class _Refused(Exception):  # noqa: N818 - an answer, not a fault
    """A request is answered with this status and line."""

    def __init__(self, status: int, line: str, *, wait: float | None = None) -> None:
        super().__init__(line)
        self.status, self.line, self.wait = status, line, wait


@dataclass
class Guest:
    """What the application remembers of one hospital while it runs: all of it can be lost."""

    spool: Spool
    bucket: Bucket
    visit: bytes = b""
    past: deque[bytes] = field(default_factory=lambda: deque(maxlen=_PAST_VISITS))
    token: bytes = b""
    work: Work = field(default_factory=list)
    digests: dict[bytes, bytes] = field(default_factory=dict, repr=False)
    poll: int = 0
    polling: bool = False
    away: bool = False
    last: float = field(default_factory=time.monotonic)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    queued: int = 0
    woken: asyncio.Event = field(default_factory=asyncio.Event)


class HubApplication:
    """The routes over a session. `open` first, in the event loop that serves; `close` at the end.

    The session's work takes processor time and the disk, so it happens on a thread of its own, one call after the
    other: polls and health checks are answered meanwhile.
    """

    def __init__(self, session: HubSession, spool: Path, limits: Limits) -> None:
        self.session, self.limits = session, limits
        self.most_bytes = session.hub.rules.longest_bytes + OVERHEAD_BYTES
        self.stopping = False
        self.requests: dict[str, int] = defaultdict(int)
        quota = 2 * self.most_bytes
        self.guests = {
            name: Guest(
                Spool(spool / hashlib.sha256(name.encode()).hexdigest()[:16], quota),
                Bucket(limits.rate, limits.burst),
            )
            for name in session.roster
        }
        self._fingerprints = {name: public.fingerprint for name, public in session.hub.hospitals.items()}
        self._one = ThreadPoolExecutor(1, thread_name_prefix="session")
        self._disk = ThreadPoolExecutor(2, thread_name_prefix="spool")
        self._bodies, self._reading = asyncio.Semaphore(_BODIES), asyncio.Semaphore(_LONG_BODIES)
        self._outsiders = Bucket(limits.rate, limits.burst)
        self._said: dict[tuple[str, str], float] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._step: tuple[Any, ...] = ()
        routes = [
            Route("/v1/{name}/exchange", self._answered(self._exchange), methods=["POST"]),
            Route("/v1/{name}/alive", self._answered(self._alive), methods=["POST"]),
            Route("/v1/{name}/bodies/{digest}", self._answered(self._get_piece), methods=["GET"]),
            Route("/v1/{name}/bodies/{digest}", self._answered(self._put_piece), methods=["PUT"]),
            Route("/healthz", self._answered(self._health), methods=["GET"]),
        ]
        self._routes = Starlette(routes=routes)

    async def application(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request (ASGI), whatever it asks for, unless its sender asks too much. Whoever has a certificate and
        is no hospital of the roster (any more) shares one measure with all others of that kind.
        """
        name, guest = self._sender(scope)
        wait = (guest.bucket if guest else self._outsiders).wait()
        if not wait:
            return await self._routes(scope, receive, send)
        line = f"more than {self.limits.rate:g} requests a second"
        self.refused(name, line)
        self.requests["429"] += 1
        return await _line(429, line, wait)(scope, receive, send)

    def _sender(self, scope: Scope) -> tuple[str, Guest | None]:
        """Whose certificate a request came with, and what is kept of it where a hospital of the roster has it."""
        shown = peer_of(scope)
        ours = shown.role == HOSPITAL and self._fingerprints.get(shown.name) == shown.fingerprint
        return shown.name, self.guests[shown.name] if ours else None

    def open(self) -> None:
        """Begin to listen to the session."""
        self._loop = asyncio.get_running_loop()
        self.session.moved = self._moved

    async def tick(self) -> None:
        """Let the session go on by the clock, and note who went."""
        await self._in_session(self.session.tick)
        now = time.monotonic()
        for name, guest in self.guests.items():
            if not guest.away and not guest.turn.locked() and now - guest.last > AWAY:
                # It may be cut off alone: comes the same process back, it goes on, and is told the same again.
                guest.away, guest.token, guest.work, guest.digests = True, b"", [], {}
                if guest.visit or self.session.hub.latest(name):
                    with suppress(SecurePFLError):
                        await self._in_session(partial(self.session.gone, name))

    def wake(self) -> None:
        """Have every poll look again."""
        for guest in self.guests.values():
            guest.woken.set()

    def close(self) -> None:
        """No more calls."""
        self.session.moved = lambda: None
        self._one.shutdown()
        self._disk.shutdown()

    def refused(self, who: str, why: str, kind: str = "") -> None:
        """Log who was turned away, but not each time. `kind` is said where `why` holds words of theirs, which could
        be others each time.
        """
        now, kind = time.monotonic(), kind or why
        if now - self._said.get((who, kind), -_QUIET) < _QUIET:
            return
        if len(self._said) > 4096:
            self._said.clear()
        self._said[who, kind] = now
        known = who if who in self.guests else None
        self.session.log.warning("turned away", hospital=known, address=None if known else who or None, error=why)

    @property
    def polling(self) -> int:
        """How many polls wait now."""
        return sum(guest.polling for guest in self.guests.values())

    def _moved(self) -> None:
        """Called on the session's thread: polls are woken where the step changed, since nothing else is new to them."""
        session = self.session
        loop = session.loop
        step = (loop.ends, loop.kind, session.hub.number, session.hub.closed, id(loop.asked), session.over)
        if step != self._step and self._loop is not None:
            self._step = step
            with suppress(RuntimeError):  # the event loop has ended
                self._loop.call_soon_threadsafe(self.wake)

    async def _in_session(self, call: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._one, call)

    async def _on_disk(self, call: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._disk, call)

    def _answered(self, handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """Answers with a line in place of what a handler raises."""

        async def answer(request: Request) -> Response:
            name, _ = self._sender(request.scope)
            try:
                return await handler(request)
            except _Refused as refused:
                status, line, wait = refused.status, refused.line, refused.wait
            except StorageError as error:
                status, line, wait = 503, first_line(error), 5.0
            except SecurePFLError as error:
                status, line, wait = 400, first_line(error), None
            except ClientDisconnect:
                return Response(status_code=400)
            self.refused(name, line, str(status))
            self.requests[str(status)] += 1
            return _line(status, line, wait)

        return answer

    def _admit(self, request: Request) -> tuple[str, Guest]:
        """Who asks. Raises _Refused for whoever may not."""
        name = request.path_params["name"]
        shown = peer_of(request.scope)
        if shown.role != HOSPITAL or shown.name != name:
            raise _Refused(403, f"the certificate is {shown.role} {shown.name}'s, not {name}'s; use one's own folder")
        guest = self.guests.get(name)
        if guest is None:
            raise _Refused(403, f"{name} is no hospital of this federation; it must enrol first")
        if shown.fingerprint != self._fingerprints[name]:
            raise _Refused(
                403, f"the certificate is of an earlier identity of {name}; run `securepfl keys certificate --renew`"
            )
        if (theirs := request.headers.get(HEADER, "none")) != PROTOCOL:
            raise _Refused(
                426, f"speaks version {theirs!r:.20} of the protocol, the hub {PROTOCOL}; install the same securepfl"
            )
        if self.stopping:
            raise _Refused(503, "the hub is stopping; try again when it is back", wait=2.0)
        return name, guest

    async def _exchange(self, request: Request) -> Response:
        name, guest = self._admit(request)
        async with self._turn(guest) as mine:
            at = await self._heard(name, guest, request)
            guest.polling = True
            try:
                return await self._told(name, guest, at, mine)
            finally:
                guest.polling, guest.last = False, time.monotonic()

    @asynccontextmanager
    async def _turn(self, guest: Guest) -> AsyncIterator[int]:
        """A hospital's requests, one after the other: the number of this one. Few wait: those whose connection is gone
        wait too, and a slow body would gather them.
        """
        if guest.queued >= self.limits.connections:
            raise _Refused(429, f"more than {self.limits.connections} requests wait for an earlier one", wait=1.0)
        guest.queued += 1
        guest.poll += 1
        mine = guest.poll
        guest.woken.set()  # an earlier poll, whose other end may be gone, ends
        try:
            async with guest.turn:
                yield mine
        finally:
            guest.queued -= 1

    async def _alive(self, request: Request) -> Response:
        """A sign of life. Of a process that this one does not know, or has given up, the session hears too."""
        name, guest = self._admit(request)
        standing = read_standing(await self._body(request, _MOST_SIGN), 0)
        if (standing.visit != guest.visit or guest.away) and not guest.turn.locked():  # else it asks just now
            async with guest.turn:
                await self._greet(name, guest, standing.visit)
                await self._in_session(partial(self.session.alive, name, standing.at))
        guest.last = time.monotonic()
        self.requests["200"] += 1
        return JSONResponse({})

    async def _heard(self, name: str, guest: Guest, request: Request) -> int:
        """Take what a hospital replies: how many rounds it has applied. Of long bodies few are in memory at once."""
        length = request.headers.get("content-length", "")
        async with self._bodies if len(length) > _SHORT else nullcontext():
            standing = read_standing(await self._body(request, MOST_EXCHANGE), self.most_bytes)
            await self._greet(name, guest, standing.visit)
            known = bool(standing.told) and standing.told == guest.token
            told = guest.work if known else []
            elsewhere = bool(standing.replies) and not known
            if elsewhere:  # to a process before this one, which may have told it the same
                told = await self._in_session(partial(self.session.visit, name, standing.at))
            guest.token, guest.work = b"", []
            if known or standing.replies:
                far = any(item.apart for item in standing.replies)
                async with self._reading if far else nullcontext():
                    await self._take(name, guest, standing, told)
            if elsewhere:  # what is asked by now it was never told, and so has not failed at
                await self._in_session(partial(self.session.gone, name))
            return standing.at

    async def _greet(self, name: str, guest: Guest, visit: bytes) -> None:
        """A process that comes for the first time: what an earlier one was told may not have come."""
        if visit in guest.past:
            raise _Refused(409, f"another process of {name} came since; stop one of the two")
        guest.away, guest.last = False, time.monotonic()
        if visit == guest.visit:
            return
        if guest.visit:
            guest.past.append(guest.visit)
            await self._in_session(partial(self.session.gone, name))
        guest.visit, guest.token, guest.work = visit, b"", []

    async def _take(self, name: str, guest: Guest, standing: Standing, told: Work) -> None:
        """Hand the replies to the session. Those that came apart are read back, and go once they are taken."""
        replies, far = [], [item for item in standing.replies if item.apart]
        for item in standing.replies:
            if item.apart:
                try:
                    replies.append(await self._on_disk(partial(guest.spool.take, item.digest, item.size)))
                except MessageError as error:
                    raise _Refused(422, first_line(error)) from None
            else:
                replies.append(item.data)
        await self._in_session(partial(self.session.took, name, standing.at, replies, told=told))
        for item in far:
            await self._on_disk(partial(guest.spool.drop, item.digest))

    async def _told(self, name: str, guest: Guest, at: int, mine: int) -> Response:
        """What the hospital is told, as soon as there is something, or nothing when the poll is over."""
        until, first = time.monotonic() + self.limits.poll, True
        while True:
            guest.woken.clear()
            work, over = await self._in_session(partial(self._look, name, at, first))
            left = until - time.monotonic()
            if work:
                return await self._work(guest, work)
            if over or self.stopping or guest.poll != mine or left <= 0:
                return self._respond(Told(b"", [], over))
            first = False
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await guest.woken.wait()

    def _look(self, name: str, at: int, first: bool) -> tuple[Work, bool]:
        """What a hospital that has applied `at` rounds is told now, and whether nothing more will come."""
        session, hub = self.session, self.session.hub
        work = session.visit(name, at) if first or session.wait(name, 0.0) else []
        ended = bool(hub.ended) or hub.closed >= hub.rounds
        return work, session.over or (ended and at >= hub.closed and not session.loop.asked)

    async def _work(self, guest: Guest, work: Work) -> Response:
        far = apart([len(message) for _, message in work])
        digests = {}
        for (_, message), flag in zip(work, far, strict=True):
            if flag:
                digests[id(message)] = await self._on_disk(partial(_sha256, message))
        guest.token, guest.work = secrets.token_bytes(TOKEN_BYTES), work
        guest.digests = {digests[id(message)]: message for _, message in work if id(message) in digests}
        items = items_of([(int(kind), digests.get(id(message), b""), message) for kind, message in work])
        return self._respond(Told(guest.token, items, False))

    def _respond(self, told: Told) -> Response:
        self.requests["200"] += 1
        return Response(encode(told), media_type="application/octet-stream")

    async def _get_piece(self, request: Request) -> Response:
        _, guest = self._admit(request)
        digest = _digest(request)
        if "sent" in request.query_params:
            return JSONResponse({"held": guest.spool.held(digest)})
        message = guest.digests.get(digest)
        if message is None:
            raise _Refused(410, "that is not told any more; ask again")
        start, guest.last = _number(request, "from", len(message)), time.monotonic()
        self.requests["200"] += 1
        return Response(message[start : start + PIECE], media_type="application/octet-stream")

    async def _put_piece(self, request: Request) -> Response:
        _, guest = self._admit(request)
        digest, size = _digest(request), _number(request, "size", self.most_bytes)
        start = _number(request, "from", size)
        async with self._turn(guest), self._bodies:
            if (held := guest.spool.held(digest)) != start:
                return JSONResponse({"held": held}, 409)
            await self._on_disk(partial(guest.spool.make_room, digest, size))
            data = await self._body(request, min(PIECE, size - start))
            if guest.spool.held(digest) == start:
                await self._on_disk(partial(guest.spool.add, digest, start, data))
        guest.last = time.monotonic()
        self.requests["200"] += 1
        return JSONResponse({"held": start + len(data)})

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"serves": not self.stopping and self.session.failure is None})

    async def _body(self, request: Request, most: int) -> bytes:
        """A request's body of `most` bytes at most, as long as it comes fast enough. Raises _Refused."""
        announced = request.headers.get("content-length")
        if announced is None or not announced.isdecimal() or int(announced) > most:
            raise _Refused(413, f"a body of {announced!r:.20} bytes, at most {most} belong there")
        body, until = bytearray(), self.limits.body + int(announced) / self.limits.least_rate
        try:
            async with asyncio.timeout(until):
                async for part in request.stream():
                    body += part
                    if len(body) > most:
                        raise _Refused(413, f"a body of more than the {most} bytes that belong there")
        except TimeoutError:
            raise _Refused(408, f"a body of {announced} bytes did not come within {until:.0f} s") from None
        return bytes(body)


def _line(status: int, line: str, wait: float | None = None) -> Response:
    headers = {} if wait is None else {"retry-after": str(max(1, round(wait)))}
    if status in (408, 413):
        headers["connection"] = "close"  # what is left of the body is not read
    return Response(json.dumps({"error": line}), status, headers, "application/json")


def _sha256(message: bytes) -> bytes:
    return hashlib.sha256(message).digest()


def _digest(request: Request) -> bytes:
    try:
        digest = bytes.fromhex(request.path_params["digest"])
    except ValueError:
        digest = b""
    if len(digest) != DIGEST_BYTES:
        raise _Refused(400, "no digest of a body; install the same securepfl everywhere")
    return digest


def _number(request: Request, key: str, most: int) -> int:
    text = request.query_params.get(key, "")
    if not (text.isascii() and text.isdecimal() and len(text) < 16) or int(text) > most:
        raise _Refused(400, f"{key}={text!r:.20}: at most {most} here; install the same securepfl everywhere")
    return int(text)
