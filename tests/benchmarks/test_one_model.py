"""FedAvg, FedProx, SCAFFOLD and the pooled reference against closed forms."""

import pytest
import torch
from methods import fedavg, fedprox, pooled, scaffold
from methods.oracle import Oracle
from methods.task import Settings
from quadratics import CENTRES, CURVATURES, OPTIMUM, START, oracle_of, squared, task_of, weights_of
from torch import Tensor


def run(module: object, steps: int, hyper: dict[str, float], curvatures: Tensor = CURVATURES) -> Tensor:
    """The one model [3] that all hospitals got."""
    centres = CENTRES[:1].expand_as(curvatures) if curvatures is not CURVATURES else CENTRES
    found = weights_of(module.train(oracle_of(curvatures, centres, steps), hyper))  # type: ignore[attr-defined]
    assert (found == found[0]).all()
    return found[0]


def descended(steps: int, lr: float) -> Tensor:
    """Gradient descent on the mean loss."""
    return OPTIMUM + (1 - lr * CURVATURES.mean(0)) ** steps * (START - OPTIMUM)


def test_pooled_is_gradient_descent_on_the_mean_loss() -> None:
    oracle = Oracle(pooled.union(task_of(CURVATURES, CENTRES)), Settings(float("inf"), 1e-5, 7), 0, loss=squared)
    found = weights_of(pooled.train(oracle, {"lr": 0.4}, 3))[0]
    torch.testing.assert_close(found, descended(7, 0.4))


@pytest.mark.parametrize("module", [fedavg, scaffold], ids=["fedavg", "scaffold"])
def test_one_local_step_is_gradient_descent_on_the_mean_loss(module: object) -> None:
    torch.testing.assert_close(run(module, 7, {"lr": 0.4, "local_steps": 1}), descended(7, 0.4))


@pytest.mark.parametrize("module", [fedavg, scaffold], ids=["fedavg", "scaffold"])
def test_equal_hospitals_take_the_steps_of_one(module: object) -> None:
    found = run(module, 8, {"lr": 0.4, "local_steps": 4}, CURVATURES[:1].expand(3, 3))
    torch.testing.assert_close(found, CENTRES[0] + (1 - 0.4 * CURVATURES[0]) ** 8 * (START - CENTRES[0]))


def test_fedavg_with_several_local_steps_ends_beside_the_optimum() -> None:
    """Each hospital keeps (1 - lr a)^K of its distance, which moves the fixed point."""
    found = run(fedavg, 5 * 60, {"lr": 0.3, "local_steps": 5})
    moved = 1 - (1 - 0.3 * CURVATURES) ** 5
    torch.testing.assert_close(found, (moved * CENTRES).sum(0) / moved.sum(0))
    assert (found - OPTIMUM).abs().max() > 0.05


def test_scaffold_with_several_local_steps_ends_at_the_optimum() -> None:
    torch.testing.assert_close(run(scaffold, 5 * 60, {"lr": 0.3, "local_steps": 5}), OPTIMUM)


def test_scaffold_with_one_hospital_is_gradient_descent() -> None:
    found = run(scaffold, 6, {"lr": 0.4, "local_steps": 3}, CURVATURES[:1].clone())
    torch.testing.assert_close(found, CENTRES[0] + (1 - 0.4 * CURVATURES[0]) ** 6 * (START - CENTRES[0]))


def test_fedprox_without_its_term_is_fedavg() -> None:
    hyper = {"lr": 0.3, "local_steps": 4, "mu": 0.0}
    torch.testing.assert_close(run(fedprox, 12, hyper), run(fedavg, 12, hyper))


def test_fedprox_with_a_stiff_term_stays() -> None:
    torch.testing.assert_close(run(fedprox, 12, {"lr": 0.3, "local_steps": 4, "mu": 1e12}), START)


def test_fedprox_round_of_many_steps_is_the_mean_of_proximal_points() -> None:
    found = run(fedprox, 300, {"lr": 0.5, "local_steps": 300, "mu": 0.7})
    torch.testing.assert_close(found, ((CURVATURES * CENTRES + 0.7 * START) / (CURVATURES + 0.7)).mean(0))
