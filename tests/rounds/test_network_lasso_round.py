"""The network lasso through real rounds: integer weights, ciphertexts, and the minimum of an exact convex solver."""

from functools import partial

import numpy as np
import pytest
import torch
from parties import close_all, exchange, parties
from torch import nn
from torch.utils.data import TensorDataset

from securepfl.errors import ConfigError
from securepfl.settings.federation import Federation
from securepfl.tasks.models import build_model

NAMES = ("alder", "birch", "cedar", "damson", "elm", "fir", "gorse", "hazel")
FEATURES = 2
CLIP, ROUNDS, PENALTY = 4.0, 12, 0.02


def federation_of(**changes):
    return Federation.from_mapping(
        {
            "rounds": ROUNDS,
            "model": {"kind": "own", "personal": ["linear.weight"]},
            "privacy": {"epsilon": 1e6, "clip": CLIP},
            "encryption": {"bits": 16, "limit": 1.0, "personal_limit": 4.0},
            "similarity": {"every": 1},
            "coupling": {"neighbours": 3},
            "lasso": {"penalty": PENALTY},
            "trajectory": {"of": "mixture", "alpha": 0.0},
            "training": {"learning_rate": 4.0},
        }
        | changes
    ).bound(NAMES, MODEL, units=200)


MODEL = partial(build_model, "logistic", FEATURES)


def rows_of(index):
    """Two groups of four hospitals, whose first weight has another sign; 200 rows each."""
    generator = torch.Generator().manual_seed(index)
    x = torch.randn(200, FEATURES, generator=generator)
    slope = 1.5 if index < 4 else -1.5
    chance = torch.sigmoid(slope * x[:, 0] + 0.5 * x[:, 1])
    return TensorDataset(x, (torch.rand(200, generator=generator) < chance).float())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    federation = federation_of()
    rows = {name: rows_of(index) for index, name in enumerate(NAMES)}
    coordinator, clients = parties(federation, tmp_path_factory.mktemp("lasso"), rows=rows, model=MODEL)
    for _ in range(ROUNDS):
        exchange(coordinator, clients)
    yield clients, rows
    close_all(clients)


EDGES = [(i, j) for i in range(len(NAMES)) for j in range(i) if (i < 4) == (j < 4)]
"""The graph that similarities give: a hospital's three nearest are the others of its group."""


def objective(weights, intercept, rows):
    """sum of mean losses + penalty on the graph's edges, at weights [hospitals, p] and the shared intercept."""
    total = 0.0
    for z, dataset in zip(weights, rows.values(), strict=True):
        x, y = dataset.tensors
        logits = x.double() @ torch.from_numpy(z) + intercept
        total += float(nn.functional.binary_cross_entropy_with_logits(logits, y.double()))
    return total + PENALTY * sum(np.linalg.norm(weights[i] - weights[j]) for i, j in EDGES)


def solved(rows, intercept):
    cvxpy = pytest.importorskip("cvxpy")
    z = cvxpy.Variable((len(NAMES), FEATURES))
    losses = []
    for index, dataset in enumerate(rows.values()):
        x, y = (tensor.double().numpy() for tensor in dataset.tensors)
        logits = x @ z[index] + intercept
        losses.append(cvxpy.sum(cvxpy.logistic(logits) - cvxpy.multiply(y, logits)) / len(y))
    edges = [cvxpy.norm(z[i] - z[j]) for i, j in EDGES]
    cvxpy.Problem(cvxpy.Minimize(sum(losses) + PENALTY * sum(edges))).solve(solver="CLARABEL")
    return np.asarray(z.value)


def test_rounds_on_ciphertexts_reach_the_minimum(run):
    clients, rows = run
    models = [client.personal_model() for client in clients.values()]
    weights = np.stack([model.linear.weight.detach().double().numpy()[0] for model in models])
    intercept = float(models[0].linear.bias.detach())
    exact = solved(rows, intercept)
    best = objective(exact, intercept, rows)
    assert objective(weights, intercept, rows) < best * (1 + 5e-3)
    local = objective(np.zeros_like(weights), intercept, rows)
    assert best < 0.95 * local
    assert np.abs(weights[:4].mean(axis=0) - weights[4:].mean(axis=0))[0] > 0.5, "the two groups stay apart"


def test_both_ends_of_an_edge_have_the_same_weight(run):
    clients, _ = run
    seen = {(one, other): weight for one in NAMES for other, weight in clients[one].neighbours.items()}
    assert seen
    assert all(weight == seen[other, one] for (one, other), weight in seen.items())
    assert {name: set(client.neighbours) for name, client in clients.items()} == {
        name: set(NAMES[:4] if index < 4 else NAMES[4:]) - {name} for index, name in enumerate(NAMES)
    }


def test_no_vector_is_in_two_sums(tmp_path):
    """What goes into the average over all is never sent again: the two sums could be subtracted."""
    federation = federation_of(encryption={"scheme": "none", "bits": 16, "personal_limit": 4.0}).replace(rounds=6)
    rows = {name: rows_of(index) for index, name in enumerate(NAMES)}
    coordinator, clients = parties(federation, tmp_path, rows=rows, model=MODEL)
    sent = {name: [] for name in NAMES}
    for _ in range(6):
        for name, invitation in coordinator.invite().items():
            coordinator.receive(clients[name].contribute(invitation))
            sent[name].append(clients[name].state.pending.personal.tobytes())
        for name, answer in coordinator.close().items():
            clients[name].apply(answer)
    assert all(len(set(vectors)) == 6 for vectors in sent.values())
    close_all(clients)


def test_the_lasso_needs_distances_in_every_round():
    with pytest.raises(ConfigError, match="every = 1"):
        federation_of(similarity={"every": 2})


def test_a_strength_has_no_place_in_it():
    with pytest.raises(ConfigError, match="strength"):
        federation_of().changed("coupling", strength=0.5)
