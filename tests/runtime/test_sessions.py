"""A hub and its hospitals opened from files, with no engine between them: what both sides' operators see."""

import json
import os
import subprocess
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from enrolled import PASSPHRASE, enrol_all

from securepfl.errors import MessageError, SecurePFLError, StorageError
from securepfl.protocol.loop import Patience
from securepfl.runtime.hub import HubSession
from securepfl.runtime.visits import HospitalSession


def hub_of(world, **options):
    return HubSession.open(world.config, world.folder("hub"), PASSPHRASE, world.out("hub"), **options)


def hospital_of(world, name):
    return HospitalSession.open(
        world.config,
        world.data(name),
        world.folder(name),
        PASSPHRASE,
        world.out(name),
        ledgers=world.root / f"{name}-ledgers",
        device="cpu",
    )


def visit(hub, hospital):
    told = hub.visit(hospital.name, hospital.at)
    done = hospital.exchange([message for _, message in told])
    hub.took(hospital.name, done.at, done.replies, told=told)
    return told


def run(hub, hospitals, passes=40):
    for hospital in hospitals:
        hub.visit(hospital.name, hospital.at)
    for _ in range(passes):
        if hub.finished:
            return
        for hospital in hospitals:
            visit(hub, hospital)
    raise AssertionError(hub.loop)


