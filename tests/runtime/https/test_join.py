"""A hospital's way to the hub: what is wrong is told in a line with its remedy, and what passes is waited for."""

import hashlib
import json
import socket
import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from https_parties import Authority, joined, log_of, run_of, served, until
from parties import close_all, federation_of, parties
from proxies import Proxy

from securepfl.coordinator.coordinator import Coordinator
from securepfl.crypto.keys.identity import Identity
from securepfl.errors import ConfigError
from securepfl.runtime.https.hospital import Way, _Journey, _Later, check_url
from securepfl.runtime.https.limits import Limits
from securepfl.runtime.https.wire import Item
from securepfl.runtime.logs import failed, open_log


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with run_of(folder, limits=Limits(poll=0.5)) as (its, coordinator, clients, shown, authority):
        its.folder = folder
        its.coordinator, its.clients, its.shown, its.authority = coordinator, clients, shown, authority
        yield its


def told(run, credentials, url=None, seconds=30):
    """What join says to whoever must mend something."""
    part = joined(run.clients["alder"], url or run.url, credentials).wait(seconds)
    assert isinstance(part.error, ConfigError), (part.error, part.said)
    return str(part.error)


@pytest.mark.parametrize(
    "url",
    [
        "http://hub:1",
        "hub:8443",
        "https://",
        "https://hub/path",
        "https://a:b@hub",
        "https://hub?x",
        "https://hub:99999",
    ],
)
def test_an_address_that_is_none_is_told(url):
    with pytest.raises(ConfigError, match=r"--hub .* https://HOST:PORT"):
        check_url(url)


def test_a_certificate_of_ones_own_that_ended_is_told_with_its_remedy(run):
    ended = run.authority.hospital(run.coordinator.hospitals["alder"], now=datetime.now(UTC) - timedelta(days=400))
    line = told(run, ended)
    assert "not valid now" in line and "`securepfl keys certificate`" in line and "clock" in line


def test_a_certificate_that_the_hub_does_not_take_is_told_on_both_sides(run):
    other = Authority(run.coordinator.identity)
    part = joined(run.clients["alder"], run.url, other.credentials(run.shown["alder"].holder, root=run.authority.root))
    until(lambda: part.said)
    part.stop.set()
    assert part.wait().over is False and len(part.said) == 1
    assert "doesn't take this hospital's certificate" in part.said[0] and "--renew" in part.said[0]
    assert any("no certificate of this hub's root" in line.get("error", "") for line in log_of(run.folder))


def test_a_hub_of_another_root_is_told(run):
    other = Authority(Identity.generate("hub"))
    line = told(run, other.hospital(run.coordinator.hospitals["alder"]))
    assert "another root" in line


def test_a_hub_under_another_name_is_told(tmp_path):
    coordinator, clients = parties(federation_of(), tmp_path, noise_key=bytes(32))
    authority = Authority(coordinator.identity)
    with served(coordinator, authority.hub(("hub.example.org",)), tmp_path / "hub") as its:
        part = joined(clients["alder"], its.url, authority.hospital(coordinator.hospitals["alder"])).wait(30)
    assert isinstance(part.error, ConfigError) and "not for 127.0.0.1" in str(part.error)
    assert "keys certificate --host 127.0.0.1" in str(part.error)
    close_all(clients)


def test_a_hub_whose_certificate_ended_is_waited_for(tmp_path):
    coordinator, clients = parties(federation_of(), tmp_path, noise_key=bytes(32))
    authority = Authority(coordinator.identity)
    ended = authority.hub(now=datetime.now(UTC) - timedelta(days=400))
    with served(coordinator, ended, tmp_path / "hub") as its:
        part = joined(clients["alder"], its.url, authority.hospital(coordinator.hospitals["alder"]))
        until(lambda: part.said)
        part.stop.set()
        part.wait()
    assert part.over is False and part.error is None
    assert len(part.said) == 1 and "the hub's certificate has ended" in part.said[0]
    close_all(clients)


def test_anothers_credentials_are_told_before_anything_is_sent(run):
    line = told(run, run.shown["birch"])
    assert "of hospital birch, not of alder" in line


def test_a_hub_that_is_not_there_yet_is_waited_for_and_said_once(tmp_path):
    coordinator, clients = parties(federation_of(rounds=1), tmp_path, noise_key=bytes(32))
    authority = Authority(coordinator.identity)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"https://127.0.0.1:{port}"
    parts = [joined(clients[name], url, authority.hospital(coordinator.hospitals[name])) for name in clients]
    until(lambda: all(part.said for part in parts))
    with served(coordinator, authority.hub(), tmp_path / "hub", port=port):
        assert [(part.wait(120).over, part.error) for part in parts] == [(True, None)] * 4
    for part in parts:
        assert [("cannot be reached" in line) for line in part.said] == [True]
    close_all(clients)


def test_waiting_for_the_hub_is_a_line_without_a_name_of_ours(tmp_path):
    session = SimpleNamespace(name="alder", problem=lambda what, error: failed(log, what, error))
    log = open_log(tmp_path, "alder")
    stop = threading.Event()
    stop.set()
    way = SimpleNamespace(renew=lambda: None)
    _Journey(session, way, stop)._wait(_Later("https://hub:1: cannot be reached"))
    line = json.loads((tmp_path / "log.jsonl").read_text())
    assert line["error"] == "https://hub:1: cannot be reached" and "traceback" not in line


