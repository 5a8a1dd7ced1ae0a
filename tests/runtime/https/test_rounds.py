"""Whole runs over HTTPS on loopback: real TLS, real clients."""

import numpy as np
import pytest
from https_parties import Authority, joined, run_of, served
from parties import Carried, close_all, federation_of, parties

from securepfl.protocol.rounds import drive
from securepfl.runtime.https import hospital, hub, wire

KEY = bytes(range(32))


def driven(folder, **tables):
    """The shared parameters after a run with everybody at hand."""
    coordinator, clients = parties(federation_of(**tables), folder, KEY, bytes(32))
    for _ in range(coordinator.rounds):
        assert drive(coordinator, Carried(clients)) == ()
    states = {name: client.state.shared for name, client in clients.items()}
    close_all(clients)
    return states


def over_https(folder, **tables):
    """The same over HTTPS."""
    coordinator, clients = parties(federation_of(**tables), folder, KEY, bytes(32))
    authority = Authority(coordinator.identity)
    with served(coordinator, authority.hub(), folder / "hub") as its:
        parts = [
            joined(client, its.url, authority.hospital(coordinator.hospitals[name])) for name, client in clients.items()
        ]
        assert [(part.wait(180).over, part.error) for part in parts] == [(True, None)] * 4
    assert its.over and its.error is None
    assert not list((folder / "hub" / "spool").glob("*/*")), "what was taken is gone"
    states = {name: client.state.shared for name, client in clients.items()}
    close_all(clients)
    return states


@pytest.mark.parametrize("tables", [{}, {"encryption": {"masking": "pairwise"}, "similarity": {"every": 0}}])
def test_states_are_those_of_a_run_in_one_process(tmp_path, tables):
    tables = {"rounds": 2, **tables}
    if "encryption" in tables:
        tables |= {"coupling": {"strength": 0.0}}
    want, got = driven(tmp_path / "local", **tables), over_https(tmp_path / "https", **tables)
    for name, shared in want.items():
        np.testing.assert_array_equal(got[name], shared)


def test_long_messages_travel_in_pieces_both_ways(tmp_path, monkeypatch):
    sent = []
    for module in (hospital, hub, wire):
        monkeypatch.setattr(module, "PIECE", 5000)
    plain = hospital.Way._call
    monkeypatch.setattr(hospital.Way, "_call", lambda way, *a, **k: sent.append(a[:2]) or plain(way, *a, **k))
    want, got = driven(tmp_path / "local", rounds=1), over_https(tmp_path / "https", rounds=1)
    for name, shared in want.items():
        np.testing.assert_array_equal(got[name], shared)
    methods = [method for method, _ in sent]
    assert methods.count("PUT") > 4 and methods.count("GET") > 8


def test_a_round_takes_two_requests_a_hospital(tmp_path, monkeypatch):
    sent = []
    plain = hospital.Way._call
    monkeypatch.setattr(hospital.Way, "_call", lambda way, *a, **k: sent.append(a) or plain(way, *a, **k))
    over_https(tmp_path, rounds=3)
    assert len(sent) <= 4 * (2 * 3 + 2)


def test_who_comes_late_and_who_goes_early(tmp_path):
    with run_of(tmp_path, rounds=2) as (its, _, clients, shown, _authority):
        names = sorted(clients)
        parts = [joined(clients[name], its.url, shown[name]) for name in names[:3]]
        parts[0].stop.set()
        parts[0].wait()
        assert parts[0].over is False and parts[0].error is None
        again = [joined(clients[name], its.url, shown[name]) for name in (names[0], names[3])]
        assert [(part.wait(180).over, part.error) for part in (*parts[1:], *again)] == [(True, None)] * 4
