"""A hospital that trains for long and one that is off: a sign of life now and then tells the hub which is which."""

import time

import pytest
from https_parties import called, joined, log_of, run_of, standing, until

from securepfl.runtime.https import hospital, hub
from securepfl.runtime.https.limits import Limits
from securepfl.runtime.https.wire import path_of


def gone(folder):
    return [line["hospital"] for line in log_of(folder) if line["event"] == "gone"]


@pytest.mark.parametrize("signs", [0.2, 1000.0], ids=["trains", "cut off"])
def test_who_trains_is_here_and_who_was_cut_off_goes_on(tmp_path, monkeypatch, signs):
    monkeypatch.setattr(hub, "AWAY", 2.5)
    monkeypatch.setattr(hospital, "SIGN", signs)
    with run_of(tmp_path, rounds=1, limits=Limits(poll=0.5)) as (its, coordinator, clients, shown, _):
        handle, naps = clients["alder"].handle, iter([6])
        clients["alder"].handle = lambda message: time.sleep(next(naps, 0)) or handle(message)
        parts = [joined(client, its.url, shown[name]) for name, client in clients.items()]
        assert [(part.wait(120).over, part.error, part.said) for part in parts] == [(True, None, [])] * 4
        assert "alder" in coordinator.contributed
    assert ("alder" in gone(tmp_path)) is (signs > 8)


def test_a_hospital_that_took_work_and_went_off_costs_its_time_away_and_no_deadline(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "AWAY", 2.0)
    monkeypatch.setattr(hospital, "SIGN", 0.3)
    options = {"patience": 3600.0, "away": 2.0, "limits": Limits(poll=0.5), "rounds": 1}
    with run_of(tmp_path, **options) as (its, coordinator, clients, shown, _):
        parts = [joined(clients[name], its.url, shown[name]) for name in sorted(clients)[1:]]
        with called(its.url, shown["alder"]) as http:  # is told its work, and never heard of again
            path = path_of("alder", "exchange")
            until(lambda: len(http.post(path, content=standing()).content) > 100)
        until(lambda: coordinator.closed == 1, 100)
        assert "alder" in gone(tmp_path) and "alder" not in coordinator.contributed
        for part in parts:
            part.stop.set()


def test_a_hub_made_again_hears_of_who_still_trains(tmp_path):
    with run_of(tmp_path, rounds=1) as (its, _, _, shown, _), called(its.url, shown["alder"]) as http:
        assert http.post(path_of("alder", "alive"), content=standing()).status_code == 200
        assert http.post(path_of("birch", "alive"), content=standing()).status_code == 403
        assert http.post(path_of("alder", "alive"), content=bytes(5000)).status_code == 413
        assert http.post(path_of("alder", "alive"), content=b"none").status_code == 400
    assert [line["hospital"] for line in log_of(tmp_path) if line["event"] == "here"] == ["alder"]
