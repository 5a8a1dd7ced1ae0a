"""Hyper-parameters by inner validation: the same number of trials for every method, and never a test row.

Tuning isn't charged to epsilon, for any method.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from torch import Tensor

from methods.measure import mean_over_hospitals, metrics_of
from methods.task import Fitted, Hyper, Settings, Site, Task
from methods.training import LOCAL
from securepfl.randomness import RandomStream
from securepfl.tasks.models import public_stream

Fit = Callable[[Task, Settings, Hyper, int], Fitted]
VALIDATION_SHARE = 0.25
DRAW = 667
"""Which public draw: of the first 1,000, the first whose eight trials hold most pairs of values over all different
grids, among those that hold every pair of lr and local_steps and of two axes of two values. The grid that a row of
ours had then counts, OURS_ONCE: a new draw would ask for all other rows anew.
"""
OURS_ONCE: Mapping[str, Sequence[float | int | str]] = {**LOCAL, "personal": ("intercept", "nothing")}


@dataclass(frozen=True)
class Trial:
    """A choice of hyper-parameters and its score on validation rows, of [0, 1]."""

    hyper: Hyper
    score: float


def candidates(grid: Mapping[str, Sequence[float | int | str]], trials: int) -> list[Hyper]:
    """`trials` different choices from the product of `grid`, by a fixed public draw; all of them where it has fewer.

    Each value of an axis comes equally often, give or take one; the draw depends on the axis's name, so methods that
    share an axis try the same values of it in the same order.
    """
    if math.prod(len(values) for values in grid.values()) <= trials:
        drawn = list(product(*grid.values()))
    else:
        axes = [_endless(values, public_stream("benchmark trials", DRAW, name)) for name, values in grid.items()]
        distinct: dict[tuple[float | int | str, ...], None] = {}
        while len(distinct) < trials:
            distinct.setdefault(tuple(next(axis) for axis in axes))
        drawn = list(distinct)
    return [dict(zip(grid, values, strict=True)) for values in drawn]


def inner_split(task: Task, seed: int) -> Task:
    """The task with a quarter of each hospital's training rows, stratified, in place of its test rows."""
    sites = {name: _inner_site(site, public_stream("inner split", seed, name)) for name, site in task.sites.items()}
    return replace(task, sites=sites)


def score_of(task: Task, fitted: Fitted) -> float:
    """Mean over hospitals of (balanced accuracy + AUROC) / 2.

    AUROC alone doesn't see a threshold that is off, at which hospitals decide; balanced accuracy alone moves in
    coarse steps on few rows. Hospitals whose rows hold one class are left out; NaN where all do.
    """
    metrics = metrics_of(task, fitted)
    return (mean_over_hospitals(metrics, "balanced_accuracy") + mean_over_hospitals(metrics, "auroc")) / 2


def tuned(
    fit: Fit, choices: Sequence[Hyper], tasks: Mapping[int, Task], settings: Settings
) -> tuple[Hyper, list[Trial]]:
    """The choice with the best mean score over `tasks` (by seed), and all trials. A single choice isn't tried."""
    if len(choices) == 1:
        return choices[0], []
    inner = {seed: inner_split(task, seed) for seed, task in tasks.items()}
    trials = [
        Trial(hyper, float(np.mean([score_of(task, fit(task, settings, hyper, seed)) for seed, task in inner.items()])))
        for hyper in choices
    ]
    return max(trials, key=lambda trial: trial.score).hyper, trials


def _endless(values: Sequence[float | int | str], stream: RandomStream) -> Iterator[float | int | str]:
    """All values in a random order, over and over, each time in another."""
    while True:
        yield from (values[index] for index in stream.permutation(len(values)))


def _inner_site(site: Site, stream: RandomStream) -> Site:
    held = torch.cat([_held(torch.nonzero(site.train_y == kind).flatten(), stream) for kind in (0, 1)])
    kept = torch.ones(len(site.train_y), dtype=torch.bool)
    kept[held] = False
    return Site(site.train_x[kept], site.train_y[kept], site.train_x[held], site.train_y[held])


def _held(rows: Tensor, stream: RandomStream) -> Tensor:
    """A quarter of a class's rows: at least one of two, none of a single one, which must train."""
    count = max(round(VALIDATION_SHARE * len(rows)), 1) if len(rows) > 1 else 0
    return rows[torch.from_numpy(stream.permutation(len(rows))[:count])]
