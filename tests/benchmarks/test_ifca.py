import math

import torch
from methods import fedavg, ifca
from methods.oracle import Oracle
from methods.task import Settings, Site, Task
from quadratics import CENTRES, CURVATURES, doubles, oracle_of, weights_of

from securepfl.tasks.models import build_model

NEVER = float("inf")


def test_one_cluster_is_fedavg() -> None:
    hyper = {"lr": 0.3, "local_steps": 4, "clusters": 1}
    found = ifca.train(oracle_of(CURVATURES, CENTRES, 12), hyper)
    expected = fedavg.train(oracle_of(CURVATURES, CENTRES, 12), hyper)
    torch.testing.assert_close(weights_of(found), weights_of(expected))
    assert found.upload_bytes == expected.upload_bytes


def test_two_separated_clusters_are_found_and_averaged_apart() -> None:
    """Centres lie about +-8; in each cluster the model ends at the optimum of its members."""
    side = doubles([[1.0], [-1.0], [1.0], [-1.0]])
    centres = 8 * side + doubles([[0.1, 0.2, -0.3], [0.3, -0.1, 0.2], [-0.2, 0.1, 0.1], [0.0, 0.2, -0.1]])
    curvatures = doubles([[1.0, 0.5, 0.7], [0.3, 1.2, 0.9], [0.6, 0.4, 1.5], [1.0, 1.0, 0.2]])
    oracle = oracle_of(curvatures, centres, 300)
    found = ifca.train(oracle, {"lr": 0.5, "local_steps": 1, "clusters": 2})
    clusters = found.facts["clusters"]
    assert clusters["h0"] == clusters["h2"] != clusters["h1"] == clusters["h3"]  # type: ignore[index]
    weights = weights_of(found)
    for members in ([0, 2], [1, 3]):
        optimum = (curvatures * centres)[members].sum(0) / curvatures[members].sum(0)
        torch.testing.assert_close(weights[members], optimum.expand(2, 3))


def test_models_start_apart_but_near_and_alike_for_the_same_seed() -> None:
    oracle, again = oracle_of(CURVATURES, CENTRES, 1), oracle_of(CURVATURES, CENTRES, 1)
    first, second = ifca.starts(oracle, 2)
    assert not torch.equal(first, second)
    assert (first - oracle.start).norm() < 3
    assert torch.equal(first, ifca.starts(again, 2)[0])


def test_private_rounds_pay_for_the_choice() -> None:
    """Two opposite clusters, found at finite epsilon within the budget."""
    generator = torch.Generator().manual_seed(1)
    sites = {}
    for i in range(4):
        x = torch.randn(1000, 3, generator=generator)
        y = (x.sum(1) * (-1) ** i > 0).float()
        sites[f"h{i}"] = Site(x, y, x, y)
    task = Task("opposite", sites, lambda: build_model("logistic", 3), head=())
    oracle = Oracle(task, Settings(4.0, 1e-5, 12), 0)
    found = ifca.train(oracle, {"lr": 2.0, "local_steps": 2, "clusters": 2})
    assert found.facts["rounds"] == 4
    assert oracle.spent == 12
    clusters = found.facts["clusters"]
    assert clusters["h0"] == clusters["h2"] != clusters["h1"] == clusters["h3"]  # type: ignore[index]
    assert math.isfinite(float(weights_of(found).sum()))
