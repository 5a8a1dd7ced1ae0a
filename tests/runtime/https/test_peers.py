"""Who is let in, and what becomes of whoever misbehaves: named, and the others' run goes on."""

import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from https_parties import HOSTS, Authority, called, joined, log_of, run_of, standing

from securepfl.crypto.keys.certificates import Holder, make_leaf, new_key, public_key_of
from securepfl.crypto.keys.identity import Identity
from securepfl.runtime.https.limits import Limits
from securepfl.runtime.https.tls import client_context, show
from securepfl.runtime.https.wire import MOST_EXCHANGE, Item, Told, path_of, read_told

QUICK = Limits(poll=0.5, shake=1.0, body=1.0, least_rate=2**24)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A hub that serves nobody but the tests below; no round begins, since too few hospitals are here."""
    folder = tmp_path_factory.mktemp("run")
    with run_of(folder, limits=QUICK, monitor=0) as (its, coordinator, _, shown, authority):
        its.folder, its.coordinator, its.shown, its.authority = folder, coordinator, shown, authority
        yield its


def refused(run, credentials):
    """Whether TLS lets these credentials in."""
    with called(run.url, credentials) as http:
        try:
            http.get("/healthz")
        except httpx.TransportError:
            return True
    return False


def exchanged(run, credentials, path=None, body=None, **headers):
    name = credentials.holder.name
    with called(run.url, credentials, **headers) as http:
        return http.post(path or path_of(name, "exchange"), content=standing() if body is None else body)


def test_a_certificate_of_this_root_is_let_in(run):
    assert not refused(run, run.shown["alder"])
    assert exchanged(run, run.shown["alder"]).status_code == 200


def test_a_client_without_a_certificate_is_not(run):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with httpx.Client(base_url=run.url, verify=context) as http, pytest.raises(httpx.TransportError):
        http.get("/healthz")


def test_one_of_another_root_is_not(run):
    other = Authority(Identity.generate("coordinator"))
    assert refused(run, other.credentials(run.shown["alder"].holder, root=run.authority.root))


def test_one_that_ended_or_has_not_begun_is_not(run):
    for now in (datetime.now(UTC) - timedelta(days=400), datetime.now(UTC) + timedelta(days=40)):
        assert refused(run, run.authority.credentials(run.shown["alder"].holder, now=now))


def test_a_hospitals_certificate_issues_no_other(run):
    alder, key = run.shown["alder"], new_key()
    forged = make_leaf(
        alder.certificate, alder.key, public_key_of(key), Holder(*_of(run, "birch")), (), run.authority.now
    )
    context = client_context(alder)
    chain = type(alder)(alder.holder, alder.root, forged, key, alder.file)
    show(context, chain)
    with httpx.Client(base_url=run.url, verify=context) as http, pytest.raises(httpx.TransportError):
        http.get("/healthz")


def _of(run, name):
    public = run.coordinator.hospitals[name]
    return "hospital", public.name, public.fingerprint


def test_the_hubs_own_certificate_is_no_hospitals(run):
    assert refused(run, run.authority.hub(HOSTS))


@pytest.mark.parametrize("name", ["birch", "nobody", "..", "%2e%2e"])
def test_a_hospital_under_anothers_name_is_refused_by_name(run, name):
    answer = exchanged(run, run.shown["alder"], path=f"/v1/{name}/exchange")
    assert answer.status_code in (403, 404)
    if name == "birch":
        assert "alder's, not birch's" in answer.json()["error"]


def test_a_certificate_of_an_earlier_identity_is_refused(run):
    public = run.coordinator.hospitals["alder"]
    answer = exchanged(run, run.authority.credentials(Holder("hospital", "alder", "A" * 4 + "-AAAA" * 7)))
    assert public.fingerprint and answer.status_code == 403 and "earlier identity" in answer.json()["error"]


def test_a_name_that_no_roster_has_is_refused(run):
    answer = exchanged(run, run.authority.credentials(Holder("hospital", "elm", "A" * 4 + "-AAAA" * 7)))
    assert answer.status_code == 403 and "no hospital of this federation" in answer.json()["error"]


def test_another_version_is_told(run):
    answer = exchanged(run, run.shown["alder"], **{"securepfl-protocol": "0"})
    assert answer.status_code == 426 and "install the same securepfl" in answer.json()["error"]


@pytest.mark.parametrize("body", [b"", b"\0" * 100, b"\x93" * 1000, b"\xc1", standing()[:-1], standing(at=-1)])
def test_garbage_is_refused(run, body):
    answer = exchanged(run, run.shown["alder"], body=body)
    assert answer.status_code == 400 and "malformed" in answer.json()["error"]


def test_garbage_replies_cost_their_sender_alone(tmp_path):
    with run_of(tmp_path, rounds=1, patience=5.0, limits=Limits(poll=0.5)) as (its, _, clients, shown, _):
        bad, *good = sorted(clients)
        parts = [joined(clients[name], its.url, shown[name]) for name in good]
        told, reply = Told(b"", [], False), Item(0, 9, b"", b"not a msg")
        with called(its.url, shown[bad]) as http:
            while not told.items:
                told = read_told(http.post(path_of(bad, "exchange"), content=standing()).content, 10**7)
            answer = http.post(path_of(bad, "exchange"), content=standing(told=told.token, replies=[reply]))
        assert answer.status_code == 200
        assert [(part.wait(180).over, part.error) for part in parts] == [(True, None)] * 3
    assert [line["hospital"] for line in log_of(tmp_path) if line["event"] == "refused"] == [bad]


def test_a_round_that_cannot_be_is_refused(run):
    answer = exchanged(run, run.shown["alder"], body=standing(at=99))
    assert answer.status_code == 400 and "99" in answer.json()["error"]


def test_huge_bodies_are_refused_before_they_come(run):
    head = f"POST {path_of('damson', 'exchange')} HTTP/1.1\r\nhost: x\r\nsecurepfl-protocol: 1\r\n"
    with raw(run, run.shown["damson"]) as connection:
        connection.sendall(f"{head}content-length: {MOST_EXCHANGE + 1}\r\n\r\n".encode())
        assert b" 413 " in connection.recv(2**16)


def test_a_body_of_unknown_length_is_refused(run):
    with called(run.url, run.shown["alder"]) as http:
        answer = http.post(path_of("alder", "exchange"), content=iter([b"x", b"y"]))
    assert answer.status_code == 413


def test_a_long_message_beyond_what_settings_allow_is_refused(run):
    with called(run.url, run.shown["alder"]) as http:
        answer = http.put(path_of("alder", "bodies", "0" * 64), params={"from": 0, "size": 10**12}, content=b"x")
    assert answer.status_code == 400 and "at most" in answer.json()["error"]


def test_a_hospital_cannot_fill_the_disk(run):
    size = run.coordinator.rules.most_bytes // 2
    with called(run.url, run.shown["cedar"]) as http:
        for number in range(6):
            path = path_of("cedar", "bodies", f"{number:064x}")
            for start in range(0, size, 2**20):
                piece = bytes(min(2**20, size - start))
                assert http.put(path, params={"from": start, "size": size}, content=piece).status_code == 200
    held = sum(path.stat().st_size for path in (run.folder / "hub" / "spool").glob("*/*"))
    assert 0 < held <= 2 * (run.coordinator.rules.most_bytes + 10_000)


def test_a_body_that_grows_beyond_what_its_first_piece_told_still_fills_no_disk(run):
    size, paths = run.coordinator.rules.most_bytes, [path_of("cedar", "bodies", f"{n + 99:064x}") for n in range(5)]
    with called(run.url, run.shown["cedar"]) as http:
        for path in paths:
            assert http.put(path, params={"from": 0, "size": 1}, content=b"x").status_code == 200
        for path in paths:
            http.put(path, params={"from": 1, "size": size}, content=bytes(size - 1))
        empty = [
            http.put(path_of("cedar", "bodies", f"{n:064x}"), params={"from": 0, "size": 0}, content=b"")
            for n in range(100)
        ]
    files = [path.stat().st_size for path in (run.folder / "hub" / "spool").glob("*/*")]
    assert {answer.status_code for answer in empty} == {200}
    assert sum(files) <= 2 * (run.coordinator.rules.most_bytes + 10_000) and len(files) <= 64


def earlier(run, name):
    """A certificate that this root issued for an identity that the hospital has no more."""
    return run.authority.credentials(Holder("hospital", name, "A" * 4 + "-AAAA" * 7))


def test_a_certificate_of_an_earlier_identity_closes_no_connection_of_the_hospital(run):
    head = b"GET /healthz HTTP/1.1\r\nhost: x\r\n"
    with raw(run, run.shown["birch"]) as connection:
        others = [raw(run, earlier(run, "birch")) for _ in range(QUICK.connections)]
        connection.sendall(head + b"\r\n")
        assert b" 200 " in connection.recv(2**16)
        for other in others:
            other.close()


def test_who_is_turned_away_is_named_by_certificate_and_cannot_fill_the_log(run):
    excluded = run.authority.credentials(Holder("hospital", "hawthorn", "A" * 4 + "-AAAA" * 7))
    with called(run.url, excluded) as http:
        for number in range(50):
            http.post(f"/v1/birch{number}/exchange", content=b"")
    with called(run.url, run.shown["damson"]) as http:
        for number in range(50):
            http.post("/v1/birch/exchange", content=b"", headers={"securepfl-protocol": str(number)})
            http.post("/v1/damson/exchange", content=b"", headers={"securepfl-protocol": str(number)})
    said = [line for line in log_of(run.folder) if line["event"] == "turned away"]
    assert sum("hawthorn" in str(line) for line in said) == 1
    assert not [line for line in said if str(line.get("address", line.get("hospital"))).startswith("birch")]
    assert len([line for line in said if "protocol" in line["error"] and line["hospital"] == "damson"]) == 1


def test_what_is_no_http_is_a_line_of_the_hubs_log_and_not_one_each(run, capfd):
    for _ in range(5):
        with raw(run, run.shown["birch"]) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: \0\r\n\r\n")
            assert closed(connection)
    lines = [line for line in log_of(run.folder) if "Invalid HTTP" in line.get("error", "")]
    assert [line["hospital"] for line in lines if line["hospital"] == "birch"] == ["birch"]
    assert "Invalid HTTP" not in capfd.readouterr().err


def test_requests_that_wait_for_a_slow_one_are_few(tmp_path):
    head = b"POST /v1/alder/exchange HTTP/1.1\r\nhost: x\r\nsecurepfl-protocol: 1\r\ncontent-length: "
    limits = Limits(poll=0.2, body=3.0)
    with run_of(tmp_path, limits=limits) as (its, _, _, shown, _), raw(its, shown["alder"]) as slow:
        slow.sendall(head + b"9000\r\n\r\n")
        for _ in range(limits.connections + 4):  # each goes, and its request waits on
            with raw(its, shown["alder"]) as gone:
                gone.sendall(head + b"9\r\n\r\n")
                time.sleep(0.05)
        with called(its.url, shown["alder"]) as http:
            answer = http.post(path_of("alder", "exchange"), content=standing())
    assert answer.status_code == 429 and "wait for an earlier one" in answer.json()["error"]


@pytest.mark.parametrize("path", ["/healthz", "/nothing/here"])
def test_no_path_is_free_of_the_measure_and_outsiders_share_one(tmp_path, path):
    limits = Limits(poll=0.1, rate=0.5, burst=3)
    with run_of(tmp_path, limits=limits) as (its, _, _, shown, authority):
        for who in (shown["alder"], authority.credentials(Holder("hospital", "elm", "A" * 4 + "-AAAA" * 7))):
            with called(its.url, who) as http:
                assert [http.get(path).status_code for _ in range(4)][-1] == 429


def test_a_body_that_is_not_what_was_announced_is_refused_and_gone(run):
    path = path_of("cedar", "bodies", "ab" * 32)
    with called(run.url, run.shown["cedar"]) as http:
        assert http.put(path, params={"from": 0, "size": 5}, content=b"wrong").json() == {"held": 5}
        told = standing(replies=[Item(0, 5, bytes.fromhex("ab" * 32), b"")])
        assert http.post(path_of("cedar", "exchange"), content=told).status_code == 422
        assert http.get(path, params={"sent": 1}).json() == {"held": 0}


def test_a_piece_at_another_place_is_answered_with_the_right_one(run):
    path = path_of("cedar", "bodies", "cd" * 32)
    with called(run.url, run.shown["cedar"]) as http:
        assert http.put(path, params={"from": 0, "size": 9}, content=b"abc").json() == {"held": 3}
        answer = http.put(path, params={"from": 7, "size": 9}, content=b"hi")
        assert (answer.status_code, answer.json()) == (409, {"held": 3})


def raw(run, credentials):
    """A TLS connection on which a test says what it likes."""
    sock = socket.create_connection(("127.0.0.1", run.port), timeout=20)
    return client_context(credentials).wrap_socket(sock, server_hostname="127.0.0.1")


def closed(connection):
    """Whether the other side ends the connection, soon."""
    try:
        while connection.recv(2**16):
            pass
    except (ConnectionError, ssl.SSLError):
        pass
    except TimeoutError:
        return False
    return True


def test_a_slow_header_and_a_header_without_end_end_the_connection(run):
    with raw(run, run.shown["damson"]) as one, raw(run, run.shown["damson"]) as two:
        one.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n")
        assert closed(one)
        try:
            for _ in range(1000):
                two.sendall(b"a: " + b"b" * 1000 + b"\r\n")
        except (ConnectionError, ssl.SSLError):
            pass
        assert closed(two)
    assert any("header" in line.get("error", "") for line in log_of(run.folder) if line.get("hospital") == "damson")


def test_a_slow_body_is_given_up(run):
    head = f"POST {path_of('damson', 'exchange')} HTTP/1.1\r\nhost: x\r\nsecurepfl-protocol: 1\r\n"
    with raw(run, run.shown["damson"]) as connection:
        connection.sendall(head.encode() + b"content-length: 1000\r\n\r\n" + b"x" * 10)
        assert b" 408 " in connection.recv(2**16)


def test_no_http_at_all_is_answered_and_closed(run):
    with raw(run, run.shown["damson"]) as connection:
        connection.sendall(b"\0\1\2 no http\r\n\r\n")
        assert closed(connection)


def test_more_connections_than_a_hospital_may_have_close_its_oldest(run):
    connections = [raw(run, run.shown["damson"]) for _ in range(QUICK.connections + 1)]
    assert closed(connections[0])
    for connection in connections:
        connection.close()


def test_strangers_who_say_nothing_are_bounded_and_time_out(run):
    sockets = [socket.create_connection(("127.0.0.1", run.port), timeout=10) for _ in range(QUICK.strangers + 20)]
    assert all(closed(its) for its in sockets)
    assert not refused(run, run.shown["alder"])
    assert any("without a certificate" in line.get("error", "") for line in log_of(run.folder))
    for its in sockets:
        its.close()


def test_too_many_requests_are_told_when_to_come_back(tmp_path):
    limits = Limits(poll=0.1, rate=0.5, burst=3)
    with run_of(tmp_path, limits=limits) as (its, _, _, shown, _), called(its.url, shown["alder"]) as http:
        answers = [http.get(path_of("alder", "bodies", "0" * 64), params={"sent": 1}) for _ in range(5)]
    assert [answer.status_code for answer in answers].count(429) == 2
    assert answers[-1].headers["retry-after"].isdecimal()


def test_two_processes_of_one_hospital_are_told_apart(run):
    def visit(number):
        return exchanged(run, run.shown["birch"], body=standing(visit=bytes([number]) * 16)).status_code

    assert (visit(1), visit(2), visit(1)) == (200, 200, 409)


def test_a_flood_of_garbage_leaves_the_others_run_as_it_is(tmp_path):
    with run_of(tmp_path, rounds=2, patience=5.0, limits=Limits(shake=2.0)) as (its, _, clients, shown, _):
        bad, *good = sorted(clients)
        parts = [joined(clients[name], its.url, shown[name]) for name in good]

        def pester(number):
            with called(its.url, shown[bad]) as http:
                for _ in range(10):
                    try:
                        http.post(path_of(bad, "exchange"), content=bytes(number * 1000))
                        http.put(path_of(bad, "bodies", "0" * 64), params={"from": 0, "size": 9}, content=b"x")
                    except httpx.TransportError:
                        pass

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(pester, range(6)))
        assert [(part.wait(180).over, part.error) for part in parts] == [(True, None)] * 3
    assert {line.get("hospital") for line in log_of(tmp_path) if line["event"] == "turned away"} >= {bad}


def test_health_and_metrics_are_on_loopback_without_a_certificate(run):
    address = next(line["monitor"] for line in log_of(run.folder) if line["event"] == "serves")
    assert address.startswith("127.0.0.1:")
    assert httpx.get(f"http://{address}/healthz").json() == {"serves": True}
    metrics = httpx.get(f"http://{address}/metrics").text
    assert 'securepfl_hospital_here{hospital="alder"}' in metrics and "securepfl_rounds 3.0" in metrics
    fingerprint = run.coordinator.hospitals["alder"].fingerprint
    assert fingerprint not in metrics
