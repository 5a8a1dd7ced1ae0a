"""Hyper-parameters are chosen alike for every method, and never on test rows."""

from functools import partial
from itertools import combinations, product

import pytest
import torch
from methods import METHODS, tuning
from methods.catalogue import Entry
from methods.cells import Cell, Plan, run_cell
from methods.task import Fitted, Settings, Site, Task
from methods.training import LOCAL
from methods.tuning import candidates, inner_split, score_of, tuned
from torch import nn

from securepfl.tasks.models import Logistic

SETTINGS = Settings(epsilon=1.0, delta=1e-5, steps=4)


def task_of(seed, rows=20, tested=12):
    """Two hospitals whose rows are all numbered: training below 1000, test above."""

    def site(number):
        train = torch.arange(rows, dtype=torch.float32) + 100 * number + 10_000 * seed
        test = torch.arange(tested, dtype=torch.float32) + 1000 + 100 * number + 10_000 * seed
        return Site(train[:, None], (train % 4 == 0).float(), test[:, None], (test % 2).float())

    return Task("numbered", {"a": site(0), "b": site(1)}, partial(Logistic, 1), head=("linear.bias",))


class Recorder:
    """A method that keeps what it was given and predicts by the sign of its only hyper-parameter."""

    def __init__(self, grid):
        self.GRID, self.calls = grid, []

    def fit(self, task, settings, hyper, seed):
        self.calls.append((task, settings, dict(hyper), seed))
        models = {}
        for name in task.sites:
            models[name] = nn.Sequential(nn.Linear(1, 1), nn.Flatten(0))
            nn.init.constant_(models[name][0].weight, float(hyper.get("slope", 1.0)))
            nn.init.zeros_(models[name][0].bias)
        return Fitted(models, 10, 20, {"seen": torch.ones(2)})


def entry_of(redealt=False):
    return Entry("numbered", lambda _, seed: task_of(seed), (1.0,), redealt=redealt)


def rows_of(task, part):
    return {float(row) for site in task.sites.values() for row in getattr(site, part).flatten()}


@pytest.mark.parametrize("redealt", [False, True])
def test_tuning_never_sees_a_test_row(redealt, tmp_path):
    method, plan = Recorder({"slope": (1.0, -1.0, 2.0)}), Plan(seeds=3, trials=2, tuning_seeds=2, steps=4)
    run_cell(Cell("numbered", "recorder", 1.0), entry_of(redealt), method, plan, tmp_path)
    tuning = [task for task, _, _, _ in method.calls if len(task.sites["a"].train_y) == 15]
    assert len(tuning) == (12 if redealt else 4) and len(method.calls) == len(tuning) + 3
    for task in tuning:
        assert all(row % 10_000 < 1000 for row in rows_of(task, "train_x") | rows_of(task, "test_x"))
        assert not rows_of(task, "train_x") & rows_of(task, "test_x")


