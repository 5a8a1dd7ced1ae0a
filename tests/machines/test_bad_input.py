"""What an operator reads where something is wrong between real processes: one line, at the party that can mend it.

All that is wrong with one hospital is tried beside one hub, each in a copy of its folder, at the same time.
"""

import os
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import msgspec
import pytest
from loopback.comparing import differences, rounds_of, wrong_budgets
from loopback.https import START, Https
from loopback.processes import until
from loopback.world import FOUR, HUB, World

from securepfl.crypto.keys.certificates import Holder, make_leaf, make_root, new_key, public_key_of
from securepfl.runtime.https.tls import client_context
from securepfl.runtime.https.wire import HEADER, PROTOCOL, path_of
from securepfl.storage.certificates import CertificateFile, load_credentials

pytestmark = pytest.mark.machines

WRONG = FOUR[-1]
"""The hospital with which something is wrong."""
SPEAKS = "securepfl.runtime.https.hospital"
"""Where a hospital's version of what passes between it and the hub is told."""
LONE = 120.0
"""Seconds within which a party that cannot go on says so and ends."""
NOBODY = 65534
FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user, or mount a small disk")


def folder_of(world, case):
    """A copy of the wrong hospital's folder, for one thing that is wrong."""
    place = world.root / "wrong" / case.replace(" ", "-")
    shutil.copytree(world.folder(WRONG), place)
    return place


def words_in(engine, place):
    """The command of the wrong hospital in such a folder."""
    own = str(engine.world.folder(WRONG))
    return [str(word).replace(own, str(place)) for word in engine.words(WRONG)]


def with_certificate(world, case, **change):
    """Another certificate in a copy of its folder, under its own passphrase."""
    place, secret = folder_of(world, case), world.passphrase(WRONG).encode()
    file = CertificateFile.open(place, secret)
    file.save(msgspec.structs.replace(file.held, **change))
    return place


def root_of(world):
    """(certificate, key) of the hub's root."""
    held = CertificateFile.open(world.folder(HUB), world.passphrase(HUB).encode()).held
    return held.root, held.root_key


def issued(root, key, holder, now):
    """(private key, certificate) by a root."""
    own = new_key()
    return own, make_leaf(root, key, public_key_of(own), holder, (), now)


def holder_of_wrong(world):
    return Holder("hospital", WRONG, world.fingerprint(WRONG))


class Refusals:
    """Processes that must end with exit code 2 and, last, one line with some words; `check` tells which did not."""

    def __init__(self, engine, started):
        self.engine, self.started, self.expected = engine, started, {}

    def start(self, case, words, *expected, prefix=()):
        self.started.start(case, words, prefix=prefix)
        self.expected[case] = expected

    def check(self):
        found = []
        for case, expected in self.expected.items():
            code, said = self.started.wait(case, LONE), self.started.said(case)
            line = said.strip().splitlines()[-1]
            right = code == 2 and line.startswith("securepfl: ") and all(word in line for word in expected)
            if not right or "Traceback" in said:
                found.append(f"{case}: exit code {code}, not {expected}: {said[-1000:]}")
        return found


def wrong_certificates(refusals, world):
    """Another's, one of another root, one that has ended, one of another root for a hospital that checks nothing."""
    now, holder = datetime.now(UTC), holder_of_wrong(world)
    place = folder_of(world, "certificates of another hospital")
    shutil.copy(world.folder(FOUR[0]) / "keys" / "certificates", place / "keys" / "certificates")
    refusals.start("another's", words_in(refusals.engine, place), str(place), "certificates", "passphrase")

    other = new_key()
    foreign = make_root("stranger", other, now)
    key, leaf = issued(foreign, other, holder, now)
    place = with_certificate(world, "foreign root", root=foreign, key=key, certificate=leaf)
    refusals.start("foreign", words_in(refusals.engine, place), "of another root than this federation's", "--renew")

    key, leaf = issued(*root_of(world), holder, now - timedelta(days=400))
    place = with_certificate(world, "expired", key=key, certificate=leaf)
    refusals.start("expired", words_in(refusals.engine, place), str(place), "not valid now", "keys certificate")


