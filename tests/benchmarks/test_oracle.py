import math
from itertools import product

import pytest
import torch
from methods.oracle import BudgetSpent, Oracle
from methods.task import Settings, Site, Task
from methods.training import oracle_for
from torch import Tensor, nn

from securepfl.errors import ModelError
from securepfl.privacy.accounting.calibration import noise_multiplier_for
from securepfl.tasks.models import build_model

NEVER = float("inf")


def rows(count: int, seed: int, features: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, features, generator=generator)
    return x, (torch.rand(count, generator=generator) < torch.sigmoid(2 * x[:, 0])).float()


def task_of(count: int = 40, kind: str = "mlp") -> Task:
    sites = {name: Site(*rows(count, seed), *rows(10, seed + 9)) for seed, name in enumerate(("a", "b"))}
    return Task("small", sites, lambda: build_model(kind, 5), head=("head.*",))  # type: ignore[arg-type]


def record_gradients(model: nn.Module, site: Site) -> Tensor:
    """[n, D], one record after the other, by plain autograd."""
    loss = nn.BCEWithLogitsLoss()
    found = []
    for x, y in zip(site.train_x, site.train_y, strict=True):
        grads = torch.autograd.grad(loss(model(x[None]), y[None]), list(model.parameters()))
        found.append(torch.cat([g.flatten() for g in grads]))
    return torch.stack(found)


def clipped_mean(gradients: Tensor, clip: float) -> Tensor:
    return (gradients * (clip / gradients.norm(dim=1, keepdim=True)).clamp(max=1)).mean(0)


@pytest.mark.parametrize("count", [40, 1030])
def test_without_privacy_it_is_autograd_of_the_mean(count: int) -> None:
    task = task_of(count)
    oracle = Oracle(task, Settings(NEVER, 1e-5, 1), 0)
    expected = record_gradients(task.build_model(), task.sites["b"]).mean(0)
    torch.testing.assert_close(oracle.gradient("b", oracle.start), expected)


def test_gradient_is_at_the_weights_given_and_leaves_them() -> None:
    task = task_of()
    oracle = Oracle(task, Settings(NEVER, 1e-5, 1), 0)
    weights = oracle.start + 0.3
    kept = weights.clone()
    expected = record_gradients(oracle.model(weights), task.sites["a"]).mean(0)
    torch.testing.assert_close(oracle.gradient("a", weights), expected)
    assert torch.equal(weights, kept)


@pytest.mark.parametrize("masked", [False, True])
def test_private_gradient_is_the_clipped_mean_where_noise_is_small(masked: bool) -> None:
    task = task_of()
    oracle = Oracle(task, Settings(1e4, 1e-5, 1), 0, clip=0.2)
    mask = oracle.matching(task.head) if masked else None
    gradients = record_gradients(task.build_model(), task.sites["a"])
    if mask is not None:
        gradients = gradients * mask
    assert (gradients.norm(dim=1) > 0.2).any()
    found = oracle.gradient("a", oracle.start, mask)
    torch.testing.assert_close(found, clipped_mean(gradients, 0.2), rtol=0, atol=5e-4)
    if mask is not None:
        assert not found[~mask].any()


def test_private_noise_is_the_multiplier_times_the_clip_over_n_and_centred() -> None:
    task, settings = task_of(), Settings(2.0, 1e-5, 150)
    oracle = Oracle(task, settings, 0, clip=0.5)
    expected = clipped_mean(record_gradients(task.build_model(), task.sites["a"]), 0.5)
    drawn = torch.stack([oracle.gradient("a", oracle.start) for _ in range(150)]) - expected
    deviation = noise_multiplier_for(2.0, 1e-5, 1.0, 150) * 0.5 / 40
    assert float(drawn.std()) == pytest.approx(deviation, rel=0.03)
    assert abs(float(drawn.mean())) < 4 * deviation / math.sqrt(drawn.numel())


def test_noise_depends_on_seed_hospital_and_call() -> None:
    task, settings = task_of(), Settings(1.0, 1e-5, 2)

    def noise(seed: int, site: str) -> list[Tensor]:
        oracle = Oracle(task, settings, seed)
        exact = Oracle(task, Settings(NEVER, 1e-5, 1), 0).gradient(site, oracle.start)
        return [oracle.gradient(site, oracle.start) - exact for _ in range(2)]

    assert torch.equal(torch.stack(noise(1, "a")), torch.stack(noise(1, "a")))
    drawn = [*noise(1, "a"), *noise(1, "b"), *noise(2, "a")]
    for i, j in product(range(6), repeat=2):
        if i < j:
            assert abs(float(torch.corrcoef(torch.stack([drawn[i], drawn[j]]))[0, 1])) < 0.6