def test_a_hub_that_stops_and_comes_back_is_gone_on_with(tmp_path):
    folder = tmp_path / "coordinator"
    coordinator, clients = parties(federation_of(rounds=2), tmp_path, noise_key=bytes(32))
    commitment = clients["alder"].session.key.commitment
    coordinator = _with_folder(coordinator, commitment, folder)
    authority = Authority(coordinator.identity)
    names = sorted(clients)
    with served(coordinator, authority.hub(), tmp_path / "hub") as its:
        first = [joined(clients[n], its.url, authority.hospital(coordinator.hospitals[n])) for n in names[:2]]
        until(lambda: sum(line["event"] == "here" for line in log_of(tmp_path)) == 2)
    assert its.over is False and its.error is None
    again = _with_folder(coordinator, commitment, folder)
    with served(again, authority.hub(), tmp_path / "hub", port=its.port):
        rest = [joined(clients[n], its.url, authority.hospital(coordinator.hospitals[n])) for n in names[2:]]
        assert [(part.wait(180).over, part.error) for part in (*first, *rest)] == [(True, None)] * 4
    close_all(clients)


def _with_folder(coordinator, commitment, folder):
    return Coordinator(
        coordinator.federation,
        coordinator.identity,
        coordinator.hospitals,
        key_commitment=commitment,
        folder=folder,
    )


@pytest.fixture
def proxy(monkeypatch):
    made = []

    def make(**options):
        made.append(Proxy(**options))
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy", "https_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HTTPS_PROXY", made[-1].url)
        return made[-1]

    yield make
    for its in made:
        its.close()


def test_a_proxy_in_the_environment_is_used_and_sees_tls_alone(tmp_path, proxy):
    with run_of(tmp_path, rounds=1) as (its, _, clients, shown, _):
        through = proxy()
        parts = [joined(clients[name], its.url, shown[name]) for name in clients]
        assert [(part.wait(120).over, part.error) for part in parts] == [(True, None)] * 4
    assert set(through.asked) == {("CONNECT", f"127.0.0.1:{its.port}")}


def test_no_proxy_is_honoured(tmp_path, proxy, monkeypatch):
    with run_of(tmp_path, rounds=1) as (its, _, clients, shown, _):
        through = proxy()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        parts = [joined(clients[name], its.url, shown[name]) for name in clients]
        assert [(part.wait(120).over, part.error) for part in parts] == [(True, None)] * 4
    assert not through.asked


def test_a_proxy_that_is_not_there_is_told_and_waited_for(run, proxy, monkeypatch):
    proxy()
    with socket.create_server(("127.0.0.1", 0)) as free:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free.getsockname()[1]}")
    part = joined(run.clients["alder"], run.url, run.shown["alder"])
    until(lambda: part.said)
    part.stop.set()
    part.wait()
    assert part.over is False and len(part.said) == 1 and "waits for the hub" in part.said[0]


def test_a_transfer_that_is_cut_off_goes_on_where_it_was(tmp_path, monkeypatch, proxy):
    """Each connection through the proxy ends after 300 kB: a reply of 1 MB arrives in pieces all the same."""
    encrypted = {"encryption": {"scheme": "tenseal"}}  # so that a reply may be so long
    with run_of(tmp_path, limits=Limits(poll=0.2), **encrypted) as (its, coordinator, _, shown, _):
        proxy(cut=300_000)
        for module in ("hospital", "wire"):
            monkeypatch.setattr(f"securepfl.runtime.https.{module}.PIECE", 100_000)
        most = coordinator.rules.most_bytes
        size = min(most, 1_000_000)
        way = Way(its.url, "alder", shown["alder"], most, tmp_path / "spool", threading.Event())
        reply, tries, sent = bytes(range(256)) * (size // 256), 0, []
        plain = way._call
        way._call = lambda *a, **k: sent.append(a[0]) or plain(*a, **k)
        while tries < 50:
            tries += 1
            try:
                told_ = way.exchange(0, b"", (reply,))
                break
            except Exception as error:  # noqa: BLE001 - the way was cut: again, as a journey does
                last = error
        else:
            raise last
        assert told_.items == [] and tries > 1
        assert sent.count("PUT") < 3 * len(reply) / 100_000


def test_a_download_goes_on_where_it_was_after_a_restart(tmp_path):
    message = bytes(range(256)) * 100
    item = Item(2, len(message), hashlib.sha256(message).digest(), b"")
    asked = []

    class Broken(Way):
        def _call(self, method, path, **parts):
            asked.append(parts["params"]["from"])
            if len(asked) == 3:
                raise ConnectionError
            start = parts["params"]["from"]
            return message[start : start + 10_000]

    def way():
        authority = Authority(Identity.generate("hub"))
        alder = authority.hospital(Identity.generate("alder").public)
        return Broken("https://127.0.0.1:1", "alder", alder, 10**6, tmp_path / "spool", threading.Event())

    with pytest.raises(ConnectionError):
        way().fetched(item)
    assert way().fetched(item) == message
    assert asked == [0, 10_000, 20_000, 20_000]


def test_certificates_renewed_at_the_hub_are_shown_without_a_restart(tmp_path, monkeypatch):
    monkeypatch.setattr("securepfl.runtime.https.serving._LOOKED", 0.2)
    coordinator, clients = parties(federation_of(), tmp_path, noise_key=bytes(32))
    authority = Authority(coordinator.identity)
    old, new = authority.hub(("hub.example.org",)), authority.hub()
    answers = iter([new])
    monkeypatch.setattr(type(old), "renewed", lambda its: next(answers, None))
    with served(coordinator, old, tmp_path / "hub", limits=Limits(poll=0.5)) as its:
        until(lambda: any("renewed" in line["event"] for line in log_of(tmp_path)))
        part = joined(clients["alder"], its.url, authority.hospital(coordinator.hospitals["alder"]))
        until(lambda: any(line["event"] == "here" for line in log_of(tmp_path)))
        part.stop.set()
        assert part.wait().error is None and part.said == []
    close_all(clients)