def wrong_folders(refusals, world):
    """The hub's folder, a folder that is in use, other settings, another version."""
    engine = refusals.engine
    words = [str(word) for word in engine.words(WRONG)]
    swapped = [word.replace(str(world.folder(WRONG)), str(world.folder(HUB))) for word in words]
    swapped[swapped.index("--data") + 1] = str(world.data(WRONG))
    refusals.start("the hub joins", swapped, "keys of the hub", "securepfl serve")

    refusals.start("a second hub", Https(world, engine.processes).words(HUB), str(world.run(HUB)), "in use by another")
    refusals.start("a second hospital", engine.words(FOUR[0]), str(world.run(FOUR[0])), "in use by another process")

    settings = world.root / "wrong" / "other.toml"
    settings.write_text(re.sub(r'"rounds" = \d+', '"rounds" = 13', world.federation.read_text()))
    place = folder_of(world, "other settings")
    words = [word.replace(str(world.federation), str(settings)) for word in words_in(engine, place)]
    refusals.start("other settings", words, "other settings than those enrolled")

    place, patch = folder_of(world, "old version"), world.root / "wrong" / "old"
    patch.mkdir()  # an installation that speaks version 0 of what passes between hospital and hub
    (patch / "sitecustomize.py").write_text(f"import {SPEAKS}\n{SPEAKS}.PROTOCOL = '0'\n")
    refusals.start("an old version", words_in(engine, place), "install the same securepfl", prefix=python_path(patch))


