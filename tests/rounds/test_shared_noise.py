"""Rounds under shared noise: real keys, masks and ciphertexts; what is summed, what is counted, who may be missing."""

import numpy as np
import pytest
from forging import opened_by_coordinator, to_hospital
from masked_rounds import SEVEN, contribute, unmask
from parties import close_all, federation_of, parties, support_of

from securepfl.crypto.sums.parameters import MAX_BITS, top_level
from securepfl.errors import ConfigError, MessageError
from securepfl.privacy.accounting.events import SharedRelease
from securepfl.protocol.messages import Survivors
from securepfl.runtime.local import SimulatedRun, exchange

ROUNDS = 3


def shared(names=SEVEN, **tables):
    defaults = {
        "rounds": ROUNDS,
        "encryption": {"masking": "pairwise"},
        "coupling": {"strength": 0.0},
        "similarity": {"every": 0},
        "release": {"experts": False},
        "shared_noise": {"dropouts": 1},
    }
    return federation_of(names=names, **(defaults | tables))


def rounds_of(coordinator, clients, count=ROUNDS, absent=()):
    for _ in range(count):
        contribute(coordinator, clients, absent)
        unmask(coordinator, clients, unsigned=absent, silent=absent)
        for name, answer in coordinator.close().items():
            clients[name].apply(answer)


def test_all_hospitals_take_the_same_step_and_the_ledger_counts_the_shares(tmp_path):
    federation = shared()
    coordinator, clients = parties(federation, tmp_path)
    start = clients["alder"].state.shared.copy()
    rounds_of(coordinator, clients)
    steps = [client.state.shared for client in clients.values()]
    assert all(np.array_equal(step, steps[0]) for step in steps)
    assert not np.array_equal(steps[0], start)
    for client in clients.values():
        released = client.ledger.releases()
        assert len(released) == ROUNDS
        assert all(isinstance(event, SharedRelease) and event.shares == 7 - 1 - 1 for event in released)
        assert 0.9 * federation.privacy.epsilon < client.ledger.spent() <= federation.privacy.epsilon
    close_all(clients)


