"""What holds for every method of the comparison: budgets, bytes, repeatability, equal choices."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from methods import METHODS
from methods.data_tables import logistic
from methods.measure import metrics_of
from methods.task import Settings, Site, Task
from methods.training import COMMON
from quadratics import weights_of
from torch import Tensor

from securepfl.data.columns import Range
from securepfl.data.schema import DataSpec
from securepfl.settings.federation import Federation
from securepfl.tasks.models import build_model

NEVER = float("inf")
TRAINED = [name for name in METHODS if name not in ("majority", "ours_shared_noise")]
TUNED = ("ours_coupled", "ours_sparse")
FLOATS = 6 * 8 + 9  # of the model: body with bias, head with bias


def rows(seed: int, count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 5, generator=generator)
    return x, (x[:, 0] > 0).float()


def small_task(names: str = "abc") -> Task:
    sites = {name: Site(*rows(seed, 20 + seed), *rows(seed + 9, 10)) for seed, name in enumerate(names)}
    return Task("small", sites, lambda: build_model("mlp", 5), head=("head.*",))


def corners(name: str) -> list[dict[str, float | int | str]]:
    """The first and the last choice of everything; of nothing, the one that there is."""
    grid = METHODS[name].GRID
    return [{key: values[end] for key, values in grid.items()} for end in ((0, -1) if grid else (0,))]


@pytest.mark.parametrize(("name", "epsilon"), list(product(TRAINED, (NEVER, 1.0))), ids=str)
def test_trains_each_hospital_a_model_within_the_budget_and_repeatably(name: str, epsilon: float) -> None:
    steps = 6 if name in TUNED else 12  # a preset takes as many as there are, each in a round of its own at worst
    task, settings = small_task(), Settings(epsilon, 1e-5, steps)
    start = torch.cat([p.detach().flatten() for p in task.build_model().parameters()])
    tried = corners(name)
    repeated = tried[0 if epsilon == NEVER else -1]  # is trained again, with noise under another seed too
    for hyper in tried:
        found = METHODS[name].fit(task, settings, hyper, 1)
        weights = weights_of(found)
        assert set(found.models) == {"a", "b", "c"}
        assert torch.isfinite(weights).all()
        assert not any(model.training for model in found.models.values())
        assert 0 < int(str(found.facts["steps"])) <= steps
        assert not torch.equal(weights, start.expand_as(weights))
        if hyper is repeated:
            assert torch.equal(weights, weights_of(METHODS[name].fit(task, settings, hyper, 1)))
            if epsilon != NEVER:  # where all rows are taken and no noise is drawn, a seed may decide nothing
                other = weights_of(METHODS[name].fit(task, settings, hyper, 0))
                assert torch.isfinite(other).all()
                assert not torch.equal(weights, other)


@pytest.mark.parametrize("name", [name for name in TRAINED if name not in ("local", "pooled", "ours", *TUNED)])
def test_a_round_that_the_budget_cannot_pay_is_not_begun(name: str) -> None:
    hyper = {**corners(name)[-1], "local_steps": 50, "head_steps": 50}
    found = METHODS[name].fit(small_task(), Settings(1.0, 1e-5, 12), hyper, 1)
    assert found.facts["rounds"] == found.upload_bytes == found.facts["steps"] == 0


@pytest.mark.parametrize("name", [name for name in TRAINED if name != "ours"])
def test_offers_the_same_common_choices(name: str) -> None:
    grid = METHODS[name].GRID
    assert {key: grid[key] for key in COMMON} == COMMON


# The gradients of a round of 6 local (or head) steps, and the floats that a hospital sends and receives in it.
EXCHANGED = {
    "fedavg": (6, FLOATS, FLOATS),
    "fedprox": (6, FLOATS, FLOATS),
    "scaffold": (6, 2 * FLOATS, 2 * FLOATS),
    "fedper": (6, FLOATS - 9, FLOATS - 9),
    "fedrep": (7, FLOATS - 9, FLOATS - 9),
    "fedbn": (6, FLOATS, FLOATS),
    "ditto": (12, FLOATS, FLOATS),
    "pfedme": (30, FLOATS, FLOATS),
    "apfl": (12, FLOATS, FLOATS),
    "fedamp": (6, FLOATS, FLOATS),
    "ifca": (6, FLOATS + 1, 3 * FLOATS),
}


@pytest.mark.parametrize("name", EXCHANGED)
def test_bytes_are_those_of_the_floats_that_travel(name: str) -> None:
    gradients, up, down = EXCHANGED[name]
    hyper = {**corners(name)[-1], "local_steps": 6, "head_steps": 6}
    found = METHODS[name].fit(small_task(), Settings(NEVER, 1e-5, 2 * gradients), hyper, 1)
    assert found.facts["rounds"] == 2
    assert (found.upload_bytes, found.download_bytes) == (4 * 2 * 3 * up, 4 * 2 * 3 * down)


def test_references_exchange_nothing_or_all_rows() -> None:
    settings, hyper = Settings(NEVER, 1e-5, 3), corners("local")[0]
    alone = METHODS["local"].fit(small_task(), settings, hyper, 1)
    together = METHODS["pooled"].fit(small_task(), settings, hyper, 1)
    assert (alone.upload_bytes, alone.download_bytes) == (0, 0)
    assert (together.upload_bytes, together.download_bytes) == (4 * (20 + 21 + 22) * 6, 4 * 3 * FLOATS)


@pytest.mark.parametrize("name", TUNED)
def test_a_preset_takes_the_steps_it_is_given_and_no_more(name: str) -> None:
    hyper = {**corners(name)[-1], "local_steps": 50}
    found = METHODS[name].fit(small_task(), Settings(1.0, 1e-5, 12), hyper, 1)
    assert (found.facts["rounds"], found.facts["steps"]) == (1, 12)


def test_shared_noise_takes_single_steps_of_four_hospitals_and_needs_privacy() -> None:
    method, hyper = METHODS["ours_shared_noise"], corners("ours_shared_noise")[-1]
    found = method.fit(small_task("abcd"), Settings(1.0, 1e-5, 12), hyper, 1)
    assert (found.facts["rounds"], found.facts["steps"]) == (12, 12)
    assert torch.isfinite(weights_of(found)).all()
    with pytest.raises(ValueError, match="needs a finite epsilon"):
        method.fit(small_task("abcd"), Settings(NEVER, 1e-5, 12), hyper, 1)


def declared_task() -> Task:
    """Three hospitals, one of positives alone, whose five columns are declared."""
    sites = {name: Site(*rows(seed, 200 - 75 * seed), *rows(9, 20)) for seed, name in enumerate("abc")}
    sites["c"] = replace(sites["c"], train_y=torch.ones(50))
    ranges = {f"x{number}": Range(centre=0.0, spread=1.0) for number in range(5)}
    return logistic("declared", sites, DataSpec(label="y", missing="drop-rows", ranges=ranges))


def test_ours_is_the_rule_s_choice_for_what_a_file_would_declare_and_tries_nothing() -> None:
    task, settings = declared_task(), Settings(1.0, 1e-5, 12)
    federation = METHODS["ours"].federation_of(task, settings)
    shares = {name: federation.prevalence_of(name)[0] for name in "abc"}
    assert shares["c"] == 0.95  # never 1
    for name in "ab":
        assert shares[name] == pytest.approx(float(task.sites[name].train_y.mean()), abs=0.0251)
        assert 20 * shares[name] == pytest.approx(round(20 * shares[name]))
    sites = {
        name: {"units": units, "prevalence": shares[name]} for name, units in {"a": 200, "b": 125, "c": 50}.items()
    }
    told = {**task.declared, "sites": sites, "privacy": {"epsilon": 1.0, "delta": 1e-5}}
    by_file = Federation.from_mapping(told).bound(("a", "b", "c"), task.build_model)
    assert (federation.rounds, federation.training, federation.privacy.clip, federation.encryption.limit) == (
        by_file.rounds,
        by_file.training,
        by_file.privacy.clip,
        by_file.encryption.limit,
    )
    assert federation.weight_share("c") == 0.25 and federation.model.personal == ()
    assert METHODS["ours"].GRID == {}


def test_ours_without_privacy_moves_further_than_with_it_and_no_further_than_is_safe() -> None:
    private, free = (METHODS["ours"].federation_of(declared_task(), Settings(e, 1e-5, 12)) for e in (1.0, NEVER))
    assert private.rounds < free.rounds == 40
    assert private.training.learning_rate < free.training.learning_rate < 1.2


def test_a_method_s_thresholds_decide_what_is_a_yes() -> None:
    task = declared_task()
    found = METHODS["ours"].fit(task, Settings(NEVER, 1e-5, 12), {}, 0)
    assert 0.4 < found.thresholds["a"] < found.thresholds["c"] < 0.95
    never = metrics_of(task, replace(found, thresholds={"a": 1.0}))
    assert never["a"]["balanced_accuracy"] == 0.5
    assert metrics_of(task, found)["a"]["balanced_accuracy"] > 0.7
    assert never["a"]["auroc"] == metrics_of(task, found)["a"]["auroc"]


def test_fedavg_by_sizes_is_fedavg_where_all_are_alike_and_follows_the_largest_elsewhere() -> None:
    hyper, settings = corners("fedavg")[0], Settings(NEVER, 1e-5, 4)
    alike = {name: Site(*rows(seed, 20), *rows(seed + 9, 10)) for seed, name in enumerate("abc")}
    even = Task("even", alike, lambda: build_model("mlp", 5), head=("head.*",))
    weights = [weights_of(METHODS[name].fit(even, settings, hyper, 1)) for name in ("fedavg", "fedavg_sizes")]
    assert torch.allclose(*weights, atol=1e-6)
    doubled = {"a": Site(*(torch.cat([part, part]) for part in (alike["a"].train_x, alike["a"].train_y)), *rows(9, 10))}
    large = Task("large", alike | doubled, even.build_model, head=even.head)
    twice = Task("twice", alike | {"d": alike["a"]}, even.build_model, head=even.head)
    found = weights_of(METHODS["fedavg_sizes"].fit(large, settings, hyper, 1))
    assert torch.allclose(found[0], weights_of(METHODS["fedavg"].fit(twice, settings, hyper, 1))[0], atol=1e-6)