def test_each_hospital_has_the_budget_and_no_more() -> None:
    oracle = Oracle(task_of(), Settings(1.0, 1e-5, 2), 0)
    for _ in range(2):
        oracle.gradient("a", oracle.start)
    with pytest.raises(BudgetSpent, match="hospital a has taken all 2 steps"):
        oracle.gradient("a", oracle.start)
    oracle.choose("b", [oracle.start, -oracle.start])
    oracle.gradient("b", oracle.start)
    with pytest.raises(BudgetSpent):
        oracle.choose("b", [oracle.start, -oracle.start])
    assert oracle.spent == 2


def test_without_privacy_choosing_is_exact_and_free() -> None:
    task = task_of(kind="logistic")
    oracle = Oracle(task, Settings(NEVER, 1e-5, 1), 0)
    better = oracle.start - oracle.gradient("a", oracle.start)
    assert oracle.choose("a", [oracle.start, better, -better, better * math.nan]) == 1
    assert oracle.spent == 1


def test_private_choice_errs_as_often_as_its_noise_says() -> None:
    """Between two, the difference of the noises has one gradient's multiplier as its standard deviation."""
    steps, gap = 600, 20
    x, y = torch.ones(100, 1), torch.zeros(100)
    y[: (100 + gap) // 2] = 1  # right: 60 for a positive constant, 40 for a negative one
    task = Task("gap", {"a": Site(x, y, x, y)}, lambda: build_model("logistic", 1), head=())
    oracle = Oracle(task, Settings(5.0, 1e-5, steps), 3)
    positive = torch.tensor([0.0, 1.0])
    chosen = [oracle.choose("a", [-positive, positive]) for _ in range(steps)]
    noise = noise_multiplier_for(5.0, 1e-5, 1.0, steps)
    expected = 0.5 * math.erfc(-gap / noise / math.sqrt(2))
    assert 0.7 < expected < 0.95
    assert sum(chosen) / steps == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / steps))


@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_sensitivity_of_a_choice_is_the_largest_centred_vector(k: int) -> None:
    """What choose() says of a record's vector, by trying all."""
    vectors = torch.tensor(list(product((0.0, 1.0), repeat=k)), dtype=torch.float64)
    largest = (vectors - vectors.mean(1, keepdim=True)).norm(dim=1).max()
    assert float(largest) == pytest.approx(math.sqrt((k // 2) * (k - k // 2) / k))


def test_model_is_a_copy_in_evaluation_mode() -> None:
    oracle = Oracle(task_of(), Settings(NEVER, 1e-5, 3), 0)
    model = oracle.model(oracle.start + 1)
    oracle.gradient("a", oracle.start)
    assert torch.equal(torch.cat([p.detach().flatten() for p in model.parameters()]), oracle.start + 1)
    assert not model.training


def test_matching_names_coordinates() -> None:
    oracle = Oracle(task_of(), Settings(NEVER, 1e-5, 1), 0)
    head = oracle.matching(("head.*",))
    assert head.sum() == 9
    assert head[-9:].all()
    assert not oracle.matching(()).any()
    with pytest.raises(ValueError, match="pattern 'tail' names no parameter"):
        oracle.matching(("head.*", "tail"))


def test_a_model_that_mixes_records_is_refused_at_any_epsilon() -> None:
    task = Task("mixed", task_of().sites, lambda: nn.Sequential(nn.Linear(5, 1), nn.BatchNorm1d(1)), head=())
    with pytest.raises(ModelError, match="BatchNorm1d"):
        Oracle(task, Settings(NEVER, 1e-5, 1), 0)


def test_weights_of_another_size_are_refused() -> None:
    oracle = Oracle(task_of(), Settings(NEVER, 1e-5, 1), 0)
    with pytest.raises(ValueError, match="weights must have shape"):
        oracle.gradient("a", oracle.start[1:])


@pytest.mark.parametrize(
    ("per_round", "steps"),
    [(1, 20), (4, 20), (6, 18), (15, 15), (25, 20)],
)
def test_steps_are_spent_in_whole_rounds(per_round: int, steps: int) -> None:
    assert oracle_for(task_of(), Settings(NEVER, 1e-5, 20), 0, per_round).settings.steps == steps
