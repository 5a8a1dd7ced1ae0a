"""FedPer, FedRep and FedBN: which coordinates stay, and what that makes of the others."""

from dataclasses import replace

import torch
from methods import fedavg, fedbn, fedper, fedrep, local
from methods.oracle import Oracle
from methods.task import Settings, Site, Task
from quadratics import CENTRES, CURVATURES, TwoParts, oracle_of, squared, task_of, weights_of
from torch import Tensor, nn

HYPER = {"lr": 0.3, "local_steps": 4}
NEVER = float("inf")


def fedper_with(patterns: tuple[str, ...]) -> Tensor:
    oracle = oracle_of(CURVATURES, CENTRES, 12)
    return weights_of(fedper.train(oracle, HYPER, oracle.matching(patterns)))


def averaged() -> Tensor:
    return weights_of(fedavg.train(oracle_of(CURVATURES, CENTRES, 12), HYPER))


def alone() -> Tensor:
    return weights_of(local.train(oracle_of(CURVATURES, CENTRES, 12), HYPER))


def test_fedper_without_personal_parameters_is_fedavg() -> None:
    torch.testing.assert_close(fedper_with(()), averaged())


def test_fedper_with_nothing_shared_is_local_training() -> None:
    torch.testing.assert_close(fedper_with(("*",)), alone())


def test_fedper_averages_the_body_and_leaves_the_head() -> None:
    """The parabolas' coordinates do not touch each other: each part goes its own way."""
    torch.testing.assert_close(fedper_with(("head.*",)), torch.cat([averaged()[:, :2], alone()[:, 2:]], 1))


class Product(nn.Module):
    """[B, 4] -> head * (body . x), the representation of one dimension; starts at (1, 0, 0, 1) and 0.5."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 1, bias=False, dtype=torch.float64)
        self.head = nn.Linear(1, 1, bias=False, dtype=torch.float64)
        with torch.no_grad():
            self.body.weight.copy_(torch.tensor([[1.0, 0.0, 0.0, 1.0]]))
            self.head.weight.fill_(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)).squeeze(1)


TRUE_BODY = torch.tensor([1.0, -2.0, 1.0, 0.5], dtype=torch.float64)


def product_task() -> Task:
    """Three hospitals that share a representation and weigh it otherwise."""
    generator = torch.Generator().manual_seed(0)
    sites = {}
    for name, head in (("a", 1.0), ("b", -0.5), ("c", 2.0)):
        x = torch.randn(50, 4, generator=generator, dtype=torch.float64)
        sites[name] = Site(x, head * x @ TRUE_BODY, x, head * x @ TRUE_BODY)
    return Task("product", sites, Product, head=("head.*",))


def fedrep_after(steps: int, head_steps: int, lr: float) -> Tensor:
    oracle = Oracle(product_task(), Settings(NEVER, 1e-5, steps), 0, loss=squared)
    hyper = {"lr": lr, "head_steps": head_steps}
    return weights_of(fedrep.train(oracle, hyper, oracle.matching(("head.*",))))


def test_fedrep_alternates_head_steps_and_one_body_step() -> None:
    task, lr = product_task(), 0.1
    body = torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    heads = dict.fromkeys(task.sites, torch.tensor(0.5, dtype=torch.float64))
    for _ in range(2):
        bodies = []
        for name, site in task.sites.items():
            seen = site.train_x @ body
            for _ in range(3):
                heads[name] = heads[name] - lr * ((heads[name] * seen - site.train_y) * seen).mean()
            errors = heads[name] * seen - site.train_y
            bodies.append(body - lr * heads[name] * (errors[:, None] * site.train_x).mean(0))
        body = torch.stack(bodies).mean(0)
    expected = torch.stack([torch.cat([body, head[None]]) for head in heads.values()])
    torch.testing.assert_close(fedrep_after(8, 3, lr), expected)


def test_fedrep_recovers_the_shared_representation() -> None:
    bodies = fedrep_after(5 * 150, 4, 0.2)[:, :4]
    assert (bodies == bodies[0]).all()
    alignment = nn.functional.cosine_similarity(bodies[0], TRUE_BODY, dim=0).abs()
    assert float(alignment) > 1 - 1e-9


def test_fedrep_without_a_head_is_fedavg_of_every_other_gradient() -> None:
    oracle = oracle_of(CURVATURES, CENTRES, 12)
    found = weights_of(fedrep.train(oracle, {"lr": 0.3, "head_steps": 1}, oracle.matching(())))
    expected = fedavg.train(oracle_of(CURVATURES, CENTRES, 6), {"lr": 0.3, "local_steps": 1})
    torch.testing.assert_close(found, weights_of(expected))


def binary_task(norms: tuple[str, ...]) -> Task:
    task = task_of(CURVATURES, CENTRES)
    sites = {n: replace(s, train_y=(s.train_y > 0).double()) for n, s in task.sites.items()}
    return Task("binary", sites, TwoParts, head=("head.*",), norms=norms)


def test_fedbn_without_norms_is_fedavg_and_says_so() -> None:
    settings = Settings(NEVER, 1e-5, 12)
    found = fedbn.fit(binary_task(()), settings, HYPER, 0)
    expected = fedavg.fit(binary_task(()), settings, HYPER, 0)
    torch.testing.assert_close(weights_of(found), weights_of(expected))
    assert found.upload_bytes == expected.upload_bytes
    assert "FedAvg" in str(found.facts["note"])


def test_fedbn_keeps_the_norms_at_home() -> None:
    found = fedbn.fit(binary_task(("head.weight",)), Settings(NEVER, 1e-5, 12), HYPER, 0)
    weights = weights_of(found)
    assert (weights[:, :2] == weights[0, :2]).all()
    assert len(weights[:, 2].unique()) == 3
    assert "note" not in found.facts
