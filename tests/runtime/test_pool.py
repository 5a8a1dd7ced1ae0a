"""Hospitals in worker processes: the same messages and states as in one process, and failures that are told."""

import multiprocessing
import os
from functools import partial
from pathlib import Path

import pytest
from parties import MODEL, NAMES, federation_of, rows_of

from securepfl.client.client import Client
from securepfl.client.run_kind import Simulation
from securepfl.client.state import ClientState
from securepfl.coordinator.coordinator import Coordinator
from securepfl.crypto.keys.identity import Identity
from securepfl.crypto.keys.keys import FederationKey
from securepfl.crypto.messages.envelope import Kind
from securepfl.errors import DataError, SecurePFLError
from securepfl.protocol.loop import RoundLoop
from securepfl.runtime.pool import Keys, Pool, stages

PLAIN = {"similarity": {"every": 0}, "coupling": {"strength": 0.0}, "rounds": 2}
MASKED = PLAIN | {"encryption": {"masking": "pairwise"}}


def opened(federation, folder, keyring):
    name = keyring.identity.name
    return Client(
        federation, name, MODEL, rows_of(name), keyring, Path(folder, name), device="cpu",
        simulation=Simulation(bytes(32)),
    )  # fmt: skip


def broken(federation, folder, keyring):
    if keyring.identity.name == "birch":
        raise DataError("birch: no such rows; mend the file")
    return opened(federation, folder, keyring)


def ending(federation, folder, keyring):
    client = opened(federation, folder, keyring)
    if keyring.identity.name == "birch":
        client.handle = lambda message: os._exit(7)
    return client


def failing(federation, folder, keyring):
    client = opened(federation, folder, keyring)
    if keyring.identity.name == "birch":
        client.handle = lambda message: 1 / 0
    return client


def begun(tables, root=bytes(32)):
    """(federation, keys, coordinator), with the same derived keys each time."""
    federation, hub = federation_of(**tables), Identity.generate("hub")
    key = FederationKey.generate(encrypted=True, root_key=root)
    keys = Keys.draw(key, hub.public, NAMES, masked=federation.masked)
    coordinator = Coordinator(federation.without_budgets(), hub, keys.identities, key_commitment=key.commitment)
    return federation, keys, coordinator


@pytest.fixture
def forked(monkeypatch):
    """Workers come from a process that has imported all: how they start is what the masked pool is for."""
    # Not parties.py: it finds no module that only pytest's path has.
    multiprocessing.set_forkserver_preload(["securepfl.client.client", "securepfl.runtime.pool"])
    monkeypatch.setattr("securepfl.runtime.pool._STARTED", "forkserver")


@pytest.mark.parametrize("tables", [PLAIN, MASKED], ids=["plain", "masked"])
def test_a_pool_of_two_reaches_the_states_that_one_process_reaches(tables, tmp_path, monkeypatch, forked):
    reached = []
    for workers in (1, 2):
        how = "spawn" if tables is MASKED and workers == 2 else "forkserver"
        monkeypatch.setattr("securepfl.runtime.pool._STARTED", how)
        federation, keys, coordinator = begun(tables)
        make, found = partial(opened, federation, tmp_path / str(workers)), []
        with Pool.started(keys, make, workers) as pool:
            found = list(stages(RoundLoop(coordinator), pool))
        kinds = [Kind.INVITATION, Kind.SURVIVORS, Kind.UNMASK, Kind.ANSWER]
        wanted = kinds if federation.masked else [kinds[0], kinds[-1]]
        assert [(stage.round, stage.kind) for stage in found] == [(r, kind) for r in (1, 2) for kind in wanted]
        assert all(stage.asked == 4 and min(stage.hub, stage.hospitals, stage.up, stage.down) > 0 for stage in found)
        assert coordinator.closed == 2 and pool.at == dict.fromkeys(NAMES, 2)
        reached.append(
            {
                name: ClientState.load(tmp_path / str(workers) / name / "state.safetensors", federation.digest.hex())
                for name in NAMES
            }
        )
    for name in NAMES:
        assert (reached[0][name].shared == reached[1][name].shared).all() and reached[0][name].shared.any()
        assert (reached[0][name].personal == reached[1][name].personal).all()


def test_what_a_hospital_cannot_begin_for_is_raised_here(tmp_path, forked):
    federation, keys, _ = begun(PLAIN)
    with pytest.raises(DataError, match="birch: no such rows; mend the file"):
        Pool.started(keys, partial(broken, federation, tmp_path), 2)


def test_a_hospital_whose_model_fails_is_named_and_the_others_go_on(tmp_path, forked):
    federation, keys, coordinator = begun(PLAIN)
    with Pool.started(keys, partial(failing, federation, tmp_path), 2) as pool:
        found = list(stages(RoundLoop(coordinator), pool))
    assert coordinator.closed == 2
    assert found[0].failed == ("birch: ZeroDivisionError",) and len(found) >= 4
    assert {name for name, at in pool.at.items() if at == 2} == set(NAMES) - {"birch"}


def test_a_worker_that_dies_is_told_with_its_code(tmp_path, forked):
    federation, keys, coordinator = begun(PLAIN)
    with (
        Pool.started(keys, partial(ending, federation, tmp_path), 2) as pool,
        pytest.raises(SecurePFLError, match="ended with code 7"),
    ):
        list(stages(RoundLoop(coordinator), pool))


def test_keys_of_some_hold_no_private_key_of_others(tmp_path):
    _, keys, _ = begun(MASKED)
    assert set(keys.of(["alder"]).private) == {"alder"} and "private" not in repr(keys)
    one, other = keys.keyring("alder"), keys.keyring("birch")
    assert one.pair_secrets["birch"] == other.pair_secrets["alder"] != one.pair_secrets["cedar"]
