"""Snapshots as the independent implementation made them (tests/crypto/independent): the same bytes, the same state."""

import secrets

import numpy as np
import pytest
from vectors import reals, vectors

from securepfl.client.snapshot import Snapshot

TOLD = vectors("client", "snapshot")
KEY, SESSION, RUN = (bytes.fromhex(TOLD[name]) for name in ("key", "session", "run"))


@pytest.mark.parametrize("case", TOLD["snapshots"], ids=["before a sum", "after one"])
def test_a_stored_snapshot_opens_and_is_made_again(case, monkeypatch):
    found = Snapshot.open(bytes.fromhex(case["sealed"]), KEY, SESSION, len(case["shared"]))
    assert found.round == case["round"]
    assert np.array_equal(found.shared, reals(case["shared"]).astype(np.float32))
    assert (found.aggregate is None) == (case["aggregate"] is None)
    if found.aggregate is not None:
        assert np.array_equal(found.aggregate, reals(case["aggregate"]))
    assert found.digest(KEY, SESSION) == case["digest"]
    monkeypatch.setattr(secrets, "token_bytes", lambda count: bytes.fromhex(case["nonce"])[:count])
    assert found.seal(KEY, SESSION, RUN).hex() == case["sealed"]