def test_a_redealt_task_tunes_each_seed_on_its_own_training_rows(tmp_path):
    method, plan = Recorder({"slope": (1.0, -1.0)}), Plan(seeds=2, trials=2, tuning_seeds=1, steps=4)
    run_cell(Cell("numbered", "recorder", 1.0), entry_of(redealt=True), method, plan, tmp_path)
    deals = [{int(row // 10_000) for row in rows_of(task, "train_x")} for task, _, _, _ in method.calls]
    assert deals == [{0}, {0}, {0}, {1}, {1}, {1}]


def test_all_methods_get_the_same_number_of_trials_and_the_same_draw():
    wide = {"lr": (0.1, 0.5, 2.0), "pull": (0.5, 2.0), "mu": (0.0, 1.0)}
    other = {"rate": (1, 2, 3), "pull": (1, 2), "share": (1, 2)}
    assert len(candidates(wide, 6)) == len(candidates(other, 6)) == 6
    assert len({tuple(choice.values()) for choice in candidates(wide, 6)}) == 6
    assert [choice["lr"] for choice in candidates(wide, 6)] == [
        c["lr"] for c in candidates({"lr": wide["lr"]} | other, 6)
    ]
    assert sorted(choice["lr"] for choice in candidates(wide, 6)) == [0.1, 0.1, 0.5, 0.5, 2.0, 2.0]
    assert candidates(wide, 6) == candidates(wide, 6)
    assert len(candidates({"lr": (1, 2)}, 6)) == 2 and candidates({}, 6) == [{}]


@pytest.mark.parametrize("name", [name for name in METHODS if name != "pfedme"])  # whose local_steps are others
def test_eight_trials_hold_every_pair_of_common_axes_and_of_those_with_two_values(name):
    grid = METHODS[name].GRID
    drawn = candidates(grid, 8)
    for one, other in combinations(grid, 2):
        if {one, other} <= LOCAL.keys() or len(grid[one]) == len(grid[other]) == 2:
            assert {(choice[one], choice[other]) for choice in drawn} == set(product(grid[one], grid[other]))


def test_the_draw_of_trials_is_the_one_that_its_docstring_describes(monkeypatch):
    grids = {repr(grid): grid for grid in (*(method.GRID for method in METHODS.values()), tuning.OURS_ONCE)}.values()

    def pairs(draw):
        """How many pairs of values the draw's trials hold, or -1 where axes go together."""
        monkeypatch.setattr(tuning, "DRAW", draw)
        held = 0
        for grid in grids:
            drawn = candidates(grid, 8)
            for one, other in combinations(grid, 2):
                found, sizes = (
                    len({(choice[one], choice[other]) for choice in drawn}),
                    (len(grid[one]), len(grid[other])),
                )
                common = {one, other} <= LOCAL.keys() and (grid[one], grid[other]) == (LOCAL[one], LOCAL[other])
                if found < sizes[0] * sizes[1] and (common or sizes == (2, 2)):
                    return -1
                held += found
        return held

    assert max(range(1000), key=pairs) == 667


def test_the_best_on_validation_is_chosen():
    method = Recorder({})
    choices = [{"slope": -0.01}, {"slope": 0.01}]
    task = task_of(0)
    ordered = Task(
        "ordered",
        {
            name: Site(s.train_x, (s.train_x[:, 0] % 100 > 9).float(), s.test_x, s.test_y)
            for name, s in task.sites.items()
        },
        task.build_model,
        head=(),
    )
    hyper, trials = tuned(method.fit, choices, {7: ordered}, SETTINGS)
    assert hyper == {"slope": 0.01} and [trial.score for trial in trials] == [0.25, 0.75]
    assert all(seed == 7 and settings == SETTINGS for _, settings, _, seed in method.calls)


def test_the_inner_split_is_stratified_and_keeps_a_lone_row_of_a_class_in_training():
    x, y = torch.arange(9.0)[:, None], torch.tensor([1.0] + 8 * [0.0])
    task = Task("lone", {"a": Site(x, y, x[:0], y[:0])}, partial(Logistic, 1), head=())
    site = inner_split(task, 3).sites["a"]
    assert (len(site.train_y), int(site.train_y.sum()), len(site.test_y)) == (7, 1, 2)
    stratified = inner_split(task_of(0), 3).sites["a"]
    assert (int(stratified.test_y.sum()), len(stratified.test_y)) == (1, 5)


def test_hospitals_with_one_class_are_left_out_and_a_diverged_model_scores_a_half():
    task = task_of(0)
    one = task.sites["a"]
    sites = {"a": Site(one.train_x, one.train_y, one.test_x, torch.zeros_like(one.test_y)), "b": task.sites["b"]}
    fitted = Recorder({}).fit(task, SETTINGS, {"slope": float("nan")}, 0)
    assert score_of(Task("mixed", sites, task.build_model, head=()), fitted) == 0.5