def test_the_sum_is_that_of_rounded_gradients_and_shares(tmp_path, monkeypatch):
    """Seen through the integers as each hospital hands them to encryption."""
    from securepfl.protocol.channels import SumChannel

    sent = {}
    encode_integers = SumChannel.encode_integers

    def spy(self, values, client, context, masker):
        sent[client] = values.copy()
        return encode_integers(self, values, client, context, masker)

    monkeypatch.setattr(SumChannel, "encode_integers", spy)
    federation = shared()
    coordinator, clients = parties(federation, tmp_path)
    before, support = clients["alder"].state.shared, support_of(clients["alder"], 1)
    rounds_of(coordinator, clients, count=1)
    client, noise = clients["alder"], federation.shape.noise
    step = federation.privacy.clip * federation.training.learning_rate / noise.grid / federation.all_units
    moved = before - client.state.shared
    expected = np.zeros_like(moved)
    expected[support] = sum(sent.values()) * step
    assert np.allclose(moved, expected, rtol=1e-5, atol=1e-6)
    # Each hospital's integers are dominated by its share of the noise, and no two hospitals' are alike.
    assert all(np.abs(values).max() <= top_level(MAX_BITS) // 2 for values in sent.values())
    assert len({values.tobytes() for values in sent.values()}) == len(sent)
    close_all(clients)


def test_nothing_of_a_hospitals_own_step_is_kept_or_sent(tmp_path):
    coordinator, clients = parties(shared(), tmp_path)
    contribute(coordinator, clients)
    for client in clients.values():
        state = client.state
        assert not state.residual.any()
        assert not state.compared[: state.shared.size].any()
        assert np.array_equal(state.pending.local_shared, state.shared)
        body = opened_by_coordinator(coordinator, state.pending.message)
        assert body.sketch is None
        assert body.masks is not None
        assert not body.neighbours
    close_all(clients)


def test_the_personal_model_holds_the_common_step_and_not_the_hospitals_own(tmp_path):
    coordinator, clients = parties(shared(trajectory={"alpha": 0.0}), tmp_path)
    rounds_of(coordinator, clients, count=1)
    for client in clients.values():
        assert np.array_equal(client.state.trajectory["shared"], client.state.shared)
    close_all(clients)


def test_one_may_be_missing_where_one_dropout_is_declared(tmp_path):
    coordinator, clients = parties(shared(), tmp_path)
    start = clients["alder"].state.shared.copy()
    rounds_of(coordinator, clients, count=1, absent=("gean",))
    assert not np.array_equal(clients["alder"].state.shared, start)
    assert np.array_equal(clients["alder"].state.shared, clients["gean"].state.shared)
    close_all(clients)


def test_with_more_missing_no_sum_is_formed_and_nobody_signs(tmp_path):
    coordinator, clients = parties(shared(), tmp_path)
    start = clients["alder"].state.shared.copy()
    rounds_of(coordinator, clients, count=1, absent=("fir", "gean"))
    assert np.array_equal(clients["alder"].state.shared, start)
    close_all(clients)


def test_a_hospital_signs_no_list_with_less_noise_than_it_counts_on(tmp_path):
    """A coordinator that asks for the sum over fewer hospitals is refused by each of them."""
    coordinator, clients = parties(shared(), tmp_path)
    contribute(coordinator, clients)
    coordinator.fix_survivors()
    body = Survivors(survivors=SEVEN[:5], salt=coordinator.open_round.salt)
    short = to_hospital(coordinator, "alder", body)
    with pytest.raises(MessageError, match="6 are needed"):
        clients["alder"].sign_survivors(short)
    close_all(clients)


def test_the_noise_on_the_mean_is_that_of_all_shares(tmp_path):
    """Gradients of zero: what moves the shared parameters is noise alone, of the size that the plan says."""
    federation = shared(rounds=8, sparsity={"density": 1.0})
    coordinator, clients = parties(federation, tmp_path, loss=lambda output, y: output * 0)
    steps = []
    for _ in range(8):
        before = clients["alder"].state.shared.copy()
        rounds_of(coordinator, clients, count=1)
        steps.append(before - clients["alder"].state.shared)
    noise, privacy = federation.shape.noise, federation.privacy
    expected = np.sqrt(7) * noise.scale / noise.grid * privacy.clip / federation.all_units
    values = np.concatenate(steps)
    assert values.std() == pytest.approx(expected, rel=5 / np.sqrt(2 * values.size))
    close_all(clients)


def test_a_run_of_the_local_runtime(tmp_path):
    federation = shared()
    coordinator, clients = parties(federation, tmp_path)
    from securepfl.runtime.local import Traffic

    run = SimulatedRun(coordinator, clients, Traffic.of(clients), 0.0)
    for _ in range(ROUNDS):
        exchange(run)
    assert clients["alder"].round == ROUNDS
    assert clients["alder"].shared_model() is not None
    close_all(clients)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"encryption": {"masking": "none"}}, "masks"),
        ({"similarity": {"every": 1, "beside_masks": True}}, "similarity"),
        ({"release": {"experts": True}}, "expert"),
        ({"training": {"steps": 2}}, "steps"),
        ({"sites": {"alder": {"weight": 2}}}, "weight"),
        ({"shared_noise": {"colluders": 0}}, "colluders"),
        ({"shared_noise": {"colluders": 3}}, "third"),
        ({"sites": {"alder": {"units": 10**7}}}, "shared_noise"),
    ],
)
def test_what_the_mode_cannot_hold_is_refused(tables, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        _, clients = parties(shared(**tables), tmp_path)
        close_all(clients)


def test_two_hospitals_that_plan_other_noise_do_not_understand_each_other():
    federation = shared()
    assert federation.digest != shared(shared_noise={"dropouts": 0}).digest
    assert federation.shape.noise.shares == 5
