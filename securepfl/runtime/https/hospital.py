"""A hospital's half: it calls the hub, says where it stands, takes what it is told, and calls again."""

import hashlib
import json
import secrets
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

import httpx

from securepfl.crypto.keys.certificates import HOSPITAL, begins, ends
from securepfl.crypto.messages.envelope import OVERHEAD_BYTES
from securepfl.errors import ConfigError, MessageError, SecurePFLError, first_line
from securepfl.protocol.hospital import Exchanged, exchange
from securepfl.runtime.https.spool import Spool
from securepfl.runtime.https.tls import client_context
from securepfl.runtime.https.wire import (
    HEADER,
    MOST_EXCHANGE,
    PIECE,
    PROTOCOL,
    SIGN,
    TOKEN_BYTES,
    Item,
    Standing,
    Told,
    apart,
    encode,
    items_of,
    path_of,
    read_told,
)
from securepfl.storage.certificates import Credentials

if TYPE_CHECKING:
    from securepfl.client.client import Client  # a hub loads this module too, and no torch

_CONNECT: Final = 15.0
_SEND: Final = 60.0
_POLL: Final = 60.0
"""Seconds without a byte of an answer after which a call is given up: more than a poll of the hub's takes."""
_KEPT_ALIVE: Final = 50.0  # less than the hub keeps a connection that does nothing
_FIRST_WAIT: Final = 0.25
_ALIVE: Final = 10.0
"""Seconds that a sign of life may take."""
_LONGEST_WAIT: Final = 10.0
_BLOCK: Final = 2**17
_MOST_ERROR: Final = 2**12
_LOST: Final = frozenset({410, 422})
"""Of a piece or reply that the hub has not any more: the exchange begins anew."""
_TRY_LATER: Final = frozenset({408, 425, 429, 500, 502, 503, 504, 507})


class Visitor(Protocol):
    """What travels to the hub: a HospitalSession, or a Client that `join` wraps."""

    @property
    def name(self) -> str:
        """The hospital's."""

    @property
    def at(self) -> int:
        """The last round that it has applied."""

    def exchange(self, messages: Sequence[bytes]) -> Exchanged:
        """Take messages, in order."""

    def problem(self, what: str, error: BaseException) -> None:
        """Something went wrong on the way."""


@dataclass(frozen=True)
class _Plain:
    """A client without a log."""

    client: "Client"
    say: Callable[[str], None]

    @property
    def name(self) -> str:
        return self.client.name

    @property
    def at(self) -> int:
        return self.client.round

    def exchange(self, messages: Sequence[bytes]) -> Exchanged:
        done = exchange(self.client, messages)
        if done.failed is not None:
            self.say(f"{self.name}: could not do what it was told: {first_line(done.failed)}")
        return done

    def problem(self, what: str, error: BaseException) -> None:
        self.say(f"{self.name}: {what}: {first_line(error)}")


