import pytest
import torch
from safetensors.torch import load, save

from securepfl.learning.personal.trajectory import Trajectory
from securepfl.tasks.models import build_model


def average_of(alpha, models):
    trajectory = Trajectory(alpha)
    for weights in models:
        trajectory.move({"w": weights})
    return trajectory.state_dict()["w"]


def federation(rounds=9, seed=0):
    """Start w0 [d]; local models [rounds, 3, d], each near the global model before; their weighted means."""
    generator = torch.Generator().manual_seed(seed)
    shares = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    start = torch.randn(4, dtype=torch.float64, generator=generator)
    globals_, locals_ = [start], []
    for _ in range(rounds):
        locals_.append(globals_[-1] + torch.randn(3, 4, dtype=torch.float64, generator=generator))
        globals_.append(shares @ locals_[-1])
    return torch.stack(globals_), torch.stack(locals_), shares


def test_alpha_zero_is_the_last_model_and_alpha_one_the_first():
    models = list(torch.randn(5, 4))
    assert torch.equal(average_of(0.0, models), models[-1])
    assert torch.equal(average_of(1.0, models), models[0])


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9])
def test_it_accumulates_global_and_local_gradients(alpha):
    global_models, local_models, _ = federation()
    rounds = len(local_models)
    weight = [alpha ** (rounds - 1)] + [(1 - alpha) * alpha ** (rounds - t) for t in range(2, rounds + 1)]
    expected = global_models[0].clone()
    for t in range(rounds):
        expected -= weight[t] * (global_models[t] - local_models[t, 0])
        expected -= sum(weight[t + 1 :]) * (global_models[t] - global_models[t + 1])
    torch.testing.assert_close(average_of(alpha, local_models[:, 0]), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9])
def test_the_weighted_mean_of_trajectories_is_the_trajectory_of_the_mean(alpha):
    global_models, local_models, shares = federation(seed=1)
    mean = sum(share * average_of(alpha, local_models[:, i]) for i, share in enumerate(shares))
    torch.testing.assert_close(mean, average_of(alpha, global_models[1:]), rtol=0, atol=1e-12)


def test_it_shares_no_memory_with_the_model_or_the_caller():
    model = build_model("mlp", features=3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trajectory = Trajectory(0.5)
    trajectory.move(model.state_dict())
    handed_out = trajectory.state_dict()
    with torch.no_grad():
        for tensor in (*model.parameters(), *handed_out.values()):
            tensor.add_(1.0)
    for name, tensor in trajectory.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_it_goes_on_after_a_restart_from_safetensors(device):
    models = list(torch.randn(4, 3, 2, device=device))
    first, second = Trajectory(0.3), Trajectory(0.3)
    for weights in models[:2]:
        first.move({"w": weights.T})
    second.load_state_dict(load(save(first.state_dict())))
    for weights in models[2:]:
        first.move({"w": weights.T})
        second.move({"w": weights.T})
    assert torch.equal(first.state_dict()["w"], second.state_dict()["w"])
    assert second.state_dict()["w"].device.type == device.type


def test_before_the_first_round_there_is_no_model():
    assert Trajectory(0.1).state_dict() == {}


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_must_be_a_weight(alpha):
    with pytest.raises(ValueError, match="alpha"):
        Trajectory(alpha)


def test_changed_or_integer_tensors_are_refused():
    trajectory = Trajectory(0.1)
    with pytest.raises(ValueError, match="int64"):
        trajectory.move({"count": torch.zeros(1, dtype=torch.int64)})
    trajectory.move({"w": torch.zeros(2)})
    with pytest.raises(ValueError, match="'v'"):
        trajectory.move({"v": torch.zeros(2)})
    with pytest.raises(ValueError, match="shapes"):
        trajectory.move({"w": torch.zeros(1)})


def test_an_integer_alpha_is_a_number_too():
    trajectory = Trajectory(0)
    for value in (1.0, 3.0):
        trajectory.move({"w": torch.tensor([value])})
    assert trajectory.state_dict()["w"] == 3.0