def lines_of(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def status_of(out):
    return json.loads((out / "status.json").read_text())


@pytest.fixture(scope="module", params=["none", "pairwise"])
def done(request, tmp_path_factory):
    """A whole run, and its world."""
    world = enrol_all(tmp_path_factory.mktemp("world"), masking=request.param)
    hospitals = [hospital_of(world, name) for name in world.names]
    with hub_of(world) as hub:
        run(hub, hospitals)
    states = [hospital.client.state for hospital in hospitals]
    for hospital in hospitals:
        hospital.finish()
        hospital.stop()
    return world, states


def test_files_become_a_run_whose_states_agree(done):
    _, states = done
    assert [state.round for state in states] == [2, 2, 2]
    assert all(np.array_equal(state.shared, states[0].shared) for state in states)
    assert all(state.aggregate is not None for state in states)


def test_the_status_of_both_sides_tells_how_it_ended(done):
    world, _ = done
    hub, hospital = status_of(world.out("hub")), status_of(world.out("birch"))
    assert (hub["state"], hub["closed"], hub["rounds"], hub["waits_for"], hub["error"]) == ("finished", 2, 2, [], None)
    assert (hospital["state"], hospital["round"], hospital["error"]) == ("finished", 2, None)
    assert hub["run"] == hospital["run"] != ""
    # What one side counted as sent is what the other counted as received.
    seen = hub["hospitals"]["birch"]
    assert seen["upload_bytes"] == hospital["upload_bytes"] > 0
    assert seen["download_bytes"] == hospital["download_bytes"] > 0
    assert 0 < hospital["epsilon"] < hospital["budget"] == hospital["epsilon"] + hospital["epsilon_left"]
    assert hub["seconds"]["contributions"] > 0 and hospital["seconds"]["train"] > 0


def test_a_hospitals_page_has_its_own_bytes_by_purpose(done):
    """What all hospitals sent and took is what the hub counted, whole messages and purposes alike."""
    world, _ = done
    results = [json.loads((world.out(name) / "result.json").read_text()) for name in world.names]
    sent = [result["communication"] for result in results]
    for name, one in zip(world.names, sent, strict=True):
        status = status_of(world.out(name))
        assert (one["upload_bytes"], one["download_bytes"]) == (status["upload_bytes"], status["download_bytes"])
        assert sum(one["parts"].values()) == one["upload_bytes"] + one["download_bytes"] and one["rounds"] == 2
        assert one["float32_upload_bytes"] == 2 * 4 * results[0]["federation"]["shape"]["shared"]
        assert "Bytes by purpose" in (world.out(name) / "report.html").read_text()
    with hub_of(world) as hub:
        counted = {purpose: sum(one["parts"].get(purpose, 0) for one in sent) for purpose in hub.hub.parts}
        assert counted == dict(hub.hub.parts) and counted["updates"] > 0


def test_bytes_are_counted_over_processes_of_a_hospital_once_each(tmp_path):
    world = enrol_all(tmp_path / "world")
    hospitals = {name: hospital_of(world, name) for name in world.names}
    with hub_of(world) as hub:
        for hospital in hospitals.values():
            hub.visit(hospital.name, hospital.at)
        told = visit(hub, hospitals["alder"])
        hospitals["alder"].exchange([message for _, message in told])
        before = hospitals["alder"]._traffic
        hospitals["alder"].stop()
        hospitals["alder"] = again = hospital_of(world, "alder")
        kept = again._traffic
        assert kept.upload == before.upload and kept.download == before.download and kept.parts == before.parts
        again.exchange([message for _, message in told])
        assert kept.upload == before.upload and kept.parts == before.parts, "sent again, counted once"
        again.stop()
        (world.out("alder") / "traffic").write_bytes(b"damaged")
        hospitals["alder"] = hospital_of(world, "alder")
        assert "could not read its bytes so far" in (world.out("alder") / "log.jsonl").read_text()
    for hospital in hospitals.values():
        hospital.stop()


def test_the_logs_say_round_hospital_kind_and_bytes(done):
    world, _ = done
    hub, hospital = lines_of(world.out("hub")), lines_of(world.out("cedar"))
    came = [line for line in hub if line["event"] == "came" and line["hospital"] == "cedar"]
    sent = [line for line in hospital if line["event"] == "replies"]
    assert [(line["round"], line["kind"], line["bytes"]) for line in came] == [
        (line["round"], line["kind"], line["bytes"]) for line in sent
    ]
    assert [line["round"] for line in hub if line["event"] == "round over"] == [1, 2]
    assert [line["round"] for line in hospital if line["event"] == "applied"] == [1, 2]
    assert {line["party"] for line in hub} == {"hub"} and {line["party"] for line in hospital} == {"cedar"}


def test_a_hospital_keeps_its_result_its_model_and_what_it_releases(done):
    world, _ = done
    out = world.out("alder")
    result = json.loads((out / "result.json").read_text())
    site = result["sites"]["alder"]
    assert list(result["sites"]) == ["alder"] and result["rounds"] == 2 and not result["simulation"]
    assert 0 <= site["metrics"]["personalised"]["auroc"] <= 1 and site["metrics"]["local"]["auroc"] is None
    assert site["privacy"]["epsilon"] == pytest.approx(status_of(out)["epsilon"])
    assert (out / "personal.safetensors").exists() and (out / "experts" / "alder.safetensors").exists()


def test_all_that_is_released_together_costs_the_planned_epsilon_and_metrics_are_the_same_everywhere(tmp_path):
    released = "experts = true\nfinetuning = 1\nprior = true\nmetrics = true"
    world = enrol_all(tmp_path, rounds=1, released=released)
    hospitals = [hospital_of(world, name) for name in world.names]
    with hub_of(world) as hub:
        run(hub, hospitals)
    results = []
    for hospital in hospitals:
        hospital.finish()
        assert hospital.client.ledger.spent() == pytest.approx(8.0, abs=0.01)
        assert sum(each.steps for each in hospital.client.ledger.releases()) == 4
        hospital.stop()
        results.append(json.loads((world.out(hospital.name) / "result.json").read_text()))
        assert {f"{hospital.name}{end}" for end in (".safetensors", ".finetuned.safetensors", ".priors.json")} <= {
            path.name for path in (world.out(hospital.name) / "experts").iterdir()
        }
    told, own = [each["released"] for each in results], [each["released_own"] for each in results]
    assert told[0] == told[1] == told[2] and told[0]["hospitals"] == ["alder", "birch", "cedar"]
    assert told[0]["may_leave"] and told[0]["steps"] == 1 and 0 < told[0]["epsilon"] < 8
    assert [each["hospitals"] for each in own] == [["alder"], ["birch"], ["cedar"]] and own[0]["units"] != own[1][
        "units"
    ]
    assert [each["rounds"] for each in results] == [1, 1, 1]


def test_a_hub_that_is_stopped_goes_on_with_the_same_command(tmp_path):
    world = enrol_all(tmp_path)
    hospitals = [hospital_of(world, name) for name in world.names]
    hub = hub_of(world)
    for hospital in hospitals:
        hub.visit(hospital.name, 0)
    visit(hub, hospitals[0])
    hub.stop()
    assert status_of(world.out("hub"))["state"] == "stopped"
    with pytest.raises(StorageError, match="stopped"):
        hub.visit("alder", 0)
    with hub_of(world) as again:
        assert again.loop.hub.number == 1 and "alder" in again.hub.contributed
        run(again, hospitals)
        assert again.hub.closed == 2
    for hospital in hospitals:
        hospital.stop()


def test_two_hubs_on_one_folder_are_one_too_many(tmp_path):
    world = enrol_all(tmp_path)
    with hub_of(world), pytest.raises(StorageError, match="in use by another process"):
        hub_of(world)


def test_strangers_and_impossible_rounds_are_refused(tmp_path):
    world = enrol_all(tmp_path)
    with hub_of(world) as hub:
        with pytest.raises(MessageError, match="no hospital of this federation"):
            hub.visit("mallory", 0)
        for at in (-1, 3):
            with pytest.raises(MessageError, match="has applied"):
                hub.visit("alder", at)


def test_garbage_is_named_and_costs_its_sender_alone(tmp_path):
    world = enrol_all(tmp_path)
    hospitals = [hospital_of(world, name) for name in world.names]
    with hub_of(world) as hub:
        for hospital in hospitals:
            hub.visit(hospital.name, 0)
        told = hub.visit("alder", 0)
        hub.took("alder", 0, [b"garbage", bytes(5000)], told=told)
        assert status_of(world.out("hub"))["refused"][0]["hospital"] == "alder"
        assert any(line["event"] == "refused" for line in lines_of(world.out("hub")))
        hub.gone("alder")
        run(hub, hospitals)
        assert hub.hub.closed == 2 and hospitals[0].at == 2
    for hospital in hospitals:
        hospital.stop()


def test_wait_ends_when_there_is_work_and_at_its_time_when_there_is_none(tmp_path):
    world = enrol_all(tmp_path)
    with hub_of(world) as hub:
        hub.visit("alder", 0)
        assert not hub.wait("alder", 0.05)
        came = []
        thread = threading.Thread(target=lambda: came.append(hub.wait("alder", 30.0)))
        thread.start()
        for name in ("birch", "cedar"):
            hub.visit(name, 0)
        thread.join(20)
        assert came == [True] and hub.visit("alder", 0)


def test_a_hub_serves_on_for_those_who_were_away(tmp_path):
    world, time = enrol_all(tmp_path, rounds=1), [0.0]
    hospitals = [hospital_of(world, name) for name in world.names]
    hub = HubSession.open(
        world.config, world.folder("hub"), PASSPHRASE, world.out("hub"), patience=Patience(10.0), linger=100.0
    )
    hub._clock = lambda: time[0]
    for hospital in hospitals:
        hub.visit(hospital.name, 0)
    for hospital in hospitals:
        visit(hub, hospital)
    hub.gone("cedar")
    for hospital in hospitals[:2]:
        visit(hub, hospital)
    time[0] = 11.0
    hub.tick()
    assert hub.hub.closed == 1 and not hub.finished
    time[0] = 60.0
    visit(hub, hospitals[2])
    assert hospitals[2].at == 1 and hub.finished
    hub.stop()
    for hospital in hospitals:
        hospital.stop()


def test_a_hub_killed_before_the_last_receipts_asks_for_them_and_ends_with_them(tmp_path):
    world = enrol_all(tmp_path, rounds=1)
    hospitals = [hospital_of(world, name) for name in world.names]
    hub = hub_of(world)
    for hospital in hospitals:
        hub.visit(hospital.name, 0)
    for hospital in hospitals:
        visit(hub, hospital)
    visit(hub, hospitals[0])
    for hospital in hospitals[1:]:  # what they reply is lost
        assert hospital.exchange([message for _, message in hub.visit(hospital.name, 0)]).replies
    hub.stop()
    with hub_of(world) as again:
        assert not again.finished
        for hospital in hospitals:
            assert hospital.at == 1 and not again.finished
            visit(again, hospital)
        assert again.finished and lines_of(world.out("hub"))[-1].get("without") is None
    for hospital in hospitals:
        hospital.stop()


@dataclass
class Disk:
    """A small disk of its own."""

    path: Path

    def fill(self):
        """Leave no byte free."""
        with (self.path / "filler").open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))

    def empty(self):
        """Make room again."""
        (self.path / "filler").unlink()


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk"
    path.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path)]
    if os.getuid() != 0 or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("needs a small disk, which only root can mount")
    yield Disk(path)
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_a_full_disk_at_the_hub_is_one_line_and_nothing_is_lost(tmp_path, disk):
    world = enrol_all(tmp_path / "world")
    world.out("hub").symlink_to(disk.path)
    hospitals = [hospital_of(world, name) for name in world.names]
    hub = hub_of(world)
    for hospital in hospitals:
        hub.visit(hospital.name, 0)
    visit(hub, hospitals[0])
    told = hub.visit("birch", 0)
    done = hospitals[1].exchange([message for _, message in told])
    disk.fill()
    with pytest.raises(StorageError, match="takes nothing more"):
        hub.took("birch", done.at, done.replies, told=told)
    assert hub.over and not hub.finished and isinstance(hub.failure, StorageError)
    assert "No space left on device" in str(hub.failure) and len(str(hub.failure).splitlines()) == 1
    with pytest.raises(StorageError, match="takes nothing more"):
        hub.visit("cedar", 0)
    assert hub.wait("cedar", 5.0)  # nobody waits for a hub that has failed
    disk.empty()
    hub.tick()
    hub.stop()
    status = status_of(world.out("hub"))
    assert status["state"] == "failed" and "start the same command again" in status["error"]["mend"]
    with hub_of(world) as again:
        assert "alder" in again.hub.contributed
        run(again, hospitals)
        assert again.hub.closed == 2
    for hospital in hospitals:
        hospital.stop()


