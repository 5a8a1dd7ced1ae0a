"""Whole runs over HTTPS on loopback: real TLS, real clients."""

from https_parties import Authority, joined, served
from parties import close_all, federation_of, parties


def test_a_run_over_https_ends_with_all_hospitals_at_the_last_round(tmp_path):
    coordinator, clients = parties(federation_of(), tmp_path, noise_key=bytes(32))
    authority = Authority(coordinator.identity)
    with served(coordinator, authority.hub(), tmp_path / "hub") as hub:
        parts = [
            joined(client, hub.url, authority.hospital(coordinator.hospitals[name])) for name, client in clients.items()
        ]
        assert [(its.wait().over, its.error) for its in parts] == [(True, None)] * 4
    assert hub.over and hub.error is None
    assert {client.round for client in clients.values()} == {3}
    close_all(clients)
