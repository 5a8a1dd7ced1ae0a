"""A hub and its hospitals over HTTPS, for tests: the real server in a thread, real TLS, a port that was free."""

import json
import queue
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx
from parties import close_all, federation_of, parties

from securepfl.crypto.keys.certificates import Holder, make_leaf, make_root, new_key, public_key_of
from securepfl.crypto.keys.keystore import StoreKey
from securepfl.crypto.keys.secret import Secret
from securepfl.protocol.loop import Patience
from securepfl.runtime.https.hospital import join
from securepfl.runtime.https.limits import Limits
from securepfl.runtime.https.serving import serve
from securepfl.runtime.https.tls import client_context
from securepfl.runtime.https.wire import HEADER, PROTOCOL, Standing, encode
from securepfl.storage.certificates import CertificateFile, Certificates, Credentials

HOSTS = ("localhost", "127.0.0.1")


class Authority:
    """A hub's root, from which credentials are made without a ceremony."""

    def __init__(self, identity, now=None):
        self.identity, self.now, self.key = identity, now or datetime.now(UTC), new_key()
        self.root = make_root(identity.name, self.key, self.now)

    def leaf(self, holder, hosts=(), now=None):
        key = new_key()
        leaf = make_leaf(self.root, self.key, public_key_of(key), holder, hosts, now or self.now)
        return key, leaf

    def credentials(self, holder, hosts=(), *, root=None, now=None):
        key, leaf = self.leaf(holder, hosts, now)
        held = Certificates(issuer="", root=root or self.root, key=key, certificate=leaf, hosts=list(hosts))
        file = CertificateFile(Path("certificates"), held, StoreKey(14, bytes(16), Secret(bytes(32))))
        return Credentials(holder, root or self.root, leaf, key, file)

    def hub(self, hosts=HOSTS, **options):
        holder = Holder("coordinator", self.identity.name, self.identity.public.fingerprint)
        return self.credentials(holder, hosts, **options)

    def hospital(self, public, **options):
        return self.credentials(Holder("hospital", public.name, public.fingerprint), **options)


@dataclass
class Served:
    """A hub that serves: `url`, and how it ended."""

    url: str = ""
    port: int = 0
    over: bool | None = None
    error: BaseException | None = None
    thread: threading.Thread | None = None
    session: object = None
    lines: list[str] = field(default_factory=list)


@contextmanager
def served(coordinator, credentials, out, *, patience=60.0, away=600.0, limits=None, port=0, monitor=None):
    """The hub serves in a thread until the block ends; its folder is given back then."""
    ready, hub = queue.Queue(), Served()
    stop = threading.Event()

    def run():
        try:
            hub.over = serve(
                coordinator,
                credentials,
                out,
                host="127.0.0.1",
                port=port,
                monitor=monitor,
                patience=Patience(patience, away),
                limits=limits or Limits(),
                ready=ready.put,
                stop=stop,
            )
        except BaseException as error:  # noqa: BLE001 - told to the test
            hub.error = error
            ready.put(None)

    hub.thread = threading.Thread(target=run, daemon=True)
    hub.thread.start()
    hub.port = ready.get(timeout=30)
    if hub.port is None:
        raise hub.error
    hub.url = f"https://127.0.0.1:{hub.port}"
    try:
        yield hub
    finally:
        stop.set()
        hub.thread.join(30)
        assert not hub.thread.is_alive()


@dataclass
class Joined:
    """A hospital that takes part in a thread."""

    name: str
    stop: threading.Event = field(default_factory=threading.Event)
    said: list[str] = field(default_factory=list)
    over: bool | None = None
    error: BaseException | None = None
    thread: threading.Thread | None = None

    def wait(self, seconds=60):
        self.thread.join(seconds)
        assert not self.thread.is_alive(), f"{self.name} still takes part: {self.said}"
        return self


def until(condition, seconds=60):
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


def joined(client, url, credentials):
    """Take part in a thread of its own."""
    its = Joined(client.name)

    def run():
        try:
            its.over = join(client, url, credentials, stop=its.stop, say=its.said.append)
        except BaseException as error:  # noqa: BLE001 - told to the test
            its.error = error

    its.thread = threading.Thread(target=run, daemon=True)
    its.thread.start()
    return its


@contextmanager
def called(url, credentials, **headers):
    """An HTTP client with these credentials, as a hospital's own program would be."""
    with httpx.Client(
        base_url=url, verify=client_context(credentials), headers={HEADER: PROTOCOL, **headers}, timeout=30
    ) as http:
        yield http


def standing(at=0, told=b"", replies=(), visit=bytes(16)):
    return encode(Standing(visit, at, told, list(replies)))


@contextmanager
def run_of(folder, *, patience=60.0, away=600.0, limits=None, monitor=None, **tables):
    """(hub that serves, its coordinator, clients, their credentials by name, the authority); not encrypted, unless
    `tables` say otherwise.
    """
    made = federation_of(**{"encryption": {"scheme": "none"}} | tables)
    coordinator, clients = parties(made, folder, noise_key=bytes(32))
    authority = Authority(coordinator.identity)
    shown = {name: authority.hospital(coordinator.hospitals[name]) for name in clients}
    try:
        with served(
            coordinator,
            authority.hub(),
            folder / "hub",
            patience=patience,
            away=away,
            limits=limits,
            monitor=monitor,
        ) as hub:
            yield hub, coordinator, clients, shown, authority
    finally:
        close_all(clients)


def log_of(folder):
    return [json.loads(line) for line in (folder / "hub" / "log.jsonl").read_text().splitlines()]
