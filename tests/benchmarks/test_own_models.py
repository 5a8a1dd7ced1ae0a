"""Local training, Ditto, pFedMe, APFL and FedAMP against closed forms."""

import pytest
import torch
from methods import apfl, ditto, fedamp, fedavg, local, pfedme
from methods.task import Fitted
from quadratics import CENTRES, CURVATURES, OPTIMUM, START, doubles, oracle_of, weights_of
from torch import Tensor


def alone(steps: int, lr: float) -> Tensor:
    """Gradient descent of each hospital for itself, [3, 3]."""
    return CENTRES + (1 - lr * CURVATURES) ** steps * (START - CENTRES)


def averaged(steps: int, hyper: dict[str, float]) -> Tensor:
    return weights_of(fedavg.train(oracle_of(CURVATURES, CENTRES, steps), hyper))


def run(module: object, steps: int, hyper: dict[str, float]) -> Tensor:
    found: Fitted = module.train(oracle_of(CURVATURES, CENTRES, steps), hyper)  # type: ignore[attr-defined]
    return weights_of(found)


def test_local_is_gradient_descent() -> None:
    torch.testing.assert_close(run(local, 7, {"lr": 0.4}), alone(7, 0.4))


def test_ditto_without_its_term_is_local_training_with_half_the_gradients() -> None:
    torch.testing.assert_close(run(ditto, 12, {"lr": 0.4, "local_steps": 3, "lambda": 0.0}), alone(6, 0.4))


def test_ditto_with_a_stiff_term_is_the_global_model_of_the_last_round() -> None:
    hyper = {"lr": 0.4, "local_steps": 2, "lambda": 1e12}
    torch.testing.assert_close(run(ditto, 20, hyper), averaged(8, hyper))


def test_ditto_ends_at_the_proximal_points_of_the_global_optimum() -> None:
    found = run(ditto, 300, {"lr": 0.5, "local_steps": 1, "lambda": 0.6})
    torch.testing.assert_close(found, (CURVATURES * CENTRES + 0.6 * OPTIMUM) / (CURVATURES + 0.6))


def test_pfedme_theta_is_the_proximal_point_and_w_moves_towards_it() -> None:
    """With curvature 1 / lr in all directions one inner step is exact. Two local steps."""
    curvature, lr, pull, move = 2.0, 0.5, 0.8, 0.3
    oracle = oracle_of(torch.full((1, 3), curvature, dtype=torch.float64), CENTRES[:1], 10)
    found = pfedme.local_round(oracle, "h0", START, {"lr": lr, "lambda": pull, "move": move, "local_steps": 2})
    w = theta = START
    for _ in range(2):
        theta = (curvature * CENTRES[0] + pull * w) / (curvature + pull)
        w = w - move * (w - theta)
    torch.testing.assert_close(found, (w, theta))


def test_pfedme_ends_at_the_optimum_of_the_envelopes() -> None:
    """The envelope of a parabola of curvature a has curvature a lambda / (a + lambda)."""
    found = run(pfedme, 5 * 120, {"lr": 1.0, "lambda": 3.0, "move": 0.6, "local_steps": 1})
    envelope = CURVATURES * 3.0 / (CURVATURES + 3.0)
    shared = (envelope * CENTRES).sum(0) / envelope.sum(0)
    torch.testing.assert_close(found, (CURVATURES * CENTRES + 3.0 * shared) / (CURVATURES + 3.0), rtol=0, atol=1e-3)


def test_apfl_of_the_local_model_alone_is_local_training_with_half_the_gradients() -> None:
    found = run(apfl, 12, {"lr": 0.4, "local_steps": 3, "alpha": 1.0, "adaptive": 0})
    torch.testing.assert_close(found, alone(6, 0.4))


def test_apfl_without_a_local_model_is_fedavg_with_half_the_gradients() -> None:
    hyper = {"lr": 0.4, "local_steps": 3, "alpha": 0.0, "adaptive": 0}
    torch.testing.assert_close(run(apfl, 12, hyper), averaged(6, hyper))


