"""One ceremony and one unharmed run for all tests that start real processes, whichever worker comes first."""

import fcntl

import pytest
from loopback.local import run_locally
from loopback.processes import processes
from loopback.world import FOUR, World, make_world

from securepfl.crypto.keys import keystore


@pytest.fixture(scope="session")
def enrolled(tmp_path_factory, worker_id):
    """(the world before any run, the same after the run in one process)."""
    root = tmp_path_factory.getbasetemp()
    place = (root if worker_id == "master" else root.parent) / "machines"
    place.mkdir(exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "whole").exists():
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(keystore, "LOG_N", 14)  # what a passphrase costs is tested elsewhere
                world = make_world(place / "world")
            run_locally(world.copy(place / "unharmed"))
            (place / "whole").touch()
    return World(place / "world", FOUR), World(place / "unharmed", FOUR)


@pytest.fixture
def world(enrolled, tmp_path):
    """A copy of its own, before any run."""
    return enrolled[0].copy(tmp_path / "world")


@pytest.fixture
def unharmed(enrolled):
    """The run in one process that all others must equal."""
    return enrolled[1]


@pytest.fixture
def started(tmp_path):
    """Processes that end with the test."""
    with processes(tmp_path / "logs") as its:
        yield its