def join(
    client: "Client",
    url: str,
    credentials: Credentials,
    *,
    stop: threading.Event | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> bool:
    """Take part in a run over HTTPS with one's own client, and so one's own model and loader: whether the run is over.

    `url` is the hub's, `https://hub.example.org:8443`; a proxy that HTTPS_PROXY names is used, unless NO_PROXY names
    the hub. Comes back when the run is over or `stop` is set; called again with the same client, or one on the same
    folder, it goes on. While the hub cannot be reached it waits and tries again; `say` is told that, once.

    Raises ConfigError where this hospital must mend something first: url, certificate, or version. A whole run is in
    examples/over_https.py.
    """
    spool = client.folder / "spool"
    return travel(_Plain(client, say), url, credentials, spool, most_bytes=most_bytes_of(client), stop=stop)


def most_bytes_of(client: "Client") -> int:
    """How long a message of its run can be."""
    return client.session.longest_bytes + OVERHEAD_BYTES


def travel(
    visitor: Visitor,
    url: str,
    credentials: Credentials,
    spool: Path,
    *,
    most_bytes: int,
    stop: threading.Event | None = None,
) -> bool:
    """As `join`, for any visitor. Messages of `most_bytes` at most; long ones lie in `spool` on their way."""
    stop = stop or threading.Event()
    with Way(check_url(url), visitor.name, credentials, most_bytes, spool, stop) as way:
        return _Journey(visitor, way, stop).go()


def check_url(url: str) -> str:
    """The hub's address without a path. Raises ConfigError.

    >>> check_url("https://hub.example.org:8443/")
    'https://hub.example.org:8443'
    """
    try:
        parts = urlsplit(url)
        whole = parts.scheme == "https" and parts.hostname and parts.path in ("", "/") and parts.port != 0
    except ValueError:
        whole = None
    if not whole or parts.username or parts.query or parts.fragment:
        raise ConfigError(f"--hub {url!r}: give the hub's address as https://HOST:PORT")
    return url.rstrip("/")


class _Later(SecurePFLError):  # noqa: N818 - no fault of anybody's; its line is all that a log shows
    """Try again: after `seconds`, or as is usual. `line` is for the operator."""

    def __init__(self, line: str, seconds: float | None = None) -> None:
        super().__init__(line)
        self.seconds = seconds


class _Anew(Exception):  # noqa: N818
    """What the hub had of this exchange is gone: say where one stands again."""


@dataclass
class _Journey:
    """Exchanges, one after the other, through whatever happens to the way."""

    visitor: Visitor
    way: "Way"
    stop: threading.Event
    replies: tuple[bytes, ...] = ()
    token: bytes = b""
    failures: int = 0
    busy: bool = False
    warned: date | None = None

    def go(self) -> bool:
        """Until the run is over (True) or `stop`."""
        ended = threading.Event()
        signs = threading.Thread(target=self._give_signs, args=[ended], name="signs of life", daemon=True)
        signs.start()
        try:
            return self._travel()
        finally:
            ended.set()
            signs.join(1.0)

    def _give_signs(self, ended: threading.Event) -> None:
        """While the hospital works on what it was told, so that the hub does not take it for gone."""
        while not ended.wait(SIGN):
            if self.busy:
                self.way.alive(self.visitor.at)

    def _travel(self) -> bool:
        while not self.stop.is_set():
            self._warn()
            try:
                told = self.way.exchange(self.visitor.at, self.token, self.replies)
                messages = [self.way.fetched(item) for item in told.items]
            except _Anew:
                continue
            except _Later as later:
                self._wait(later)
                continue
            except MessageError as error:  # not what a hub says: a broken proxy, or a hub that is
                self._wait(_Later(f"not understood: {first_line(error)}"))
                continue
            if self.failures:
                self.failures = 0
            done = self._worked(messages) if messages else Exchanged(self.visitor.at, ())
            del messages
            self.way.forget(told.items)
            self.replies, self.token = done.replies, told.token
            if told.over:
                return True
        return False

    def _worked(self, messages: Sequence[bytes]) -> Exchanged:
        self.busy = True
        try:
            return self.visitor.exchange(messages)
        finally:
            self.busy = False

    def _warn(self) -> None:
        """Each day, where a certificate ends soon."""
        now = datetime.now(UTC)
        if now.date() != self.warned:
            self.warned = now.date()
            for line in self.way.credentials.expiry(now):
                self.visitor.problem("certificate", ConfigError(line.removeprefix("note: ")))

    def _wait(self, later: _Later) -> None:
        """Longer each time, up to some seconds, and never two hospitals at the same moment."""
        if self.failures == 0:
            self.visitor.problem("waits for the hub", later)
        usual = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** min(self.failures, 10))
        self.failures += 1
        seconds = usual if later.seconds is None else later.seconds
        self.stop.wait(seconds * (0.5 + secrets.randbelow(1000) / 1000))
        self.way.renew()