def test_apfl_round_follows_the_gradients_of_its_three_variables() -> None:
    a, b, lr, alpha = CURVATURES[0], CENTRES[0], 0.3, 0.4
    v, w = doubles([[1.0, 0.0, 2.0], [0.0, 3.0, 1.0]])
    variables = [t.clone().requires_grad_() for t in (v, w, torch.tensor(alpha, dtype=torch.float64))]
    mixture = variables[2] * variables[0] + (1 - variables[2]) * variables[1]
    by_v, _, by_alpha = torch.autograd.grad((a * (mixture - b) ** 2).sum() / 2, variables)
    oracle = oracle_of(CURVATURES, CENTRES, 2)
    found_w, own = apfl.local_round(oracle, "h0", w, apfl.Own(v, alpha), {"lr": lr, "local_steps": 1, "adaptive": 1})
    torch.testing.assert_close(found_w, w - lr * a * (w - b))
    torch.testing.assert_close(own.v, v - lr * by_v)
    assert own.alpha == pytest.approx(alpha - lr * float(by_alpha))


def test_apfl_adapts_alpha_only_when_told() -> None:
    hyper = {"lr": 0.3, "local_steps": 1, "alpha": 0.5}
    fixed = apfl.train(oracle_of(CURVATURES, CENTRES, 12), {**hyper, "adaptive": 0}).facts["alpha"]
    moved = apfl.train(oracle_of(CURVATURES, CENTRES, 12), {**hyper, "adaptive": 1}).facts["alpha"]
    assert set(fixed.values()) == {0.5}  # type: ignore[attr-defined]
    assert all(0 <= value <= 1 and value != 0.5 for value in moved.values())  # type: ignore[attr-defined]


def test_fedamp_attention_is_a_gradient_step_on_the_similarity_function() -> None:
    models, sigma = CENTRES.clone().requires_grad_(), 5.0
    terms = [1 - torch.exp(-(models[i] - models[j]).square().sum() / sigma) for i in range(3) for j in range(i)]
    (gradient,) = torch.autograd.grad(torch.stack(terms).sum(), models)
    found = fedamp.attention(CENTRES, sigma)
    torch.testing.assert_close(found @ CENTRES, CENTRES - sigma / (2 * 3) * gradient)
    torch.testing.assert_close(found.sum(1), torch.ones(3, dtype=torch.float64))
    assert (found >= 0).all()


def test_fedamp_attends_to_equal_models_alike_and_to_far_ones_not_at_all() -> None:
    near, far = doubles([[0.0, 1.0, 2.0], [100.0, 0.0, 0.0]])
    found = fedamp.attention(torch.stack([near, near, far]), 1.0)
    third = 1 / 3
    torch.testing.assert_close(found, doubles([[1 - third, third, 0], [third, 1 - third, 0], [0, 0, 1]]))


def test_fedamp_keeps_equal_hospitals_equal() -> None:
    oracle = oracle_of(CURVATURES[:1].expand(3, 3), CENTRES[:1].expand(3, 3), 6)
    found = weights_of(fedamp.train(oracle, {"lr": 0.4, "local_steps": 2, "sigma": 1.0, "pull": 1.0}))
    torch.testing.assert_close(found, found[:1].expand(3, 3))
    assert not torch.equal(found[0], START)


def test_fedamp_that_sees_no_similarity_is_local_training() -> None:
    """Its cloud model is then its own, which after one step pulls like a lower learning rate."""
    found = run(fedamp, 6, {"lr": 0.4, "local_steps": 1, "sigma": 1e-12, "pull": 2.0})
    torch.testing.assert_close(found, alone(6, 0.4 / (1 + 0.4 * 2.0)))


def test_fedamp_that_sees_all_alike_ends_where_the_mean_model_holds_each() -> None:
    """w_i = (a_i b_i + p m) / (a_i + p) with m the mean of all w_i."""
    pull = 0.7
    found = run(fedamp, 400, {"lr": 0.5, "local_steps": 1, "sigma": 1e12, "pull": pull})
    share = pull / (CURVATURES + pull)
    middle = ((1 - share) * CENTRES).sum(0) / (1 - share).sum(0)
    torch.testing.assert_close(found, (1 - share) * CENTRES + share * middle)
