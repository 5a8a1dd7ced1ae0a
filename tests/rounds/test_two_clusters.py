"""Two clusters of hospitals: their graph is recovered from ciphertexts where it is visible, and off where it isn't."""

from pathlib import Path

import pytest
import torch
from methods.data_clusters import two_clusters
from torch.utils.data import TensorDataset

from securepfl.runtime.local import simulate
from securepfl.settings.federation import Federation
from securepfl.tasks.binary import BINARY

ROUNDS = 6


def run(task, folder: Path, epsilon: float, **tables):
    federation = Federation.from_mapping(
        {
            "rounds": ROUNDS,
            "model": {"kind": "own", "personal": ["linear.weight"]},
            "training": {"learning_rate": 2.0},
            "privacy": {"epsilon": epsilon},
            "encryption": {"bits": 12, "limit": 4.0, "personal_limit": 16.0},
            "similarity": {"every": 2},
            "coupling": {"strength": 0.75},
            "trajectory": {"of": "mixture", "alpha": 0.0},
        }
        | tables
    ).bound(task.sites, task.build_model, units=200)
    training = {name: TensorDataset(site.train_x, site.train_y) for name, site in task.sites.items()}
    return simulate(federation, training, task.build_model, folder, seed=0, device="cpu")


def auroc(task, clients):
    found = []
    for name, site in task.sites.items():
        with torch.no_grad():
            chances = torch.sigmoid(clients[name].personal_model()(site.test_x)).numpy()
        found.append(BINARY.evaluate(chances, site.test_y.numpy())["auroc"])
    return sum(found) / len(found)


@pytest.fixture(scope="module")
def task():
    return two_clusters(0, n=200, d=10)


def test_the_graph_is_recovered_from_ciphertexts_and_coupling_pays(task, tmp_path):
    with run(task, tmp_path / "coupled", 2.0) as coupled:
        for name, client in coupled.clients.items():
            assert client.signal > 3
            others = {other for other in task.sites if task.clusters[other] == task.clusters[name]} - {name}
            assert set(client.neighbours) == others
        with_coupling = auroc(task, coupled.clients)
    with run(task, tmp_path / "alone", 2.0, coupling={"strength": 0.0}, similarity={"every": 0}) as alone:
        without = auroc(task, alone.clients)
    assert with_coupling > without + 0.005


def test_two_of_a_kind_are_coupled_to_nobody_and_the_six_to_their_own(tmp_path):
    task = two_clusters(0, n=200, d=100, second=2)
    with run(task, tmp_path, 20.0) as coupled:
        found = {name: client.neighbours for name, client in coupled.clients.items()}
        assert all(client.signal > 3 for client in coupled.clients.values())
    for name, neighbours in found.items():
        if task.clusters[name]:
            assert not neighbours
        else:
            assert len(neighbours) == 3 and all(task.clusters[other] == 0 for other in neighbours)


def test_where_noise_hides_the_graph_it_is_off_and_says_so(task, tmp_path):
    with run(task, tmp_path, 0.1) as hidden:
        coupled = [name for name, client in hidden.clients.items() if client.neighbours]
        assert not coupled
        assert sum(client.signal < 3 for client in hidden.clients.values()) >= 6
