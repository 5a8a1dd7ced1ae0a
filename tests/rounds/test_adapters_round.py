"""Rounds with real keys and ciphertexts in which each hospital's correction to every layer is personal."""

import numpy as np
import pytest
import torch
from parties import FEATURES, MODEL, NAMES, close_all, exchange, federation_of, parties, rows_of

from securepfl.errors import ConfigError
from securepfl.learning.personal.adapters import adapter_names, folded
from securepfl.learning.personal.partition import Partition
from securepfl.settings.binding import initial_model
from securepfl.tasks.binary import BINARY
from securepfl.tasks.prediction import predict

ROWS = torch.randn(9, FEATURES, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("rank", [0, 2])
def test_the_shared_part_moves_alike_and_each_correction_on_its_own(tmp_path, rank):
    federation = federation_of(rounds=2, model={"adapters": rank}, similarity={"every": 0}, coupling={})
    model = initial_model(MODEL, federation)
    partition = Partition.of(model, federation.model.personal)
    assert partition.personal == adapter_names(model)
    assert federation.shape.shared == sum(p.numel() for p in MODEL().parameters())
    coordinator, clients = parties(federation, tmp_path)
    for client in clients.values():
        np.testing.assert_array_equal(client.predict(ROWS), predict(MODEL(), ROWS, BINARY))
    start = clients["alder"].state.shared.copy()
    for _ in range(2):
        exchange(coordinator, clients)
    states = [client.state for client in clients.values()]
    assert all(np.array_equal(state.shared, states[0].shared) for state in states)
    assert not np.array_equal(states[0].shared, start)
    assert len({state.personal.tobytes() for state in states}) == len(NAMES)
    own, shared = clients["birch"].personal_model(), clients["birch"].shared_model()
    corrections = [name for name, p in own.named_parameters() if ".adapter." in name and p.detach().any()]
    assert {name.split(".")[0] for name in corrections} == {"body", "head"}
    assert not np.array_equal(predict(own, ROWS, BINARY), predict(shared, ROWS, BINARY))
    np.testing.assert_allclose(predict(folded(own), ROWS, BINARY), predict(own, ROWS, BINARY), rtol=1e-5)
    close_all(clients)


def test_a_personal_part_chosen_by_a_callable_is_the_same_federation_for_all_who_wrote_its_names_down(tmp_path):
    chosen = federation_of(rounds=1).bound(NAMES, MODEL, personal=lambda name, p: name.endswith("bias"), units=40)
    written = federation_of(rounds=1, model={"personal": ["body.bias", "head.bias"]})
    assert chosen.model.personal == ("body.bias", "head.bias") and chosen.digest == written.digest
    coordinator, clients = parties(chosen, tmp_path)
    exchange(coordinator, clients)
    assert clients["cedar"].state.personal.size == chosen.shape.personal == 9
    close_all(clients)


def test_another_rank_is_another_federation(tmp_path):
    digests = {federation_of(model={"adapters": rank}).digest for rank in (0, 1, 2)} | {federation_of().digest}
    assert len(digests) == 4
    _, clients = parties(federation_of(model={"adapters": 2}), tmp_path)
    with pytest.raises(ConfigError, match="not the federation's"):
        type(clients["alder"])(
            clients["alder"].federation.changed("model", adapters=1),
            "alder",
            MODEL,
            rows_of("alder"),
            clients["alder"].session.keyring,
            tmp_path / "x",
        )
    close_all(clients)
