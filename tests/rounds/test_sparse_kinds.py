"""How updates are made sparse, through real rounds: what is trained, what is sent, what is carried over."""

import numpy as np
import pytest
import torch
from parties import FEATURES, NAMES, close_all, exchange, federation_of, parties, partition_of, support_of
from torch import nn

from securepfl.client.client import Client
from securepfl.client.run_kind import Simulation
from securepfl.errors import ConfigError
from securepfl.learning.sparse.shrinking import regularise
from securepfl.randomness import derive_key

SEED = bytes(range(32))
QUIET = {
    "privacy": {"epsilon": 1e6},
    "similarity": {"every": 0},
    "coupling": {"strength": 0.0},
    "encryption": {"bits": 16, "limit": 2.0},
    "release": {"experts": False},
}


def sparse(**sparsity):
    return federation_of(sparsity={"density": 0.25, "block": 2} | sparsity, **QUIET)


def first_round(federation, folder):
    """Clients after their first contribution, and what each had trained: (clients, supports, gradients)."""
    coordinator, clients = parties(federation, folder, root_key=SEED, noise_key=derive_key(SEED, "n"))
    start = clients["alder"].state.shared.copy()
    support = support_of(clients["alder"], 1)
    for name, invitation in coordinator.invite().items():
        coordinator.receive(clients[name].contribute(invitation))
    pending = {name: client.state.pending for name, client in clients.items()}
    gradients = {name: (start - part.local_shared).astype(np.float64) for name, part in pending.items()}
    return coordinator, clients, support, gradients


@pytest.mark.parametrize("kind", ["auto", "support"])
def test_only_the_support_is_trained_and_nothing_is_left_over(tmp_path, kind):
    _coordinator, clients, support, gradients = first_round(sparse(kind=kind), tmp_path)
    for name, gradient in gradients.items():
        assert gradient[support].any() and not gradient[~support].any()
        assert np.abs(clients[name].state.residual).max() < 1e-4, "rounding alone is carried over"
    close_all(clients)


@pytest.mark.parametrize("kind", ["select", "soft", "difference"])
def test_all_is_trained_the_support_is_sent_and_the_rest_is_carried_over(tmp_path, kind):
    if kind == "difference":
        pytest.importorskip("numba")
    strength = {} if kind == "select" else {"strength": 0.5}
    _coordinator, clients, support, gradients = first_round(sparse(kind=kind, **strength), tmp_path)
    for name, gradient in gradients.items():
        assert gradient[~support].any()
        wanted = gradient if kind == "select" else regularise(gradient, kind, 0.5)
        sent = clients[name].state.pending.sent
        np.testing.assert_allclose(sent[support], wanted[support], atol=2.0 / 2**15)
        assert not sent[~support].any()
        np.testing.assert_allclose(clients[name].state.residual, gradient - sent, atol=1e-12)
    close_all(clients)


def test_without_feedback_nothing_is_carried_over(tmp_path):
    coordinator, clients, _, _gradients = first_round(sparse(kind="select", feedback=False), tmp_path)
    assert all(not client.state.residual.any() for client in clients.values())
    for name, answer in coordinator.close().items():
        clients[name].apply(answer)
    exchange(coordinator, clients)
    assert all(not client.state.residual.any() for client in clients.values())
    close_all(clients)


def test_feedback_hands_all_of_a_fixed_update_over_in_the_end():
    """Two blocks, one sent a round: what was left behind arrives, so the sum of what is sent is that of the updates."""
    from securepfl.learning.sparse.support import add_residual, new_residual

    update, residual, sent = np.array([1.0, 2.0, -3.0, 0.5]), np.zeros(4), np.zeros(4)
    for round_ in range(10):
        corrected = add_residual(update, residual)
        support = np.array([True, True, False, False]) == (round_ % 2 == 0)
        now = np.where(support, corrected, 0.0)
        residual, sent = new_residual(corrected, now), sent + now
    np.testing.assert_allclose(sent + residual, 10 * update)


def test_shared_noise_trains_the_support_alone():
    with pytest.raises(ConfigError, match="support"):
        federation_of(
            names=tuple("abcdefg"),
            sparsity={"kind": "select"},
            encryption={"masking": "pairwise"},
            shared_noise={},
            coupling={"strength": 0.0},
            similarity={"every": 0},
            release={"experts": False},
        )


class Deep(nn.Module):
    """A shared body of two layers under a personal head."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(FEATURES, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh())
        self.head = nn.Linear(4, 1)

    def forward(self, x):
        return self.head(self.body(x)).squeeze(-1)


@pytest.mark.parametrize("of", ["local", "mixture"])
def test_the_trajectory_goes_on_bit_for_bit_from_a_checkpoint(tmp_path, of):
    """A hospital closed and opened between rounds ends with the same personal model as one that ran through."""
    federation = federation_of(
        rounds=4,
        trajectory={"alpha": 0.3, "of": of},
        privacy={"epsilon": 1e4, "budget": 1e5},
    )
    models = {}
    for attempt in ("through", "restarted"):
        key = derive_key(SEED, "n")
        coordinator, clients = parties(federation, tmp_path / attempt, root_key=SEED, noise_key=key)
        for _ in range(federation.rounds):
            exchange(coordinator, clients)
            if attempt == "restarted":
                clients["birch"] = reopened(clients["birch"], federation, tmp_path / attempt / "birch", key)
        models[attempt] = clients["birch"].personal_model().state_dict()
        close_all(clients)
    assert all(torch.equal(models["through"][name], value) for name, value in models["restarted"].items())


def reopened(client, federation, folder, noise_key):
    from parties import MODEL, rows_of

    client.close()
    return Client(
        federation,
        client.name,
        MODEL,
        rows_of(client.name),
        client.session.keyring,
        folder,
        ledgers=client.ledger.path.parent.parent,
        device="cpu",
        simulation=Simulation(noise_key),
    )


def test_a_mixture_without_history_is_the_shared_model_with_the_own_head(tmp_path):
    federation = federation_of(rounds=2, trajectory={"alpha": 0.0, "of": "mixture"})
    coordinator, clients = parties(federation, tmp_path)
    for _ in range(2):
        exchange(coordinator, clients)
    for name in NAMES:
        state, model = clients[name].state, clients[name].personal_model()
        shared = partition_of(clients[name]).flatten_shared(model).numpy()
        assert np.array_equal(shared, state.shared)
        assert np.array_equal(partition_of(clients[name]).flatten_personal(model).numpy(), state.personal)
    close_all(clients)


def test_a_callable_chooses_what_is_personal():
    federation = federation_of().replace(sites={})
    bound = federation.bound(NAMES, Deep, personal=lambda name, parameter: parameter.ndim == 1, units=40)
    assert bound.model.personal == ("body.0.bias", "body.2.bias", "head.bias")
    assert bound.shape.personal == 9