@dataclass
class Way:
    """The way to the hub: requests with this hospital's certificate, to a hub of the pinned root.

    Raises _Later for what passes, ConfigError for what this hospital must mend.
    """

    url: str
    name: str
    credentials: Credentials
    most_bytes: int
    folder: Path
    stop: threading.Event
    visit: bytes = field(default_factory=lambda: secrets.token_bytes(TOKEN_BYTES))
    http: httpx.Client = field(init=False)
    answered: bool = False

    def __post_init__(self) -> None:
        holder = self.credentials.holder
        if holder.role != HOSPITAL or holder.name != self.name:
            raise ConfigError(
                f"{self.credentials.place}: certificate of {holder.role} {holder.name}, not of {self.name}"
            )
        self._check_own()
        self.spool = Spool(self.folder, 4 * self.most_bytes)
        self.http = self._opened()

    def __enter__(self) -> "Way":
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def renew(self) -> None:
        """Use a renewed certificate, where there is one. Raises ConfigError where the one at hand has ended."""
        with suppress(SecurePFLError):
            if (renewed := self.credentials.renewed()) is not None:
                self.credentials = renewed
                self.http.close()
                self.http = self._opened()
        self._check_own()

    def exchange(self, at: int, token: bytes, replies: Sequence[bytes]) -> Told:
        """Say where one stands, and be told what to do next."""
        far = apart(list(map(len, replies)))
        digests = [hashlib.sha256(data).digest() if flag else b"" for data, flag in zip(replies, far, strict=True)]
        for digest, data in zip(digests, replies, strict=True):
            if digest:
                self._send(digest, data)
        items = items_of([(0, digest, data) for digest, data in zip(digests, replies, strict=True)])
        body = encode(Standing(self.visit, at, token, items))
        answer = self._call("POST", path_of(self.name, "exchange"), content=body)
        return read_told(answer, self.most_bytes)

    def alive(self, at: int) -> None:
        """A sign of life. One that is lost matters to nobody."""
        body = encode(Standing(self.visit, at, b"", []))
        with suppress(httpx.HTTPError, RuntimeError):  # RuntimeError: closed meanwhile, for a renewed certificate
            self.http.post(path_of(self.name, "alive"), content=body, timeout=_ALIVE)

    def fetched(self, item: Item) -> bytes:
        """A message that was told: one that travels apart comes in pieces, and what came before is not asked again."""
        if not item.apart:
            return item.data
        spool, path = self.spool, path_of(self.name, "bodies", item.digest.hex())
        spool.make_room(item.digest, item.size)
        while (held := spool.held(item.digest)) < item.size:
            piece = self._call("GET", path, params={"from": held})
            if not piece or len(piece) > min(PIECE, item.size - held):
                raise MessageError("a piece of another length than was asked for")
            spool.add(item.digest, held, piece)
        return spool.take(item.digest, item.size)

    def forget(self, items: Sequence[Item]) -> None:
        """They were taken."""
        for item in items:
            if item.apart:
                self.spool.drop(item.digest)

    def _send(self, digest: bytes, data: bytes) -> None:
        """A long reply, from where the hub has it on."""
        path, view = path_of(self.name, "bodies", digest.hex()), memoryview(data)
        held = _held(self._call("GET", path, params={"sent": 1}), len(data))
        while held < len(data):
            piece = view[held : held + PIECE]
            parts = {"content": _blocks(piece), "headers": {"content-length": str(len(piece))}}
            held = _held(self._call("PUT", path, params={"from": held, "size": len(data)}, **parts), len(data))

    def _call(self, method: str, path: str, **parts: Any) -> bytes:
        if self.stop.is_set():
            raise _Later("stopping")
        try:
            with self.http.stream(method, path, **parts) as response:
                most = MOST_EXCHANGE if response.status_code == 200 else _MOST_ERROR
                body = bytearray()
                for part in response.iter_raw():
                    body += part
                    if len(body) > most:
                        raise MessageError(f"an answer of more than {most} bytes")
        except httpx.HTTPError as error:
            raise self._told_of(error) from None
        self.answered = True
        return self._checked(response, bytes(body))

    def _checked(self, response: httpx.Response, body: bytes) -> bytes:
        status = response.status_code
        if status == 200 or (status == 409 and body.startswith(b'{"held"')):
            return body
        line = _error_line(body) or f"HTTP status {status}"
        if status in _LOST:
            raise _Anew
        if status in _TRY_LATER or status not in range(400, 500):
            wait = response.headers.get("retry-after", "")
            raise _Later(f"{self.url}: {line}", float(wait) if wait.isdecimal() and len(wait) < 6 else None)
        raise ConfigError(f"{self.url}: the hub refuses {self.name}: {line}")

    def _told_of(self, error: httpx.HTTPError) -> Exception:
        """What went wrong on the way: ConfigError for what this hospital can mend, else _Later."""
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:
            return self._not_the_hub(cause.verify_code, cause.verify_message)
        if isinstance(error, httpx.ProxyError):
            return _Later(f"{self.url}: the proxy lets nobody through ({first_line(error)}); see HTTPS_PROXY, NO_PROXY")
        if not self.answered and isinstance(error, httpx.RemoteProtocolError | httpx.ReadError | httpx.WriteError):
            # With TLS 1.3 a server looks at the client's certificate when the client's handshake is over already.
            return _Later(
                f"{self.url}: ends each connection at once; it stops, or a clock is wrong, or it doesn't take this "
                "hospital's certificate (then its log says so: run `securepfl keys certificate --renew` here)"
            )
        return _Later(f"{self.url}: cannot be reached ({first_line(error)}); waits until it can")

    def _check_own(self) -> None:
        """Raise ConfigError for a certificate of this hospital's that is not valid now."""
        now, certificate = datetime.now(UTC), self.credentials.certificate
        if not begins(certificate) <= now < ends(certificate):
            raise ConfigError(
                f"{self.credentials.place}: not valid now (until {ends(certificate):%Y-%m-%d}, the clock here says "
                f"{now:%Y-%m-%d}); run `securepfl keys certificate`, or set the clock"
            )

    def _not_the_hub(self, code: int, what: str) -> Exception:
        """What is wrong with the certificate that was shown, by OpenSSL's X509_V_ERR code."""
        host = urlsplit(self.url).hostname
        match code:
            case 10:
                return _Later(f"{self.url}: the hub's certificate has ended; the hub runs `securepfl keys certificate`")
            case 9:
                return _Later(f"{self.url}: the hub's certificate is not valid yet: a clock is wrong, here or there")
            case 62 | 64:
                return ConfigError(
                    f"{self.url}: the hub's certificate is not for {host}; use the address that it was made for, or "
                    f"the hub runs `securepfl keys certificate --host {host}`"
                )
        return ConfigError(
            f"{self.url}: shows a certificate of another root than this federation's ({what}); check the address, or "
            "a proxy that opens TLS, or run `securepfl keys certificate --renew`"
        )

    def _opened(self) -> httpx.Client:
        return httpx.Client(
            base_url=self.url,
            verify=client_context(self.credentials),
            timeout=httpx.Timeout(_POLL, connect=_CONNECT, write=_SEND),
            limits=httpx.Limits(max_connections=2, keepalive_expiry=_KEPT_ALIVE),
            headers={HEADER: PROTOCOL, "accept-encoding": "identity", "user-agent": "securepfl"},
            follow_redirects=False,
        )


def _blocks(piece: memoryview) -> Iterator[bytes]:
    """A piece in blocks: what is copied on the way is one of them."""
    for start in range(0, len(piece), _BLOCK):
        yield bytes(piece[start : start + _BLOCK])


def _held(body: bytes, size: int) -> int:
    with suppress(ValueError, KeyError, TypeError):
        held = json.loads(body)["held"]
        if isinstance(held, int) and 0 <= held <= size:
            return held
    raise MessageError("not what a hub answers")


def _error_line(body: bytes) -> str:
    """What the hub says is wrong, made harmless for a terminal."""
    with suppress(ValueError, KeyError, TypeError):
        line = str(json.loads(body)["error"])
        return "".join(letter if letter.isprintable() else "?" for letter in line)[:300]
    return ""
