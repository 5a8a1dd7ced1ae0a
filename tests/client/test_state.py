"""A hospital's state on disk: what this version wrote is read as it stood, what is no state says so in one line.

vectors/state.safetensors was written two rounds into a run and with a third contribution under way; vectors/state.json
is what was held in memory then, arrays as hashes.
"""

import hashlib
from pathlib import Path

import msgspec
import numpy as np
import pytest
from parties import federation_of, parties, reopened
from vectors import vectors

from securepfl.client.state import ClientState
from securepfl.errors import StorageError
from securepfl.storage.folder import read_arrays, write_arrays

STORED = Path(__file__).parent / "vectors" / "state.safetensors"
HELD = vectors("client", "state")


def told(value):
    """A value as vectors/state.json has it."""
    if isinstance(value, np.ndarray):
        return {"dtype": str(value.dtype), "shape": list(value.shape), "sha256": digest(value.tobytes())}
    if isinstance(value, bytes):
        return {"bytes": len(value), "sha256": digest(value)}
    if isinstance(value, msgspec.Struct):
        return told(msgspec.structs.asdict(value))
    if isinstance(value, dict):
        return {name: told(part) for name, part in value.items()}
    return list(value) if isinstance(value, tuple) else value


def digest(data):
    return hashlib.sha256(data).hexdigest()


def test_a_stored_state_is_read_as_it_stood():
    state = ClientState.load(STORED, HELD["federation"])
    assert state.round == 2 and state.pending.trained and state.neighbours and state.trajectory
    assert told(state) == HELD | {"moments": {}}, "of schema 6, which had none"


def test_stored_again_it_says_the_same(tmp_path):
    ClientState.load(STORED, HELD["federation"]).save(tmp_path / "state")
    assert told(ClientState.load(tmp_path / "state", HELD["federation"])) == HELD | {"moments": {}}
    assert told(read_arrays(tmp_path / "state")[0]) == told(read_arrays(STORED)[0])


def test_a_state_of_another_federation_is_refused():
    assert ClientState.belongs_to(STORED, HELD["federation"])
    assert not ClientState.belongs_to(STORED, "0" * 64)
    refused(STORED, "other settings", federation="0" * 64)


def refused(path, match, federation=HELD["federation"]):
    with pytest.raises(StorageError, match=match) as caught:
        ClientState.load(path, federation)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.0005, 0.1, 0.5, 0.9999])
def test_a_truncated_state_is_refused(tmp_path, share):
    data, path = STORED.read_bytes(), tmp_path / "state"
    path.write_bytes(data[: int(share * len(data))])
    refused(path, "not a file that securepfl wrote whole")


def changed(path, change):
    arrays, meta = read_arrays(STORED)
    change(arrays, meta)
    write_arrays(path, arrays, meta)
    return path


def set_to(name, change):
    """Change one array."""
    return lambda arrays, _: arrays.update({name: change(arrays[name])})


@pytest.mark.parametrize(
    "change",
    [
        set_to("shared", lambda array: array.astype(np.float64)),
        set_to("residual", lambda array: array.astype(np.float32)),
        set_to("residual", lambda array: array.astype(np.int64)),
        set_to("pending.sent", lambda array: array.astype(np.float32)),
        lambda arrays, _: arrays.pop("personal"),
        lambda arrays, _: arrays.pop("pending.message"),
        lambda _, meta: meta.pop("run"),
        lambda _, meta: meta.pop("schema"),
        lambda _, meta: meta["pending"].pop("trained"),
        lambda _, meta: meta.update(pending=None),
        lambda arrays, meta: meta.update(shared=arrays.pop("shared").tolist()),
        lambda _, meta: meta.update(round="2"),
        lambda _, meta: meta.update(later=1),
        lambda _, meta: meta["pending"].update(later=1),
        lambda arrays, _: arrays.update(later=np.zeros(1)),
        lambda arrays, _: arrays.update({"later.part": np.zeros(1)}),
        lambda arrays, _: arrays.update({"pending.later": np.zeros(1)}),
    ],
    ids=[
        *("shared in double", "residual in single", "residual of integers", "sent in single"),
        *("no personal", "no message", "no run", "no schema", "no trained", "no pending", "shared as a list"),
        *("round as text", "a later field", "a later part", "a later array", "a later folder", "a later part's array"),
    ],
)
def test_fields_of_another_type_missing_ones_and_unknown_ones_are_refused(tmp_path, change):
    refused(changed(tmp_path / "state", change), "not a whole hospital state; restore it from a copy")


def test_another_schema_is_refused_with_what_to_do(tmp_path):
    refused(changed(tmp_path / "state", lambda _, meta: meta.update(schema=5)), "schema 5, but .* reads 7; upgrade it")


def test_what_a_hospital_shows_of_its_state_is_a_copy(tmp_path):
    _, clients = parties(federation_of(), tmp_path)
    client = clients["alder"]
    mine = client.state
    mine.shared += 1
    mine.neighbours["birch"] = 3
    assert not np.array_equal(client.state.shared, mine.shared) and client.neighbours == {}
    client = reopened(client, round=1, sat_out=[1])
    assert client.round == 1 and client.sat_out == (1,)
    for one in (clients | {"alder": client}).values():
        one.close()
