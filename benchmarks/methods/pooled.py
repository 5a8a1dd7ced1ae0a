"""All rows in one place: a reference that no federation can have, as every hospital uploads its rows.

Privacy is central: each record is clipped, and noise of the hospitals' own multiplier falls once on the union's sum.
"""

from dataclasses import replace

import torch

from methods.oracle import Oracle
from methods.task import Fitted, Hyper, Settings, Site, Task
from methods.training import COMMON, descend, fitted, oracle_for

GRID = COMMON

_ALL = "all"


def fit(task: Task, settings: Settings, hyper: Hyper, seed: int) -> Fitted:
    sites = tuple(task.sites)
    found = train(oracle_for(union(task), settings, seed), hyper, len(sites))
    return replace(found, models=dict.fromkeys(sites, found.models[_ALL]))


def train(oracle: Oracle, hyper: Hyper, receivers: int) -> Fitted:
    """One model, for the only site of the union's oracle."""
    weights = descend(oracle, _ALL, oracle.start, float(hyper["lr"]), oracle.settings.steps)
    site = oracle.task.sites[_ALL]
    rows = site.train_x.numel() + site.train_y.numel()
    return fitted(oracle, {_ALL: weights}, rows, receivers * len(weights))


def union(task: Task) -> Task:
    """The task with the rows of all hospitals as one site's."""
    sites = task.sites.values()
    train_x, train_y = torch.cat([s.train_x for s in sites]), torch.cat([s.train_y for s in sites])
    test_x, test_y = torch.cat([s.test_x for s in sites]), torch.cat([s.test_y for s in sites])
    return replace(task, sites={_ALL: Site(train_x, train_y, test_x, test_y)})