def python_path(place):
    return ("env", os.pathsep.join([f"PYTHONPATH={place}", os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep))


def shown_to_the_hub(engine, credentials, path):
    """What the hub answers somebody with these credentials; None where it ends the connection."""
    with httpx.Client(base_url=engine.url, verify=client_context(credentials), headers={HEADER: PROTOCOL}) as http:
        try:
            return http.post(path, content=b"")
        except httpx.TransportError:
            return None


def test_who_is_wrong_is_told_in_one_line_and_the_others_go_on(world, started):
    started.hurry()
    engine = Https(world, started, deadline=10.0)  # the first round waits so long for the one that never joins
    engine.start(HUB)
    engine.serves()
    engine.start(FOUR[0])  # alone: no round ends, and so the hub serves until everybody was refused
    until(lambda: "hospital began" in started.said(FOUR[0]), START, "the first has joined")
    refusals = Refusals(engine, started)
    (world.root / "wrong").mkdir()
    wrong_certificates(refusals, world)
    wrong_folders(refusals, world)

    # Those who check nothing themselves: a certificate of another root, and a good one under another's name.
    mine = load_credentials(world.folder(WRONG), world.passphrase(WRONG))
    other, now = new_key(), datetime.now(UTC)
    key, leaf = issued(make_root("stranger", other, now), other, mine.holder, now)
    foreign = type(mine)(mine.holder, mine.root, leaf, type(mine.key)(key))
    assert shown_to_the_hub(engine, foreign, path_of(WRONG, "exchange")) is None
    answer = shown_to_the_hub(engine, mine, path_of(FOUR[0], "exchange"))
    assert answer.status_code == 403 and f"{WRONG}'s, not {FOUR[0]}'s" in answer.json()["error"]
    until(lambda: "no certificate of this hub's root" in started.said(HUB), START, "the hub says who was turned away")

    assert refusals.check() == []
    for name in FOUR[1:-1]:
        engine.start(name)
    for name in FOUR[:-1]:  # the hub serves on for a while: the one that never came may want the last answer
        assert started.wait(name, 240) == 0, started.said(name)[-2000:]
    assert rounds_of(World(world.root, FOUR[:-1])) == dict.fromkeys(FOUR[:-1], 12)


@AS_ROOT
def test_rows_that_may_not_be_read(world, started):
    """Another user than root runs this hospital, and may read all of its folder but its rows."""
    for path in (world.folder(WRONG), *world.folder(WRONG).rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    os.chown(world.data(WRONG), 0, 0)
    world.data(WRONG).chmod(0o600)
    for parent in world.data(WRONG).parents[1:]:
        if parent.stat().st_uid == 0 and parent.stat().st_mode & 0o055 != 0o055:
            parent.chmod(parent.stat().st_mode | 0o055)
    refusals = Refusals(Https(world, started), started)
    # Nor may that user write what coverage measures, and what coverage says to that is not the hospital's last line.
    unmeasured = ("env", "--unset=COVERAGE_PROCESS_CONFIG")
    as_nobody = (*unmeasured, "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    refusals.start(
        WRONG, refusals.engine.words(WRONG), str(world.data(WRONG)), "is not readable", "--data", prefix=as_nobody
    )
    assert refusals.check() == []


@pytest.fixture
def small_disks(world):
    """Disks of their own under the runs of the hub and of one hospital, with room for little."""
    places = [world.run(HUB), world.run(WRONG)]
    mounted = []
    for place in places:
        place.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,mode=700", "none", place], check=False).returncode:
            pytest.skip("no disk can be mounted here")
        mounted.append(place)
    yield places
    for place in mounted:
        subprocess.run(["umount", "-l", place], check=True)


def fill(place):
    """Leave no room."""
    with (place / "ballast").open("wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(bytes(2**12))
        except OSError:
            return


@AS_ROOT
@pytest.mark.long
def test_full_disks_are_named_and_with_room_the_run_ends_everywhere(world, started, small_disks):
    """A hospital without room sits out, and is asked again; a hub without room stops, and is started again."""
    started.hurry()
    engine, (at_hub, at_hospital) = Https(world, started), small_disks
    engine.start_all()
    until(lambda: engine.closed() >= 2, 120, "two rounds")
    fill(at_hospital)
    full = rf"could not do what it was told: {at_hospital}/.*No space left on device.*; make room"
    until(lambda: re.search(full, started.said(WRONG)), LONE, "the hospital says that its disk is full")
    assert started.alive(WRONG)
    (at_hospital / "ballast").unlink()
    before = engine.closed()
    until(lambda: engine.closed() > before, LONE, "the others go on")
    fill(at_hub)
    code, line = started.wait(HUB, LONE), started.said(HUB).strip().splitlines()[-1]
    assert code == 2 and line.startswith(f"securepfl: {at_hub}") and "No space left" in line, started.said(HUB)[-2000:]
    assert all(map(started.alive, FOUR))
    (at_hub / "ballast").unlink()
    engine.start(HUB)
    engine.finish(240)
    assert rounds_of(world) == dict.fromkeys(FOUR, 12)
    assert wrong_budgets(World(world.root, FOUR[:-1]), 12) == []


@pytest.mark.long
@pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed")
def test_clocks_hours_apart_change_nothing(world, unharmed, started):
    """The hub's clock is right, one hospital's is five hours ahead and another's five behind."""
    engine, apart = Https(world, started), {FOUR[0]: "+5h", WRONG: "-5h"}
    for name in world.parties:
        lib = {"LD_PRELOAD": str(FAKETIME), "DONT_FAKE_MONOTONIC": "1"}
        engine.start(name, **(lib | {"FAKETIME": apart[name]} if name in apart else {}))
    engine.finish(240)
    assert differences(world, unharmed) == []
    logged = [(world.run(name) / "log.jsonl").read_text()[:40] for name in (FOUR[0], WRONG)]
    hours = [datetime.fromisoformat(re.search(r'"time": "([^"]*)"', line)[1]) for line in logged]
    assert hours[0] - hours[1] > timedelta(hours=9)