def test_a_full_disk_at_a_hospital_is_its_own_alone(tmp_path, disk):
    world = enrol_all(tmp_path / "world", rounds=1)
    world.out("alder").symlink_to(disk.path)
    hospitals = [hospital_of(world, name) for name in world.names]
    with hub_of(world) as hub:
        for hospital in hospitals:
            hub.visit(hospital.name, 0)
        told = hub.visit("alder", 0)
        disk.fill()
        done = hospitals[0].exchange([message for _, message in told])
        assert isinstance(done.failed, SecurePFLError) and "No space left" in str(done.failed) and not done.replies
        hub.took("alder", done.at, done.replies, told=told)
        assert hub.record.status("running", 0.0).failed == ["alder"]
        hospitals[0].stop()
        disk.empty()
        hub.gone("alder")  # its operator made room and starts it again
        hospitals[0] = hospital_of(world, "alder")
        run(hub, hospitals)
        assert hub.hub.closed == 1 and {hospital.at for hospital in hospitals} == {1}
    for hospital in hospitals:
        hospital.stop()


def test_threads_of_all_hospitals_at_once_end_in_one_state(tmp_path):
    world = enrol_all(tmp_path, masking="pairwise")
    hospitals = [hospital_of(world, name) for name in world.names]
    failures = []
    with hub_of(world) as hub:

        def travel(hospital):
            try:
                hub.visit(hospital.name, hospital.at)
                while not hub.over:
                    hub.wait(hospital.name, 1.0)
                    visit(hub, hospital)
            except Exception as error:  # noqa: BLE001
                failures.append(error)

        threads = [threading.Thread(target=travel, args=[hospital]) for hospital in hospitals]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert hub.finished and not failures
    states = [hospital.client.state for hospital in hospitals]
    assert all(np.array_equal(state.shared, states[0].shared) and state.round == 2 for state in states)
    for hospital in hospitals:
        hospital.stop()


def test_a_defect_that_one_hospitals_message_meets_ends_nobody_elses_round(tmp_path, monkeypatch):
    world = enrol_all(tmp_path, rounds=1)
    hospitals = [hospital_of(world, name) for name in world.names]
    with hub_of(world) as hub:
        for hospital in hospitals:
            hub.visit(hospital.name, 0)
        took = hub.loop.took

        def broken(name, *arguments, **options):
            if name == "alder":
                raise ZeroDivisionError
            took(name, *arguments, **options)

        monkeypatch.setattr(hub.loop, "took", broken)
        visit(hub, hospitals[0])
        monkeypatch.undo()
        (line,) = [line for line in lines_of(world.out("hub")) if line["level"] == "error"]
        assert line["hospital"] == "alder" and "ZeroDivisionError" in line["error"] and "broken" in line["traceback"]
        run(hub, hospitals)
        assert hub.hub.closed == 1 and hub.failure is None
    for hospital in hospitals:
        hospital.stop()
